package bundle

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"sallyport/policy"
	"sallyport/policy/baseline"
	"sallyport/policy/internal/strict"
)

// Kind says whose policy a bundle is.
type Kind string

// The kinds.
const (
	Node      Kind = "node"
	Namespace Kind = "namespace"
)

// manifestYAML is the form of bundle.yaml.
type manifestYAML struct {
	Name       string    `yaml:"name" need:"yes"`
	Revision   uint64    `yaml:"revision"`
	NotAfter   time.Time `yaml:"notAfter"`
	Mode       string    `yaml:"mode" enum:"enforce,warn,shadow"`
	Rego       []string  `yaml:"rego"`
	Namespaces *struct {
		Required []string `yaml:"required"`
		Unlisted string   `yaml:"unlisted" enum:"allow,deny"`
	} `yaml:"namespaces"`
	Rejudge *struct {
		Action           string `yaml:"action" enum:"report,stop" need:"yes"`
		Grace            string `yaml:"grace"`
		MaxContainers    int    `yaml:"maxContainers"`
		PercentPerMinute int    `yaml:"percentPerMinute"`
	} `yaml:"rejudge"`
	Allowances []struct {
		Namespaces []string  `yaml:"namespaces" need:"yes"`
		Hardening  yaml.Node `yaml:"hardening" need:"yes" ref:"hardening.json"`
	} `yaml:"allowances"`
}

// manifest is a checked bundle.yaml.
type manifest struct {
	name         string
	revision     uint64
	notAfter     time.Time
	mode         policy.Mode
	packages     []string
	required     []namespaces
	denyUnlisted bool
	allowances   []policy.Allowance
	rejudge      policy.Rejudge
}

// namespaces is a pattern of namespace names: "*" is any run of characters.
type namespaces struct {
	text string
	re   *regexp.Regexp
}

var (
	bundleName = regexp.MustCompile(`\A[a-zA-Z0-9]([a-zA-Z0-9._ -]{0,126}[a-zA-Z0-9])?\z`)
	// namespaceName is a DNS label (RFC 1123), as Kubernetes has it.
	namespaceName = regexp.MustCompile(`\A[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\z`)
	pattern       = regexp.MustCompile(`\A[a-z0-9*-]{1,63}\z`)
)

func parseManifest(data []byte, kind Kind) (manifest, error) {
	var y manifestYAML
	if err := strict.Decode(data, &y); err != nil {
		return manifest{}, err
	}
	m := manifest{name: y.Name, revision: y.Revision, notAfter: y.NotAfter, packages: y.Rego}
	if !bundleName.MatchString(y.Name) {
		return m, fmt.Errorf("name: %q; want 1 to 128 letters, digits, '.', '_', '-' and spaces", y.Name)
	}
	switch y.Mode {
	case "", "enforce":
		m.mode = policy.Enforce
	case "warn", "shadow":
		m.mode = policy.Mode(y.Mode)
	default:
		return m, fmt.Errorf("mode: %q; want enforce or warn, or shadow in the directory shadow", y.Mode)
	}
	if err := y.rejudge(&m); err != nil {
		return m, fmt.Errorf("rejudge.%w", err)
	}
	if kind != Node {
		if y.Namespaces != nil {
			return m, errors.New("namespaces: only the node policy says this")
		}
		if y.Allowances != nil {
			return m, errors.New("allowances: only the node policy may loosen")
		}
		return m, nil
	}
	return m, y.nodeOnly(&m)
}

// rejudge reads what is done about running containers that are denied by now. Whoever stops says how many
// and how fast: a slip in a policy must not end a node.
func (y manifestYAML) rejudge(m *manifest) error {
	r := y.Rejudge
	switch {
	case r == nil:
		return nil
	case r.Action == "report":
		if r.Grace != "" || r.MaxContainers != 0 || r.PercentPerMinute != 0 {
			return errors.New("action: report stops nothing; grace, maxContainers and percentPerMinute belong to stop")
		}
		return nil
	case r.Action != "stop":
		return fmt.Errorf("action: %.80q; want report or stop", r.Action)
	case r.MaxContainers < 1 || r.MaxContainers > 10000:
		return fmt.Errorf("maxContainers: %d; want 1 to 10000, after which it halts", r.MaxContainers)
	case r.PercentPerMinute < 1 || r.PercentPerMinute > 100:
		return fmt.Errorf("percentPerMinute: %d; want 1 to 100", r.PercentPerMinute)
	}
	grace, err := time.ParseDuration(r.Grace)
	if err != nil || grace < time.Second || grace > 30*24*time.Hour {
		return fmt.Errorf("grace: %.80q; want a duration from 1s to 720h", r.Grace)
	}
	m.rejudge = policy.Rejudge{Stop: true, Grace: grace, Max: r.MaxContainers, Percent: r.PercentPerMinute}
	return nil
}

func (y manifestYAML) nodeOnly(m *manifest) error {
	if y.Namespaces != nil {
		for i, s := range y.Namespaces.Required {
			n, err := parsePattern(s)
			if err != nil {
				return fmt.Errorf("namespaces.required[%d]: %w", i, err)
			}
			m.required = append(m.required, n)
		}
		switch y.Namespaces.Unlisted {
		case "", "allow":
		case "deny":
			m.denyUnlisted = true
		default:
			return fmt.Errorf("namespaces.unlisted: %q; want allow or deny", y.Namespaces.Unlisted)
		}
	}
	seen := map[string]int{}
	for i, a := range y.Allowances {
		out, err := parseAllowance(a.Namespaces, a.Hardening)
		if err != nil {
			return fmt.Errorf("allowances[%d].%w", i, err)
		}
		for _, s := range a.Namespaces {
			if before, again := seen[s]; again {
				return fmt.Errorf("allowances[%d].namespaces: allowances[%d] and [%d] contradict each other: both are for %q", i, before, i, s)
			}
			seen[s] = i
		}
		m.allowances = append(m.allowances, out)
	}
	return nil
}

func parseAllowance(names []string, hardening yaml.Node) (policy.Allowance, error) {
	var a policy.Allowance
	var patterns []namespaces
	if len(names) == 0 {
		return a, errors.New("namespaces: empty; say whom the allowance is for")
	}
	for i, s := range names {
		n, err := parsePattern(s)
		if err != nil {
			return a, fmt.Errorf("namespaces[%d]: %w", i, err)
		}
		patterns = append(patterns, n)
	}
	if hardening.IsZero() {
		return a, errors.New("hardening: missing; write what hardening.yaml would hold")
	}
	text, err := yaml.Marshal(&hardening)
	if err != nil {
		return a, fmt.Errorf("hardening: %w", err)
	}
	if a.Floor, err = baseline.ParseFloor(text); err != nil {
		return a, fmt.Errorf("hardening: %w", err)
	}
	a.Applies = func(namespace string) bool {
		return slices.ContainsFunc(patterns, func(n namespaces) bool { return n.re.MatchString(namespace) })
	}
	return a, nil
}

func parsePattern(s string) (namespaces, error) {
	if !pattern.MatchString(s) {
		return namespaces{}, fmt.Errorf("%q: want the name of a namespace, or one with *", s)
	}
	re, err := regexp.Compile(`\A` + strings.ReplaceAll(regexp.QuoteMeta(s), `\*`, `.*`) + `\z`)
	return namespaces{text: s, re: re}, err
}

// literal reports whether n is one name.
func (n namespaces) literal() bool { return !strings.Contains(n.text, "*") }

func (m *manifest) requires(namespace string) bool {
	return slices.ContainsFunc(m.required, func(n namespaces) bool { return n.re.MatchString(namespace) })
}
