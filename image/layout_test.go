package image

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"go.podman.io/storage"

	"sallyport/image/internal/registry"
	"sallyport/image/ref"
	"sallyport/test/sigkit"
)

// saved is a layout with one image and a bundle about it, and the image's name. No registry is left.
func saved(t *testing.T) (dir string, name ref.Name) {
	t.Helper()
	host, srv := newRegistry(t, sigkit.Referrers)
	d := push(t, host+"/team/app:v1", build(t, sigkit.ImageOptions{NoBusybox: true}))
	attach(t, host+"/team/app", d, bundle(1), sigkit.Referrers)
	dir = t.TempDir()
	if err := sigkit.Save(host+"/team/app:v1", dir); err != nil {
		t.Fatal(err)
	}
	srv.Close()
	name, err := ref.Parse("registry.example/team/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	return dir, name
}

// TestLayout: image and evidence come from a disk through the same gate.
func TestLayout(t *testing.T) {
	dir, name := saved(t)
	e := newEnv(t)
	for _, n := range []string{name.String(), "registry.example/other:v2"} { // by tag, and as the only image
		n, err := ref.Parse(n)
		if err != nil {
			t.Fatal(err)
		}
		src, err := e.ResolveLayout(context.Background(), dir, n)
		if err != nil {
			t.Fatal(err)
		}
		if ev := src.Evidence(); len(ev.Bundles) != 1 || !ev.Complete {
			t.Errorf("Evidence() = %d bundles, missing %q", len(ev.Bundles), ev.Missing)
		}
		im, err := e.Pull(context.Background(), src, e.admit(src, ""))
		src.Close()
		if err != nil {
			t.Fatal(err)
		}
		c := e.lookup(im.ID.String(), n.String())
		if len(c.Evidence.Bundles) != 1 || c.Private {
			t.Errorf("Lookup() = %+v", c)
		}
		if err := e.CheckBytes(context.Background(), c.Image); err != nil {
			t.Error(err)
		}
	}
	byDigest := name.WithDigest(e.lookup(name.String(), "").Image.Top)
	src, err := e.ResolveLayout(context.Background(), dir, byDigest)
	if err != nil {
		t.Fatal(err)
	}
	src.Close()
	_, err = e.ResolveLayout(context.Background(), dir, name.WithDigest(ref.DigestOf(nil)))
	wantErr(t, err, ErrNotFound)
}

// TestHostileLayout changes one thing of a layout at a time.
func TestHostileLayout(t *testing.T) {
	blob := func(t *testing.T, dir string, want func(document) ref.Digest) string {
		t.Helper()
		var index, doc document
		b, err := os.ReadFile(filepath.Join(dir, "index.json"))
		if err == nil {
			err = json.Unmarshal(b, &index)
		}
		if err == nil {
			b, err = os.ReadFile(filepath.Join(dir, "blobs/sha256", index.Manifests[0].Digest.Hex()))
		}
		if err == nil {
			err = json.Unmarshal(b, &doc)
		}
		if err != nil {
			t.Fatal(err)
		}
		doc.Manifests = index.Manifests
		return filepath.Join(dir, "blobs/sha256", want(doc).Hex())
	}
	top := func(d document) ref.Digest { return d.Manifests[0].Digest }
	config := func(d document) ref.Digest { return d.Config.Digest }
	content := func(d document) ref.Digest { return d.Layers[0].Digest }
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, dir string) error
		word   string // "" is admitted
	}{
		{"nothing", func(*testing.T, string) error { return nil }, ""},
		{"other manifest", func(t *testing.T, d string) error { return os.WriteFile(blob(t, d, top), []byte("{}"), 0o600) }, "digest mismatch"},
		{"other config", func(t *testing.T, d string) error { flip(t, blob(t, d, config)); return nil }, "digest mismatch"},
		{"other layer", func(t *testing.T, d string) error { flip(t, blob(t, d, content)); return nil }, "digest mismatch"},
		{"no layer", func(t *testing.T, d string) error { return os.Remove(blob(t, d, content)) }, "not found"},
		{"a link out", func(t *testing.T, d string) error {
			at := blob(t, d, content)
			b, err := os.ReadFile(at)
			if err != nil {
				return err
			}
			out := filepath.Join(t.TempDir(), "layer")
			os.Remove(at)
			if err := os.WriteFile(out, b, 0o600); err != nil {
				return err
			}
			return os.Symlink(out, at)
		}, "unavailable"},
		{"no index", func(_ *testing.T, d string) error { return os.Remove(filepath.Join(d, "index.json")) }, "index.json"},
		{"junk", func(_ *testing.T, d string) error {
			return os.WriteFile(filepath.Join(d, "index.json"), []byte("junk"), 0o600)
		}, "invalid character"},
		{"two images", func(_ *testing.T, d string) error {
			e := `{"mediaType":"` + typeManifest + `","digest":"` + ref.DigestOf(nil).String() + `","size":1,"annotations":{"org.opencontainers.image.ref.name":"v1"}}`
			return os.WriteFile(filepath.Join(d, "index.json"), fmt.Appendf(nil, `{"manifests":[%s,%s]}`, e, e), 0o600)
		}, "2 entries"},
		{"many entries", func(_ *testing.T, d string) error {
			e := `{"digest":"` + ref.DigestOf(nil).String() + `"}`
			return os.WriteFile(filepath.Join(d, "index.json"), []byte(`{"manifests":[`+strings.Repeat(e+",", 1024)+e+`]}`), 0o600)
		}, "too large"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir, name := saved(t)
			e := newEnv(t)
			if err := tc.change(t, dir); err != nil {
				t.Fatal(err)
			}
			src, err := e.ResolveLayout(context.Background(), dir, name)
			if err == nil {
				defer src.Close()
				_, err = e.Pull(context.Background(), src, e.admit(src, ""))
			}
			if tc.word == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.word) {
				t.Errorf("error = %v, want %q in it", err, tc.word)
			}
			if len(e.List()) != 0 || len(e.leftovers()) != 0 {
				t.Errorf("left behind: %v %v", e.List(), e.leftovers())
			}
		})
	}
}

// TestLayoutsProveNothing: a layout with a manifest alone is not given a layer that another one brought.
func TestLayoutsProveNothing(t *testing.T) {
	dir, name := saved(t)
	one, _, err := registry.OpenLayout(dir, name, maxManifest)
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	two, _, err := registry.OpenLayout(dir, name, maxManifest)
	if err != nil {
		t.Fatal(err)
	}
	defer two.Close()
	if one.Host() == two.Host() {
		t.Errorf("two layouts are one host, %s", one.Host())
	}
}

// TestPreloaded: what somebody else put into the storage has no record and is no image; the twin is what
// was pulled.
func TestPreloaded(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	push(t, host+"/a:v1", build(t, sigkit.ImageOptions{NoBusybox: true}))
	e := newEnv(t, host)
	im := e.mustPull(host + "/a:v1")
	c := e.lookup(im.ID.String(), "")
	alien := ref.DigestOf([]byte("alien config"))
	stored, err := e.storage.Image(im.ID.Hex())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.storage.CreateImage(alien.Hex(), []string{"docker.io/library/alien:v1"}, stored.TopLayer, "", &storage.ImageOptions{
		Digest:  digest.Digest(c.Image.Instance.String()),
		BigData: []storage.ImageBigDataOption{{Key: manifestKey(c.Image.Instance), Data: c.Evidence.InstanceManifest, Digest: digest.Digest(c.Image.Instance.String())}},
	}); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{alien.String(), "docker.io/library/alien:v1"} {
		if _, ok := e.Status(n); ok {
			t.Errorf("Status(%s) answers an image that was never verified", n)
		}
		_, err := e.Lookup(n, "")
		wantErr(t, err, ErrNotFound, "pull it first")
	}
	e.reopen()
	if e.storage.Exists(alien.Hex()) || len(e.List()) != 1 {
		t.Error("a preloaded image survives a restart")
	}
	e.lookup(im.ID.String(), "")
}
