package bundle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport/policy/bundle/layout"
)

// warnBefore is how long before an end it is reported (architecture.md, Policy).
const warnBefore = 14 * 24 * time.Hour

// Signed says how signed bundles are accepted.
type Signed struct {
	// State is a persistent directory of ours: the root in force, the highest revision ever seen of each
	// policy, and the last good one. "" remembers nothing, as somebody who only looks.
	State string
	Now   time.Time // the judged time
	// Anchor is the policy directory that was installed with the node, where Root is one that was filled
	// from elsewhere: the first root.json is believed from here alone, and a policy that Root does not
	// have is taken from here. "": there is no other than Root.
	Anchor string
	Node   string // this node's name, for overrides; "" has none
}

// Root is what the policies were accepted under; nil where they are unsigned.
func (s *Set) Root() *Root { return s.trust }

// trust is what signed bundles are accepted under, during one reading.
type trust struct {
	root     *Root
	now      time.Time
	mem      memory
	problems []Problem
	anchor   *os.Root // Signed.Anchor, open; nil without one
	at       string   // Signed.Anchor
	o        Options
}

// readSigned reads the node policy and those of namespaces, each as it lies in its directory or, where
// that is refused, as it was accepted last; root is nil where there is no policy directory at all. What was accepted is remembered before it is returned.
func (s *Set) readSigned(root *os.Root, o Options, prev *Set) error {
	anchor, err := openAnchor(o.Signed.Anchor)
	if err != nil {
		return err
	}
	if anchor != nil {
		defer anchor.Close()
	}
	t, err := openTrust(root, anchor, o)
	if err != nil {
		return err
	}
	s.trust = t.root
	s.overrides = t.overrides(root, o)
	defer func() { s.problems = append(s.problems, t.problems...) }()
	p := place{dir: o.Root, sub: "node", kind: Node, name: "node", with: o.means()}
	if s.node, err = t.settle(root, p, "", prev.node); err != nil || s.node == nil {
		return err
	}
	var names []string
	if root != nil {
		if names, err = s.namespacesIn(root, o.Root); err != nil {
			return err
		}
	}
	if anchor != nil {
		more, err := s.namespacesIn(anchor, o.Signed.Anchor)
		if err != nil {
			return err
		}
		names = append(names, more...)
	}
	for name := range t.mem.state.Marks {
		if name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	for _, name := range names {
		p := place{dir: o.Root, sub: "namespaces/" + name, kind: Namespace, name: "namespace " + name, with: o.means()}
		c, err := t.settle(root, p, name, prev.bundles[name])
		switch {
		case errors.Is(err, errRemember):
			return err
		case err != nil:
			s.refuse(name, err)
		case c != nil:
			s.bundles[name] = c
		}
	}
	s.reportMissing()
	return t.mem.save()
}

// settle finds the policy of namespace ("": the node's). nil and no error: there is none, which was
// either never otherwise or is by a tombstone.
func (t *trust) settle(root *os.Root, p place, namespace string, prev *compiled) (*compiled, error) {
	at := filepath.Join(p.dir, p.sub)
	f, why := lying(root, p.sub, at)
	if t.anchor != nil && why == nil && len(f) == 0 {
		at = filepath.Join(t.at, p.sub)
		f, why = lying(t.anchor, p.sub, at)
	}
	mark, seen := t.mem.state.Marks[namespace]
	switch {
	case why != nil:
	case len(f) > 0:
		a, err := t.accept(f, p, namespace, prev)
		if err == nil {
			t.warnOfEnd(namespace, a.c)
			return a.c, t.mem.remember(namespace, a.mark, f)
		}
		why = fmt.Errorf("%s: %w", at, err)
	case !seen || mark.Tombstone:
		return nil, nil
	default:
		why = fmt.Errorf("%s: it is gone; to remove a signed policy install a tombstone of a higher revision", at)
	}
	if !seen {
		return nil, why
	}
	kept := Problem{Namespace: namespace, Msg: why.Error(), Kept: true, Rule: RuleOf(why)}
	if mark.Tombstone {
		t.problems = append(t.problems, kept)
		return nil, nil
	}
	a, err := t.last(p, namespace, prev)
	if err != nil {
		return nil, fmt.Errorf("%w; the last good one does not count any more: %v", why, err)
	}
	t.problems = append(t.problems, kept)
	t.warnOfEnd(namespace, a.c)
	return a.c, nil
}

// last is what was accepted last, if it still is.
func (t *trust) last(p place, namespace string, prev *compiled) (accepted, error) {
	f, err := t.mem.kept(namespace)
	if err != nil {
		return accepted{}, err
	}
	return t.accept(f, p, namespace, prev)
}

func (t *trust) warnOfEnd(namespace string, c *compiled) {
	if c == nil || c.manifest.notAfter.IsZero() || t.now.Add(warnBefore).Before(c.manifest.notAfter) {
		return
	}
	t.problems = append(t.problems, Problem{Namespace: namespace, Msg: "it ends at " + c.manifest.notAfter.UTC().Format(time.RFC3339) + "; install a newer one"})
}

// lying reads the directory sub; nil if it is absent, or root is.
func lying(root *os.Root, sub, at string) (files, error) {
	if root == nil {
		return nil, nil
	}
	d, err := root.OpenRoot(sub)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", at, cause(err))
	}
	defer d.Close()
	return readFiles(d, at)
}

// accepted is a policy that may judge; c is nil where it is a tombstone.
type accepted struct {
	c    *compiled
	mark mark
}

// accept verifies a layout and compiles what is in it. The signatures are verified every time, under the
// root in force: who was withdrawn vouches for nothing.
func (t *trust) accept(f files, p place, namespace string, prev *compiled) (accepted, error) {
	if !layout.Is(f) {
		return accepted{}, &Refused{RuleUnsigned, `a plain directory, and policy.source is "signed"; build and sign it (sallyport policy build, sallyport policy sign) and install what that made`}
	}
	art, err := layout.Open(f)
	if err != nil {
		return accepted{}, err
	}
	if err := t.admits(art, namespace); err != nil {
		return accepted{}, err
	}
	a := accepted{mark: mark{Revision: art.Config.Revision, Digest: art.Digest.String(), Tombstone: art.Config.Tombstone}}
	if a.mark.Tombstone {
		return a, nil
	}
	inner := files(art.Files)
	c := prev
	if prev == nil || prev.layer.Hash != inner.hash() || prev.layer.Name != p.name {
		with, before := p.with, a.mark.Digest == t.mem.state.Marks[namespace].Digest
		if before {
			with = t.o.before(with)
		}
		if c, err = compile(inner, p.kind, p.name, with); err != nil {
			return accepted{}, err
		}
		if !before { // else its cases held when it was accepted
			if c, err = p.tried(c, inner); err != nil {
				return accepted{}, err
			}
		}
	}
	if c.manifest.revision != art.Config.Revision {
		return accepted{}, fmt.Errorf("bundle.yaml says revision %d and was built as %d", c.manifest.revision, art.Config.Revision)
	}
	if a.mark.Revoked, err = c.revokedSince(t.mem.state.Marks[namespace].Revoked); err != nil {
		return accepted{}, err
	}
	bounded := *c // it ends when its root does
	bounded.layer.NotAfter = t.root.expires
	if end := c.manifest.notAfter; !end.IsZero() && end.Before(t.root.expires) {
		bounded.layer.NotAfter = end
	}
	a.c = &bounded
	return a, nil
}

// admits asks whether those who signed may speak for namespace and everybody else whom the bundle names,
// and whether it is no older one.
func (t *trust) admits(a layout.Artifact, namespace string) error {
	who, err := t.root.delegated(namespace)
	if err != nil {
		return err
	}
	if !a.Config.Names(namespace) {
		return &Refused{RuleDelegation, fmt.Sprintf("%s is not for this place: it was built for %s", a.Digest, forWhom(a.Config))}
	}
	for _, n := range a.Config.Namespaces {
		other, err := t.root.delegated(n)
		if err != nil {
			return err
		}
		if other.what != who.what {
			return &Refused{RuleDelegation, fmt.Sprintf("%s names namespace %q too, which root.json delegates as %s, not as %s", a.Digest, n, other.what, who.what)}
		}
	}
	if err := t.root.signed(context.Background(), who, signatures{a.Digest, a.Bundles}, t.now); err != nil {
		return err
	}
	m := t.mem.state.Marks[namespace]
	switch rev := a.Config.Revision; {
	case rev < who.minimum:
		return &Refused{RuleRollback, fmt.Sprintf("revision %d is older than %d, the least that root.json admits", rev, who.minimum)}
	case rev < m.Revision:
		return &Refused{RuleRollback, fmt.Sprintf("revision %d is older than %d, which this node has had", rev, m.Revision)}
	case rev == m.Revision && m.Digest != a.Digest.String():
		return &Refused{RuleRollback, fmt.Sprintf("%s is another policy of revision %d than %s, which this node has had; raise the revision", a.Digest, rev, m.Digest)}
	}
	return nil
}

func forWhom(c layout.Config) string {
	if c.Node {
		return "the node"
	}
	return fmt.Sprintf("namespaces %q", c.Namespaces[:min(3, len(c.Namespaces))])
}

// openTrust finds the root in force: the one that was followed last, or a newer one that its signers and
// its own signed. A node that has followed none takes the one that is installed.
func openTrust(root, anchor *os.Root, o Options) (*trust, error) {
	t := &trust{now: o.Signed.Now, mem: memory{dir: o.Signed.State}, anchor: anchor, at: o.Signed.Anchor, o: o}
	if t.now.IsZero() {
		return nil, errors.New("read policy: the judged time is missing")
	}
	if err := t.mem.load(); err != nil {
		return nil, err
	}
	if text := t.mem.state.Root; text != "" {
		r, err := ParseRoot([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("read root in %s: %w", t.mem.path(), err)
		}
		t.root = r
	}
	for _, from := range t.rootsToFollow(root, o) {
		if err := t.follow(from.root, from.dir); err != nil {
			if t.root == nil {
				return nil, err
			}
			t.problems = append(t.problems, Problem{Msg: err.Error(), Kept: true, Rule: RuleOf(err)})
		}
	}
	if t.mem.state.Root != t.root.text {
		t.mem.state.Root, t.mem.dirty = t.root.text, true
		if err := t.mem.save(); err != nil {
			return nil, err
		}
	}
	if !t.now.Add(warnBefore).Before(t.root.expires) {
		t.problems = append(t.problems, Problem{Msg: fmt.Sprintf("root.json (version %d) ends at %s, and all policy with it; install a newer one",
			t.root.version, t.root.expires.UTC().Format(time.RFC3339)), Rule: RuleRoot})
	}
	return t, nil
}

// follow walks from the root in force to root.json, by way of roots/<version>.json, each of which is
// signed by its own signers and by those of the one before. The signatures of version N lie in
// roots/N.<anything>.sigstore.json.
func (t *trust) follow(root *os.Root, dir string) error {
	f, err := lying(root, "roots", filepath.Join(dir, "roots"))
	if err != nil {
		return err
	}
	w := walk{root: root, dir: dir, out: files{}}
	if root == nil {
		err = fmt.Errorf("read %s: %w", dir, fs.ErrNotExist)
	} else {
		err = w.file("root.json")
	}
	if err != nil {
		return &Refused{RuleRoot, err.Error() + `; policy.source is "signed", and without root.json nobody may sign`}
	}
	var steps []int
	for name := range f {
		if n, ok := strings.CutSuffix(name, ".json"); ok {
			if v, err := strconv.Atoi(n); err == nil {
				steps = append(steps, v)
			}
		}
	}
	slices.Sort(steps)
	now := t.root
	for _, v := range steps { // a node that has followed none takes root.json as installed
		r, err := ParseRoot(f[fmt.Sprintf("%d.json", v)])
		if err == nil && now != nil && r.follows(context.Background(), now, f.signaturesOf(r), t.now) == nil {
			now = r
		}
	}
	r, err := ParseRoot(w.out["root.json"])
	if err != nil {
		return &Refused{RuleRoot, fmt.Sprintf("%s: %v", filepath.Join(dir, "root.json"), err)}
	}
	if t.root != nil && r.text == t.root.text {
		return nil
	}
	if now == nil || r.text != now.text {
		err = r.follows(context.Background(), now, f.signaturesOf(r), t.now)
	}
	if err == nil && !t.now.Before(r.expires) { // that of a step on the way does not matter
		err = &Refused{RuleRoot, fmt.Sprintf("version %d ended at %s", r.version, r.expires.UTC().Format(time.RFC3339))}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(dir, "root.json"), err)
	}
	t.root = r
	return nil
}

// signaturesOf are the bundles beside the root r, f being roots/.
func (f files) signaturesOf(r *Root) signatures {
	s := signatures{digest: r.digest()}
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if strings.HasPrefix(name, fmt.Sprintf("%d.", r.version)) && strings.HasSuffix(name, ".sigstore.json") && len(s.bundles) < layout.MaxSignatures {
			s.bundles = append(s.bundles, f[name])
		}
	}
	return s
}
