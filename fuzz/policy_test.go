package fuzz

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"sallyport/image/ref"
	"sallyport/policy"
	"sallyport/policy/bundle"
	"sallyport/policy/rego"
)

const policySeed = `policies:
- name: payments-release
  images: [{glob: "registry.example/pay/**"}]
  authorities:
  - keyless:
      identities:
      - {issuer: "https://issuer.example", subjectRegExp: "a.*b", claims: {BuildTrigger: push}}
    attestations: [{predicateType: slsaprovenance1, maxAge: 24h}]
  - static: {action: fail}
`

func oneLine(t *testing.T, err error) {
	t.Helper()
	if err.Error() == "" || strings.Contains(err.Error(), "\n") {
		t.Fatalf("error is not one line: %q", err)
	}
}

// Whatever requirements.yaml says: without a claim nothing passes, unless the text itself says "pass"
// (static) or "warn" (mode).
func FuzzRequirements(f *testing.F) {
	f.Add([]byte(policySeed))
	f.Add([]byte("policies:\n- name: a\n  images: [{glob: \"**\"}]\n  authorities: [{static: {action: pass}}]\n  mode: warn\n"))
	f.Add([]byte("policies: [{name: a, images: [{glob: a.b/*}], authorities: [{key: {data: \"-----BEGIN PUBLIC KEY-----\"}, rekor: none}]}]"))
	f.Add([]byte("a: &a [*a]\n"))
	name, err := ref.Parse("registry.example/pay/app")
	if err != nil {
		f.Fatal(err)
	}
	d := ref.DigestOf(nil)
	in := policy.ImageInput{Image: policy.Image{Name: name, Top: d, Instance: d, ID: d}, Now: time.Unix(1e9, 0)}
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := policy.ParseRequirements(text, nil)
		if err != nil {
			oneLine(t, err)
			return
		}
		found, err := r.JudgeImage(context.Background(), in)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range append(found.Hits, found.Warnings...) {
			if h.Rule == "" || h.Msg == "" || len(h.Msg) > 600 || strings.Contains(h.Msg, "\n") {
				t.Fatalf("hit %q", h)
			}
		}
		if found.Matched && len(found.Hits) == 0 && !strings.Contains(string(text), "pass") && !strings.Contains(string(text), "warn") {
			t.Fatal("an image without any claim passes")
		}
		if len(found.Used) > 0 {
			t.Fatal("claims were used, and there were none")
		}
	})
}

// Whatever bundle.yaml says, a bundle loads whole or is refused by one line that names the directory.
func FuzzBundleManifest(f *testing.F) {
	f.Add([]byte("name: a\nrevision: 1\nnotAfter: 2030-01-01T00:00:00Z\nmode: warn\nnamespaces: {required: [\"a*\"], unlisted: deny}\nallowances: [{namespaces: [b], hardening: {level: privileged}}]\n"))
	f.Add([]byte("name: a\nrego: [sallyport.run]\n"))
	f.Add([]byte("{}"))
	dir := f.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "node"), 0o755); err != nil {
		f.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "node", "requirements.yaml"), []byte(policySeed[:strings.Index(policySeed, "  - keyless")]+"  - static: {action: fail}\n"), 0o644); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(filepath.Join(dir, "node", "bundle.yaml"), text, 0o644); err != nil {
			t.Fatal(err)
		}
		s, err := bundle.Load(dir)
		if err != nil {
			oneLine(t, err)
			if s != nil || !strings.Contains(err.Error(), dir) {
				t.Fatalf("refused with a set or without its directory: %v", err)
			}
			return
		}
		if n := s.Node(); n == nil || n.Name != "node" || len(n.Hash) != 64 || (n.Mode != policy.Enforce && n.Mode != policy.Warn) {
			t.Fatalf("Node() = %+v", n)
		}
		if _, hit := s.For(""); hit == nil {
			t.Fatal("the empty namespace is judged")
		}
	})
}

// Whatever a module says, it compiles or is refused by one line; what compiled answers with hits or an
// error within bounds.
func FuzzRegoModule(f *testing.F) {
	f.Add("package sallyport.run\n\ndeny contains {\"rule\": \"a\", \"msg\": \"b\"} if input.container.privileged\n")
	f.Add("package sallyport.run\n\nwarn contains {\"rule\": x, \"msg\": x} if some x in input.spec.process.args\n")
	f.Add("package lib\n\nf(x) := y if y := x + 1\n")
	f.Add("package sallyport.run\n\ndeny contains http.send({}) if true\n")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4096 {
			return // deep nesting costs time, not safety
		}
		r, err := rego.Compile(rego.Options{Modules: map[string]string{"rego/a.rego": text}, Packages: []string{"sallyport.run"}})
		if err != nil {
			oneLine(t, err)
			return
		}
		act := policy.Act{Verb: policy.VerbRun, Now: time.Unix(1e9, 0), Container: &policy.Container{Name: "a", Privileged: true}}
		deny, warn, err := r.JudgeAct(context.Background(), act, nil)
		if err != nil && (deny != nil || warn != nil) {
			t.Fatal("hits beside an error")
		}
		for _, h := range append(deny, warn...) {
			if h.Rule == "" || len(h.Rule)+len(h.Msg) > 700 || strings.ContainsAny(h.Rule+h.Msg, "\n\x1b") {
				t.Fatalf("hit %q", h)
			}
		}
	})
}

// A rule about the spec fires exactly if the runtime, which reads the same bytes, would see what the
// rule forbids; bytes that hide a field from rules are an error, which denies.
func FuzzRegoInput(f *testing.F) {
	f.Add([]byte(`{"ociVersion": "1.2.0", "process": {"noNewPrivileges": true}}`))
	f.Add([]byte(`{"process": {"noNewPrivileges": false}, "process": {"NoNewPrivileges": true}}`))
	f.Add([]byte(`{"process": null}`))
	f.Add([]byte(`{"linux": {"resources": {"memory": {"limit": 9223372036854775807}, "devices": [{"allow": true, "major": -1}]}}}`))
	r, err := rego.Compile(rego.Options{Packages: []string{"sallyport.run"}, Modules: map[string]string{
		"rego/a.rego": "package sallyport.run\n\ndeny contains {\"rule\": \"nnp\", \"msg\": \"b\"} if not input.spec.process.noNewPrivileges\n"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, spec []byte) {
		deny, _, err := r.JudgeAct(context.Background(), policy.Act{Verb: policy.VerbRun, Now: time.Unix(1e9, 0), Spec: spec}, nil)
		if err != nil {
			return
		}
		var s specs.Spec
		if len(spec) > 0 {
			if err := json.Unmarshal(spec, &s); err != nil {
				t.Fatalf("judged a spec that does not parse: %v", err)
			}
		}
		if set := s.Process != nil && s.Process.NoNewPrivileges; set == (len(deny) == 1) {
			t.Fatalf("noNewPrivileges is %v and the rule says %v", set, deny)
		}
	})
}
