package bundle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"sallyport/policy"
	"sallyport/policy/baseline"
	"sallyport/policy/rego"
)

// compiled is one bundle, ready to judge. Immutable.
type compiled struct {
	layer    policy.Layer
	manifest manifest
	hasFloor bool   // false: hardening.yaml is absent and Floor not set
	revoked  string // sha256 of revocations.yaml, hex; "" without one
}

// means are what a bundle is compiled with.
type means struct {
	scratch string // where policy.json's signatures are laid out while they are judged
	confine func(namespace string, o rego.Options) (policy.ActRule, error)
	try     func(context.Context, Staged) error
}

func (o Options) means() means { return means{o.Scratch, o.Confine, o.Try} }

// before is m for a bundle that was in force before this process: it compiled then.
func (o Options) before(m means) means {
	if o.Later != nil {
		m.confine = o.Later
	}
	return m
}

// known are the files at the top of a bundle that mean something. Others of the same kinds are
// refused: requirement.yaml for requirements.yaml would silently require nothing.
var known = []string{"bundle.yaml", "policy.json", "requirements.yaml", "hardening.yaml", "trusted_root.json", "revocations.yaml"}

// compile turns the files of one bundle into a layer called name. Errors name the file, and line or
// field.
func compile(f files, kind Kind, name string, with means) (*compiled, error) {
	if err := f.misplaced(); err != nil {
		return nil, err
	}
	text, ok := f["bundle.yaml"]
	if !ok {
		return nil, errors.New("bundle.yaml: missing; it needs at least a name")
	}
	m, err := parseManifest(text, kind)
	if err == nil {
		err = trial(name, m.mode)
	}
	if err != nil {
		return nil, fmt.Errorf("bundle.yaml: %w", err)
	}
	c := &compiled{manifest: m, layer: policy.Layer{
		Name: name, Hash: f.hash(), Revision: m.revision, Mode: m.mode, NotAfter: m.notAfter,
		Allowances: m.allowances, Rejudge: m.rejudge,
	}}
	if err := c.images(f, with.scratch); err != nil {
		return nil, err
	}
	if err := c.acts(f, with); err != nil {
		return nil, err
	}
	if err := c.revocations(f, kind); err != nil {
		return nil, err
	}
	if text, ok := f["hardening.yaml"]; ok {
		if c.layer.Floor, err = baseline.ParseFloor(text); err != nil {
			return nil, fmt.Errorf("hardening.yaml: %w", err)
		}
		c.hasFloor = true
	} else if kind == Node {
		c.layer.Floor = baseline.ForLevel(baseline.Baseline)
		c.hasFloor = true
	}
	return c, nil
}

// images compiles who may sign: requirements.yaml, policy.json and the roots and keys that they need.
func (c *compiled) images(f files, scratch string) error {
	var reqs *policy.Requirements
	if text, ok := f["requirements.yaml"]; ok {
		var err error
		if reqs, err = policy.ParseRequirements(text, f.read); err != nil {
			return fmt.Errorf("requirements.yaml: %w", err)
		}
		for _, root := range reqs.Roots() {
			if f[rootFile(root.Name)] == nil {
				return fmt.Errorf("requirements.yaml: policy %q is keyless, and there is no %s to verify certificates with", root.Policy, rootFile(root.Name))
			}
		}
		c.layer.Images = append(c.layer.Images, reqs)
	}
	if text, ok := f["policy.json"]; ok {
		rule, err := containersRule(text, f.read, scratch)
		if err != nil {
			return err
		}
		if reqs != nil {
			if err := contradiction(text, reqs); err != nil {
				return err
			}
		}
		c.layer.Images = append(c.layer.Images, rule)
	}
	if len(c.layer.Images) == 0 {
		return errors.New("requirements.yaml, policy.json: both are missing; without one no image is admitted")
	}
	names := f.roots()
	if len(names) == 0 && (reqs == nil || len(reqs.Keys()) == 0) {
		return nil // nothing can prove a claim; policy.json brings its own keys
	}
	var err error
	if c.layer.Verifier, err = verifier(f, names, reqs); err != nil {
		return fmt.Errorf("trusted_root.json: %w", err)
	}
	return nil
}

// acts compiles rego/.
func (c *compiled) acts(f files, with means) error {
	modules := map[string]string{}
	for name, text := range f {
		if strings.HasPrefix(name, "rego/") && strings.HasSuffix(name, ".rego") {
			modules[name] = string(text)
		}
	}
	if len(modules) == 0 {
		if len(c.manifest.packages) > 0 {
			return fmt.Errorf("bundle.yaml: rego: lists %s, and rego/ holds no module", strings.Join(c.manifest.packages, ", "))
		}
		return nil
	}
	o := rego.Options{Modules: modules, Data: f["rego/data.json"], Packages: c.manifest.packages}
	var rule policy.ActRule
	var err error
	if namespace, own := strings.CutPrefix(strings.TrimPrefix(c.layer.Name, "shadow "), "namespace "); own && with.confine != nil {
		rule, err = with.confine(namespace, o)
	} else {
		rule, err = rego.Compile(o)
	}
	if err != nil {
		return err
	}
	c.layer.Acts = append(c.layer.Acts, rule)
	return nil
}

// misplaced refuses files that look like policy and would not be read.
func (f files) misplaced() error {
	for _, name := range slices.Sorted(maps.Keys(f)) {
		dir, base := path.Split(name)
		ext := path.Ext(base)
		if ext != ".yaml" && ext != ".yml" && ext != ".json" && ext != ".rego" {
			continue
		}
		inRego := dir == "rego/" || strings.HasPrefix(dir, "rego/")
		switch {
		case dir == "" && slices.Contains(known, base):
		case dir == rootsDir && ext == ".json" && rootName.MatchString(strings.TrimSuffix(base, ".json")):
		case inRego && ext == ".rego":
		case dir == "rego/" && base == "data.json":
		default:
			return fmt.Errorf("%s: nothing reads a file of this name here; known are %s, trusted_roots/*.json, rego/*.rego and rego/data.json", name, strings.Join(known, ", "))
		}
	}
	return nil
}
