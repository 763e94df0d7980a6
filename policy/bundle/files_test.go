package bundle

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"sallyport/test/roottest"
	"sallyport/test/sigkit"
)

// What another user could change, and what is no file, is refused by name.
func TestFilesRefused(t *testing.T) {
	roottest.Need(t) // makes a file of another user
	tests := []struct {
		name   string
		change func(dir string) error
		want   string
	}{
		{"world-writable file", func(d string) error { return os.Chmod(filepath.Join(d, "node/requirements.yaml"), 0o666) }, "node/requirements.yaml: anybody may write to it"},
		{"world-writable directory", func(d string) error { return os.Chmod(filepath.Join(d, "node"), 0o777) }, "node: anybody may write to it"},
		{"world-writable root", func(d string) error { return os.Chmod(d, 0o777) }, "anybody may write to it"},
		{"file of another user", func(d string) error { return os.Chown(filepath.Join(d, "node/requirements.yaml"), 1000, 1000) }, "node/requirements.yaml: it belongs to user 1000"},
		{"link out", func(d string) error {
			write(t, d, map[string]string{"secret.pub": "x"})
			return os.Symlink("../secret.pub", filepath.Join(d, "node/ci.pub"))
		}, "node/ci.pub"},
		{"absolute link", func(d string) error { return os.Symlink("/etc/passwd", filepath.Join(d, "node/ci.pub")) }, "node/ci.pub"},
		{"link to a directory", func(d string) error {
			write(t, d, map[string]string{"node/keys/ci.pub": "x"})
			return os.Symlink("keys", filepath.Join(d, "node/more"))
		}, "node/more: not a regular file"},
		{"pipe", func(d string) error { return syscall.Mkfifo(filepath.Join(d, "node/ci.pub"), 0o644) }, "node/ci.pub: not a regular file"},
		{"device", func(d string) error { return os.Symlink("/dev/zero", filepath.Join(d, "node/zero")) }, "node/zero"},
		{"large", func(d string) error {
			write(t, d, map[string]string{"node/a.pub": ""})
			return os.Truncate(filepath.Join(d, "node/a.pub"), maxFile+1)
		}, "node/a.pub: larger than"},
		{"large in all", func(d string) error {
			for i := range 5 {
				name := fmt.Sprintf("node/%d.pub", i)
				write(t, d, map[string]string{name: ""})
				if err := os.Truncate(filepath.Join(d, name), maxFile-1); err != nil {
					return err
				}
			}
			return nil
		}, "node: larger than"},
		{"many", func(d string) error {
			files := map[string]string{}
			for i := range maxFiles + 1 {
				files[fmt.Sprintf("node/keys/%d.pub", i)] = "x"
			}
			write(t, d, files)
			return nil
		}, "more than 1000 files"},
		{"deep", func(d string) error {
			write(t, d, map[string]string{"node/" + strings.Repeat("d/", maxDepth+2) + "a.pub": "x"})
			return nil
		}, "directories deep"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := tree(t, node)
			if _, err := Load(dir); err != nil {
				t.Fatalf("allowed twin: Load() = %v", err)
			}
			if err := tt.change(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Load() = %v, want an error with %q", err, tt.want)
			}
		})
	}
	dir := tree(t, with(node, "node/.hidden.yaml", "x"))
	write(t, dir, map[string]string{"node/keys/ci.pub": "x"})
	if err := os.Symlink("keys/ci.pub", filepath.Join(dir, "node/ci.pub")); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err != nil {
		t.Errorf("link within the bundle, hidden file: Load() = %v", err)
	}
}

func TestHashCoversEveryFile(t *testing.T) {
	key, err := sigkit.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	other, err := sigkit.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	base := with(node, "node/requirements.yaml", "policies:\n- name: by-key\n  images: [{glob: \"**\"}]\n  authorities: [{key: {file: ci.pub}}]\n", "node/ci.pub", string(key.PEM()))
	want := load(t, base).Node().Hash
	if got := load(t, base).Node().Hash; got != want {
		t.Errorf("same files: hash %s, want %s", got, want)
	}
	for name, files := range map[string]map[string]string{
		"key":      with(base, "node/ci.pub", string(other.PEM())),
		"comment":  with(base, "node/bundle.yaml", base["node/bundle.yaml"]+"# x\n"),
		"new file": with(base, "node/README.md", "x"),
	} {
		if load(t, files).Node().Hash == want {
			t.Errorf("%s changed, and the hash is the same", name)
		}
	}
	if a, b := (files{"a": []byte("bc")}).hash(), (files{"ab": []byte("c")}).hash(); a == b {
		t.Error("names and bytes run into each other in the hash")
	}
}
