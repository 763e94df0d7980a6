package bundle

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sallyport/image/ref"
	"sallyport/policy/bundle/layout"
	"sallyport/test/sigkit"
)

// org is an organisation that signs its policy: keys by name, and a node's policy and state directories.
type org struct {
	t    testing.TB
	kit  *sigkit.Kit
	keys map[string]*sigkit.Key
	dir  string
	mem  string
	now  time.Time
}

func newOrg(t testing.TB) *org {
	t.Helper()
	kit, err := sigkit.New()
	if err != nil {
		t.Fatal(err)
	}
	o := &org{t: t, kit: kit, keys: map[string]*sigkit.Key{}, dir: t.TempDir(), mem: t.TempDir(), now: time.Now()}
	for _, name := range []string{"alice", "bob", "carol", "mallory"} {
		if o.keys[name], err = sigkit.NewKey(); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// doc is root.json as a tree, to be changed by tests: two of three sign the root and the node policy,
// one its namespace; team-* is signed by an identity of CI, or by bob.
func (o *org) doc(version int) map[string]any {
	var trusted any
	if err := json.Unmarshal(o.kit.TrustedRoot(), &trusted); err != nil {
		o.t.Fatal(err)
	}
	keys := map[string]any{"ci": map[string]any{"keyless": map[string]any{"issuer": issuer, "subject": "ci@acme.example"}}}
	for _, name := range []string{"alice", "bob", "carol"} {
		keys[name] = map[string]any{"publicKey": string(o.keys[name].PEM())}
	}
	return map[string]any{
		"schema": rootSchema, "version": version, "expires": o.now.Add(90 * 24 * time.Hour).UTC().Format(time.RFC3339),
		"keys": keys, "trustedRoot": trusted,
		"root": map[string]any{"signers": []string{"alice", "bob", "carol"}, "threshold": 2},
		"node": map[string]any{"signers": []string{"alice", "bob", "carol"}, "threshold": 2},
		"namespaces": []any{
			map[string]any{"pattern": "pay", "signers": []string{"carol"}, "threshold": 1, "minRevision": 3},
			map[string]any{"pattern": "team-*", "signers": []string{"ci", "bob"}, "threshold": 1},
		},
	}
}

func (o *org) marshal(doc map[string]any) []byte {
	text, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		o.t.Fatal(err)
	}
	return text
}

// sign makes a Sigstore bundle over d by a key, or by the identity of CI.
func (o *org) sign(d ref.Digest, by string) []byte {
	o.t.Helper()
	var b []byte
	var err error
	if o.keys[by] == nil {
		b, err = o.kit.SignKeyless(d, sigkit.Identity{Issuer: issuer, SAN: by})
	} else {
		b, err = sigkit.SignKey(o.keys[by], d)
	}
	if err != nil {
		o.t.Fatal(err)
	}
	return b
}

// installRoot lays root.json and its signatures down, beside those of former versions.
func (o *org) installRoot(doc map[string]any, by ...string) {
	o.t.Helper()
	text := o.marshal(doc)
	o.put("root.json", text)
	o.put(fmt.Sprintf("roots/%v.json", doc["version"]), text)
	for _, name := range by {
		o.put(fmt.Sprintf("roots/%v.%s.sigstore.json", doc["version"], name), o.sign(ref.DigestOf(text), name))
	}
}

func (o *org) put(name string, data []byte) { write(o.t, o.dir, map[string]string{name: string(data)}) }

// build makes a signed layout.
func (o *org) build(c layout.Config, f map[string]string, by ...string) map[string][]byte {
	o.t.Helper()
	var in map[string][]byte
	if !c.Tombstone {
		in = map[string][]byte{}
		for k, v := range f {
			in[k] = []byte(v)
		}
	}
	out, d, err := layout.Build(c, in)
	for _, name := range by {
		if err == nil {
			out, err = layout.Attach(out, o.sign(d, name))
		}
	}
	if err != nil {
		o.t.Fatal(err)
	}
	return out
}

// install replaces what lies in the place sub.
func (o *org) install(sub string, f map[string][]byte) {
	o.t.Helper()
	o.remove(sub)
	for name, data := range f {
		o.put(filepath.Join(sub, name), data)
	}
}

func (o *org) remove(sub string) {
	if err := os.RemoveAll(filepath.Join(o.dir, sub)); err != nil {
		o.t.Fatal(err)
	}
}

func (o *org) nodePolicy(rev int, by ...string) map[string][]byte {
	return o.build(layout.Config{Node: true, Revision: uint64(rev)}, map[string]string{
		"bundle.yaml":       fmt.Sprintf("name: our nodes\nrevision: %d\nnamespaces: {required: [pay]}\n", rev),
		"requirements.yaml": static("**", "pass"),
	}, by...)
}

func (o *org) policyOf(rev int, namespaces ...string) (layout.Config, map[string]string) {
	return layout.Config{Namespaces: namespaces, Revision: uint64(rev)}, map[string]string{
		"bundle.yaml":       fmt.Sprintf("name: theirs\nrevision: %d\n", rev),
		"requirements.yaml": static("**", "pass"),
	}
}

// whole installs a root, a node policy and one of pay that are in order.
func (o *org) whole() {
	o.installRoot(o.doc(1), "alice", "bob")
	o.install("node", o.nodePolicy(5, "alice", "carol"))
	c, f := o.policyOf(4, "pay")
	o.install("namespaces/pay", o.build(c, f, "carol"))
}

func (o *org) read() (*Set, error) {
	return Read(Options{Root: o.dir, Signed: &Signed{State: o.mem, Now: o.now}})
}

func (o *org) mustRead() *Set {
	o.t.Helper()
	s, err := o.read()
	if err != nil {
		o.t.Fatalf("Read() = %v", err)
	}
	return s
}
