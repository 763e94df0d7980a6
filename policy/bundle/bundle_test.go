package bundle

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/policy/baseline"
	"sallyport/test/sigkit"
)

const issuer = "https://issuer.example"

// tree writes files (path to text) under a fresh directory and returns it.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	write(t, root, files)
	return root
}

func write(t testing.TB, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		at := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// with is base with changes; an empty text removes a file.
func with(base map[string]string, changes ...string) map[string]string {
	out := map[string]string{}
	for k, v := range base {
		out[k] = v
	}
	for i := 0; i < len(changes); i += 2 {
		if changes[i+1] == "" {
			delete(out, changes[i])
		} else {
			out[changes[i]] = changes[i+1]
		}
	}
	return out
}

func static(glob, action string) string {
	return "policies:\n- name: static\n  images: [{glob: \"" + glob + "\"}]\n  authorities: [{static: {action: " + action + "}}]\n"
}

// node is a node policy that loads.
var node = map[string]string{
	"node/bundle.yaml":       "name: test\nrevision: 3\nnamespaces: {required: [pay, \"web-*\"]}\n",
	"node/requirements.yaml": static("**", "pass"),
}

const privilegedRule = "package sallyport.run\n\ndeny contains {\"rule\": \"no-privileged\", \"msg\": \"x\"} if input.container.privileged\n"

func load(t testing.TB, files map[string]string) *Set {
	t.Helper()
	s, err := Load(tree(t, files))
	if err != nil {
		t.Fatalf("Load() = %v", err)
	}
	return s
}

func TestAbsentPolicyDeniesAll(t *testing.T) {
	dirs := map[string]string{
		"no directory": filepath.Join(t.TempDir(), "none"),
		"empty":        t.TempDir(),
		"empty node":   tree(t, map[string]string{"node/.keep": ""}),
		"no node":      tree(t, map[string]string{"namespaces/pay/bundle.yaml": "name: pay\n", "namespaces/pay/requirements.yaml": static("**", "pass")}),
	}
	for name, dir := range dirs {
		s, err := Load(dir)
		if err != nil {
			t.Errorf("%s: Load() = %v", name, err)
			continue
		}
		_, hit := s.For("pay")
		if s.Node() != nil || hit == nil || hit.Rule != "no-policy" || !strings.Contains(hit.Msg, filepath.Join(dir, "node")) {
			t.Errorf("%s: node %v, For() = %v, want a denial by no-policy that says where to install one", name, s.Node(), hit)
		}
		if f := s.Floor("pay"); f.Level != baseline.Restricted || f.RootUser != baseline.Refuse {
			t.Errorf("%s: Floor() = %+v, want the tightest", name, f)
		}
	}
	var zero Set
	if _, hit := zero.For("pay"); zero.Node() != nil || hit == nil {
		t.Error("the zero Set admits")
	}
}

func TestLoadRefuses(t *testing.T) {
	key, err := sigkit.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	byKey := "policies:\n- name: by-key\n  images: [{glob: \"**\"}]\n  authorities: [{key: {file: ci.pub}}]\n"
	keyless := "policies:\n- name: keyless\n  images: [{glob: \"**\"}]\n  authorities: [{keyless: {identities: [{issuer: " + issuer + ", subject: me}]}}]\n"
	const req, bun = "node/requirements.yaml", "node/bundle.yaml"
	tests := []struct {
		name  string
		files map[string]string
		want  string // after the directory
	}{
		{"no bundle.yaml", with(node, bun, ""), "bundle.yaml: missing"},
		{"no name", with(node, bun, "revision: 1\n"), "bundle.yaml: name"},
		{"unknown field", with(node, bun, "name: a\nrevison: 1\n"), `bundle.yaml: line 2: unknown field "revison"`},
		{"mode", with(node, bun, "name: a\nmode: shadow\n"), `bundle.yaml: mode: "shadow"`},
		{"unlisted", with(node, bun, "name: a\nnamespaces: {unlisted: maybe}\n"), "namespaces.unlisted"},
		{"required", with(node, bun, "name: a\nnamespaces: {required: [\"a/b\"]}\n"), "namespaces.required[0]"},
		{"allowance for nobody", with(node, bun, "name: a\nallowances: [{hardening: {level: baseline}}]\n"), "allowances[0].namespaces: empty"},
		{"allowance without hardening", with(node, bun, "name: a\nallowances: [{namespaces: [a]}]\n"), "allowances[0].hardening: missing"},
		{"allowance with unknown knob", with(node, bun, "name: a\nallowances: [{namespaces: [a], hardening: {level: baseline, privilged: allow}}]\n"), "privilged"},
		{"allowances that contradict", with(node, bun, "name: a\nallowances: [{namespaces: [a], hardening: {level: baseline}}, {namespaces: [a], hardening: {level: privileged}}]\n"), "allowances[0] and [1] contradict each other"},
		{"neither rules", with(node, req, ""), "requirements.yaml, policy.json: both are missing"},
		{"broken requirements", with(node, req, "policies:\n- nam: a\n"), `requirements.yaml: line 2: unknown field "nam"`},
		{"keyless without root", with(node, req, keyless), "there is no trusted_root.json"},
		{"broken root", with(node, req, keyless, "node/trusted_root.json", "{"), "trusted_root.json"},
		{"missing key", with(node, req, byKey), `key.file: "ci.pub": no such file in the bundle`},
		{"key outside", with(node, req, strings.Replace(byKey, "ci.pub", "../ci.pub", 1), "ci.pub", string(key.PEM())), "write a path within the bundle"},
		{"absolute key", with(node, req, strings.Replace(byKey, "ci.pub", "/etc/ci.pub", 1)), "write a path within the bundle"},
		{"unreadable key", with(node, req, byKey, "node/ci.pub", "hello"), "policies[0].authorities[0].key.file: no PEM block"},
		{"broken policy.json", with(node, "node/policy.json", "{\"defalt\": []}"), "policy.json"},
		{"policy.json with a key outside", with(node, "node/policy.json", `{"default": [{"type": "reject"}], "transports": {"docker": {"a.example": [{"type": "sigstoreSigned", "keyPath": "/etc/key.pub"}]}}}`), "write a path within the bundle"},
		{"policy.json rejects what is required", with(node, "node/policy.json", `{"default": [{"type": "reject"}], "transports": {"docker": {"a.example/pay": [{"type": "reject"}]}}}`, req, static("a.example/pay/**", "pass")), `scope "a.example/pay" is rejected, policy "static" says`},
		{"misspelt file", with(node, "node/requirement.yaml", static("**", "fail")), "requirement.yaml: nothing reads a file of this name"},
		{"rego at the top", with(node, "node/run.rego", privilegedRule), "run.rego: nothing reads"},
		{"rego not listed", with(node, "node/rego/run.rego", privilegedRule), "not listed in bundle.yaml"},
		{"rego listed and missing", with(node, bun, "name: a\nrego: [sallyport.run]\n"), "rego/ holds no module"},
		{"rego broken", with(node, bun, "name: a\nrego: [sallyport.run]\n", "node/rego/run.rego", strings.Replace(privilegedRule, "privileged\n", "privilged\n", 1)), "rego/run.rego:3"},
		{"hardening", with(node, "node/hardening.yaml", "level: relaxed\n"), "hardening.yaml"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := tree(t, tt.files)
			_, err := Load(dir)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), filepath.Join(dir, "node")+": ") {
				t.Errorf("Load() = %v, want one line that begins with the directory and has %q", err, tt.want)
			}
		})
	}
	load(t, node)
	load(t, with(node, req, byKey, "node/ci.pub", string(key.PEM())))
	load(t, with(node, bun, "name: a\nrego: [sallyport.run]\n", "node/rego/run.rego", privilegedRule, "node/rego/data.json", "{}", "node/README.md", "hello"))
}

func TestFor(t *testing.T) {
	ns := map[string]string{"namespaces/pay/bundle.yaml": "name: pay\n", "namespaces/pay/requirements.yaml": static("**", "pass")}
	all := with(node)
	for k, v := range ns {
		all[k] = v
	}
	deny := with(all, "node/bundle.yaml", "name: test\nnamespaces: {required: [pay], unlisted: deny}\n", "namespaces/dev/bundle.yaml", "name: dev\n", "namespaces/dev/requirements.yaml", static("**", "pass"))
	tests := []struct {
		name, namespace string
		files           map[string]string
		layer, rule     string
	}{
		{"with a bundle", "pay", all, "namespace pay", ""},
		{"required and missing", "pay", node, "", "policy-missing"},
		{"required by pattern and missing", "web-1", all, "", "policy-missing"},
		{"unlisted", "dev", all, "", ""},
		{"unlisted, denied", "dev", deny, "", "policy-unlisted"},
		{"listed, others denied", "pay", deny, "namespace pay", ""},
		{"broken", "pay", with(all, "namespaces/pay/bundle.yaml", "nam: pay\n"), "", "policy-broken"},
		{"empty directory", "dev", with(all, "namespaces/dev/.keep", "x"), "", "policy-broken"},
		{"says what only the node may", "pay", with(all, "namespaces/pay/bundle.yaml", "name: pay\nallowances: [{namespaces: [pay], hardening: {level: privileged}}]\n"), "", "policy-broken"},
		{"requires namespaces", "pay", with(all, "namespaces/pay/bundle.yaml", "name: pay\nnamespaces: {required: [x]}\n"), "", "policy-broken"},
		{"no name", "", all, "", "namespace-name"},
		{"no valid name", "../pay", all, "", "namespace-name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := load(t, tt.files)
			l, hit := s.For(tt.namespace)
			name, rule := "", ""
			if l != nil {
				name = l.Name
			}
			if hit != nil {
				rule = hit.Rule
			}
			if name != tt.layer || rule != tt.rule {
				t.Errorf("For(%q) = %q, %v, want layer %q, rule %q", tt.namespace, name, hit, tt.layer, tt.rule)
			}
			if n := s.Node(); n == nil || n.Name != "node" || len(n.Hash) != 64 || s.Node().Revision != 3 && tt.files["node/bundle.yaml"] == node["node/bundle.yaml"] {
				t.Errorf("Node() = %+v", n)
			}
		})
	}
	s := load(t, with(all, "namespaces/pay/bundle.yaml", "name: pay\nmode: loud\n"))
	_, hit := s.For("pay")
	if p := s.Problems(); !strings.Contains(hit.Msg, `namespaces/pay: bundle.yaml: mode: "loud"`) || len(p) != 1 || p[0].Namespace != "pay" || p[0].Kept {
		t.Errorf("broken bundle: %v, problems %v, want both to name file and field", hit, p)
	}
}

func TestReadKeepsLastGood(t *testing.T) {
	files := with(node, "namespaces/pay/bundle.yaml", "name: pay\n", "namespaces/pay/requirements.yaml", static("**", "pass"),
		"namespaces/dev/bundle.yaml", "name: dev\n", "namespaces/dev/requirements.yaml", static("**", "pass"))
	dir := tree(t, files)
	first, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	again := func(prev *Set) *Set {
		t.Helper()
		s, err := Read(Options{Root: dir, Prev: prev})
		if err != nil {
			t.Fatalf("Read() = %v", err)
		}
		return s
	}
	if s := again(first); s.Hash() != first.Hash() || s.Node() != first.Node() {
		t.Error("nothing changed, and the policy was compiled anew")
	}
	write(t, dir, map[string]string{"namespaces/pay/requirements.yaml": "policies: []\n"})
	broken := again(first)
	if l, hit := broken.For("pay"); hit != nil || l.Hash != mustFor(t, first, "pay") {
		t.Errorf("broken bundle: For() = %v, %v, want the last good one", l, hit)
	}
	if p := broken.Problems(); len(p) != 1 || !p[0].Kept || !strings.Contains(p[0].String(), "policies: empty") {
		t.Errorf("Problems() = %v, want the broken bundle, kept", p)
	}
	if s := again(broken); mustFor(t, s, "pay") != mustFor(t, first, "pay") {
		t.Error("broken twice: the last good one is lost")
	}
	write(t, dir, map[string]string{"namespaces/pay/requirements.yaml": static("**", "fail")})
	mended := again(broken)
	if h := mustFor(t, mended, "pay"); h == mustFor(t, first, "pay") || len(mended.Problems()) != 0 || mended.Hash() == first.Hash() {
		t.Errorf("mended bundle: hash %s, problems %v", h, mended.Problems())
	}
	for _, ns := range []string{"pay", "dev"} {
		if err := os.RemoveAll(filepath.Join(dir, "namespaces", ns)); err != nil {
			t.Fatal(err)
		}
	}
	removed := again(mended)
	if mustFor(t, removed, "pay") != mustFor(t, mended, "pay") {
		t.Error("a required namespace lost its bundle and is not judged by the last good one")
	}
	if l, hit := removed.For("dev"); l != nil || hit != nil {
		t.Errorf("unlisted namespace without a bundle: %v, %v, want the node policy alone", l, hit)
	}
	write(t, dir, map[string]string{"node/bundle.yaml": "nam: x\n"})
	if _, err := Read(Options{Root: dir, Prev: first}); err == nil || first.Node() == nil {
		t.Error("broken node policy: Read() = nil, want an error that leaves the previous set")
	}
}

func mustFor(t *testing.T, s *Set, ns string) string {
	t.Helper()
	l, hit := s.For(ns)
	if hit != nil || l == nil {
		t.Fatalf("For(%q) = %v, %v", ns, l, hit)
	}
	return l.Hash
}

func TestFloor(t *testing.T) {
	files := with(node,
		"node/bundle.yaml", "name: test\nallowances:\n- namespaces: [kube-system, \"cni-*\"]\n  hardening: {level: baseline, hostNetwork: allow}\n",
		"namespaces/pay/bundle.yaml", "name: pay\n", "namespaces/pay/requirements.yaml", static("**", "pass"), "namespaces/pay/hardening.yaml", "level: restricted\n",
		"namespaces/dev/bundle.yaml", "name: dev\n", "namespaces/dev/requirements.yaml", static("**", "pass"),
		"namespaces/cni-x/bundle.yaml", "name: x\n", "namespaces/cni-x/requirements.yaml", static("**", "pass"),
		"namespaces/big/bundle.yaml", "name: big\n", "namespaces/big/requirements.yaml", static("**", "pass"), "namespaces/big/hardening.yaml", "level: privileged\n",
		"namespaces/bad/bundle.yaml", "nam: bad\n")
	s := load(t, files)
	tests := []struct {
		namespace string
		level     baseline.Level
		net       baseline.Answer
		seccomp   baseline.Answer
	}{
		{"other", baseline.Baseline, baseline.Refuse, baseline.Override},
		{"kube-system", baseline.Baseline, baseline.Allow, baseline.Override},
		{"cni-x", baseline.Baseline, baseline.Allow, baseline.Override},
		{"dev", baseline.Baseline, baseline.Refuse, baseline.Override},
		{"pay", baseline.Restricted, baseline.Refuse, baseline.Override},
		{"big", baseline.Baseline, baseline.Refuse, baseline.Override}, // a namespace may only tighten
		{"bad", baseline.Restricted, baseline.Refuse, baseline.Refuse},
	}
	for _, tt := range tests {
		f := s.Floor(tt.namespace)
		if f.Level != tt.level || f.HostNetwork != tt.net || f.Seccomp != tt.seccomp {
			t.Errorf("Floor(%q) = level %v, hostNetwork %v, seccomp %v, want %v, %v, %v", tt.namespace, f.Level, f.HostNetwork, f.Seccomp, tt.level, tt.net, tt.seccomp)
		}
		// What the gate computes from the layers is the same.
		if l, hit := s.For(tt.namespace); hit == nil {
			g := s.Node().FloorFor(tt.namespace)
			if l != nil {
				g = baseline.Meet(g, l.Floor)
			}
			if g.HostNetwork != f.HostNetwork || g.Level != f.Level {
				t.Errorf("%s: floor of the layers differs from Floor()", tt.namespace)
			}
		}
	}
}

func TestNotAfter(t *testing.T) {
	end := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	s := load(t, with(node, "node/bundle.yaml", "name: a\nnotAfter: "+end.Format(time.RFC3339)+"\nmode: warn\n"))
	if n := s.Node(); !n.NotAfter.Equal(end) || n.Mode != "warn" {
		t.Errorf("Node() = not after %v, mode %q", n.NotAfter, n.Mode)
	}
}
