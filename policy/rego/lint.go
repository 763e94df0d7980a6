package rego

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/policy"
)

// names are the ground string steps of a reference below data: data.sallyport.run.deny[x] has
// sallyport, run, deny.
type names []string

func (n names) String() string { return "data." + strings.Join(n, ".") }

// under reports whether one of n and m begins with the other.
func (n names) under(m names) bool {
	k := min(len(n), len(m))
	return slices.Equal(n[:k], m[:k])
}

// lint finds what compiles and would silently not deny: unknown or missing packages, deny and warn
// that are no partial sets, rules that nothing uses (deney), and data that nobody defines. It returns
// per verb which of deny and warn are defined.
func lint(c *ast.Compiler, data map[string]any, packages []string) (map[policy.Verb][]string, error) {
	sets := map[policy.Verb][]string{}
	var rules []names
	for _, file := range slices.Sorted(maps.Keys(c.Modules)) {
		m := c.Modules[file]
		verb, err := verbOf(m)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, r := range m.Rules {
			rules = append(rules, append(steps(m.Package.Path), steps(r.Head.Ref())...))
		}
		if verb == "" {
			continue
		}
		for _, r := range m.Rules {
			set := string(r.Head.Ref()[0].Value.(ast.Var))
			if set != "deny" && set != "warn" {
				continue
			}
			if r.Head.RuleKind() != ast.MultiValue || len(r.Head.Ref()) != 1 || len(r.Head.Args) > 0 || r.Default {
				return nil, fmt.Errorf(`%s:%d: %s is no partial set; write: %s contains {"rule": "...", "msg": "..."} if ...`, file, r.Loc().Row, set, set)
			}
			if !slices.Contains(sets[verb], set) {
				sets[verb] = append(sets[verb], set)
			}
		}
		if sets[verb] == nil {
			sets[verb] = []string{}
		}
	}
	if err := declared(sets, packages); err != nil {
		return nil, err
	}
	used, err := references(c, data, rules)
	if err != nil {
		return nil, err
	}
	return sets, unused(c, used)
}

// verbOf returns the verb of a module of package sallyport.<verb>, or "" for a library.
func verbOf(m *ast.Module) (policy.Verb, error) {
	path := steps(m.Package.Path)
	switch {
	case len(path) == 2 && path[0] == "sallyport" && slices.Contains(verbs, policy.Verb(path[1])):
		return policy.Verb(path[1]), nil
	case len(path) >= 1 && path[0] == "lib":
		return "", nil
	}
	var known []string
	for _, v := range verbs {
		known = append(known, "sallyport."+string(v))
	}
	return "", fmt.Errorf("unknown package %s; known are %s, and lib.* for what they share", packageName(m), strings.Join(known, ", "))
}

// declared compares what the modules define with what bundle.yaml lists.
func declared(sets map[policy.Verb][]string, packages []string) error {
	for _, p := range packages {
		verb, ok := strings.CutPrefix(p, "sallyport.")
		if _, defined := sets[policy.Verb(verb)]; !ok || !defined {
			return fmt.Errorf("bundle.yaml lists the Rego package %q and no module defines it", p)
		}
	}
	for _, verb := range slices.Sorted(maps.Keys(sets)) {
		if !slices.Contains(packages, "sallyport."+string(verb)) {
			return fmt.Errorf("package sallyport.%s is not listed in bundle.yaml; add it to rego: [...]", verb)
		}
		if len(sets[verb]) == 0 {
			return fmt.Errorf("package sallyport.%s defines neither deny nor warn", verb)
		}
		slices.Sort(sets[verb])
	}
	return nil
}

// references collects what the modules refer to below data, and refuses what neither a rule nor
// data.json defines: such a reference is undefined, and the rule around it never fires.
func references(c *ast.Compiler, data map[string]any, rules []names) (used []names, err error) {
	for _, file := range slices.Sorted(maps.Keys(c.Modules)) {
		for _, r := range c.Modules[file].Rules {
			ast.WalkRefs(r, func(ref ast.Ref) bool {
				if !ref.HasPrefix(ast.DefaultRootRef) || err != nil {
					return false
				}
				n := steps(ref)
				used = append(used, n)
				virtual := slices.ContainsFunc(rules, n.under)
				if !virtual && !stored(data, n) {
					err = fmt.Errorf("%s:%d: nothing defines %s, neither a rule nor data.json", file, r.Loc().Row, n)
				}
				return false
			})
		}
	}
	return used, err
}

func stored(data map[string]any, n names) bool {
	var at any = data
	for _, step := range n {
		o, ok := at.(map[string]any)
		if !ok {
			return false
		}
		if at, ok = o[step]; !ok {
			return false
		}
	}
	return true
}

// unused refuses a rule of a sallyport package that is neither deny nor warn and that no rule uses.
func unused(c *ast.Compiler, used []names) error {
	for _, file := range slices.Sorted(maps.Keys(c.Modules)) {
		m := c.Modules[file]
		if verb, _ := verbOf(m); verb == "" {
			continue
		}
		for _, r := range m.Rules {
			full := append(steps(m.Package.Path), steps(r.Head.Ref())...)
			if name := full[2]; name == "deny" || name == "warn" {
				continue
			}
			if !slices.ContainsFunc(used, full.under) {
				return fmt.Errorf("%s:%d: nothing uses rule %s; only deny and warn are asked", file, r.Loc().Row, full[2])
			}
		}
	}
	return nil
}

// steps are the string parts of a reference up to the first that is not ground, without a leading data.
func steps(ref ast.Ref) (n names) {
	for i, t := range ref {
		switch v := t.Value.(type) {
		case ast.Var:
			if i > 0 {
				return n
			}
			if v != ast.DefaultRootDocument.Value {
				n = append(n, string(v))
			}
		case ast.String:
			n = append(n, string(v))
		default:
			return n
		}
	}
	return n
}

func packageName(m *ast.Module) string { return strings.Join(steps(m.Package.Path), ".") }
