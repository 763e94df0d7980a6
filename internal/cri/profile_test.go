package cri

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/sandbox/spec"
)

// A profile is read from a regular file of bounded size; a pipe or a device keeps nobody waiting.
func TestLocalProfile(t *testing.T) {
	dir := t.TempDir()
	pipe, plain, big := filepath.Join(dir, "pipe"), filepath.Join(dir, "plain"), filepath.Join(dir, "big")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, size := range map[string]int64{plain: 2, big: maxProfile + 1} {
		if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
	}
	for path, ok := range map[string]bool{plain: true, pipe: false, big: false, dir: false, "/dev/zero": false, filepath.Join(dir, "none"): false} {
		got := make(chan []byte, 1)
		go func() { got <- localProfile(spec.Profile{Kind: spec.Localhost, Ref: path}) }()
		select {
		case data := <-got:
			if (data != nil) != ok {
				t.Errorf("localProfile(%s) = %q, want it read: %t", path, data, ok)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("localProfile(%s) hangs", path)
		}
	}
}
