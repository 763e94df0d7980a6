package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sallyport/policy"
)

// shadowDir holds bundles on trial, laid out as the policy directory itself: shadow/node and
// shadow/namespaces/<name>. They are judged beside those in force and change nothing.
const shadowDir = "shadow"

// readShadow reads the bundles on trial. One that is broken is a problem and no more.
func (s *Set) readShadow(root *os.Root, o Options, prev *Set) {
	s.trials = map[string]*compiled{}
	at := filepath.Join(o.Root, shadowDir)
	sub, err := root.OpenRoot(shadowDir)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		defer sub.Close()
		err = trustedDir(sub, ".", at)
	}
	var names []string
	if err == nil {
		names, err = s.namespacesIn(sub, at)
	}
	if err != nil {
		s.problems = append(s.problems, Problem{Msg: fmt.Sprintf("shadow: %v", err)})
		return
	}
	for _, name := range append([]string{""}, names...) {
		p := place{dir: at, sub: "node", kind: Node, name: "shadow node", with: o.means()}
		if name != "" {
			p.sub, p.kind, p.name = "namespaces/"+name, Namespace, "shadow namespace "+name
		}
		c, err := one(sub, p, prev.trials[name])
		if err != nil {
			s.problems = append(s.problems, Problem{Namespace: name, Msg: fmt.Sprintf("shadow: %v", err)})
		} else if c != nil {
			s.trials[name] = c
		}
	}
}

// trial refuses mode shadow where policy is enforced, which would then admit everything, and any other
// mode where it is on trial.
func trial(name string, mode policy.Mode) error {
	switch onTrial := strings.HasPrefix(name, "shadow "); {
	case mode == policy.Shadow && !onTrial:
		return fmt.Errorf("mode: %q; nothing would be enforced; put this bundle into %s/ beside the one in force", mode, shadowDir)
	case mode != policy.Shadow && onTrial:
		return fmt.Errorf("mode: %q; want shadow in the directory %s", mode, shadowDir)
	}
	return nil
}

// Shadow are the layers on trial that would judge a namespace ("" has the node's alone). They must
// never decide anything.
func (s *Set) Shadow(namespace string) (out []*policy.Layer) {
	for _, name := range slices.Compact([]string{"", namespace}) {
		if c := s.trials[name]; c != nil {
			l := c.layer
			if l.Revocations == nil {
				l = under(l, s.node)
			}
			out = append(out, &l)
		}
	}
	return out
}

// Shadows are the names of the layers on trial, sorted.
func (s *Set) Shadows() (out []string) {
	for _, name := range slices.Sorted(maps.Keys(s.trials)) {
		out = append(out, s.trials[name].layer.Name)
	}
	return out
}
