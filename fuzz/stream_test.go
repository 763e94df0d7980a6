package fuzz

import (
	"bytes"
	"encoding/json"
	"testing"

	"sallyport/sandbox"
)

// FuzzAttachPacket: what conmon sends to those who attach goes, without its first byte, to the stream
// that this byte names, and nowhere else.
func FuzzAttachPacket(f *testing.F) {
	for _, s := range []string{"", "\x02", "\x02out", "\x03err", "\x01x", "\x04x", "\x00", "plain"} {
		f.Add([]byte(s))
	}
	parse := sandbox.Parsers()["packet"]
	f.Fuzz(func(t *testing.T, data []byte) {
		text, err := parse(data)
		var got [2][]byte
		if err != nil || json.Unmarshal(text, &got) != nil {
			t.Fatalf("packet %q = %s, %v", data, text, err)
		}
		var want [2][]byte
		if len(data) > 1 && (data[0] == 2 || data[0] == 3) {
			want[data[0]-2] = data[1:]
		}
		if !bytes.Equal(got[0], want[0]) || !bytes.Equal(got[1], want[1]) {
			t.Errorf("packet %q goes to %q", data, got)
		}
	})
}
