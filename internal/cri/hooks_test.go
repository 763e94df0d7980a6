package cri

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"sallyport/test/roottest"
)

// TestHookFiles: the digest is of the bytes beneath the path, and only of a file that nobody but root
// can change.
func TestHookFiles(t *testing.T) {
	roottest.Need(t)
	dir, err := os.MkdirTemp("/root", "sallyport-hooks-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	sub := filepath.Join(dir, "sub")
	file := filepath.Join(sub, "hook")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("bytes"), 0o755); err != nil {
		t.Fatal(err)
	}
	os.Symlink(file, filepath.Join(dir, "link"))
	os.Symlink(sub, filepath.Join(dir, "via"))
	get := func(path string) (string, error) {
		got, err := hookFiles(&specs.Hooks{Poststop: []specs.Hook{{Path: path}}, StartContainer: []specs.Hook{{Path: path}}})
		if err != nil || len(got) != 1 {
			return "", err
		}
		return got[0].Digest, nil
	}
	want := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte("bytes")))
	if got, err := get(file); got != want {
		t.Errorf("hookFiles() = %s, %v, want %s", got, err, want)
	}
	for _, bad := range []string{"", "hook", sub, filepath.Join(dir, "link"), filepath.Join(dir, "via", "hook"), dir + "/../" + filepath.Base(dir) + "/sub/hook", filepath.Join(dir, "none"), "/tmp/hook", "/dev/null"} {
		if got, err := get(bad); err == nil {
			t.Errorf("hookFiles(%q) = %s, want an error", bad, got)
		}
	}
	for _, c := range []struct {
		what string
		do   func() error
		undo func() error
	}{
		{"others write the file", func() error { return os.Chmod(file, 0o757) }, func() error { return os.Chmod(file, 0o755) }},
		{"a group writes the directory", func() error { return os.Chmod(sub, 0o775) }, func() error { return os.Chmod(sub, 0o755) }},
		{"another's file", func() error { return os.Chown(file, 65534, 0) }, func() error { return os.Chown(file, 0, 0) }},
		{"another's directory above", func() error { return os.Chown(dir, 65534, 0) }, func() error { return os.Chown(dir, 0, 0) }},
	} {
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		if got, err := get(file); err == nil || !strings.Contains(err.Error(), "others than root") {
			t.Errorf("%s: hookFiles() = %s, %v, want it refused", c.what, got, err)
		}
		if err := c.undo(); err != nil {
			t.Fatal(err)
		}
		if got, err := get(file); got != want {
			t.Errorf("%s undone: hookFiles() = %s, %v, want the digest", c.what, got, err)
		}
	}
}
