package image

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"sallyport/enforce"
	"sallyport/policy"
	"sallyport/test/sigkit"
)

const modelType = "application/vnd.example.model.v1+json"

func artifact(t *testing.T, files map[string]string) v1.Image {
	t.Helper()
	img, err := sigkit.Artifact(modelType, files)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// TestArtifactVolume is the whole walk with the real registry: pulled through the gate, listed, mounted
// read-only as files, kept while it is in use and over a restart, removed.
func TestArtifactVolume(t *testing.T) {
	host := startDistribution(t)
	old := unix.Umask(0o077) // as the daemon's unit sets it
	defer unix.Umask(old)
	d := push(t, host+"/models/a:v1", artifact(t, map[string]string{"weights.bin": "w", "conf/model.json": "{}"}))
	attach(t, host+"/models/a", d, bundle(1), sigkit.FallbackTag)
	push(t, host+"/app:v1", build(t, sigkit.ImageOptions{NoBusybox: true}))
	e := newEnv(t, host)
	im := e.mustPull(host + "/models/a:v1")
	if im.ID != d || len(im.Tags) != 1 || len(im.Digests) != 1 || im.Size < 3 || len(e.List()) != 1 {
		t.Errorf("Pull() = %+v, want the manifest's digest as the ID", im)
	}
	if got := e.FsInfo(); got.UsedBytes != 3 || got.Inodes != 2 {
		t.Errorf("FsInfo() = %+v, want 3 bytes in 2 files", got)
	}
	e.reopen()
	v := e.lookup(im.ID.String(), host+"/models/a:v1")
	if v.Image.Artifact != modelType || v.Image.ID != v.Image.Instance || len(v.Evidence.Bundles) != 1 {
		t.Errorf("Lookup() = %+v", v.Image)
	}
	a := e.lookup(e.mustPull(host+"/app:v1").ID.String(), "")
	ctx := context.Background()
	g := e.withVolume(a, v, "c1", "")
	if _, err := e.Mount(ctx, g); err != nil {
		t.Fatal(err)
	}
	r, err := e.MountVolume(ctx, g, 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"weights.bin": "w", "conf/model.json": "{}"} {
		path := filepath.Join(r.Path, name)
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("%s = %q, %v", name, b, err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode() != 0o444 {
			t.Errorf("%s has mode %v, %v; want 0444", name, st.Mode(), err)
		}
	}
	if st, err := os.Stat(filepath.Join(r.Path, "conf")); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("directory of a title: %v, %v", st, err)
	}
	if err := os.WriteFile(filepath.Join(r.Path, "x"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing to the volume = %v, want EROFS", err)
	}
	wantErr(t, e.Remove(im.ID.String()), ErrInUse, "c1")
	if err := e.Release("c1"); err != nil {
		t.Fatal(err)
	}
	if err := e.Remove(host + "/models/a:v1"); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(e.path("artifacts")); len(left) != 0 || len(e.List()) != 1 {
		t.Errorf("after Remove: %v, %v", left, e.List())
	}
}

// TestArtifactIsNoRoot: an artifact is never a container's root filesystem; the twin is its use as a
// volume in TestArtifactVolume.
func TestArtifactIsNoRoot(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	push(t, host+"/m:v1", artifact(t, map[string]string{"f": "f"}))
	e := newEnv(t, host)
	c := e.lookup(e.mustPull(host+"/m:v1").ID.String(), "")
	run := func(img enforce.Image) error {
		_, err := e.gate.AdmitRun(context.Background(), enforce.RunRequest{Image: img, Evidence: c.Evidence,
			Container: policy.Container{Name: "c", ID: "c1"}, Spec: standing(t, "c1"), Config: "{}",
			Pod: enforce.Pod{Namespace: "team", Name: "p", UID: "u"}, PodID: "p1"})
		return err
	}
	if err := run(c.Image); err == nil || !strings.Contains(err.Error(), `denied by rule "artifact-root"`) {
		t.Errorf("AdmitRun() of an artifact = %v, want artifact-root", err)
	}
	lie := c.Image
	lie.Artifact = ""
	if err := run(lie); err == nil || !strings.Contains(err.Error(), `denied by rule "digest-mismatch"`) {
		t.Errorf("AdmitRun() of an artifact that is said to be an image = %v, want digest-mismatch", err)
	}
	if _, err := e.chainsOf(c.Image.ID, c.Image.Instance); !errors.Is(err, ErrInvalid) {
		t.Errorf("layers of an artifact = %v, want ErrInvalid", err)
	}
}

// TestArtifactTitles: what the registry sends as a title never leaves the volume.
func TestArtifactTitles(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	e := newEnv(t, host)
	for _, tc := range []struct {
		name   string
		titles []string
		word   string // "" is admitted
	}{
		{"plain", []string{"a", "b/c", "..d", ".e"}, ""},
		{"climbing", []string{"../a"}, "no plain path"},
		{"climbing inside", []string{"a/../../b"}, "no plain path"},
		{"absolute", []string{"/etc/passwd"}, "no plain path"},
		{"here", []string{"."}, "no plain path"},
		{"empty", []string{""}, "no plain path"},
		{"empty name", []string{"a//b"}, "no plain path"},
		{"newline", []string{"a\nb"}, "unprintable"},
		{"escape", []string{"a\x1b[31m"}, "unprintable"},
		{"backslash", []string{`a\b`}, "backslash"},
		{"whiteout", []string{"a/.wh.b"}, "overlay reserves"},
		{"long name", []string{strings.Repeat("x", 256)}, "255"},
		{"long", []string{strings.Repeat("x/", 600) + "x"}, "1024"},
		{"deep", []string{strings.Repeat("x/", 20) + "x"}, "deep"},
		{"file and directory", []string{"a", "a/b"}, "a file and a directory"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			files := map[string]string{}
			for i, title := range tc.titles {
				files[title] = string(rune('a' + i))
			}
			push(t, host+"/m:v1", artifact(t, files))
			src, err := e.resolve(host+"/m:v1", Credentials{})
			if tc.word == "" {
				if err != nil {
					t.Fatal(err)
				}
				src.Close()
				e.mustPull(host + "/m:v1")
				return
			}
			wantErr(t, err, ErrInvalid, tc.word)
		})
	}
	t.Run("taken", func(t *testing.T) {
		doc := document{mediaType: typeManifest, Config: descriptor{MediaType: modelType}}
		for range 2 {
			doc.Layers = append(doc.Layers, descriptor{Digest: doc.Config.Digest, Annotations: map[string]string{titleAnnotation: "a"}})
		}
		doc.Layers[0].Digest, doc.Layers[1].Digest = fileChain(doc.Config.Digest, "x"), fileChain(doc.Config.Digest, "y")
		_, err := doc.files()
		wantErr(t, err, ErrInvalid, "taken")
	})
	t.Run("untitled", func(t *testing.T) {
		f := newFake(t, sigkit.Referrers)
		img := artifact(t, map[string]string{"a": "a", "b": "b"})
		push(t, f.host+"/m:v1", img)
		text := strings.Replace(string(raw(t, img)), `"annotations":{"org.opencontainers.image.title":"a"}`, `"annotations":{"x":"y"}`, 1)
		f.on("/manifests/v1", answer(200, typeManifest, text))
		e := newEnv(t, f.host)
		im := e.mustPull(f.host + "/m:v1")
		if got, err := os.ReadDir(filepath.Join(e.artifactDir(im.ID), "files")); err != nil || len(got) != 1 {
			t.Errorf("files of an artifact with one title: %v, %v", got, err)
		}
	})
}

// TestArtifactBytes: a registry that sends other bytes stores nothing, and what is changed on disk is
// refused at the next create.
func TestArtifactBytes(t *testing.T) {
	f := newFake(t, sigkit.Referrers)
	img := artifact(t, map[string]string{"a": "good"})
	push(t, f.host+"/m:v1", img)
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	e := newEnv(t, f.host)
	blob := "/blobs/" + m.Layers[0].Digest.String()
	f.on(blob, answer(200, "application/octet-stream", "evil"))
	if _, err := e.pull(f.host+"/m:v1", "team"); err == nil || !strings.Contains(err.Error(), "digest mismatch") {
		t.Errorf("Pull() of other bytes = %v", err)
	}
	if left, _ := os.ReadDir(e.path("artifacts")); len(left) != 0 || len(e.List()) != 0 || len(e.leftovers()) != 0 {
		t.Errorf("left behind: %v %v", left, e.leftovers())
	}
	f.on(blob, nil)
	im := e.mustPull(f.host + "/m:v1")
	file := filepath.Join(e.artifactDir(im.ID), "files", "a")
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func() error{
		"longer": func() error { return os.WriteFile(file, []byte("good and more"), 0o600) },
		"a link": func() error { os.Remove(file); return os.Symlink("/etc/passwd", file) },
		"gone":   func() error { return os.Remove(file) },
	} {
		if err := change(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if _, err := e.Lookup(im.ID.String(), ""); err == nil {
			t.Errorf("Lookup() of an artifact with a file that is %s succeeds", name)
		} else {
			wantErr(t, err, ErrCorrupt)
		}
	}
	if err := e.Remove(im.ID.String()); err != nil {
		t.Fatal(err)
	}
	e.lookup(e.mustPull(f.host+"/m:v1").ID.String(), "")
}

// TestArtifactReuse: another namespace gets an artifact that is here only by downloading it, or from the
// host that served it; a second pull for the same one copies nothing.
func TestArtifactReuse(t *testing.T) {
	a, b := newFake(t, sigkit.Referrers), newFake(t, sigkit.Referrers)
	img := artifact(t, map[string]string{"secret": "s"})
	push(t, a.host+"/m:v1", img)
	push(t, b.host+"/m:v1", img)
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	e := newEnv(t, a.host, b.host)
	e.mustPull(a.host + "/m:v1")
	blob := "/blobs/" + m.Layers[0].Digest.String()
	a.asked("")
	e.mustPull(a.host + "/m:v1")
	if n := a.asked("GET /v2/m" + blob); n != 0 {
		t.Errorf("a second pull downloaded the file %d times, want 0", n)
	}
	b.on(blob, answer(200, "application/octet-stream", "j"))
	if _, err := e.pull(b.host+"/m:v1", "other"); err == nil {
		t.Error("another registry that has no such file gives it away")
	}
	b.on(blob, nil)
	if _, err := e.pull(b.host+"/m:v1", "other"); err != nil {
		t.Error(err)
	}
}
