package bundle

import (
	"strings"
	"testing"
	"time"

	"sallyport/image/ref"
	"sallyport/test/sigkit"
)

func list(issued time.Time, entries string) string {
	return "issued: " + issued.UTC().Format(time.RFC3339) + "\nmaxAge: 168h\n" + entries
}

// Real signatures: the node's list counts in a namespace whose own roots and keys would let it pass,
// and the namespace's hash, by which verdicts are kept, changes with the list.
func TestRevocationsCountForEveryNamespace(t *testing.T) {
	k := kit(t)
	issued := time.Now().Add(-time.Hour)
	base := with(node, "namespaces/pay/bundle.yaml", "name: pay\n", "namespaces/pay/requirements.yaml", requirement("**", by("release@acme.example")),
		"namespaces/pay/trusted_root.json", string(k.TrustedRoot()))
	img, ev := signed(t, "registry.example/app", sign(t, k, "release@acme.example"))
	who := "identities: [{issuer: " + issuer + ", subject: release@acme.example, reason: left}]\n"
	clean := load(t, with(base, "node/revocations.yaml", list(issued, strings.Replace(who, "release@", "other@", 1))))
	if d := effective(clean, "pay", img, ev); !d.Allowed() {
		t.Fatalf("another identity is revoked: %v", d.Hits())
	}
	s := load(t, with(base, "node/revocations.yaml", list(issued, who)))
	d := effective(s, "pay", img, ev)
	if h := d.Hits(); d.Allowed() || h[0].Layer != "namespace pay" || h[0].Rule != "revoked" || !strings.Contains(h[0].Msg, "left") {
		t.Errorf("revoked identity: %v, want a denial by namespace pay, rule revoked", h)
	}
	was, _ := clean.For("pay")
	if is, _ := s.For("pay"); is.Hash == was.Hash || s.Hash() == clean.Hash() {
		t.Error("the hashes do not cover the revocations: kept verdicts would outlive them")
	}
	stale := load(t, with(base, "node/revocations.yaml", list(issued.Add(-169*time.Hour), "")))
	if h := effective(stale, "pay", img, ev).Hits(); len(h) == 0 || h[0].Rule != "revocations-stale" {
		t.Errorf("stale list: %v, want a denial by revocations-stale", h)
	}
	if _, err := Load(tree(t, with(base, "namespaces/pay/revocations.yaml", list(issued, "")))); err != nil {
		t.Fatal(err)
	}
	own := load(t, with(base, "namespaces/pay/revocations.yaml", list(issued, "")))
	if _, hit := own.For("pay"); hit == nil || !strings.Contains(hit.Msg, "only the node policy revokes") {
		t.Errorf("a namespace's own list: %v, want policy-broken", hit)
	}
}

// An older list, or none, does not take the place of a newer one.
func TestRevocationsDoNotGoBack(t *testing.T) {
	issued := time.Now().Add(-time.Hour)
	root := tree(t, with(node, "node/revocations.yaml", list(issued, "")))
	prev, err := Load(root)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ list, want string }{
		"newer": {list(issued.Add(time.Minute), ""), ""},
		"same":  {list(issued, "digests: [{digest: "+ref.DigestOf(nil).String()+"}]\n"), ""},
		"older": {list(issued.Add(-time.Minute), ""), "before the one in force"},
	} {
		write(t, root, map[string]string{"node/revocations.yaml": tt.list})
		_, err := Read(Options{Root: root, Prev: prev})
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Read() = %v, want %q", name, err, tt.want)
		}
	}
	gone := tree(t, node)
	if _, err := Read(Options{Root: gone, Prev: prev}); err == nil || !strings.Contains(err.Error(), "revocations.yaml: missing") {
		t.Errorf("list removed: Read() = %v, want an error", err)
	}
}

// A key that policy.json trusts by itself makes no claims; revoked, its rule denies.
func TestRevokedKeyOfPolicyJSON(t *testing.T) {
	key, err := sigkit.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"node/bundle.yaml": "name: test\n",
		"node/policy.json": `{"default":[{"type":"reject"}],"transports":{"docker":{"registry.example":[{"type":"insecureAcceptAnything"}],"other.example":[{"type":"sigstoreSigned","keyPath":"ci.pub"}]}}}`,
		"node/ci.pub":      string(key.PEM()),
	}
	img, ev := signed(t, "registry.example/app")
	for id, want := range map[string]bool{key.ID(): false, strings.Repeat("0", 64): true} {
		s := load(t, with(files, "node/revocations.yaml", list(time.Now(), "keys: [{id: "+id+"}]\n")))
		d := effective(s, "default", img, ev)
		if d.Allowed() != want || !want && d.Hits()[0].Rule != "revoked" {
			t.Errorf("key %.4s revoked: allowed %v %v, want %v", id, d.Allowed(), d.Hits(), want)
		}
	}
}
