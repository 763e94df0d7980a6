package fuzz

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/image/artifact"
	"sallyport/image/ref"
	"sallyport/policy/bundle/fetch"
	"sallyport/policy/bundle/layout"
)

// FuzzPolicyRegistry has a registry answer whatever it likes to one that brings policy from it: index,
// manifest and blob are the fuzzer's. What is delivered can be opened, goes to places that policies have,
// and staging writes nowhere else.
func FuzzPolicyRegistry(f *testing.F) {
	files, d, err := layout.Build(layout.Config{Node: true, Revision: 1}, map[string][]byte{"bundle.yaml": []byte("name: x\nrevision: 1\n")})
	if err != nil {
		f.Fatal(err)
	}
	manifest := files["blobs/sha256/"+d.Hex()]
	var m struct{ Config, Layers json.RawMessage }
	if err := json.Unmarshal(manifest, &m); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"manifests":[]}`), []byte("{}"), []byte("{}"))
	f.Add(manifest, []byte("{}"), []byte("{}"))
	f.Add([]byte(`{"manifests":[{"digest":"$M"}]}`), []byte(`{"artifactType":"`+fetch.RootType+`","config":{},"layers":[{"digest":"$B","size":2,"annotations":{"org.opencontainers.image.title":"root.json"}}]}`), []byte("{}"))
	f.Add([]byte(`{"manifests":[{"digest":"$M"}]}`), []byte(`{"config":{"mediaType":"`+layout.ConfigType+`","digest":"$B","size":62},"layers":[]}`),
		[]byte(`{"schema":"sallyport.policy-bundle/v1","node":true,"revision":1}`))
	f.Fuzz(func(t *testing.T, top, manifest, blob []byte) {
		manifest = []byte(strings.ReplaceAll(string(manifest), "$B", ref.DigestOf(blob).String()))
		top = []byte(strings.ReplaceAll(string(top), "$M", ref.DigestOf(manifest).String()))
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch at := r.URL.Path; {
			case at == "/v2/":
			case strings.HasSuffix(at, "/manifests/current"):
				w.Write(top)
			case strings.Contains(at, "/manifests/sha256:"):
				w.Write(manifest)
			case strings.Contains(at, "/blobs/"):
				w.Write(blob)
			default:
				w.WriteHeader(http.StatusNotFound)
			}
		}))
		defer s.Close()
		dir := t.TempDir()
		conf := filepath.Join(dir, "registries.conf")
		host := s.Listener.Addr().String()
		if err := os.WriteFile(conf, fmt.Appendf(nil, "[[registry]]\nlocation = %q\ninsecure = true\n", host), 0o644); err != nil {
			t.Fatal(err)
		}
		src, err := artifact.New(artifact.Options{RegistriesConf: conf})
		if err != nil {
			t.Fatal(err)
		}
		name, err := ref.Parse(host + "/policy:current")
		if err != nil {
			t.Fatal(err)
		}
		stage := filepath.Join(dir, "stage")
		r := &fetch.Registry{Name: name, Poll: time.Hour, Source: src, Log: slog.New(slog.DiscardHandler)}
		_ = r.Look(t.Context(), func(_ context.Context, got fetch.Delivery) error {
			for place, files := range got.Places {
				if place == "" {
					continue
				}
				a, err := layout.Open(files)
				if err != nil {
					t.Errorf("place %q: %v", place, err)
				}
				if !a.Config.Names(strings.TrimPrefix(strings.TrimPrefix(place, "namespaces/"), "node")) {
					t.Errorf("place %q got a policy for %+v", place, a.Config)
				}
			}
			if err := fetch.Stage(stage, got); err != nil {
				t.Errorf("stage: %v", err)
			}
			return nil
		})
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 2 {
			t.Errorf("the directory holds %v, %v: something was written outside the stage", left, err)
		}
	})
}
