package bundle

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"sallyport/test/sigkit"
)

func sigSigning(k *sigkit.Key, predicateType string) sigkit.Signing {
	return sigkit.Signing{Key: k, PredicateType: predicateType, Omit: sigkit.Log | sigkit.Timestamp}
}

func TestParseRootRefuses(t *testing.T) {
	o := newOrg(t)
	type tree = map[string]any
	set := func(at string, v any) func(tree) {
		return func(d tree) {
			parts := strings.Split(at, ".")
			for _, p := range parts[:len(parts)-1] {
				d = d[p].(tree)
			}
			d[parts[len(parts)-1]] = v
		}
	}
	pattern := func(p string) func(tree) {
		return func(d tree) {
			n := tree{"pattern": p, "signers": []string{"bob"}, "threshold": 1}
			d["namespaces"] = append(d["namespaces"].([]any), n)
		}
	}
	tests := []struct {
		name   string
		change func(tree)
		want   string // "": it parses
	}{
		{"in order", func(tree) {}, ""},
		{"another pattern", pattern("shop"), ""},
		{"schema", set("schema", "v2"), "schema"},
		{"version 0", set("version", 0), "version: missing"},
		{"no end", func(d tree) { delete(d, "expires") }, "expires: missing"},
		{"unknown field", set("treshold", 1), `unknown field "treshold"`},
		{"unknown field of a role", set("node.min", 1), `unknown field "min"`},
		{"field in another case", set("Version", 7), `unknown field "Version"`},
		{"threshold 0", set("root.threshold", 0), "root.threshold: 0 of 3"},
		{"negative threshold", set("node.threshold", -1), "node.threshold: -1 of 3"},
		{"threshold above the signers", set("node.threshold", 4), "node.threshold: 4 of 3"},
		{"no signers", set("root.signers", []string{}), "root.threshold: 2 of 0"},
		{"signer twice", set("root.signers", []string{"alice", "alice"}), `root.signers: "alice"`},
		{"unknown signer", set("root.signers", []string{"alice", "dave"}), `root.signers: "dave"`},
		{"one key under two names", set("keys.bob", tree{"publicKey": string(o.keys["alice"].PEM())}), "alice and bob are one key"},
		{"one identity under two names", set("keys.bob", tree{"keyless": tree{"issuer": issuer, "subject": "ci@acme.example"}}), "bob and ci are one key"},
		{"no key", set("keys.bob", tree{}), "keys.bob: want either"},
		{"private or no PEM", set("keys.bob", tree{"publicKey": "abc"}), "keys.bob.publicKey"},
		{"identity without issuer", set("keys.ci", tree{"keyless": tree{"subject": "a"}}), "keys.ci.keyless"},
		{"keyless without a trusted root", func(d tree) { delete(d, "trustedRoot") }, "trustedRoot: missing"},
		{"empty trusted root", set("trustedRoot", tree{}), "keys, trustedRoot"},
		{"no role of the node", func(d tree) { delete(d, "node") }, "root, node: both"},
		{"a pattern twice", pattern("pay"), `"pay" is never reached`},
		{"a name behind its pattern", pattern("team-a"), `"team-a" is never reached: "team-*"`},
		{"a bad pattern", pattern("a/b"), "namespaces[2].pattern"},
	}
	for _, tt := range tests {
		d := o.doc(1)
		tt.change(d)
		_, err := ParseRoot(o.marshal(d))
		if tt.want == "" && err != nil {
			t.Errorf("%s: ParseRoot() = %v", tt.name, err)
		}
		if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: ParseRoot() = %v, want %q", tt.name, err, tt.want)
		}
	}
	twice := strings.Replace(string(o.marshal(o.doc(1))), `"version": 1`, `"version": 1, "version": 2`, 1)
	for name, text := range map[string]string{"field twice": twice, "YAML": "# more than JSON\n" + string(o.marshal(o.doc(1))), "nothing": "", "two": twice + twice} {
		if _, err := ParseRoot([]byte(text)); err == nil {
			t.Errorf("%s: ParseRoot() = nil", name)
		}
	}
}

// A new root needs the thresholds of the old one and its own, and a higher version.
func TestRootFollows(t *testing.T) {
	o := newOrg(t)
	mine := func(version int) map[string]any { // carol and mallory take over
		d := o.doc(version)
		keys := d["keys"].(map[string]any)
		keys["mallory"] = map[string]any{"publicKey": string(o.keys["mallory"].PEM())}
		d["root"] = map[string]any{"signers": []string{"carol", "mallory"}, "threshold": 2}
		return d
	}
	ended := mine(2)
	ended["expires"] = o.now.Add(-time.Hour).UTC().Format(time.RFC3339)
	changed := o.doc(1)
	changed["node"] = map[string]any{"signers": []string{"alice"}, "threshold": 1}
	tests := []struct {
		name string
		doc  map[string]any
		by   []string
		want string // "": followed
	}{
		{"signed by both", mine(2), []string{"alice", "carol", "mallory"}, ""},
		{"not by the old one's threshold", mine(2), []string{"carol", "mallory"}, "signatures that version 1 asks for"},
		{"not by its own", mine(2), []string{"alice", "bob", "carol"}, "signatures that it asks for itself"},
		{"unsigned", mine(2), nil, "signatures that version 1 asks for"},
		{"a lower version", mine(0), []string{"alice", "carol", "mallory"}, "version: missing"},
		{"the same version, changed", changed, []string{"alice", "bob"}, "version 1 was followed already"},
		{"ended", ended, []string{"alice", "carol", "mallory"}, "version 2 ended at"},
	}
	for _, tt := range tests {
		o.dir, o.mem = t.TempDir(), t.TempDir()
		o.whole()
		o.mustRead()
		o.installRoot(tt.doc, tt.by...)
		s := o.mustRead()
		if tt.want == "" {
			if s.Root().Version() != 2 || len(s.Problems()) != 0 {
				t.Errorf("%s: root %d, Problems() = %v", tt.name, s.Root().Version(), s.Problems())
			}
			o.installRoot(o.doc(1), "alice", "bob") // the old one never comes back
			if s := o.mustRead(); s.Root().Version() != 2 || len(s.Problems()) != 1 || s.Problems()[0].Rule != RuleRoot {
				t.Errorf("%s: an older root: root %d, Problems() = %v", tt.name, s.Root().Version(), s.Problems())
			}
			continue
		}
		if p := s.Problems(); s.Root().Version() != 1 || len(p) != 1 || p[0].Rule != RuleRoot || !strings.Contains(p[0].Msg, tt.want) {
			t.Errorf("%s: root %d, Problems() = %v, want rule %s and %q", tt.name, s.Root().Version(), p, RuleRoot, tt.want)
		}
	}
}

// A node without a root denies; the first one must be signed by its own signers.
func TestRootFirst(t *testing.T) {
	o := newOrg(t)
	for _, tt := range []struct {
		name string
		by   []string
		want string
	}{
		{"signed by its threshold", []string{"alice", "bob"}, ""},
		{"signed by one", []string{"alice"}, "signed by alice, want 2"},
		{"unsigned", nil, "signed by nobody"},
	} {
		o.dir, o.mem = t.TempDir(), t.TempDir()
		o.install("node", o.nodePolicy(5, "alice", "bob"))
		if _, err := o.read(); err == nil || RuleOf(err) != RuleRoot || !strings.Contains(err.Error(), "root.json") {
			t.Errorf("no root: Read() = %v", err)
		}
		o.installRoot(o.doc(1), tt.by...)
		s, err := o.read()
		if tt.want == "" && (err != nil || s.Node() == nil) {
			t.Errorf("%s: Read() = %v", tt.name, err)
		}
		if tt.want != "" && (err == nil || RuleOf(err) != RuleRoot || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: Read() = %v, want %q", tt.name, err, tt.want)
		}
	}
}

// A node that slept through two rotations walks through roots/, even if a step has ended meanwhile.
func TestRootSteps(t *testing.T) {
	o := newOrg(t)
	o.whole()
	o.mustRead()
	two := o.doc(2)
	two["root"] = map[string]any{"signers": []string{"carol"}, "threshold": 1}
	two["expires"] = o.now.Add(-time.Hour).UTC().Format(time.RFC3339)
	last := o.doc(3)
	last["root"] = map[string]any{"signers": []string{"carol"}, "threshold": 1}
	o.installRoot(last, "carol")
	if s := o.mustRead(); s.Root().Version() != 1 {
		t.Errorf("without the step: root %d, want version 1", s.Root().Version())
	}
	o.installRoot(two, "alice", "bob", "carol")
	o.installRoot(last, "carol")
	if s := o.mustRead(); s.Root().Version() != 3 {
		t.Errorf("root %d, want version 3 by way of version 2: %v", s.Root().Version(), s.Problems())
	}
}

// Who was withdrawn vouches for nothing any more, also not for what is kept.
func TestRootWithdraws(t *testing.T) {
	o := newOrg(t)
	o.whole()
	o.mustRead()
	two := o.doc(2)
	two["namespaces"].([]any)[0].(map[string]any)["signers"] = []string{"alice"}
	o.installRoot(two, "alice", "bob")
	if _, hit := o.mustRead().For("pay"); hit == nil || hit.Rule != RuleSignature {
		t.Errorf("For() = %v, want rule %s", hit, RuleSignature)
	}
	c, f := o.policyOf(5, "pay")
	o.install("namespaces/pay", o.build(c, f, "alice"))
	if l, hit := o.mustRead().For("pay"); hit != nil || l.Revision != 5 {
		t.Errorf("For() = %v, %v, want revision 5", l, hit)
	}
}

// The root.json of docs/policy.md is read, once it has keys.
func TestDocumentedRoot(t *testing.T) {
	doc, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(doc), "```json\n")
	text, _, _ = strings.Cut(text, "```")
	o := newOrg(t)
	for _, who := range []string{"alice", "bob"} {
		pem, _ := json.Marshal(string(o.keys[who].PEM()))
		text = strings.Replace(text, `"-----BEGIN PUBLIC KEY-----\n..."`, string(pem), 1)
	}
	text = strings.Replace(text, `"trustedRoot": { }`, `"trustedRoot": `+string(o.kit.TrustedRoot()), 1)
	if r, err := ParseRoot([]byte(text)); err != nil || r.Version() != 1 {
		t.Errorf("ParseRoot() = %v", err)
	}
}
