package registry

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"

	"sallyport/image/ref"
)

type recorder struct{ got *http.Request }

func (r *recorder) RoundTrip(q *http.Request) (*http.Response, error) {
	r.got = q
	return httptest.NewRecorder().Result(), nil
}

// TestGuard gives requests as net/http's client makes them after a redirect.
func TestGuard(t *testing.T) {
	request := func(method, at string) *http.Request {
		q := httptest.NewRequest(method, at, nil)
		q.Header.Set("Authorization", "Basic secret")
		return q
	}
	after := func(q, before *http.Request) *http.Request {
		q.Response = &http.Response{Request: before}
		return q
	}
	blob := "https://registry.example/v2/a/blobs/x"
	for _, tc := range []struct {
		name     string
		q        *http.Request
		insecure bool
		refused  bool
		auth     bool
	}{
		{"straight", request("GET", blob), false, false, true},
		{"plain HTTP", request("GET", "http://registry.example/v2/"), false, true, false},
		{"plain HTTP with leave", request("GET", "http://registry.example/v2/"), true, false, true},
		{"redirect on the same host", after(request("GET", "https://registry.example/other"), request("GET", blob)), false, false, true},
		{"redirect to storage", after(request("GET", "https://cdn.example/x"), request("GET", blob)), false, false, false},
		{"redirect to plain HTTP", after(request("GET", "http://registry.example/x"), request("GET", blob)), false, true, false},
		{"redirect of the handshake", after(request("GET", "https://mallory.example/v2/"), request("GET", "https://registry.example/v2/")), false, true, false},
		{"redirect of a POST", after(request("POST", "https://mallory.example/token"), request("POST", "https://registry.example/token")), false, true, false},
		{"POST on the same host", after(request("POST", "https://registry.example/t"), request("POST", "https://registry.example/token")), false, false, true},
		{"second hop away", after(request("GET", "https://mallory.example/x"), after(request("GET", "https://mallory.example/y"), request("GET", blob))), false, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var next recorder
			_, err := guard{next: &next, insecure: tc.insecure}.RoundTrip(tc.q)
			if (err != nil) != tc.refused {
				t.Fatalf("RoundTrip() = %v, want refused %v", err, tc.refused)
			}
			if tc.refused {
				if next.got != nil {
					t.Error("a refused request went out")
				}
				return
			}
			if got := next.got.Header.Get("Authorization") != ""; got != tc.auth {
				t.Errorf("carries credentials = %v, want %v", got, tc.auth)
			}
		})
	}
}

// TestMirrorGetsNoCredentials: a pod's credentials are for the registry in the image name.
func TestMirrorGetsNoCredentials(t *testing.T) {
	auth := filepath.Join(t.TempDir(), "auth.json")
	if err := os.WriteFile(auth, []byte(`{"auths":{"mirror.example":{"auth":"bm9kZTpub2Rl"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{AuthFile: auth})
	if err != nil {
		t.Fatal(err)
	}
	pod := Credentials{Username: "pod", Password: "secret"}
	for _, tc := range []struct {
		at   string
		own  bool
		want string
	}{
		{"registry.example/a:v1", true, "pod"},
		{"mirror.example/a:v1", false, "node"},
		{"other.example/a:v1", false, ""},
	} {
		named, err := reference.ParseNormalizedNamed(tc.at)
		if err != nil {
			t.Fatal(err)
		}
		got, tenant, err := s.auth(s.now.Load(), named, tc.own, pod)
		if err != nil || tenant != tc.own {
			t.Fatal(tenant, err)
		}
		cfg, err := authn.Authorization(t.Context(), got)
		if err != nil || cfg.Username != tc.want {
			t.Errorf("credentials for %s are of %q, %v; want %q", tc.at, cfg.Username, err, tc.want)
		}
	}
}

func TestNextPage(t *testing.T) {
	d := ref.DigestOf([]byte("x")).String()
	r := &Repo{base: url.URL{Scheme: "https", Host: "registry.example", Path: "/v2/a/"}}
	for _, tc := range []struct{ link, want string }{
		{"", ""},
		{`</v2/a/referrers/` + d + `?n=2>; rel="next"`, "referrers/" + d + "?n=2"},
		{`<https://registry.example/v2/a/referrers/` + d + `>; rel="next"`, "referrers/" + d},
		{`<https://mallory.example/v2/a/referrers/` + d + `>; rel="next"`, ""},
		{`</v2/b/referrers/` + d + `>; rel="next"`, ""},
		{`</v2/a/manifests/x>; rel="next"`, ""},
		{`</v2/a/referrers/` + d + `>; rel="prev"`, ""},
		{`<:>; rel="next"`, ""},
	} {
		if got := r.nextPage(tc.link); got != tc.want {
			t.Errorf("nextPage(%q) = %q, want %q", tc.link, got, tc.want)
		}
	}
}

func TestOneLine(t *testing.T) {
	got := oneLine("a\nb\x1b[31m\u202e" + strings.Repeat("x", 400))
	if strings.ContainsAny(got, "\n\x1b\u202e") || len(got) > 210 {
		t.Errorf("oneLine() = %q", got)
	}
}

// TestNamespaceFile: the name of a namespace does not climb out of its directory.
func TestNamespaceFile(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"auth.json", "ns/team.json"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	now := live(Options{NamespaceAuthDir: filepath.Join(dir, "ns")})
	for namespace, want := range map[string]string{"team": filepath.Join(dir, "ns", "team.json"), "../auth": "", "": "", "other": "", "../ns/team": ""} {
		if got := now.namespaceAuth(namespace); got != want {
			t.Errorf("namespaceAuth(%q) = %q, want %q", namespace, got, want)
		}
	}
}
