package audit

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
)

// forge writes a segment of frames that are chained and summed as if by us.
func forge(t *testing.T, dir string, ordinal uint64, c chain, frames ...envelope) {
	t.Helper()
	var data []byte
	for _, e := range frames {
		var err error
		if data, err = c.appendFrame(data, e); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(segmentPath(dir, ordinal), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func header(ordinal, first uint64) envelope {
	return envelope{Segment: &segmentHeader{Format: formatName, Ordinal: ordinal, First: first, Boot: "boot-1", Node: "node-1"}}
}

func record(seq uint64) envelope { return envelope{Seq: seq, Event: []byte(`{"type":"decision"}`)} }

// input is a frame whose content has that hash, whatever its length.
func input(data []byte) envelope {
	var packed bytes.Buffer
	w, _ := flate.NewWriter(&packed, flate.BestSpeed)
	w.Write(data)
	w.Close()
	sum := sha256.Sum256(data)
	return envelope{Input: hex.EncodeToString(sum[:]), Deflate: packed.Bytes()}
}

// TestForgedFrames: frames that fit the chain but say what cannot be.
func TestForgedFrames(t *testing.T) {
	other := input([]byte("x"))
	other.Input = strings.Repeat("0", 64)
	tests := []struct {
		name   string
		start  chain
		frames []envelope
		want   string // "": it is whole
	}{
		{"as it should be", chain{}, []envelope{header(1, 1), input([]byte("x")), record(1), record(2)}, ""},
		{"does not start the chain", chain{head: [32]byte{1}}, []envelope{header(1, 1), record(1)}, "does not start the chain"},
		{"starts late", chain{}, []envelope{header(1, 5), record(5)}, "does not start the chain"},
		{"number left out", chain{}, []envelope{header(1, 1), record(1), record(3)}, "record 3, want 2"},
		{"header inside", chain{}, []envelope{header(1, 1), header(2, 1)}, "not where it should be"},
		{"other ordinal", chain{}, []envelope{header(2, 1)}, "header says segment 2"},
		{"no header", chain{}, []envelope{record(1)}, "not a segment header"},
		{"two things in one frame", chain{}, []envelope{header(1, 1), {Input: "aa", Seq: 1, Event: []byte("{}")}}, "neither"},
		{"other format", chain{}, []envelope{{Segment: &segmentHeader{Format: "x", Ordinal: 1, First: 1}}}, "format"},
		{"input has another hash", chain{}, []envelope{header(1, 1), other}, "has another hash"},
		{"input is a bomb", chain{}, []envelope{header(1, 1), input(make([]byte, maxInput+1))}, "has another hash"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			forge(t, dir, 1, tt.start, tt.frames...)
			_, err := Verify(dir)
			if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, ErrTampered) || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Verify() = %v, want ErrTampered and %q", err, tt.want)
			}
		})
	}
}

// TestHugeFrame: a length is believed only up to the limit.
func TestHugeFrame(t *testing.T) {
	dir := t.TempDir()
	path := fill(t, dir, 1)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte{0x20, 0, 0, 0, 1, 2, 3, 4, '{'}); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(dir); !errors.Is(err, ErrTampered) || !strings.Contains(err.Error(), "at most") {
		t.Errorf("Verify() = %v, want the length refused", err)
	}
}

// TestOldSegmentsGone: an empty segment alone is no start for a log that had others.
func TestOldSegmentsGone(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(segmentPath(dir, 3), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(testOptions(dir)); !errors.Is(err, ErrTampered) {
		t.Errorf("Open() = %v, want ErrTampered", err)
	}
}

// TestQueuedBehindFailure: what waits for a sync that fails is not written after it, for it would
// follow half a frame.
func TestQueuedBehindFailure(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l, err := Open(testOptions(dir))
		if err != nil {
			t.Fatal(err)
		}
		release := make(chan struct{})
		writes := 0
		l.write = func(f *os.File, p []byte) error {
			writes++
			<-release
			f.Write(p[:len(p)/2])
			return syscall.EIO
		}
		errs := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := l.Append(t.Context(), Event{Type: "decision"})
				errs <- err
			}()
			synctest.Wait() // the second finds the first on its way to the disk
		}
		close(release)
		for range 2 {
			if err := <-errs; !errors.Is(err, ErrFailed) {
				t.Errorf("Append() = %v, want ErrFailed", err)
			}
		}
		if writes != 1 {
			t.Errorf("%d writes, want none after the one that failed", writes)
		}
		if err := l.Close(); !errors.Is(err, ErrFailed) {
			t.Errorf("Close() = %v, want ErrFailed", err)
		}
	})
	if r, err := Verify(dir); err != nil || r.Records != 0 {
		t.Errorf("Verify() = %+v, %v", r, err)
	}
}
