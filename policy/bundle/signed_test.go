package bundle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/policy"
	"sallyport/policy/bundle/layout"
	"sallyport/test/sigkit"
)

func TestSignedLoads(t *testing.T) {
	o := newOrg(t)
	o.whole()
	c, f := o.policyOf(1, "team-a", "team-b")
	signed := o.build(c, f, "ci@acme.example")
	o.install("namespaces/team-a", signed)
	o.install("namespaces/team-b", signed)
	s := o.mustRead()
	if got := strings.Join(s.Namespaces(), " "); s.Node() == nil || s.Node().Revision != 5 || got != "pay team-a team-b" {
		t.Fatalf("node %v, Namespaces() = %s", s.Node(), got)
	}
	if len(s.Problems()) != 0 || s.Root().Version() != 1 {
		t.Errorf("Problems() = %v, root %d", s.Problems(), s.Root().Version())
	}
	for _, name := range []string{"", "pay"} { // everything ends with the root
		l := s.Node()
		if name != "" {
			l, _ = s.For(name)
		}
		if !l.NotAfter.Equal(s.Root().Expires()) {
			t.Errorf("policy of %q ends at %v, want the root's end", name, l.NotAfter)
		}
	}
	if st, err := os.Stat(filepath.Join(o.mem, "policy-state.json")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("state: %v, %v, want mode 0600", st, err)
	}
	again, err := Read(Options{Root: o.dir, Prev: s, Signed: &Signed{State: o.mem, Now: o.now}})
	if err != nil || again.Hash() != s.Hash() {
		t.Errorf("read again = %v, hash changed", err)
	}
}

// refusals of a namespace's policy: what lies in the place of pay, and the rule that refuses it. The
// twin of each is pay as whole installs it.
func TestSignedNamespaceRefused(t *testing.T) {
	o := newOrg(t)
	c, f := o.policyOf(4, "pay")
	good := o.build(c, f, "carol")
	plain := map[string][]byte{}
	for k, v := range f {
		plain[k] = []byte(v)
	}
	attested := o.build(c, f)
	art, err := layout.Open(attested)
	if err != nil {
		t.Fatal(err)
	}
	scan, err := o.kit.Sign(art.Digest, sigSigning(o.keys["carol"], "https://cosign.sigstore.dev/attestation/vuln/v1"))
	if err != nil {
		t.Fatal(err)
	}
	if attested, err = layout.Attach(attested, scan); err != nil {
		t.Fatal(err)
	}
	rev := func(n int, ns ...string) map[string][]byte {
		c, f := o.policyOf(n, ns...)
		return o.build(c, f, "carol")
	}
	differs, _ := o.policyOf(9, "pay")
	tampered := map[string][]byte{}
	for k, v := range good {
		tampered[k] = []byte(strings.Replace(string(v), "action: pass", "action: fail", 1))
	}
	tests := []struct {
		name, rule, want string
		layout           map[string][]byte
	}{
		{"in order", "", "", good},
		{"two signatures where one is needed", "", "", o.build(c, f, "carol", "bob")},
		{"unsigned directory", RuleUnsigned, "sallyport policy build", plain},
		{"no signature", RuleSignature, "signed by nobody, want 1 of carol", o.build(c, f)},
		{"signed by one who may sign elsewhere", RuleSignature, "signed by nobody", o.build(c, f, "bob")},
		{"signed by a stranger", RuleSignature, "signed by nobody", o.build(c, f, "mallory")},
		{"an attestation by the right key", RuleSignature, "signed by nobody", attested},
		{"another namespace's", RuleDelegation, `it was built for namespaces ["team-a" "team-b"]`, rev(4, "team-a", "team-b")},
		{"the node's", RuleDelegation, "it was built for the node", o.nodePolicy(4, "carol")},
		{"names a namespace of another delegation too", RuleDelegation, `names namespace "team-a" too`, rev(4, "pay", "team-a")},
		{"names a namespace of nobody too", RuleDelegation, `nobody sign for namespace "shop"`, rev(4, "pay", "shop")},
		{"below the delegation's minimum", RuleRollback, "revision 2 is older than 3", rev(2, "pay")},
		{"at the delegation's minimum", "", "", rev(3, "pay")},
		{"revision of bundle.yaml differs", RuleBroken, "bundle.yaml says revision 4 and was built as 9", o.build(differs, f, "carol")},
		{"node-only fields", RuleBroken, "only the node policy may loosen", o.build(c, with(f, "bundle.yaml",
			"name: theirs\nrevision: 4\nallowances: [{namespaces: [pay], hardening: {level: privileged}}]\n"), "carol")},
		{"a changed byte", RuleBroken, "does not have the size and digest", tampered},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o.t, o.dir, o.mem = t, t.TempDir(), t.TempDir()
			o.whole()
			o.install("namespaces/pay", tt.layout)
			s := o.mustRead()
			l, hit := s.For("pay")
			if tt.rule == "" {
				if l == nil || hit != nil {
					t.Fatalf("For() = %v, %v, want a layer", l, hit)
				}
				return
			}
			if hit == nil || hit.Rule != tt.rule || !strings.Contains(hit.Msg, tt.want) {
				t.Errorf("For() = %v, want rule %s and %q", hit, tt.rule, tt.want)
			}
			if _, other := s.For("default"); other != nil {
				t.Errorf("another namespace is denied too: %v", other)
			}
		})
	}
}

// An identity is issuer and subject, both exact.
func TestSignedKeyless(t *testing.T) {
	o := newOrg(t)
	for _, tt := range []struct {
		name string
		id   sigkit.Identity
		ok   bool
	}{
		{"in order", sigkit.Identity{Issuer: issuer, SAN: "ci@acme.example"}, true},
		{"another subject", sigkit.Identity{Issuer: issuer, SAN: "ci@acme.example.evil"}, false},
		{"another issuer", sigkit.Identity{Issuer: issuer + "/", SAN: "ci@acme.example"}, false},
	} {
		o.dir, o.mem = t.TempDir(), t.TempDir()
		o.whole()
		c, f := o.policyOf(1, "team-a")
		l := o.build(c, f)
		a, err := layout.Open(l)
		if err != nil {
			t.Fatal(err)
		}
		b, err := o.kit.SignKeyless(a.Digest, tt.id)
		if err == nil {
			l, err = layout.Attach(l, b)
		}
		if err != nil {
			t.Fatal(err)
		}
		o.install("namespaces/team-a", l)
		if _, hit := o.mustRead().For("team-a"); (hit == nil) != tt.ok || hit != nil && hit.Rule != RuleSignature {
			t.Errorf("%s: For() = %v, want admitted: %t", tt.name, hit, tt.ok)
		}
	}
}

// Two of three must sign the node policy: one, or one twice, is not enough.
func TestSignedNodeThreshold(t *testing.T) {
	o := newOrg(t)
	for _, tt := range []struct {
		name, rule string
		by         []string
	}{
		{"two", "", []string{"alice", "bob"}},
		{"two others", "", []string{"carol", "alice"}},
		{"one", RuleSignature, []string{"alice"}},
		{"one twice", RuleSignature, []string{"alice", "alice"}},
		{"one and a stranger", RuleSignature, []string{"alice", "mallory"}},
	} {
		o.dir, o.mem = t.TempDir(), t.TempDir()
		o.whole()
		o.install("node", o.nodePolicy(5, tt.by...))
		s, err := o.read()
		if tt.rule == "" && (err != nil || s.Node() == nil) {
			t.Errorf("%s: Read() = %v", tt.name, err)
		}
		if tt.rule != "" && (err == nil || RuleOf(err) != tt.rule) {
			t.Errorf("%s: Read() = %v, want rule %s", tt.name, err, tt.rule)
		}
	}
}

// What was accepted outlives a restart, and an older one never comes back.
func TestSignedKeepsLastGood(t *testing.T) {
	o := newOrg(t)
	o.whole()
	older, newer := o.nodePolicy(5, "alice", "bob"), o.nodePolicy(6, "alice", "bob")
	c4, f4 := o.policyOf(4, "pay")
	pay4 := o.build(c4, f4, "carol")
	f4["hardening.yaml"] = "level: restricted\n"
	other4 := o.build(c4, f4, "carol")
	c5, f5 := o.policyOf(5, "pay")
	pay5 := o.build(c5, f5, "carol")
	o.install("node", newer)
	o.install("namespaces/pay", pay5)
	o.mustRead()
	for _, tt := range []struct {
		name, sub, rule string
		layout          map[string][]byte
	}{
		{"the same again", "namespaces/pay", "", pay5},
		{"older policy of the namespace", "namespaces/pay", RuleRollback, pay4},
		{"another policy of an older revision", "namespaces/pay", RuleRollback, other4},
		{"nothing", "namespaces/pay", RuleBroken, nil},
		{"plain files", "namespaces/pay", RuleUnsigned, map[string][]byte{"bundle.yaml": []byte("name: a\n")}},
		{"older policy of the node", "node", RuleRollback, older},
		{"no policy of the node", "node", RuleBroken, nil},
	} {
		o.install("node", newer)
		o.install("namespaces/pay", pay5)
		o.install(tt.sub, tt.layout)
		s := o.mustRead() // nothing in memory: as after a restart
		l, hit := s.For("pay")
		if hit != nil || l == nil || l.Revision != 5 || s.Node().Revision != 6 {
			t.Fatalf("%s: node %v, For() = %v, %v, want revisions 6 and 5", tt.name, s.Node(), l, hit)
		}
		if tt.rule == "" {
			if len(s.Problems()) != 0 {
				t.Errorf("%s: Problems() = %v", tt.name, s.Problems())
			}
			continue
		}
		if p := s.Problems(); len(p) != 1 || !p[0].Kept || p[0].Rule != tt.rule {
			t.Errorf("%s: Problems() = %v, want one that is kept by rule %s", tt.name, p, tt.rule)
		}
	}
}

// The policy directory may go whole: what it held judges on.
func TestSignedDirectoryGoes(t *testing.T) {
	o := newOrg(t)
	o.whole()
	o.mustRead()
	here := o.dir
	o.dir = filepath.Join(here, "none")
	s := o.mustRead()
	if l, hit := s.For("pay"); hit != nil || l == nil || s.Node() == nil || len(s.Problems()) != 3 || s.Problems()[0].Rule != RuleRoot {
		t.Errorf("node %v, For() = %v, %v, Problems() = %v, want both policies and three problems", s.Node(), l, hit, s.Problems())
	}
	o.mem = t.TempDir() // a fresh node
	if s, err := o.read(); err == nil || RuleOf(err) != RuleRoot {
		t.Errorf("fresh node: Read() = %v, %v, want rule %s", s, err, RuleRoot)
	}
}

// Another policy of the very revision that is in force is refused: a revision names one policy.
func TestSignedRevisionReused(t *testing.T) {
	o := newOrg(t)
	o.whole()
	o.mustRead()
	c, f := o.policyOf(4, "pay")
	f["hardening.yaml"] = "level: privileged\n"
	o.install("namespaces/pay", o.build(c, f, "carol"))
	if p := o.mustRead().Problems(); len(p) != 1 || p[0].Rule != RuleRollback || !strings.Contains(p[0].Msg, "another policy of revision 4") {
		t.Errorf("Problems() = %v", p)
	}
}

func TestSignedTombstone(t *testing.T) {
	o := newOrg(t)
	o.whole()
	pay := func(rev int, by ...string) map[string][]byte {
		c, f := o.policyOf(rev, "team-a")
		return o.build(c, f, by...)
	}
	stone := func(rev uint64, by ...string) map[string][]byte {
		return o.build(layout.Config{Namespaces: []string{"team-a"}, Revision: rev, Tombstone: true}, nil, by...)
	}
	o.install("namespaces/team-a", pay(4, "bob"))
	o.mustRead()
	for _, tt := range []struct {
		name   string
		layout map[string][]byte
		judged bool // by its own layer
		rule   string
	}{
		{"tombstone of a stranger", stone(5, "mallory"), true, RuleSignature},
		{"tombstone of an older revision", stone(3, "bob"), true, RuleRollback},
		{"tombstone of the same revision", stone(4, "bob"), true, RuleRollback},
		{"tombstone", stone(5, "bob"), false, ""},
		{"the directory goes", nil, false, ""},
		{"the older policy comes back", pay(4, "bob"), false, RuleRollback},
		{"a newer policy", pay(6, "bob"), true, ""},
	} {
		o.install("namespaces/team-a", tt.layout)
		s := o.mustRead()
		l, hit := s.For("team-a")
		if hit != nil || (l != nil) != tt.judged {
			t.Errorf("%s: For() = %v, %v", tt.name, l, hit)
		}
		p := s.Problems()
		if (tt.rule == "") != (len(p) == 0) || tt.rule != "" && p[0].Rule != tt.rule {
			t.Errorf("%s: Problems() = %v, want rule %q", tt.name, p, tt.rule)
		}
	}
}

// State that cannot be read or written is no fresh node.
func TestSignedState(t *testing.T) {
	o := newOrg(t)
	o.whole()
	o.mustRead()
	state := filepath.Join(o.mem, "policy-state.json")
	good, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "{}", "nonsense", `{"schema": "sallyport.policy-state/v1", "more": 1}`} {
		os.WriteFile(state, []byte(text), 0o600)
		if _, err := o.read(); err == nil || !strings.Contains(err.Error(), state) {
			t.Errorf("state %q: Read() = %v, want an error that names the file", text, err)
		}
	}
	os.WriteFile(state, good, 0o600)
	o.mustRead()
	// the last good one is verified like any other
	kept := filepath.Join(o.mem, "policy-kept", "pay.tar")
	text, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	o.remove("namespaces/pay")
	os.WriteFile(kept, []byte(strings.Replace(string(text), "action: pass", "action: fail", 1)), 0o600)
	if _, hit := o.mustRead().For("pay"); hit == nil || !strings.Contains(hit.Msg, "last good one does not count") {
		t.Errorf("a changed last good policy judges: %v", hit)
	}
	// what cannot be remembered is not installed
	o.dir, o.mem = t.TempDir(), filepath.Join(t.TempDir(), "none")
	o.whole()
	os.WriteFile(o.mem, nil, 0o600) // no directory
	if s, err := o.read(); err == nil {
		t.Errorf("Read() = %v without a place for its state", s)
	}
}

// A denial through the layer that was read: the root's end denies.
func TestSignedRootEnds(t *testing.T) {
	o := newOrg(t)
	o.whole()
	o.mustRead()
	act := policy.Act{Verb: policy.VerbPod, Now: o.now}
	if v := o.mustRead().Node().JudgeAct(t.Context(), act, nil); !v.Allowed() {
		t.Fatalf("before the end: %v", v.Hits())
	}
	o.now = o.now.Add(80 * 24 * time.Hour)
	s := o.mustRead()
	if p := s.Problems(); len(p) != 1 || p[0].Rule != RuleRoot || !strings.Contains(p[0].Msg, "ends at") {
		t.Errorf("ten days before the end: Problems() = %v", p)
	}
	act.Now = o.now.Add(11 * 24 * time.Hour)
	if v := s.Node().JudgeAct(t.Context(), act, nil); v.Allowed() || v.Hits()[0].Rule != "policy-expired" {
		t.Errorf("after the end: %v", v.Hits())
	}
}

// A newer node policy, signed by everybody who must, does not bring an older list of revocations back,
// nor none, also where nobody remembers but the disk.
func TestSignedRevocationsDoNotGoBack(t *testing.T) {
	issued := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	o := newOrg(t)
	o.whole()
	install := func(rev int, revocations string) {
		f := map[string]string{"bundle.yaml": fmt.Sprintf("name: our nodes\nrevision: %d\nnamespaces: {required: [pay]}\n", rev), "requirements.yaml": static("**", "pass")}
		if revocations != "" {
			f["revocations.yaml"] = revocations
		}
		o.install("node", o.build(layout.Config{Node: true, Revision: uint64(rev)}, f, "alice", "bob"))
	}
	install(6, list(issued, ""))
	if s := o.mustRead(); s.Node().Revision != 6 || len(s.Problems()) != 0 {
		t.Fatalf("first list: revision %d, %v", s.Node().Revision, s.Problems())
	}
	for name, tt := range map[string]struct{ text, want string }{
		"older": {list(issued.Add(-time.Second), ""), "before the one that this node has had"},
		"none":  {"", "missing, and this node has had one"},
	} {
		install(7, tt.text)
		s := o.mustRead()
		p := s.Problems()
		if s.Node().Revision != 6 || len(p) != 1 || !p[0].Kept || p[0].Rule != RuleRollback || !strings.Contains(p[0].Msg, tt.want) {
			t.Errorf("%s: revision %d, %v, want revision 6 kept by rule %s", name, s.Node().Revision, p, RuleRollback)
		}
	}
	install(7, list(issued, "")) // the same list in a newer policy
	if s := o.mustRead(); s.Node().Revision != 7 || len(s.Problems()) != 0 {
		t.Errorf("same list: revision %d, %v, want 7", s.Node().Revision, s.Problems())
	}
}

// A signed bundle whose own cases do not hold is refused like an older one, and raises no mark.
func TestSignedCasesAreTried(t *testing.T) {
	o := newOrg(t)
	o.whole()
	read := func(try func(context.Context, Staged) error) *Set {
		t.Helper()
		s, err := Read(Options{Root: o.dir, Signed: &Signed{State: o.mem, Now: o.now}, Try: try})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	read(nil)
	c, f := o.policyOf(5, "pay")
	f["tests/a.txtar"] = "-- want.yaml --\n"
	o.install("namespaces/pay", o.build(c, f, "carol"))
	red := func(_ context.Context, s Staged) error {
		if s.Namespace != "pay" || len(s.Cases) != 1 || s.Layer.Revision != 5 {
			t.Errorf("tried %+v", s)
		}
		return errors.New("tests/a.txtar: red")
	}
	s := read(red)
	if l, _ := s.For("pay"); l.Revision != 4 || len(s.Problems()) != 1 || s.Problems()[0].Rule != RuleTest || !s.Problems()[0].Kept {
		t.Errorf("a red case: revision %d, %v, want 4 kept by %s", l.Revision, s.Problems(), RuleTest)
	}
	if l, _ := read(func(context.Context, Staged) error { return nil }).For("pay"); l.Revision != 5 {
		t.Errorf("a case that holds: revision %d, want 5", l.Revision)
	}
	if l, _ := read(red).For("pay"); l.Revision != 5 { // accepted before: not tried again
		t.Errorf("accepted before: revision %d, want 5", l.Revision)
	}
}
