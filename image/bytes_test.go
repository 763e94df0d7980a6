package image

import (
	"archive/tar"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/enforce"
	"sallyport/image/ref"
	"sallyport/test/sigkit"
)

// spoiled is a store with one image of two layers, the upper one with files of all kinds.
func spoiled(t *testing.T) (e *env, name string, img enforce.Image, diff string) {
	t.Helper()
	host, _ := newRegistry(t, sigkit.Referrers)
	e = newEnv(t, host)
	name = host + "/a:v1"
	push(t, name, layered(t, []tar.Header{{Typeflag: tar.TypeDir, Name: "etc/", Mode: 0o755}, file("etc/passwd", "root")}, []tar.Header{
		{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "bin/app", Mode: 0o755, Uid: 7, Gid: 8, Size: 1000},
		{Typeflag: tar.TypeReg, Name: "bin/empty", Mode: 0o644},
		{Typeflag: tar.TypeSymlink, Name: "bin/link", Linkname: "app", Mode: 0o777},
		{Typeflag: tar.TypeLink, Name: "bin/hard", Linkname: "bin/app", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "deep/er/file", Mode: 0o4755, Size: 1},
		{Typeflag: tar.TypeReg, Name: "etc/.wh.passwd", Mode: 0o644},
	}))
	e.mustPull(name)
	c := e.lookup(name, "")
	chains, err := e.chainsOf(c.Image.ID, c.Image.Instance)
	if err != nil {
		t.Fatal(err)
	}
	return e, name, c.Image, e.path("storage", "overlay", chains[len(chains)-1].Hex(), "diff")
}

// again is a boot: what was found before is forgotten.
func (e *env) again() {
	e.t.Helper()
	if err := os.RemoveAll(filepath.Join(e.opts.RunRoot, "checked")); err != nil {
		e.t.Fatal(err)
	}
	e.reopen()
}

func flip(t *testing.T, file string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	st, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, st.ModTime(), st.ModTime()); err != nil {
		t.Fatal(err)
	}
}

// TestLayerBytes changes one thing at a time in an unpacked layer: the image is refused by name and
// dropped, and the next pull brings it back whole.
func TestLayerBytes(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, diff string) error
		word   string // "" is admitted
	}{
		{"nothing", func(*testing.T, string) error { return nil }, ""},
		{"a time", func(_ *testing.T, d string) error {
			return os.Chtimes(filepath.Join(d, "bin/app"), time.Unix(1, 0), time.Unix(1, 0))
		}, ""},
		{"a byte", func(t *testing.T, d string) error { flip(t, filepath.Join(d, "bin/app")); return nil }, "bin/app"},
		{"setuid", func(_ *testing.T, d string) error { return os.Chmod(filepath.Join(d, "bin/app"), 0o755|os.ModeSetuid) }, "mode, owner"},
		{"setuid off", func(_ *testing.T, d string) error { return os.Chmod(filepath.Join(d, "deep/er/file"), 0o755) }, "mode, owner"},
		{"owner", func(_ *testing.T, d string) error { return os.Lchown(filepath.Join(d, "bin/empty"), 1, 1) }, "mode, owner"},
		{"longer", func(_ *testing.T, d string) error {
			return os.WriteFile(filepath.Join(d, "bin/empty"), []byte("x"), 0o644)
		}, "mode, owner"},
		{"a link", func(_ *testing.T, d string) error {
			os.Remove(filepath.Join(d, "bin/link"))
			return os.Symlink("/etc/passwd", filepath.Join(d, "bin/link"))
		}, "mode, owner"},
		{"file for a link", func(_ *testing.T, d string) error {
			os.Remove(filepath.Join(d, "bin/app"))
			return os.Symlink("empty", filepath.Join(d, "bin/app"))
		}, "bin/app"},
		{"a pipe for a file", func(_ *testing.T, d string) error {
			os.Remove(filepath.Join(d, "bin/app"))
			return unix.Mkfifo(filepath.Join(d, "bin/app"), 0o755)
		}, "bin/app"},
		{"a file less", func(_ *testing.T, d string) error { return os.Remove(filepath.Join(d, "bin/empty")) }, "one less"},
		{"a file more", func(_ *testing.T, d string) error {
			return os.WriteFile(filepath.Join(d, "bin/evil"), []byte("x"), 0o755)
		}, "one more"},
		{"file capability", func(_ *testing.T, d string) error {
			return unix.Setxattr(filepath.Join(d, "bin/app"), "security.capability", []byte("\x01\x00\x00\x02\xff\xff\xff\xff\x00\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00"), 0)
		}, "attribute"},
		{"opaque directory", func(_ *testing.T, d string) error {
			return unix.Setxattr(filepath.Join(d, "bin"), "trusted.overlay.opaque", []byte("y"), 0)
		}, "attribute"},
		{"whiteout gone", func(_ *testing.T, d string) error { return os.Remove(filepath.Join(d, "etc/passwd")) }, "one less"},
		{"headers gone", func(_ *testing.T, d string) error {
			id := filepath.Base(filepath.Dir(d))
			return os.Remove(filepath.Join(d, "../../../overlay-layers", id+".tar-split.gz"))
		}, "tar-split"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e, name, img, diff := spoiled(t)
			ctx := context.Background()
			if err := tc.change(t, diff); err != nil {
				t.Fatal(err)
			}
			if err := e.CheckOnce(ctx, img); err != nil { // it was hashed when it was pulled
				t.Errorf("CheckOnce() before the boot = %v", err)
			}
			e.reopen()
			if err := e.CheckOnce(ctx, img); err != nil {
				t.Errorf("CheckOnce() after a restart of the daemon = %v", err)
			}
			e.again()
			err := e.CheckOnce(ctx, img)
			if tc.word == "" {
				if err != nil {
					t.Errorf("CheckOnce() = %v", err)
				}
				return
			}
			if err == nil {
				t.Fatal("a layer that was changed is not found")
			}
			wantErr(t, err, ErrCorrupt, "RootfsDigestMismatch", tc.word, name)
			if _, ok := e.Status(name); ok || len(e.List()) != 0 {
				t.Error("the image is still there")
			}
			_, err = e.Lookup(name, "")
			wantErr(t, err, ErrNotFound)
			e.mustPull(name)
			e.again()
			if err := e.CheckOnce(ctx, img); err != nil {
				t.Errorf("CheckOnce() after the next pull = %v", err)
			}
		})
	}
}

// TestLayerBytesInUse: an image that a container uses stays for it and for nobody else, until the
// container is gone. Another image over the same layer is refused too.
func TestLayerBytesInUse(t *testing.T) {
	e, name, img, diff := spoiled(t)
	ctx := context.Background()
	if _, err := e.Mount(ctx, e.run(e.lookup(name, ""), "c1")); err != nil {
		t.Fatal(err)
	}
	flip(t, filepath.Join(diff, "bin/app"))
	wantErr(t, e.CheckBytes(ctx, img), ErrCorrupt)
	if _, ok := e.Status(name); ok {
		t.Error("Status() answers by the name of an image that was changed")
	}
	if _, ok := e.Status(img.ID.String()); !ok {
		t.Error("an image that a container uses is gone")
	}
	wantErr(t, e.CheckOnce(ctx, img), ErrCorrupt)
	_, err := e.pull(name, "team")
	wantErr(t, err, ErrCorrupt, "container c1 uses it")
	if err := e.Release("c1"); err != nil {
		t.Fatal(err)
	}
	wantErr(t, e.CheckOnce(ctx, img), ErrCorrupt)
	e.mustPull(name)
	if err := e.CheckBytes(ctx, img); err != nil {
		t.Error(err)
	}
}

// TestArtifactFileBytes is TestLayerBytes for a file of an artifact.
func TestArtifactFileBytes(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	push(t, host+"/m:v1", artifact(t, map[string]string{"a": "good"}))
	e := newEnv(t, host)
	e.mustPull(host + "/m:v1")
	c := e.lookup(host+"/m:v1", "")
	file := filepath.Join(e.artifactDir(c.Image.ID), "files", "a")
	flip(t, file)
	e.again()
	wantErr(t, e.CheckOnce(context.Background(), c.Image), ErrCorrupt, `file "a"`)
	if len(e.List()) != 0 {
		t.Error("the artifact is still there")
	}
	e.mustPull(host + "/m:v1")
	if err := e.CheckBytes(context.Background(), c.Image); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(file, 0o4755); err != nil {
		t.Fatal(err)
	}
	wantErr(t, e.CheckBytes(context.Background(), c.Image), ErrCorrupt, "0444")
}

// TestByteCheckIsCancelled: who gives up learns nothing of the bytes, and spoils nothing.
func TestByteCheckIsCancelled(t *testing.T) {
	e, name, img, _ := spoiled(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := e.CheckBytes(ctx, img); !errors.Is(err, context.Canceled) || errors.Is(err, ErrCorrupt) {
		t.Errorf("CheckBytes() = %v, want canceled", err)
	}
	if _, ok := e.Status(name); !ok {
		t.Error("the image was dropped")
	}
}

// TestChecksEndWithTheBoot: what was found before a boot counts for nothing after it.
func TestChecksEndWithTheBoot(t *testing.T) {
	dir := t.TempDir()
	old := filepath.Join(dir, "another-boot", strings.Repeat("a", 64))
	if err := os.MkdirAll(old, 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := openChecked(dir)
	if err != nil || len(c.whole) != 0 {
		t.Fatalf("openChecked() = %v, %v", c, err)
	}
	if _, err := os.Stat(filepath.Dir(old)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what another boot found is still there: %v", err)
	}
	d := ref.DigestOf(nil)
	c.mark(d)
	if c, err = openChecked(dir); err != nil || !c.isWhole(d) {
		t.Errorf("what this boot found is forgotten: %v", err)
	}
	c.spoil(d)
	if c, err = openChecked(dir); err != nil || c.isWhole(d) {
		t.Errorf("a changed layer is whole after a restart: %v", err)
	}
}

// TestUnpackedOpensFilesAlone: a device or a pipe that took a file's place is never opened, and no link
// leads out of the layer.
func TestUnpackedOpensFilesAlone(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600), os.Symlink("/etc/hostname", filepath.Join(dir, "link")),
		os.Symlink("/etc", filepath.Join(dir, "etc")), os.WriteFile(filepath.Join(dir, "file"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	root, err := openPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	u := &unpacked{ctx: context.Background(), root: root}
	for name, want := range map[string]bool{"file": true, "./file": true, "/file": true, "pipe": false, "link": false, "etc/hostname": false, "../../etc/hostname": false} {
		f, err := u.Get(name)
		if (err == nil) != want {
			t.Errorf("Get(%q) = %v, want it opened: %v", name, err, want)
		}
		if err == nil {
			f.Close()
		}
	}
}
