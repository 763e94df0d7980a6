package fuzz

import (
	"encoding/json"
	"testing"

	"sallyport/internal/admin"
	"sallyport/internal/admin/wire"
)

// Whatever is sent to the operator's socket, it is refused by one line, or it is one JSON object of known
// fields: read again from what was understood, it is the same request.
func FuzzAdminRequest(f *testing.F) {
	f.Add([]byte(`{"image": "registry.example/app:v1", "namespace": "pay", "stored": true}`))
	f.Add([]byte(`{}{}`))
	f.Add([]byte(``))
	f.Add([]byte(`{"image": "a", "shell": "b"}`))
	f.Add([]byte(` [{}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		in, err := admin.Decode[wire.Verify](body)
		if err != nil {
			oneLine(t, err)
			return
		}
		text, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := admin.Decode[wire.Verify](text); err != nil || again != in {
			t.Fatalf("%+v became %+v, %v", in, again, err)
		}
	})
}
