package image

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/test/sigkit"
)

// TestUsage: what a container wrote is found by the next pass, and never by a call.
func TestUsage(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	e := newEnv(t, host)
	push(t, host+"/a:v1", build(t, sigkit.ImageOptions{NoBusybox: true}))
	img := e.mustPull(host + "/a:v1")
	root, err := e.Mount(t.Context(), e.run(e.lookup(img.ID.String(), host+"/a:v1"), "c1"))
	if err != nil {
		t.Fatal(err)
	}
	first, ok := e.Usage("c1")
	if !ok || first.Bytes != 0 || first.Inodes != 1 || first.At.IsZero() {
		t.Errorf("Usage() of a fresh layer = %+v, %t, want an empty directory", first, ok)
	}
	if err := os.WriteFile(filepath.Join(root.Path, "big"), make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if u, _ := e.Usage("c1"); u != first {
		t.Errorf("Usage() before a pass = %+v, want what was known", u)
	}
	e.measureAll(t.Context())
	u, ok := e.Usage("c1")
	if !ok || u.Bytes < 1<<20 || u.Bytes > 2<<20 || u.Inodes != 2 || u.Partial || !u.At.After(first.At) {
		t.Errorf("Usage() after a pass = %+v, %t, want 1 MiB in 2 inodes", u, ok)
	}
	if err := e.Release("c1"); err != nil {
		t.Fatal(err)
	}
	if u, ok := e.Usage("c1"); ok {
		t.Errorf("Usage() of a removed layer = %+v", u)
	}
}

// TestMeasureHostile: links lead nowhere, one file under two names is one, depth ends.
func TestMeasureHostile(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "upper")
	for _, err := range []error{
		os.Mkdir(dir, 0o755),
		os.Symlink(outside, filepath.Join(dir, "link")),
		os.WriteFile(filepath.Join(dir, "a"), make([]byte, 1<<20), 0o600),
		os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	u, err := measure(dir)
	if err != nil || u.Inodes != 4 || u.Bytes < 1<<20 || u.Bytes >= 2<<20 || u.Partial {
		t.Errorf("measure() = %+v, %v, want 4 inodes and 1 MiB", u, err)
	}
	if err := os.MkdirAll(filepath.Join(dir, strings.Repeat("d/", maxDepth+5)), 0o755); err != nil {
		t.Fatal(err)
	}
	if u, err := measure(dir); err != nil || !u.Partial || u.Inodes > maxDepth+5 {
		t.Errorf("measure() of a deep tree = %+v, %v, want a partial one", u, err)
	}
	if err := os.Symlink(dir, filepath.Join(outside, "upper")); err != nil {
		t.Fatal(err)
	}
	if u, err := measure(filepath.Join(outside, "upper")); err == nil {
		t.Errorf("measure() through a link = %+v, want an error", u)
	}
}

// TestMeasureWhileChanging: a container that swaps a directory for a link during the walk leads it
// nowhere.
func TestMeasureWhileChanging(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	for i := range 300 {
		if err := os.WriteFile(filepath.Join(outside, fmt.Sprint(i)), make([]byte, 64<<10), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := os.Mkdir(in, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, out); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case <-done:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, in, unix.AT_FDCWD, out, unix.RENAME_EXCHANGE)
			}
		}
	}()
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
		if u, err := measure(dir); err != nil || u.Inodes > 3 {
			t.Fatalf("measure() = %+v, %v, want 3 inodes at most", u, err)
		}
	}
}
