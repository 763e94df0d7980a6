package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/test/roottest"
)

func TestWrite(t *testing.T) {
	for name, write := range map[string]func(string, []byte, fs.FileMode) error{"WriteFile": WriteFile, "Replace": Replace} {
		t.Run(name, func(t *testing.T) {
			defer unix.Umask(unix.Umask(0o077))
			path := filepath.Join(t.TempDir(), "f")
			for _, want := range []string{"one", "two, longer", ""} {
				if err := write(path, []byte(want), 0o640); err != nil {
					t.Fatal(err)
				}
				if got, err := os.ReadFile(path); err != nil || string(got) != want {
					t.Errorf("read back %q, %v, want %q", got, err, want)
				}
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
				t.Errorf("mode %v, %v, want 0640 whatever the umask", info.Mode(), err)
			}
			onlyFile(t, filepath.Dir(path), "f")
		})
	}
}

// onlyFile holds that a write leaves no temporary file.
func onlyFile(t *testing.T, dir, want string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != want {
		t.Errorf("directory holds %q, want %q", got, want)
	}
}

// TestSymlinkIsReplaced: the name is replaced, never what it points to.
func TestSymlinkIsReplaced(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := os.WriteFile(target, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(link, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(target); err != nil || string(got) != "kept" {
		t.Errorf("the link's target holds %q, %v", got, err)
	}
}

func TestErrors(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing", "f")
	if err := WriteFile(missing, nil, 0o600); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), missing) {
		t.Errorf("WriteFile() without a directory = %v, want it to name the file", err)
	}
	if err := SyncDir(filepath.Dir(missing)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("SyncDir(missing) = %v", err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(filepath.Join(dir, "d"), nil, 0o600); err == nil {
		t.Error("WriteFile() over a directory = nil error")
	}
	onlyFile(t, dir, "d")
}

// TestFullDisk: the old file stays whole and nothing half-written is left.
func TestFullDisk(t *testing.T) {
	roottest.Need(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "f")
	if err := WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, make([]byte, 128<<10), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("WriteFile() on a full disk = %v, want ENOSPC", err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "old" {
		t.Errorf("the old file holds %q, %v", got, err)
	}
	onlyFile(t, dir, "f")
}

// What a killed writer left is removed, and nothing else.
func TestTidy(t *testing.T) {
	dir := t.TempDir()
	if err := WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".tmp-123"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, filepath.Join(dir, "nowhere")} {
		if err := Tidy(d); err != nil {
			t.Errorf("Tidy(%s) = %v", d, err)
		}
	}
	onlyFile(t, dir, "f")
}
