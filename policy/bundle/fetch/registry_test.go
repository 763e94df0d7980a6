package fetch

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/image/artifact"
	"sallyport/image/ref"
	"sallyport/policy/bundle/layout"
	"sallyport/test/sigkit"
)

// shelf is a registry with policies on it, and a count of what was asked of it.
type shelf struct {
	t      testing.TB
	server *httptest.Server
	repo   string
	gets   atomic.Int64
	heads  atomic.Int64
	down   atomic.Bool
}

func newShelf(t testing.TB, l sigkit.Layout) *shelf {
	s := &shelf{t: t}
	inner := sigkit.NewRegistry(l)
	t.Cleanup(inner.Close)
	s.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		switch {
		case !strings.Contains(r.URL.Path, "/manifests/") && !strings.Contains(r.URL.Path, "/blobs/"):
		case r.Method == http.MethodGet:
			s.gets.Add(1)
		case r.Method == http.MethodHead:
			s.heads.Add(1)
		}
		inner.Config.Handler.ServeHTTP(w, r)
	}))
	t.Cleanup(s.server.Close)
	s.repo = sigkit.Host(s.server) + "/policy"
	return s
}

// do sends one request and wants success.
func (s *shelf) do(method, path, mediaType string, body []byte) {
	s.t.Helper()
	q, err := http.NewRequest(method, "http://"+sigkit.Host(s.server)+path, strings.NewReader(string(body)))
	if err != nil {
		s.t.Fatal(err)
	}
	q.Header.Set("Content-Type", mediaType)
	res, err := http.DefaultClient.Do(q)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		text, _ := io.ReadAll(res.Body)
		s.t.Fatalf("%s %s: %d %s", method, path, res.StatusCode, text)
	}
}

func (s *shelf) blob(data []byte) {
	s.do(http.MethodPost, "/v2/policy/blobs/uploads/?digest="+ref.DigestOf(data).String(), "application/octet-stream", data)
}

func (s *shelf) manifest(at, mediaType string, text []byte) {
	s.do(http.MethodPut, "/v2/policy/manifests/"+at, mediaType, text)
}

// layout puts a layout's blobs and manifests there and returns the entries of its index.
func (s *shelf) layout(files map[string][]byte) []json.RawMessage {
	var idx struct {
		Manifests []json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(files["index.json"], &idx); err != nil {
		s.t.Fatal(err)
	}
	for name, data := range files {
		if strings.HasPrefix(name, "blobs/") {
			s.blob(data)
		}
	}
	for _, raw := range idx.Manifests {
		var d struct{ Digest string }
		json.Unmarshal(raw, &d)
		s.manifest(d.Digest, "application/vnd.oci.image.manifest.v1+json", files["blobs/sha256/"+strings.TrimPrefix(d.Digest, "sha256:")])
	}
	return idx.Manifests
}

// index puts the tag there.
func (s *shelf) index(entries ...[]json.RawMessage) {
	all := []json.RawMessage{}
	for _, e := range entries {
		all = append(all, e...)
	}
	text, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": all})
	if err != nil {
		s.t.Fatal(err)
	}
	s.manifest("current", "application/vnd.oci.image.index.v1+json", text)
}

func (s *shelf) source(insecure bool) *artifact.Source {
	conf := filepath.Join(s.t.TempDir(), "registries.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "[[registry]]\nlocation = %q\ninsecure = %t\n", sigkit.Host(s.server), insecure), 0o644); err != nil {
		s.t.Fatal(err)
	}
	src, err := artifact.New(artifact.Options{RegistriesConf: conf})
	if err != nil {
		s.t.Fatal(err)
	}
	return src
}

func (s *shelf) registry(poll time.Duration) *Registry {
	name, err := ref.Parse(s.repo + ":current")
	if err != nil {
		s.t.Fatal(err)
	}
	return &Registry{Name: name, Poll: poll, Source: s.source(true), Log: slog.New(slog.DiscardHandler)}
}

func build(t testing.TB, rev uint64, sign bool, namespaces ...string) map[string][]byte {
	t.Helper()
	files, _, err := layout.Build(layout.Config{Node: len(namespaces) == 0, Namespaces: namespaces, Revision: rev},
		map[string][]byte{"bundle.yaml": fmt.Appendf(nil, "name: x\nrevision: %d\n", rev)})
	if err == nil && sign {
		files, err = layout.Attach(files, fmt.Appendf(nil, `{"by": %d}`, rev))
	}
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func opened(t testing.TB, files map[string][]byte) layout.Artifact {
	t.Helper()
	a, err := layout.Open(files)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// What an index lists comes to the places that the policies themselves name, each with its signatures:
// those that the index lists, and those that only refer to it.
func TestRegistryBrings(t *testing.T) {
	for _, l := range []sigkit.Layout{sigkit.Referrers, sigkit.FallbackTag} {
		s := newShelf(t, l)
		node, teams := build(t, 5, true), build(t, 2, false, "team-a", "team-b")
		s.index(s.layout(node), s.layout(teams), s.layout(build(t, 1, false, "team-b")))
		if err := sigkit.Attach(s.repo, opened(t, teams).Digest, []byte(`{"by": "cosign"}`), l); err != nil {
			t.Fatal(err)
		}
		var got Delivery
		if err := s.registry(time.Hour).look(t.Context(), newKnown(), func(_ context.Context, d Delivery) error { got = d; return nil }); err != nil {
			t.Fatal(err)
		}
		if p := strings.Join(got.where(), " "); p != "namespaces/team-a namespaces/team-b node" || got.Partial {
			t.Fatalf("places = %s, partial %t", p, got.Partial)
		}
		if a := opened(t, got.Places["node"]); a.Digest != opened(t, node).Digest || len(a.Bundles) != 1 || string(a.Bundles[0]) != `{"by": 5}` {
			t.Errorf("node: %s with %q", a.Digest, a.Bundles)
		}
		if a := opened(t, got.Places["namespaces/team-b"]); a.Config.Revision != 2 || len(a.Bundles) != 1 || string(a.Bundles[0]) != `{"by": "cosign"}` {
			t.Errorf("team-b: revision %d with %q, want the newer of two", a.Config.Revision, a.Bundles)
		}
	}
}

// A tag may hold one policy alone.
func TestRegistryBringsOne(t *testing.T) {
	s := newShelf(t, sigkit.Referrers)
	files := build(t, 3, false)
	s.layout(files)
	s.manifest("current", "application/vnd.oci.image.manifest.v1+json", files["blobs/sha256/"+opened(t, files).Digest.Hex()])
	var got Delivery
	if err := s.registry(time.Hour).look(t.Context(), newKnown(), func(_ context.Context, d Delivery) error { got = d; return nil }); err != nil || got.Places["node"] == nil {
		t.Errorf("look() = %v, places %v", err, got.where())
	}
}

// As long as nothing changed a look is one HEAD; what was brought before is not brought again; a
// registry that does not answer is told, and asked again.
func TestRegistryAsksLittle(t *testing.T) {
	s := newShelf(t, sigkit.Referrers)
	node := s.layout(build(t, 5, true))
	s.index(node, s.layout(build(t, 1, true, "pay")))
	r, k := s.registry(time.Hour), newKnown()
	var got []Delivery
	look := func() error {
		return r.look(t.Context(), k, func(_ context.Context, d Delivery) error { got = append(got, d); return nil })
	}
	if err := look(); err != nil || len(got) != 1 {
		t.Fatalf("look() = %v, %d deliveries", err, len(got))
	}
	s.gets.Store(0)
	s.heads.Store(0)
	if err := look(); err != nil || len(got) != 1 || s.gets.Load() != 0 || s.heads.Load() != 1 {
		t.Errorf("nothing new: %v, %d deliveries, %d GETs, %d HEADs, want one HEAD", err, len(got), s.gets.Load(), s.heads.Load())
	}
	s.index(node, s.layout(build(t, 2, true, "pay")))
	if err := look(); err != nil || len(got) != 2 {
		t.Fatalf("look() = %v, %d deliveries", err, len(got))
	}
	if d := got[1]; !d.has("node") || d.Places["node"] != nil || opened(t, d.Places["namespaces/pay"]).Config.Revision != 2 {
		t.Errorf("second delivery %v, want pay anew and node as it was", d.where())
	}
	s.down.Store(true)
	if err := look(); err == nil || len(got) != 2 {
		t.Errorf("registry down: %v, %d deliveries", err, len(got))
	}
}

// Run goes on through failures, tells them, and keeps from asking at once.
func TestRegistryRun(t *testing.T) {
	s := newShelf(t, sigkit.Referrers)
	s.index(s.layout(build(t, 5, true)))
	r := s.registry(10 * time.Millisecond)
	got := make(chan Delivery, 64)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx, func(_ context.Context, d Delivery) error { got <- d; return nil }) }()
	<-got
	s.down.Store(true)
	for end := time.Now().Add(10 * time.Second); r.Trouble() == "" && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	if !strings.Contains(r.Trouble(), "503") {
		t.Errorf("Trouble() = %q, want the registry's answer", r.Trouble())
	}
	s.down.Store(false)
	for end := time.Now().Add(20 * time.Second); r.Trouble() != "" && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	if r.Trouble() != "" {
		t.Errorf("Trouble() = %q after it came back", r.Trouble())
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run() = %v", err)
	}
}

// What a registry says that is wrong is refused by name; its twin is the index of TestRegistryBrings.
// The rest of a partly broken index comes all the same.
func TestRegistryRefuses(t *testing.T) {
	manifest := func(v map[string]any) []byte {
		text, _ := json.Marshal(v)
		return text
	}
	const mt = "application/vnd.oci.image.manifest.v1+json"
	for _, tt := range []struct {
		name, want string
		set        func(s *shelf)
	}{
		{"nothing there", "not found", func(*shelf) {}},
		{"plain HTTP", "", nil},
		{"an image", "want application/vnd.sallyport.policy.config.v1+json", func(s *shelf) {
			s.blob([]byte("{}"))
			s.manifest("current", mt, manifest(map[string]any{"schemaVersion": 2, "mediaType": mt, "layers": []any{},
				"config": map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": ref.DigestOf([]byte("{}")), "size": 2}}))
		}},
		{"two documents in one", "index and a manifest at once", func(s *shelf) {
			s.manifest("current", mt, manifest(map[string]any{"schemaVersion": 2, "manifests": []any{}, "layers": []any{}}))
		}},
		{"empty index", "holds no policy", func(s *shelf) { s.index([]json.RawMessage{}) }},
		{"huge config", "want at most", func(s *shelf) {
			s.manifest("current", mt, manifest(map[string]any{"schemaVersion": 2, "mediaType": mt, "layers": []any{},
				"config": map[string]any{"mediaType": layout.ConfigType, "digest": ref.DigestOf([]byte("{}")), "size": 1 << 40}}))
		}},
		{"root that leads outside", "root.json and files of roots/", func(s *shelf) {
			s.blob([]byte("{}"))
			text := manifest(map[string]any{"schemaVersion": 2, "mediaType": mt, "artifactType": RootType,
				"config": map[string]any{"mediaType": "application/vnd.oci.empty.v1+json", "digest": ref.DigestOf([]byte("{}")), "size": 2},
				"layers": []any{map[string]any{"mediaType": "application/json", "digest": ref.DigestOf([]byte("{}")), "size": 2,
					"annotations": map[string]string{TitleAnnotation: "../node/bundle.yaml"}}}})
			s.manifest(ref.DigestOf(text).String(), mt, text)
			entry, _ := json.Marshal(map[string]any{"mediaType": mt, "digest": ref.DigestOf(text), "size": len(text)})
			s.index([]json.RawMessage{entry})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newShelf(t, sigkit.Referrers)
			r := s.registry(time.Hour)
			if tt.set == nil {
				s.index(s.layout(build(t, 1, true)))
				r.Source = s.source(false)
				tt.want = "unavailable"
			} else {
				tt.set(s)
			}
			delivered := false
			err := r.look(t.Context(), newKnown(), func(context.Context, Delivery) error { delivered = true; return nil })
			if err == nil || !strings.Contains(err.Error(), tt.want) || delivered {
				t.Errorf("look() = %v, delivered %t, want %q", err, delivered, tt.want)
			}
		})
	}
	s := newShelf(t, sigkit.Referrers)
	text := manifest(map[string]any{"schemaVersion": 2, "mediaType": mt, "layers": []any{},
		"config": map[string]any{"mediaType": layout.ConfigType, "digest": ref.DigestOf([]byte("{}")), "size": 1 << 40}})
	s.manifest(ref.DigestOf(text).String(), mt, text)
	huge, _ := json.Marshal(map[string]any{"mediaType": mt, "digest": ref.DigestOf(text), "size": len(text)})
	s.index(s.layout(build(t, 1, true)), []json.RawMessage{huge})
	var got Delivery
	err := s.registry(time.Hour).look(t.Context(), newKnown(), func(_ context.Context, d Delivery) error { got = d; return nil })
	if err == nil || got.Places["node"] == nil || !got.Partial {
		t.Errorf("one entry is broken: %v, places %v, partial %t; want the others, and the gap told", err, got.where(), got.Partial)
	}
}

// Staging is whole: places that are not named any more go, unless the delivery is partial; nothing is
// written outside.
func TestStage(t *testing.T) {
	dir := t.TempDir()
	files := func(text string) map[string][]byte {
		return map[string][]byte{"oci-layout": []byte(text), "blobs/sha256/a": []byte("b")}
	}
	stage := func(partial bool, places map[string]map[string][]byte) {
		t.Helper()
		if err := Stage(dir, Delivery{Places: places, Partial: partial}); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) string {
		b, _ := os.ReadFile(filepath.Join(dir, name))
		return string(b)
	}
	stage(false, map[string]map[string][]byte{"": {"root.json": []byte("{}"), "roots/1.json": []byte("{}")}, "node": files("1"), "namespaces/a": files("a"), "namespaces/b": files("b")})
	stage(false, map[string]map[string][]byte{"node": nil, "namespaces/a": files("a2")})
	if read("node/oci-layout") != "1" || read("namespaces/a/oci-layout") != "a2" || read("namespaces/b/oci-layout") != "" || read("roots/1.json") != "{}" {
		t.Error("want node kept, a new, b gone, the root kept")
	}
	stage(true, map[string]map[string][]byte{"namespaces/c": files("c")})
	if read("node/oci-layout") != "1" || read("namespaces/a/oci-layout") != "a2" || read("namespaces/c/oci-layout") != "c" {
		t.Error("a partial delivery took something away")
	}
	if err := Stage(dir, Delivery{Places: map[string]map[string][]byte{"node": {"../../x": nil}}}); err == nil {
		t.Error("Stage() wrote outside")
	}
}
