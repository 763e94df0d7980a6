package image

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/image/ref"
	"sallyport/test/sigkit"
)

func TestLookupByWhatWasAsked(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	e := newEnv(t, host)
	img := build(t, sigkit.ImageOptions{NoBusybox: true})
	d := push(t, host+"/a:v1", img)
	push(t, host+"/b:v1", img)
	im := e.mustPull(host + "/a:v1")
	id := im.ID.String()

	e.lookup(id, host+"/a:v1")
	e.lookup(id, host+"/a@"+d.String())
	e.lookup(host+"/a:v1", "")
	if c := e.lookup(id, host+"/a:moved@"+d.String()); c.Image.Name.Tag() != "" {
		t.Errorf("a tag that nothing proves was kept: %s", c.Image.Name)
	}
	for _, name := range []string{host + "/a:v2", host + "/b:v1", host + "/b@" + d.String(), host + "/a@" + ref.DigestOf(nil).String()} {
		_, err := e.Lookup(id, name)
		if err == nil {
			t.Fatalf("Lookup(%s) finds a record of another name", name)
		}
		wantErr(t, err, ErrNotFound)
	}
	if _, err := e.Lookup(id, "busybox"); err == nil {
		t.Error("Lookup() by a short name succeeds")
	}
	_, err := e.Lookup(ref.DigestOf([]byte("no such")).String(), "")
	wantErr(t, err, ErrNotFound)

	e.mustPull(host + "/b:v1")
	c, err := e.Lookup(id, "")
	if err != nil || len(c) != 2 {
		t.Fatalf("Lookup() without a name = %d candidates, %v; want every record", len(c), err)
	}
	if c, err = e.Lookup(id, id); err != nil || len(c) != 2 {
		t.Errorf("Lookup() by ID as the name = %d candidates, %v; want every record", len(c), err)
	}
	if im, _ := e.Status(id); len(im.Tags) != 2 || len(im.Digests) != 2 {
		t.Errorf("Status() = %+v", im)
	}
}

// TestTagGoesToAnotherImage: the tag names the new image, the old one stays under its digest.
func TestTagGoesToAnotherImage(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	e := newEnv(t, host)
	name := host + "/a:v1"
	d := push(t, name, build(t, sigkit.ImageOptions{NoBusybox: true, Files: map[string]string{"/v": "1"}}))
	attach(t, host+"/a", d, bundle(1), sigkit.Referrers)
	one := e.mustPull(name)
	push(t, name, build(t, sigkit.ImageOptions{NoBusybox: true, Files: map[string]string{"/v": "2"}}))
	two := e.mustPull(name)
	for range 2 {
		if got, ok := e.Status(name); !ok || got.ID != two.ID {
			t.Errorf("Status(%s) = %v, want the new image", name, got.ID)
		}
		old, ok := e.Status(one.ID.String())
		if !ok || len(old.Tags) != 0 || len(old.Digests) != 1 {
			t.Errorf("the old image = %+v, %v; want its digest alone", old, ok)
		}
		if _, err := e.Lookup(one.ID.String(), name); err == nil {
			t.Error("the old image is still found by the tag")
		}
		if c := e.lookup(one.ID.String(), host+"/a@"+d.String()); len(c.Evidence.Bundles) != 1 {
			t.Errorf("the old image lost its evidence: %+v", c.Evidence)
		}
		e.reopen()
	}
	if len(e.Problems()) > 0 {
		t.Errorf("Problems() = %v", e.Problems())
	}
}

func TestStaleAndPinned(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	e := newEnv(t, host)
	name := host + "/a:v1"
	push(t, name, build(t, sigkit.ImageOptions{NoBusybox: true}))
	im := e.mustPull(name)
	n, err := ref.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	e.MarkStale(n)
	if _, ok := e.Status(name); ok {
		t.Error("Status() answers a stale name")
	}
	if _, ok := e.Status(im.ID.String()); !ok || len(e.List()) != 1 {
		t.Error("a stale image is gone")
	}
	e.mustPull(name)
	if _, ok := e.Status(name); !ok {
		t.Error("a pull does not clear the stale mark")
	}
	if im, _ := e.Status(name); im.Pinned {
		t.Error("the image is pinned")
	}
	e.opts.Pinned = []string{name}
	e.reopen()
	if im, _ := e.Status(name); !im.Pinned {
		t.Error("the image is not pinned")
	}
}

// TestLookupFindsCorruption changes one thing on disk at a time.
func TestLookupFindsCorruption(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	name := host + "/a:v1"
	push(t, name, build(t, sigkit.ImageOptions{NoBusybox: true, Pad: 1000}))
	find := func(t *testing.T, e *env, marks ...string) (path string, data []byte) {
		t.Helper()
		err := filepath.WalkDir(e.opts.Root, func(p string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || path != "" {
				return nil
			}
			b, err := os.ReadFile(p)
			if err != nil {
				return nil
			}
			for _, m := range marks {
				if !strings.Contains(p+"\n"+string(b), m) {
					return nil
				}
			}
			path, data = p, b
			return nil
		})
		if err != nil || path == "" {
			t.Fatalf("no file with %q: %v", marks, err)
		}
		return path, data
	}
	// A file of big data is told from the record by starting with what it holds.
	for _, tc := range []struct {
		name  string
		marks []string
		old   string
		new   string
	}{
		{"manifest", []string{"overlay-images/", `"mediaType":"` + typeManifest}, "schemaVersion", "schemaversion"},
		{"config", []string{"overlay-images/", `"diff_ids":`, `"architecture"`}, `"architecture"`, ` "architecture"`},
		{"evidence", []string{"images/", "evidence-", "TopManifest"}, `"Complete":true`, `"Complete":true `},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := newEnv(t, host)
			im := e.mustPull(name)
			e.lookup(im.ID.String(), name) // the twin
			for {                          // the manifest is stored under two keys
				path, data := find(t, e, append(tc.marks, tc.old)...)
				if err := os.WriteFile(path, bytes.Replace(data, []byte(tc.old), []byte(tc.new), 1), 0o600); err != nil {
					t.Fatal(err)
				}
				if tc.name != "manifest" || strings.Contains(path, "=") {
					break
				}
			}
			e.reopen()
			_, err := e.Lookup(im.ID.String(), name)
			if err == nil {
				t.Fatal("Lookup() does not see it")
			}
			wantErr(t, err, ErrCorrupt, "RootfsDigestMismatch")
		})
	}
	t.Run("layer", func(t *testing.T) {
		e := newEnv(t, host)
		im := e.mustPull(name)
		path := e.path("storage", "overlay-layers", "layers.json")
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		diff := e.index.records(im.ID)[0].Layers[1].DiffID.String()
		if err := os.WriteFile(path, bytes.ReplaceAll(b, []byte(`"diff-digest":"`+diff), []byte(`"diff-digest":"`+ref.DigestOf(nil).String())), 0o600); err != nil {
			t.Fatal(err)
		}
		e.reopen()
		_, err = e.Lookup(im.ID.String(), name)
		if err == nil {
			t.Fatal("Lookup() does not see it")
		}
		wantErr(t, err, ErrCorrupt, "layer")
	})
}

// TestRecordIsOurs: a record that this node did not write, or that lies elsewhere, is none.
func TestRecordIsOurs(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	name := host + "/a:v1"
	push(t, name, build(t, sigkit.ImageOptions{NoBusybox: true}))
	for _, tc := range []struct {
		name string
		edit func(e *env, path string)
	}{
		{"a name changed", func(e *env, path string) {
			b, _ := os.ReadFile(path)
			os.WriteFile(path, bytes.ReplaceAll(b, []byte("/a:v1"), []byte("/a:v2")), 0o600)
		}},
		{"another namespace proved", func(e *env, path string) {
			b, _ := os.ReadFile(path)
			os.WriteFile(path, bytes.ReplaceAll(b, []byte(`"team"`), []byte(`"mallory"`)), 0o600)
		}},
		{"another node's key", func(e *env, path string) {
			os.WriteFile(e.path("record.key"), bytes.Repeat([]byte{1}, 32), 0o600)
		}},
		{"in another place", func(e *env, path string) {
			dir := filepath.Dir(path)
			os.Rename(dir, filepath.Join(filepath.Dir(dir), ref.DigestOf([]byte("x")).Hex()))
		}},
		{"cut short", func(e *env, path string) { os.Truncate(path, 20) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := newEnv(t, host)
			im := e.mustPull(name)
			r := e.index.records(im.ID)[0]
			path := e.path("images", r.ID.Hex(), r.key(), "record.json")
			e.reopen()
			if len(e.List()) != 1 { // the twin
				t.Fatal("the untouched record is not read")
			}
			tc.edit(e, path)
			e.reopen()
			if len(e.List()) != 0 || len(e.Problems()) != 1 {
				t.Errorf("List() = %v, Problems() = %v; want none and one", e.List(), e.Problems())
			}
			if _, err := e.Lookup(im.ID.String(), name); err == nil {
				t.Error("an unverified image is found")
			}
			e.mustPull(name) // and a pull repairs it
		})
	}
}
