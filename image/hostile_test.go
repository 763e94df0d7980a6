package image

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"sallyport/image/internal/registry"
	"sallyport/image/ref"
	"sallyport/test/sigkit"
)

// fake is a registry in front of a real one: it answers some paths itself.
type fake struct {
	host string
	real *httptest.Server
	mu   sync.Mutex
	path map[string]http.HandlerFunc // by suffix of the path
	seen []string
}

func newFake(t *testing.T, l sigkit.Layout) *fake {
	f := &fake{path: map[string]http.HandlerFunc{}, real: sigkit.NewRegistry(l)}
	t.Cleanup(f.real.Close)
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	f.host = sigkit.Host(srv)
	return f
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.seen = append(f.seen, r.Method+" "+r.URL.Path)
	var h http.HandlerFunc
	for suffix, fn := range f.path {
		if strings.HasSuffix(r.URL.Path, suffix) {
			h = fn
		}
	}
	f.mu.Unlock()
	if h != nil {
		h(w, r)
		return
	}
	f.real.Config.Handler.ServeHTTP(w, r)
}

func (f *fake) on(suffix string, h http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if h == nil {
		delete(f.path, suffix)
		return
	}
	f.path[suffix] = h
}

// asked counts the requests whose line has word in it, and forgets all.
func (f *fake) asked(word string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.seen {
		if strings.Contains(s, word) {
			n++
		}
	}
	f.seen = nil
	return n
}

func answer(status int, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

func raw(t *testing.T, img interface{ RawManifest() ([]byte, error) }) []byte {
	t.Helper()
	b, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestResolveRefusesDocuments(t *testing.T) {
	f := newFake(t, sigkit.Referrers)
	img := build(t, sigkit.ImageOptions{NoBusybox: true})
	push(t, f.host+"/a:v1", img)
	e := newEnv(t, f.host)
	good := string(raw(t, img))
	with := func(member string) string { return strings.Replace(good, "{", "{"+member+",", 1) }
	for _, tc := range []struct{ name, contentType, body, word string }{
		{"manifests beside layers (CVE-2021-41190)", typeManifest, with(`"manifests":[]`), "manifests"},
		{"layers beside manifests (CVE-2021-41190)", typeIndex, `{"schemaVersion":2,"mediaType":"` + typeIndex + `","manifests":[],"layers":[]}`, "layers"},
		{"config beside manifests", typeIndex, `{"schemaVersion":2,"mediaType":"` + typeIndex + `","manifests":[],"config":{}}`, "config"},
		{"type and header differ", typeDockerManifest, good, "media type"},
		{"image manifest served as an index", typeIndex, strings.Replace(good, `"mediaType":"`+typeManifest+`",`, "", 1), "index also has"},
		{"schema 1", "application/vnd.docker.distribution.manifest.v1+json", `{"schemaVersion":1,"fsLayers":[],"history":[]}`, "media type"},
		{"HTML", "text/html", "<html>", "invalid"},
		{"no type at all", "application/json", strings.Replace(good, `"mediaType":"`+typeManifest+`",`, "", 1), "media type"},
		{"member twice", typeManifest, with(`"layers":[]`), "twice"},
		{"member in another case", typeManifest, with(`"Layers":[]`), "twice"},
		{"only another case", typeManifest, strings.Replace(good, `"layers"`, `"Layers"`, 1), "another case"},
		{"two documents", typeManifest, good + good, "after"},
		{"schema version 3", typeManifest, strings.Replace(good, `"schemaVersion":2`, `"schemaVersion":3`, 1), "schema version"},
		{"config of another type", typeManifest, strings.Replace(good, typeConfig, "application/vnd.oci.empty.v1+json", 1), "config media type"},
		{"config of no type", typeManifest, strings.Replace(good, typeConfig, "", 1), "config media type"},
		{"config of another type in Docker's schema", typeDockerManifest, strings.NewReplacer(typeManifest, typeDockerManifest, typeConfig, "application/vnd.oci.empty.v1+json").Replace(good), "config media type"},
		{"foreign layer", typeManifest, strings.Replace(good, "layer.v1.tar+gzip", "layer.nondistributable.v1.tar+gzip", 1), "layer 0"},
		{"encrypted layer", typeManifest, strings.Replace(good, "layer.v1.tar+gzip", "layer.v1.tar+gzip+encrypted", 1), "layer 0"},
		{"layer with urls", typeManifest, strings.Replace(good, `"layers":[{`, `"layers":[{"urls":["http://169.254.169.254/"],`, 1), "urls"},
		{"sha512 layer", typeManifest, strings.Replace(good, `"layers":[{`, `"layers":[{"digest":"sha512:`+strings.Repeat("a", 128)+`","size":1,"mediaType":"application/vnd.oci.image.layer.v1.tar"},{`, 1), "digest"},
		{"member twice below", typeManifest, strings.Replace(good, `"config":{`, `"config":{"size":1,`, 1), "twice"},
		{"huge config", typeManifest, strings.Replace(good, `"size":`, `"size":99999999`, 1), "config"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f.on("/manifests/v1", answer(200, tc.contentType, tc.body))
			src, err := e.resolve(f.host+"/a:v1", Credentials{})
			if err == nil {
				t.Fatalf("Resolve() = %v, want a refusal", src.Image())
			}
			wantErr(t, err, ErrInvalid, f.host+"/a:v1", tc.word)
		})
	}
	t.Run("too large", func(t *testing.T) {
		f.on("/manifests/v1", answer(200, typeManifest, with(`"annotations":{"a":"`+strings.Repeat("x", maxManifest)+`"}`)))
		_, err := e.resolve(f.host+"/a:v1", Credentials{})
		wantErr(t, err, registry.ErrTooLarge)
	})
	f.on("/manifests/v1", nil) // the twin: the same document, unchanged
	if _, err := e.resolve(f.host+"/a:v1", Credentials{}); err != nil {
		t.Errorf("Resolve() of the unchanged document: %v", err)
	}
}

func TestResolvePicksTheInstance(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	e := newEnv(t, host)
	mine := build(t, sigkit.ImageOptions{NoBusybox: true})
	other := build(t, sigkit.ImageOptions{NoBusybox: true, Platform: v1.Platform{OS: "linux", Architecture: "s390x"}})
	index := func(add ...mutate.IndexAddendum) v1.ImageIndex {
		ix, err := sigkit.Index()
		if err != nil {
			t.Fatal(err)
		}
		return mutate.AppendManifests(ix, add...)
	}
	at := func(img mutate.Appendable, p v1.Platform) mutate.IndexAddendum {
		return mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &p}}
	}
	s390x := v1.Platform{OS: "linux", Architecture: "s390x"}

	good := index(at(other, s390x), at(mine, native))
	top := push(t, host+"/a:good", good)
	src := e.mustResolve(host + "/a:good")
	if src.Image().Top != top || src.Image().Instance != ref.DigestOf(raw(t, mine)) {
		t.Errorf("Image() = %+v", src.Image())
	}
	im := e.mustPull(host + "/a:good")
	if len(im.Digests) != 2 {
		t.Errorf("Digests = %v, want index and instance", im.Digests)
	}
	for _, d := range im.Digests {
		if c, err := e.Lookup(im.ID.Hex(), d); err != nil || c[0].Image.Name.String() != d {
			t.Errorf("Lookup(%s) = %v, %v", d, c, err)
		}
	}

	push(t, host+"/a:none", index(at(other, s390x)))
	_, err := e.resolve(host+"/a:none", Credentials{})
	wantErr(t, err, ErrInvalid, "no instance for linux/"+native.Architecture)

	push(t, host+"/a:lie", index(at(other, native))) // the index lies about the config's platform
	_, err = e.resolve(host+"/a:lie", Credentials{})
	wantErr(t, err, ErrInvalid, "s390x")

	push(t, host+"/a:nested", index(at(good, native)))
	_, err = e.resolve(host+"/a:nested", Credentials{})
	wantErr(t, err, ErrInvalid, "media type")
}

func TestResolveErrors(t *testing.T) {
	f := newFake(t, sigkit.Referrers)
	img := build(t, sigkit.ImageOptions{NoBusybox: true})
	push(t, f.host+"/a:v1", img)
	e := newEnv(t, f.host)
	name := f.host + "/a:v1"
	for _, tc := range []struct {
		name string
		h    http.HandlerFunc
		want error
	}{
		{"503", answer(503, "text/plain", "overloaded\nplease wait"), ErrUnavailable},
		{"429", answer(429, "application/json", `{"errors":[{"code":"TOOMANYREQUESTS","message":"slow\u0007\ndown"}]}`), ErrUnavailable},
		{"401", answer(401, "text/plain", ""), ErrUnauthorized},
		{"403", answer(403, "application/json", `{"errors":[{"code":"DENIED","message":"no"}]}`), ErrUnauthorized},
		{"404", answer(404, "application/json", `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`), ErrNotFound},
		{"connection cut", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, ErrUnavailable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f.on("/manifests/v1", tc.h)
			_, err := e.resolve(name, Credentials{})
			wantErr(t, err, tc.want, name)
		})
	}
	f.on("/manifests/v1", nil)
	t.Run("config of other bytes", func(t *testing.T) {
		id, err := img.ConfigName()
		if err != nil {
			t.Fatal(err)
		}
		f.on("/blobs/"+id.String(), func(w http.ResponseWriter, r *http.Request) {
			b, _ := img.RawConfigFile()
			b[len(b)-2] ^= 1
			w.Write(b)
		})
		defer f.on("/blobs/"+id.String(), nil)
		_, err = e.resolve(name, Credentials{})
		wantErr(t, err, registry.ErrDigest, name)
	})
	t.Run("digest of other bytes", func(t *testing.T) {
		d := ref.DigestOf([]byte("x"))
		f.on("/manifests/"+d.String(), answer(200, typeManifest, string(raw(t, img))))
		_, err := e.resolve(f.host+"/a@"+d.String(), Credentials{})
		wantErr(t, err, registry.ErrDigest)
	})
	t.Run("instance of other bytes", func(t *testing.T) {
		push(t, f.host+"/a:index", indexOf(t, img))
		d := ref.DigestOf(raw(t, img))
		mallory := raw(t, build(t, sigkit.ImageOptions{NoBusybox: true, Files: map[string]string{"/m": "m"}}))
		f.on("/manifests/"+d.String(), answer(200, typeManifest, string(mallory[:len(raw(t, img))])))
		defer f.on("/manifests/"+d.String(), nil)
		_, err := e.resolve(f.host+"/a:index", Credentials{})
		wantErr(t, err, registry.ErrDigest)
	})
	t.Run("nobody listens", func(t *testing.T) {
		_, err := e.resolve("127.0.0.1:1/a:v1", Credentials{})
		if err == nil {
			t.Fatal("Resolve() from a closed port succeeds")
		}
		wantErr(t, err, ErrUnavailable, "127.0.0.1:1/a:v1")
	})
	t.Run("plain HTTP without leave", func(t *testing.T) {
		bare := newEnv(t)
		_, err := bare.resolve(name, Credentials{})
		if err == nil || !strings.Contains(err.Error(), "not marked insecure") {
			t.Errorf("Resolve() over plain HTTP = %v, want a refusal that says insecure", err)
		}
	})
	if _, err := e.resolve(name, Credentials{}); err != nil {
		t.Errorf("the twin: %v", err)
	}
}

// TestTagMoved moves the tag between judging and copying: what was judged is copied.
func TestTagMoved(t *testing.T) {
	f := newFake(t, sigkit.Referrers)
	e := newEnv(t, f.host)
	judged := build(t, sigkit.ImageOptions{NoBusybox: true, Files: map[string]string{"/which": "judged"}})
	d := push(t, f.host+"/a:v1", judged)
	src := e.mustResolve(f.host + "/a:v1")
	push(t, f.host+"/a:v1", build(t, sigkit.ImageOptions{NoBusybox: true, Files: map[string]string{"/which": "mallory"}}))
	adm := e.admit(src, "team")
	f.asked("")
	im, err := e.Pull(context.Background(), src, adm)
	if err != nil {
		t.Fatal(err)
	}
	if n := f.asked("/manifests/"); n != 0 {
		t.Errorf("Pull() asked for a manifest %d times, want 0", n)
	}
	if im.ID != src.Image().ID || im.Digests[0] != f.host+"/a@"+d.String() {
		t.Errorf("Pull() = %+v", im)
	}
}

func layerOf(t *testing.T, img v1.Image) (d string, l v1.Layer) {
	t.Helper()
	ls, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	h, err := ls[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String(), ls[0]
}

// TestPullRefusesBytes: whatever the registry sends instead of the layer, nothing is left behind, and
// the same image pulls once the registry is honest.
func TestPullRefusesBytes(t *testing.T) {
	img := build(t, sigkit.ImageOptions{NoBusybox: true, Pad: 50000})
	d, l := layerOf(t, img)
	rc, err := l.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	var good strings.Builder
	if _, err := fmt.Fprint(&good, readString(t, rc)); err != nil {
		t.Fatal(err)
	}
	body := good.String()
	for _, tc := range []struct {
		name string
		h    http.HandlerFunc
		want error
	}{
		{"truncated", answer(200, "application/octet-stream", body[:len(body)/2]), registry.ErrDigest},
		{"one byte changed", answer(200, "application/octet-stream", body[:100]+"!"+body[101:]), registry.ErrDigest},
		{"longer", answer(200, "application/octet-stream", body+"x"), registry.ErrDigest},
		{"four junk bytes", answer(200, "application/octet-stream", "junk"), registry.ErrDigest},
		{"gone", answer(404, "application/json", "{}"), ErrNotFound},
		{"503", answer(503, "text/plain", ""), ErrUnavailable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFake(t, sigkit.Referrers)
			push(t, f.host+"/a:v1", img)
			e := newEnv(t, f.host)
			f.on("/blobs/"+d, tc.h)
			_, err := e.pull(f.host+"/a:v1", "team")
			if err == nil {
				t.Fatal("Pull() succeeds")
			}
			wantErr(t, err, tc.want, f.host+"/a:v1")
			if l := e.leftovers(); len(l) > 0 || len(e.List()) > 0 {
				t.Errorf("left behind: %v, %v", l, e.List())
			}
			f.on("/blobs/"+d, nil)
			e.mustPull(f.host + "/a:v1")
		})
	}
}

// TestPullResumes: a connection that breaks is taken up again where it broke.
func TestPullResumes(t *testing.T) {
	f := newFake(t, sigkit.Referrers)
	img := build(t, sigkit.ImageOptions{NoBusybox: true, Files: map[string]string{"/big": strings.Repeat("abcdefg\n", 200000)}})
	push(t, f.host+"/a:v1", img)
	d, l := layerOf(t, img)
	rc, err := l.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	body := readString(t, rc)
	cut := 0
	f.on("/blobs/"+d, func(w http.ResponseWriter, r *http.Request) {
		from := 0
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		w.Header().Set("Content-Length", fmt.Sprint(len(body)-from))
		if from > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		if cut++; cut < 3 {
			fmt.Fprint(w, body[from:from+1000])
			panic(http.ErrAbortHandler)
		}
		fmt.Fprint(w, body[from:])
	})
	e := newEnv(t, f.host)
	e.mustPull(f.host + "/a:v1")
	if cut != 3 {
		t.Errorf("the blob was asked for %d times, want 3", cut)
	}
}

// TestDiffID: manifest and config agree with each other, but the layer unpacks to other bytes than the
// config says.
func TestDiffID(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	e := newEnv(t, host)
	img := build(t, sigkit.ImageOptions{NoBusybox: true})
	lying := rewriteConfig(t, img, func(c map[string]any) {
		c["rootfs"].(map[string]any)["diff_ids"] = []string{ref.DigestOf([]byte("other")).String()}
	})
	push(t, host+"/a:v1", lying)
	_, err := e.pull(host+"/a:v1", "team")
	if err == nil {
		t.Fatal("Pull() accepts a layer with another diff ID")
	}
	wantErr(t, err, registry.ErrDigest, "diff ID")
	if l := e.leftovers(); len(l) > 0 {
		t.Errorf("left behind: %v", l)
	}
	push(t, host+"/a:v1", img)
	e.mustPull(host + "/a:v1")
}

// rewritten is an image whose config is other bytes.
type rewritten struct {
	v1.Image
	config, manifest []byte
}

func (r rewritten) RawManifest() ([]byte, error)   { return r.manifest, nil }
func (r rewritten) RawConfigFile() ([]byte, error) { return r.config, nil }
func (r rewritten) ConfigFile() (*v1.ConfigFile, error) {
	return v1.ParseConfigFile(strings.NewReader(string(r.config)))
}
func (r rewritten) Manifest() (*v1.Manifest, error) {
	return v1.ParseManifest(strings.NewReader(string(r.manifest)))
}
func (r rewritten) Digest() (v1.Hash, error)     { return v1.NewHash(ref.DigestOf(r.manifest).String()) }
func (r rewritten) ConfigName() (v1.Hash, error) { return v1.NewHash(ref.DigestOf(r.config).String()) }
func (r rewritten) Size() (int64, error)         { return int64(len(r.manifest)), nil }

func rewriteConfig(t *testing.T, img v1.Image, edit func(map[string]any)) v1.Image {
	t.Helper()
	b, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	var c, m map[string]any
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	edit(c)
	r := rewritten{Image: img}
	if r.config, err = json.Marshal(c); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw(t, img), &m); err != nil {
		t.Fatal(err)
	}
	cfg := m["config"].(map[string]any)
	cfg["digest"], cfg["size"] = ref.DigestOf(r.config).String(), len(r.config)
	if r.manifest, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	return r
}
