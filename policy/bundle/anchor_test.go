package bundle

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// brought is what a registry brought, read beside the directory that was installed with the node.
func (o *org) brought(stage string) (*Set, error) {
	return Read(Options{Root: stage, Signed: &Signed{State: o.mem, Now: o.now, Anchor: o.dir}})
}

// A node believes the root.json that was installed with it, and none that is brought before it has one:
// whoever answers for the registry would else be root of all trust. Later roots may be brought, signed
// by the old and the new.
func TestBroughtRootIsNotBelieved(t *testing.T) {
	o := newOrg(t)
	o.whole()
	stage := filepath.Join(t.TempDir(), "stage")
	if err := os.Rename(o.dir, stage); err != nil { // all that is signed lies in the stage
		t.Fatal(err)
	}
	if _, err := o.brought(stage); err == nil || RuleOf(err) != RuleRoot {
		t.Fatalf("no root was installed: %v, want a refusal by %s", err, RuleRoot)
	}
	if err := os.CopyFS(o.dir, os.DirFS(stage)); err != nil {
		t.Fatal(err)
	}
	o.remove("node")
	o.remove("namespaces")
	s, err := o.brought(stage)
	if err != nil || s.Node() == nil || len(s.Problems()) != 0 {
		t.Fatalf("root installed, policy brought: %v", err)
	}
	installed := o.dir
	o.dir = stage
	o.installRoot(o.doc(2), "alice", "bob")
	o.dir = installed
	if s, err = o.brought(stage); err != nil || s.Root().Version() != 2 || len(s.Problems()) != 0 {
		t.Fatalf("a second root was brought: %v, version %d, %v", err, s.Root().Version(), s.Problems())
	}
	o.dir = stage
	o.installRoot(o.doc(3), "mallory")
	o.dir = installed
	if s, err = o.brought(stage); err != nil || s.Root().Version() != 2 || len(s.Problems()) != 1 || s.Problems()[0].Rule != RuleRoot {
		t.Errorf("a root that its signers did not sign: %v, version %d, %v", err, s.Root().Version(), s.Problems())
	}
}

// What a registry does not have is taken from the directory that was installed, and what it had and has
// no more is kept: without a network a node goes on.
func TestBroughtPolicyAndInstalledPolicy(t *testing.T) {
	o := newOrg(t)
	o.whole()
	stage := t.TempDir()
	s, err := o.brought(stage)
	if err != nil || s.Node().Revision != 5 || strings.Join(s.Namespaces(), " ") != "pay" {
		t.Fatalf("nothing was brought yet: %v, want the installed policy", err)
	}
	write := func(sub string, f map[string][]byte) {
		t.Helper()
		for name, data := range f {
			write(t, stage, map[string]string{filepath.Join(sub, name): string(data)})
		}
	}
	write("node", o.nodePolicy(6, "alice", "bob"))
	c, f := o.policyOf(2, "team-a")
	write("namespaces/team-a", o.build(c, f, "bob"))
	if s, err = o.brought(stage); err != nil || s.Node().Revision != 6 || strings.Join(s.Namespaces(), " ") != "pay team-a" || len(s.Problems()) != 0 {
		t.Fatalf("brought beside installed: %v, revision %d, %v, %v", err, s.Node().Revision, s.Namespaces(), s.Problems())
	}
	os.RemoveAll(filepath.Join(stage, "node"))
	s, err = o.brought(stage) // the installed one is older than the mark
	if err != nil || s.Node().Revision != 6 || len(s.Problems()) != 1 || !s.Problems()[0].Kept || s.Problems()[0].Rule != RuleRollback {
		t.Errorf("gone from the registry: %v, revision %d, %v, want 6 kept by %s", err, s.Node().Revision, s.Problems(), RuleRollback)
	}
}
