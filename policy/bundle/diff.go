package bundle

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"sallyport/policy/baseline"
)

// Change is one difference between two policy directories.
type Change struct {
	Layer string // "node" or "namespace <name>"
	What  string // a rule, a file, a field of bundle.yaml or a knob of the floor
	How   string // added, removed, changed; of a knob tighter, looser, or "tighter and looser"
}

// Diff loads two unsigned policy directories and lists what the second changes: rules that came, went or
// changed, and knob by knob how hardening moved. The error names the directory that does not load.
func Diff(before, after string) ([]Change, error) {
	var sets [2]*Set
	var parts [2]map[string]map[string]string
	for i, dir := range []string{before, after} {
		s, err := Load(dir)
		if err != nil {
			return nil, err
		}
		if p := s.Problems(); len(p) > 0 {
			return nil, fmt.Errorf("%s: %s", dir, p[0])
		}
		if s.Node() == nil {
			return nil, fmt.Errorf("%s: there is no node policy", dir)
		}
		sets[i] = s
		if parts[i], err = partsOf(dir, s); err != nil {
			return nil, err
		}
	}
	var out []Change
	for _, layer := range keys(parts[0], parts[1]) {
		was, is := parts[0][layer], parts[1][layer]
		for _, what := range keys(was, is) {
			a, had := was[what]
			b, has := is[what]
			switch {
			case !had:
				out = append(out, Change{layer, what, "added"})
			case !has:
				out = append(out, Change{layer, what, "removed"})
			case a != b:
				out = append(out, Change{layer, what, "changed"})
			}
		}
		floor := func(s *Set) baseline.Floor {
			if name, ok := strings.CutPrefix(layer, "namespace "); ok {
				return s.Floor(name)
			}
			return s.Node().Floor
		}
		out = append(out, knobs(layer, floor(sets[0]), floor(sets[1]))...)
	}
	return out, nil
}

func keys[V any](a, b map[string]V) []string {
	all := slices.Concat(slices.Collect(maps.Keys(a)), slices.Collect(maps.Keys(b)))
	slices.Sort(all)
	return slices.Compact(all)
}

// partsOf takes the bundles of a directory apart: layer to part to its text in one spelling.
func partsOf(dir string, s *Set) (map[string]map[string]string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("read policy %s: %w", dir, cause(err))
	}
	defer root.Close()
	out := map[string]map[string]string{}
	at := map[string]string{"node": "node"}
	for _, name := range s.Namespaces() {
		at["namespace "+name] = "namespaces/" + name
	}
	for layer, sub := range at {
		r, err := root.OpenRoot(sub)
		if err != nil {
			return nil, fmt.Errorf("read %s/%s: %w", dir, sub, cause(err))
		}
		f, err := readFiles(r, dir+"/"+sub)
		r.Close()
		if err == nil {
			out[layer], err = f.parts()
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// parts are what a reviewer looks at one by one. hardening.yaml is told by its knobs.
func (f files) parts() (map[string]string, error) {
	out := map[string]string{}
	for name, text := range f {
		var err error
		switch name {
		case "hardening.yaml":
		case "bundle.yaml":
			err = eachField(out, text)
		case "requirements.yaml":
			err = eachPolicy(out, text)
		case "policy.json":
			err = eachScope(out, text)
		default:
			out["file "+name] = string(text)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return out, nil
}

func eachField(out map[string]string, text []byte) error {
	var doc map[string]any
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return err
	}
	for field, v := range doc {
		out["bundle.yaml "+field] = fmt.Sprint(v)
	}
	return nil
}

func eachPolicy(out map[string]string, text []byte) error {
	var doc struct {
		Policies []map[string]any `yaml:"policies"`
	}
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return err
	}
	for _, p := range doc.Policies {
		out[fmt.Sprintf("requirement %v", p["name"])] = fmt.Sprint(p)
	}
	return nil
}

func eachScope(out map[string]string, text []byte) error {
	var doc struct {
		Default    any                       `json:"default"`
		Transports map[string]map[string]any `json:"transports"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return err
	}
	out["policy.json default"] = fmt.Sprint(doc.Default)
	for t, scopes := range doc.Transports {
		for scope, v := range scopes {
			out[fmt.Sprintf("policy.json %s %q", t, scope)] = fmt.Sprint(v)
		}
	}
	return nil
}

// knobs says how a floor moved. What both floors admit is their meet: a list that is not the meet admits
// more than the other.
func knobs(layer string, before, after baseline.Floor) (out []Change) {
	both := reflect.ValueOf(baseline.Meet(before, after))
	was, is := reflect.ValueOf(baseline.Meet(before, before)), reflect.ValueOf(baseline.Meet(after, after))
	for i := range both.NumField() {
		old, now, meet := fmt.Sprint(was.Field(i)), fmt.Sprint(is.Field(i)), fmt.Sprint(both.Field(i))
		how := ""
		switch {
		case old == now:
			continue
		case meet == now:
			how = "tighter"
		case meet == old:
			how = "looser"
		default:
			how = "tighter and looser"
		}
		out = append(out, Change{layer, "hardening " + both.Type().Field(i).Name, how})
	}
	return out
}
