package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/image/artifact"
	"sallyport/image/ref"
	"sallyport/policy/bundle"
	"sallyport/policy/bundle/fetch"
	"sallyport/test/sigkit"
)

// From a signed policy directory to a node that follows a registry: what was pushed is brought, verified
// and in force, a later push of one namespace leaves the others alone, and pushing a plain directory is
// refused.
func TestPushAndBring(t *testing.T) {
	registry := sigkit.NewRegistry(sigkit.Referrers)
	defer registry.Close()
	tag := sigkit.Host(registry) + "/org/policy:current"
	sally := func(want int, args ...string) string {
		t.Helper()
		var stdout, stderr bytes.Buffer
		if got := run(append([]string{"policy"}, args...), &stdout, &stderr); got != want {
			t.Fatalf("sallyport policy %q = %d, %s; want %d", args, got, stderr.String(), want)
		}
		return stdout.String() + stderr.String()
	}
	dir := t.TempDir()
	key, public := keyFile(t, "ec")
	put := func(name, text string) {
		t.Helper()
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := json.Marshal(map[string]any{"schema": "sallyport.policy-root/v1", "version": 1, "expires": time.Now().Add(time.Hour * 1000).UTC().Format(time.RFC3339),
		"keys": map[string]any{"a": map[string]any{"publicKey": public}}, "root": map[string]any{"signers": []string{"a"}, "threshold": 1},
		"node": map[string]any{"signers": []string{"a"}, "threshold": 1}, "namespaces": []any{map[string]any{"pattern": "*", "signers": []string{"a"}, "threshold": 1}}})
	if err != nil {
		t.Fatal(err)
	}
	put("policy/root.json", string(root))
	const pass = "policies:\n- name: static\n  images: [{glob: \"**\"}]\n  authorities: [{static: {action: pass}}]\n"
	build := func(out string, rev int, namespaces ...string) {
		t.Helper()
		src := fmt.Sprintf("src-%d", time.Now().UnixNano())
		put(src+"/bundle.yaml", fmt.Sprintf("name: x\nrevision: %d\n", rev))
		put(src+"/requirements.yaml", pass)
		os.MkdirAll(filepath.Dir(filepath.Join(dir, out)), 0o755)
		args := []string{"build", filepath.Join(dir, src), filepath.Join(dir, out)}
		for _, n := range namespaces {
			args = append(args, "--namespace", n)
		}
		sally(0, args...)
		sally(0, "sign", "--key", key, filepath.Join(dir, out))
	}
	build("policy/node", 1)
	build("policy/namespaces/pay", 1, "pay")
	sally(0, "sign", "--key", key, filepath.Join(dir, "policy/root.json"))
	if got := sally(0, "push", filepath.Join(dir, "policy"), tag); !strings.HasPrefix(got, "sha256:") {
		t.Errorf("push printed %q, want the digest", got)
	}

	conf := filepath.Join(dir, "registries.conf")
	put("registries.conf", fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", sigkit.Host(registry)))
	src, err := artifact.New(artifact.Options{RegistriesConf: conf})
	if err != nil {
		t.Fatal(err)
	}
	name, err := ref.Parse(tag)
	if err != nil {
		t.Fatal(err)
	}
	anchor, stage, state := filepath.Join(dir, "installed"), filepath.Join(dir, "stage"), t.TempDir()
	put("installed/root.json", string(root))
	if err := os.CopyFS(filepath.Join(anchor, "roots"), os.DirFS(filepath.Join(dir, "policy/roots"))); err != nil {
		t.Fatal(err)
	}
	bring := func() *bundle.Set {
		t.Helper()
		r := &fetch.Registry{Name: name, Poll: time.Hour, Source: src, Log: slog.New(slog.DiscardHandler)}
		if err := r.Look(t.Context(), func(_ context.Context, d fetch.Delivery) error { return fetch.Stage(stage, d) }); err != nil {
			t.Fatal(err)
		}
		s, err := bundle.Read(bundle.Options{Root: stage, Signed: &bundle.Signed{State: state, Now: time.Now(), Anchor: anchor}})
		if err != nil || len(s.Problems()) > 0 {
			t.Fatalf("Read() = %v, %v", err, s.Problems())
		}
		return s
	}
	revisions := func(s *bundle.Set) string {
		out := fmt.Sprintf("node %d", s.Node().Revision)
		for _, n := range s.Namespaces() {
			l, _ := s.For(n)
			out += fmt.Sprintf(" %s %d", n, l.Revision)
		}
		return out
	}
	if got := revisions(bring()); got != "node 1 pay 1" {
		t.Errorf("brought %s", got)
	}
	build("pay2", 2, "pay")
	build("shop", 7, "shop")
	sally(0, "push", filepath.Join(dir, "pay2"), filepath.Join(dir, "shop"), tag)
	if got := revisions(bring()); got != "node 1 pay 2 shop 7" {
		t.Errorf("after a push of two namespaces: %s", got)
	}
	res, err := src.Head(t.Context(), name)
	if err != nil || res.IsZero() {
		t.Errorf("Head() = %s, %v", res, err)
	}
	put("plain/bundle.yaml", "name: x\n")
	if got := sally(1, "push", filepath.Join(dir, "plain"), tag); !strings.Contains(got, "holds no policy") && !strings.Contains(got, "layout") {
		t.Errorf("plain directory: %s", got)
	}
}
