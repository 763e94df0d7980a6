// Package bundle reads policy from directories: the node's from <root>/node and each namespace's from
// <root>/namespaces/<name>, as plain files (policy.source "local-unsigned") or signed by those whom
// <root>/root.json delegates to ("signed"). It compiles them into layers and says which layers judge a
// namespace. A bundle that is broken never weakens another: its namespace keeps the last good one, or
// is denied by name.
package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"sallyport/policy"
	"sallyport/policy/baseline"
	"sallyport/policy/rego"
)

// maxNamespaces is how many namespaces may have a bundle (architecture.md, Scale).
const maxNamespaces = 1000

// Options say what to read.
type Options struct {
	Root    string // the policy directory, e.g. /etc/sallyport/policy
	Scratch string // a directory for short-lived files, best on tmpfs; "" is the system's
	Prev    *Set   // what was read before; unchanged bundles are taken over, broken ones keep what it had
	// Signed accepts only what root.json's signers signed; nil: plain files, as they lie there.
	Signed *Signed
	// Try tries the cases that a bundle brings before it takes the place of another (policy/trial.Own);
	// nil: they are not tried. It gets bundles that changed, and must be fast and bounded.
	Try func(context.Context, Staged) error
	// Confine compiles the Rego of a namespace where it can harm nobody else (policy/rego/confine); nil: in
	// this process.
	Confine func(namespace string, o rego.Options) (policy.ActRule, error)
	// Later is Confine put off until first use, for what was in force before this process; nil: Confine.
	Later func(namespace string, o rego.Options) (policy.ActRule, error)
}

// Problem is something wrong that does not stop the rest.
type Problem struct {
	Namespace string // "" for the node policy
	Msg       string // one line; names file, and line or field
	Kept      bool   // the last good bundle goes on judging
	Rule      string // by which it was refused; RuleBroken if it is ""
}

// String is the problem on one line.
func (p Problem) String() string {
	who := "node policy"
	if p.Namespace != "" {
		who = "policy of namespace " + p.Namespace
	}
	if p.Kept {
		return who + ": " + p.Msg + "; the last good one goes on judging"
	}
	return who + ": " + p.Msg
}

// Set is everything that one reading found. It is immutable and may be used concurrently. The zero
// Set denies everything.
type Set struct {
	node      *compiled
	bundles   map[string]*compiled
	layers    map[string]*policy.Layer
	trials    map[string]*compiled // in mode shadow, by namespace; "" is the node's
	broken    map[string]Refused   // namespace to why it has no layer
	problems  []Problem
	root      string
	hash      string
	trust     *Root // nil: unsigned
	overrides []policy.Override
}

// Load reads root for the first time; see Read.
func Load(root string) (*Set, error) { return Read(Options{Root: root}) }

// Read reads the policy directory. Where the directory or its node policy is absent the Set denies
// everything by name. An error means that the node policy is broken: on a reload the caller goes on
// with what it had, which Read does not change.
func Read(o Options) (*Set, error) {
	prev := o.Prev
	if prev == nil {
		prev = &Set{}
	}
	s := &Set{root: o.Root, bundles: map[string]*compiled{}, layers: map[string]*policy.Layer{}, broken: map[string]Refused{}}
	root, err := os.OpenRoot(o.Root)
	if errors.Is(err, fs.ErrNotExist) {
		if o.Signed != nil { // what was accepted before does not go with its directory
			if err := s.readSigned(nil, o, prev); err != nil {
				return nil, err
			}
		}
		return s.finish(), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read policy %s: %w", o.Root, cause(err))
	}
	defer root.Close()
	if err := trustedDir(root, ".", o.Root); err != nil {
		return nil, err
	}
	if o.Signed != nil {
		if err := s.readSigned(root, o, prev); err != nil {
			return nil, err
		}
		return s.finish(), nil
	}
	if s.node, err = one(root, place{dir: o.Root, sub: "node", kind: Node, name: "node", with: o.means()}, prev.node); err != nil {
		return nil, err
	}
	if s.node == nil {
		return s.finish(), nil
	}
	names, err := s.namespacesIn(root, o.Root)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		s.readNamespace(root, o, name, prev)
	}
	s.keepMissing(prev)
	s.reportMissing()
	s.readShadow(root, o, prev)
	return s.finish(), nil
}

// place is where one bundle lies and what it is called.
type place struct {
	dir, sub string
	kind     Kind
	name     string
	with     means
}

// one reads and compiles one bundle; nil if its directory is absent or empty. Where the files are
// those of prev, prev is taken over.
func one(root *os.Root, p place, prev *compiled) (*compiled, error) {
	at := filepath.Join(p.dir, p.sub)
	sub, err := root.OpenRoot(p.sub)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", at, cause(err))
	}
	defer sub.Close()
	f, err := readFiles(sub, at)
	if err != nil {
		return nil, err
	}
	if len(f) == 0 {
		return nil, nil
	}
	if prev != nil && prev.layer.Hash == f.hash() && prev.layer.Name == p.name {
		return prev, nil
	}
	c, err := compile(f, p.kind, p.name, p.with)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	if err := c.notOlder(prev); err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	if c, err = p.tried(c, f); err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	return c, nil
}

// namespacesIn lists the namespaces that have a directory, sorted. What is named otherwise is reported.
func (s *Set) namespacesIn(root *os.Root, dir string) (names []string, err error) {
	d, err := root.Open("namespaces")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	at := filepath.Join(dir, "namespaces")
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", at, cause(err))
	}
	defer d.Close()
	if err := trusted(d, at); err != nil {
		return nil, err
	}
	entries, err := d.ReadDir(maxNamespaces + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", at, cause(err))
	}
	if len(entries) > maxNamespaces {
		return nil, fmt.Errorf("read %s: more than %d entries", at, maxNamespaces)
	}
	for _, e := range entries {
		name := e.Name()
		if name[0] == '.' {
			continue
		}
		if !namespaceName.MatchString(name) || !e.IsDir() {
			s.problems = append(s.problems, Problem{Namespace: name, Msg: filepath.Join(at, name) + ": not a directory named as a namespace; nothing reads it"})
			continue
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

func (s *Set) readNamespace(root *os.Root, o Options, name string, prev *Set) {
	p := place{dir: o.Root, sub: "namespaces/" + name, kind: Namespace, name: "namespace " + name, with: o.means()}
	if o.Prev == nil { // the first reading
		p.with = o.before(p.with)
	}
	c, err := one(root, p, prev.bundles[name])
	if err == nil && c == nil {
		err = fmt.Errorf("%s: empty; it needs bundle.yaml and requirements.yaml or policy.json", filepath.Join(o.Root, p.sub))
	}
	if err == nil {
		s.bundles[name] = c
		return
	}
	if s.bundles[name] = prev.bundles[name]; s.bundles[name] != nil {
		s.problems = append(s.problems, Problem{Namespace: name, Msg: err.Error(), Kept: true, Rule: RuleOf(err)})
		return
	}
	delete(s.bundles, name)
	s.refuse(name, err)
}

// refuse denies a namespace by name.
func (s *Set) refuse(name string, err error) {
	s.broken[name] = Refused{RuleOf(err), err.Error()}
	s.problems = append(s.problems, Problem{Namespace: name, Msg: err.Error(), Rule: RuleOf(err)})
}

// keepMissing keeps the last good bundle of a namespace that must have one and has lost it.
func (s *Set) keepMissing(prev *Set) {
	for _, name := range slices.Sorted(maps.Keys(prev.bundles)) {
		if s.bundles[name] == nil && s.broken[name].Msg == "" && s.node.manifest.requires(name) {
			s.bundles[name] = prev.bundles[name]
			s.problems = append(s.problems, Problem{Namespace: name, Msg: "its directory is gone, and the node policy requires one", Kept: true})
		}
	}
}

// reportMissing reports the namespaces that must have a bundle and have none.
func (s *Set) reportMissing() {
	for _, n := range s.node.manifest.required {
		if n.literal() && s.bundles[n.text] == nil && s.broken[n.text].Msg == "" {
			s.problems = append(s.problems, Problem{Namespace: n.text, Msg: "the node policy requires one and none is installed"})
		}
	}
}

// finish makes the layers that are handed out, and the hash over all.
func (s *Set) finish() *Set {
	h := sha256.New()
	if s.trust != nil {
		fmt.Fprintf(h, "root %d %s\n", s.trust.version, s.trust.digest().Hex())
	}
	if s.node != nil {
		fmt.Fprintf(h, "node %s\n", s.node.layer.Hash)
	}
	for _, name := range slices.Sorted(maps.Keys(s.bundles)) {
		c := s.bundles[name]
		fmt.Fprintf(h, "namespace %q %s\n", name, c.layer.Hash)
		l := under(c.layer, s.node)
		if !c.hasFloor { // tightens nothing
			l.Floor = s.node.layer.FloorFor(name)
		}
		s.layers[name] = &l
	}
	for _, name := range slices.Sorted(maps.Keys(s.trials)) {
		fmt.Fprintf(h, "shadow %q %s\n", name, s.trials[name].layer.Hash)
	}
	for _, o := range s.overrides {
		fmt.Fprintf(h, "override %q %s\n", o.Name, o.ID)
	}
	for _, name := range slices.Sorted(maps.Keys(s.broken)) {
		fmt.Fprintf(h, "broken %q %q\n", name, s.broken[name].Msg)
	}
	s.hash = hex.EncodeToString(h.Sum(nil))
	return s
}

// Node is the node's layer, or nil where none is installed: a nil layer denies.
func (s *Set) Node() *policy.Layer {
	if s.node == nil {
		return nil
	}
	return &s.node.layer
}

// For says what judges a namespace beside the node policy: its own layer, or nothing (nil, nil) where
// it has none and needs none, or a refusal. An empty name is refused: it is no namespace.
func (s *Set) For(namespace string) (*policy.Layer, *policy.Hit) {
	layer := "namespace " + namespace
	switch {
	case s.node == nil:
		return nil, &policy.Hit{Layer: "none", Rule: "no-policy", Msg: s.absent()}
	case !namespaceName.MatchString(namespace):
		return nil, &policy.Hit{Layer: "node", Rule: "namespace-name", Msg: fmt.Sprintf("%.80q is no name of a namespace", namespace)}
	case s.broken[namespace].Msg != "":
		return nil, &policy.Hit{Layer: layer, Rule: s.broken[namespace].Rule, Msg: s.broken[namespace].Msg}
	case s.node.manifest.denyUnlisted && !s.node.manifest.requires(namespace):
		return nil, &policy.Hit{Layer: "node", Rule: "policy-unlisted", Msg: fmt.Sprintf("the node policy lists no namespace %q (namespaces.required) and denies those that are not listed", namespace)}
	case s.layers[namespace] != nil:
		return s.layers[namespace], nil
	case s.node.manifest.requires(namespace):
		return nil, &policy.Hit{Layer: "node", Rule: "policy-missing", Msg: fmt.Sprintf("namespace %q must have a policy; install one in %s", namespace, filepath.Join(s.root, "namespaces", namespace))}
	}
	return nil, nil
}

// Overrides are those for this node that had not ended when they were read, by the names of their files.
func (s *Set) Overrides() []policy.Override { return slices.Clone(s.overrides) }

// Floor is the hardening of a namespace: what the node policy gives it (its allowance, else the
// node's own floor) met with the namespace's own. Whoever may run nothing gets the tightest floor.
func (s *Set) Floor(namespace string) baseline.Floor {
	l, refused := s.For(namespace)
	if refused != nil {
		return baseline.Floor{}
	}
	if l == nil {
		return s.node.layer.FloorFor(namespace)
	}
	return baseline.Meet(s.node.layer.FloorFor(namespace), l.Floor)
}

// Namespaces are the names that have a layer, sorted.
func (s *Set) Namespaces() []string { return slices.Sorted(maps.Keys(s.layers)) }

// Hash names everything that was read, by content.
func (s *Set) Hash() string { return s.hash }

// Problems are what an operator should mend, in a stable order.
func (s *Set) Problems() []Problem { return slices.Clone(s.problems) }

func (s *Set) absent() string {
	return fmt.Sprintf("no policy is installed; put one into %s, beginning with the packaged starter policy (docs/policy.md)", filepath.Join(s.root, "node"))
}

func trustedDir(root *os.Root, name, at string) error {
	d, err := root.Open(name)
	if err != nil {
		return fmt.Errorf("read %s: %w", at, cause(err))
	}
	defer d.Close()
	return trusted(d, at)
}
