package image

import (
	"context"
	"net/http"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"sallyport/test/sigkit"
)

// TestLayerReuse: a stored layer stands for a download only for who has proved to have it.
func TestLayerReuse(t *testing.T) {
	first := newFake(t, sigkit.Referrers)
	img := build(t, sigkit.ImageOptions{NoBusybox: true, Pad: 20000, Files: map[string]string{"/secret": "of team"}})
	d, _ := layerOf(t, img)
	push(t, first.host+"/team/private:v1", img)
	thief := newFake(t, sigkit.Referrers)
	push(t, thief.host+"/x:v1", img)
	second := newFake(t, sigkit.Referrers)
	push(t, second.host+"/copy:v1", img)

	e := newEnv(t, first.host, thief.host, second.host)
	e.mustPull(first.host + "/team/private:v1")

	t.Run("a registry with manifest and config alone gets nothing", func(t *testing.T) {
		thief.on("/blobs/"+d, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				return // says that it has the blob
			}
			answer(404, "application/json", "{}")(w, r)
		})
		_, err := e.pull(thief.host+"/x:v1", "mallory")
		if err == nil {
			t.Fatal("another tenant's layer was given to a registry that never served it")
		}
		wantErr(t, err, ErrNotFound, thief.host)
	})
	t.Run("nor one with junk", func(t *testing.T) {
		thief.on("/blobs/"+d, answer(200, "application/octet-stream", "junk"))
		if _, err := e.pull(thief.host+"/x:v1", "mallory"); err == nil {
			t.Fatal("four junk bytes were taken for another tenant's layer")
		}
	})
	t.Run("the same namespace downloads nothing again", func(t *testing.T) {
		second.asked("")
		if _, err := e.pull(second.host+"/copy:v1", "team"); err != nil {
			t.Fatal(err)
		}
		if n := second.asked("GET /v2/copy/blobs/" + d); n != 0 {
			t.Errorf("the layer was downloaded %d times, want 0", n)
		}
	})
	t.Run("another namespace from the first host proves access only", func(t *testing.T) {
		first.asked("")
		if _, err := e.pull(first.host+"/team/private:v1", "other"); err != nil {
			t.Fatal(err)
		}
		first.mu.Lock()
		seen := slices.Clone(first.seen)
		first.mu.Unlock()
		if !slices.Contains(seen, "HEAD /v2/team/private/blobs/"+d) || slices.Contains(seen, "GET /v2/team/private/blobs/"+d) {
			t.Errorf("requests = %v, want a HEAD of the layer and no GET", seen)
		}
	})
	t.Run("another namespace from another host downloads in full", func(t *testing.T) {
		second.asked("")
		if _, err := e.pull(second.host+"/copy:v1", "third"); err != nil {
			t.Fatal(err)
		}
		if n := second.asked("GET /v2/copy/blobs/" + d); n != 1 {
			t.Errorf("the layer was downloaded %d times, want 1", n)
		}
	})
}

// TestPrivate: what a pod's credentials fetched is not for every namespace.
func TestPrivate(t *testing.T) {
	f := newFake(t, sigkit.Referrers)
	push(t, f.host+"/a:v1", build(t, sigkit.ImageOptions{NoBusybox: true}))
	e := newEnv(t, f.host)
	real := f.real.Config.Handler
	f.real.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != "u" || p != "p" {
			w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		real.ServeHTTP(w, r)
	})
	name := f.host + "/a:v1"
	for _, c := range []Credentials{{}, {Username: "u", Password: "wrong"}} {
		_, err := e.resolve(name, c)
		wantErr(t, err, ErrUnauthorized, name)
	}
	src, err := e.resolve(name, Credentials{Username: "u", Password: "p"})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	im, err := e.Pull(context.Background(), src, e.admit(src, "team"))
	if err != nil {
		t.Fatal(err)
	}
	usable := func(ns string) bool {
		c, err := e.Lookup(im.ID.String(), name)
		if err != nil {
			t.Fatal(err)
		}
		return c[0].UsableIn(ns)
	}
	if !usable("team") || usable("other") || usable("") {
		t.Errorf("UsableIn = team %v, other %v, none %v; want team alone", usable("team"), usable("other"), usable(""))
	}
	again, err := e.resolve(name, Credentials{Username: "u", Password: "p"})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := e.Pull(context.Background(), again, e.admit(again, "other")); err != nil {
		t.Fatal(err)
	}
	e.reopen()
	if !usable("team") || !usable("other") || usable("third") {
		t.Error("after other proved access: want team and other")
	}
	f.real.Config.Handler = real // the image becomes public
	if _, err := e.pull(name, "third"); err != nil {
		t.Fatal(err)
	}
	if !usable("fourth") {
		t.Error("a public image is not usable everywhere")
	}
	var _ v1.Image
}

// TestCredentialsStay: they go to the registry that the name says, and nowhere that it points to.
func TestCredentialsStay(t *testing.T) {
	var leaked []string
	mallory := newFake(t, sigkit.Referrers)
	note := func(w http.ResponseWriter, r *http.Request) {
		if a := r.Header.Get("Authorization"); a != "" {
			leaked = append(leaked, r.Method+" "+r.URL.Path+" "+a)
		}
		if err := r.ParseForm(); err == nil && r.Form.Get("refresh_token") != "" {
			leaked = append(leaked, "refresh token")
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
		w.WriteHeader(http.StatusUnauthorized)
	}
	for _, p := range []string{"/v2/", "/token", "/stolen"} {
		mallory.on(p, note)
	}
	to := func(path string, code int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "http://"+mallory.host+path, code) }
	}
	for _, tc := range []struct {
		name  string
		creds Credentials
		setup func(f *fake)
	}{
		{"handshake", Credentials{Username: "u", Password: "p"}, func(f *fake) { f.on("/v2/", to("/v2/", 307)) }},
		{"manifest", Credentials{Username: "u", Password: "p"}, func(f *fake) {
			f.on("/v2/", func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
				w.WriteHeader(401)
			})
			f.on("/manifests/v1", to("/stolen", 307))
		}},
		{"token GET", Credentials{Username: "u", Password: "p"}, func(f *fake) {
			f.on("/v2/", func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+f.host+`/token",service="s"`)
				w.WriteHeader(401)
			})
			f.on("/token", to("/token", 307))
		}},
		{"token POST", Credentials{Username: "<token>", IdentityToken: "refresh"}, func(f *fake) {
			f.on("/v2/", func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+f.host+`/token",service="s"`)
				w.WriteHeader(401)
			})
			f.on("/token", to("/token", 307))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFake(t, sigkit.Referrers)
			tc.setup(f)
			e := newEnv(t, f.host, mallory.host)
			leaked = nil
			if _, err := e.resolve(f.host+"/a:v1", tc.creds); err == nil {
				t.Error("Resolve() succeeds")
			}
			if len(leaked) > 0 {
				t.Errorf("another host was given %v", leaked)
			}
		})
	}
}
