package image

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/image/internal/registry"
	"sallyport/test/sigkit"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestSettingsChange: what is written to registries.conf holds soon, without a restart; what is broken
// leaves the old in force and is named.
func TestSettingsChange(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	name := host + "/a:v1"
	push(t, name, build(t, sigkit.ImageOptions{NoBusybox: true}))
	e := newEnv(t, host)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- e.registries.Watch(ctx, slog.New(slog.DiscardHandler)) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	eventually := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: not within 20 s; problems %q", what, e.SettingsProblems())
			}
		}
	}
	resolves := func() bool {
		src, err := e.resolve(name, Credentials{})
		if err != nil {
			if !strings.Contains(err.Error(), "blocked") || !strings.Contains(err.Error(), e.opts.RegistriesConf) {
				t.Fatal(err)
			}
			return false
		}
		src.Close()
		return true
	}
	if !resolves() {
		t.Fatal("blocked before anybody blocked it")
	}
	open := fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", host)
	write(t, e.opts.RegistriesConf, open+"blocked = true\n")
	eventually("a block", func() bool { return !resolves() })
	write(t, e.opts.RegistriesConf, "[[registry")
	eventually("a broken file", func() bool { return len(e.SettingsProblems()) == 1 })
	if p := e.SettingsProblems()[0]; !strings.Contains(p, e.opts.RegistriesConf) {
		t.Errorf("SettingsProblems() = %q, want the file", p)
	}
	if resolves() {
		t.Error("a broken registries.conf lifts a block")
	}
	write(t, e.opts.RegistriesConf, open) // the twin
	eventually("a good file", resolves)
	if p := e.SettingsProblems(); len(p) != 0 {
		t.Errorf("SettingsProblems() = %q", p)
	}
}

// TestBlockedEvidence: a registry that is blocked after a pull is not asked for evidence either.
func TestBlockedEvidence(t *testing.T) {
	f := newFake(t, sigkit.Referrers)
	name := f.host + "/a:v1"
	top := push(t, name, build(t, sigkit.ImageOptions{NoBusybox: true}))
	e := newEnv(t, f.host)
	im := e.mustPull(name)
	attach(t, f.host+"/a", top, bundle(1), sigkit.Referrers)
	open := fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", f.host)
	reload := func(text string) {
		t.Helper()
		write(t, e.opts.RegistriesConf, text)
		if _, err := e.registries.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	reload(open + "blocked = true\n")
	f.asked("")
	wantErr(t, e.refresh(t.Context(), e.index.records(im.ID)[0]), registry.ErrBlocked, name)
	if n := f.asked(""); n != 0 {
		t.Errorf("a blocked registry was asked %d times", n)
	}
	if c := e.lookup(im.ID.String(), name); len(c.Evidence.Bundles) != 0 {
		t.Errorf("evidence came from a blocked registry: %d", len(c.Evidence.Bundles))
	}
	reload(open)
	if err := e.refresh(t.Context(), e.index.records(im.ID)[0]); err != nil {
		t.Fatal(err)
	}
	if c := e.lookup(im.ID.String(), name); len(c.Evidence.Bundles) != 1 {
		t.Errorf("%d bundles, want 1", len(c.Evidence.Bundles))
	}
}

// TestNamespaceCredentials: those of the request come first, then the namespace's, then the node's; what
// the namespace's open is its own.
func TestNamespaceCredentials(t *testing.T) {
	f := newFake(t, sigkit.Referrers)
	name := f.host + "/a:v1"
	push(t, name, build(t, sigkit.ImageOptions{NoBusybox: true}))
	e := newEnv(t, f.host)
	real, used, want := f.real.Config.Handler, "", "" // the handler runs one request at a time here
	f.real.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, _, _ := r.BasicAuth()
		if u != "" {
			used = u
		}
		if u == "" || u != want {
			w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		real.ServeHTTP(w, r)
	})
	auth := func(user string) string {
		return fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, f.host, base64.StdEncoding.EncodeToString([]byte(user+":p")))
	}
	dir := t.TempDir()
	e.opts.AuthFile, e.opts.NamespaceAuthDir = filepath.Join(dir, "auth.json"), filepath.Join(dir, "auth")
	write(t, e.opts.AuthFile, auth("node"))
	write(t, filepath.Join(dir, "auth", "team.json"), auth("team"))
	write(t, filepath.Join(dir, "auth", "elsewhere.json"), `{"auths":{"other.example":{"auth":"dTpw"}}}`)
	write(t, filepath.Join(dir, "auth", "broken.json"), `{"auths":{"other.example":{"auth":"!"}}}`)
	e.reopen()
	for _, tc := range []struct {
		c       Credentials
		want    string
		private bool
	}{
		{Credentials{Namespace: "team", Username: "pod", Password: "p"}, "pod", true},
		{Credentials{Namespace: "team"}, "team", true},
		{Credentials{Namespace: "elsewhere"}, "node", false},
		{Credentials{Namespace: "unknown"}, "node", false},
		{Credentials{Namespace: "../auth"}, "node", false},
		{Credentials{}, "node", false},
	} {
		t.Run(fmt.Sprintf("%s as %s", tc.want, tc.c.Namespace), func(t *testing.T) {
			used, want = "", tc.want
			src, err := e.resolve(name, tc.c)
			if err != nil {
				t.Fatalf("Resolve() = %v, with the credentials of %q", err, used)
			}
			defer src.Close()
			if src.private != tc.private {
				t.Errorf("private = %v, want %v", src.private, tc.private)
			}
		})
	}
	used, want = "", "node"
	_, err := e.resolve(name, Credentials{Namespace: "broken"})
	if err == nil || !strings.Contains(err.Error(), "broken.json") || used != "" {
		t.Errorf("Resolve() with a broken file = %v as %q, want its name and nobody", err, used)
	}
	// A good file that breaks stays in force for its namespace alone.
	write(t, filepath.Join(dir, "auth", "team.json"), `{"auths":`)
	write(t, e.opts.AuthFile, auth("new"))
	if _, err := e.registries.Reload(); err != nil {
		t.Fatal(err)
	}
	for ns, user := range map[string]string{"team": "team", "unknown": "new"} {
		want = user
		src, err := e.resolve(name, Credentials{Namespace: ns})
		if err != nil {
			t.Fatalf("in %s: %v, with the credentials of %q", ns, err, used)
		}
		src.Close()
	}
	if p := e.SettingsProblems(); len(p) != 2 || strings.Contains(strings.Join(p, ""), "auths") {
		t.Errorf("SettingsProblems() = %q, want two files and nothing of their content", p)
	}
}

// TestCertificateSettings: certificates that are broken name their host and keep the old.
func TestCertificateSettings(t *testing.T) {
	e := newEnv(t)
	e.opts.CertsDir = t.TempDir()
	e.reopen()
	crt := filepath.Join(e.opts.CertsDir, "registry.example:5000", "ca.crt")
	write(t, crt, "-----BEGIN CERT")
	if _, err := e.registries.Reload(); err != nil {
		t.Fatal(err)
	}
	if p := e.SettingsProblems(); len(p) != 1 || !strings.Contains(p[0], crt) {
		t.Errorf("SettingsProblems() = %q, want %s", p, crt)
	}
	_, err := e.resolve("registry.example:5000/a:v1", Credentials{})
	if err == nil || !strings.Contains(err.Error(), crt) {
		t.Errorf("Resolve() = %v, want %s", err, crt)
	}
	if err := os.Remove(crt); err != nil { // the twin
		t.Fatal(err)
	}
	if _, err := e.registries.Reload(); err != nil || len(e.SettingsProblems()) != 0 {
		t.Errorf("Reload() = %v, %q", err, e.SettingsProblems())
	}
}

// TestMirrorTimeout: a mirror that hangs costs its budget, and the registry answers.
func TestMirrorTimeout(t *testing.T) {
	hangs, real := newFake(t, sigkit.Referrers), newFake(t, sigkit.Referrers)
	hangs.on("/v2/", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	push(t, real.host+"/a:v1", build(t, sigkit.ImageOptions{NoBusybox: true}))
	e := newEnv(t)
	write(t, e.opts.RegistriesConf, fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n[[registry.mirror]]\nlocation = %q\ninsecure = true\n", real.host, hangs.host))
	e.opts.ResolveTimeout = 5 * time.Second
	e.opts.MirrorTimeout = 0
	e.reopen()
	_, err := e.resolve(real.host+"/a:v1", Credentials{})
	wantErr(t, err, ErrUnavailable)
	e.opts.MirrorTimeout = 200 * time.Millisecond
	e.reopen()
	src, err := e.resolve(real.host+"/a:v1", Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	src.Close()
}

// TestStall: a layer that stops coming is given up after the time that is set.
func TestStall(t *testing.T) {
	f := newFake(t, sigkit.Referrers)
	img := build(t, sigkit.ImageOptions{NoBusybox: true})
	push(t, f.host+"/a:v1", img)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	blob, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	e := newEnv(t, f.host)
	e.opts.StallTimeout = 100 * time.Millisecond
	e.reopen()
	src := e.mustResolve(f.host + "/a:v1")
	f.on(blob.String(), func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err = e.Pull(ctx, src, e.admit(src, "team"))
	wantErr(t, err, ErrUnavailable, f.host)
	f.on(blob.String(), nil) // the twin
	if _, err := e.Pull(ctx, src, e.admit(src, "team")); err != nil {
		t.Fatal(err)
	}
}
