package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"sallyport/image/ref"
	"sallyport/internal/durable"
	"sallyport/policy"
	"sallyport/policy/bundle/layout"
	"sallyport/policy/internal/strict"
)

const (
	overrideSchema = "sallyport.override/v1"
	overridesDir   = "overrides"
	usesFile       = "override-uses.json"
	maxOverrides   = 64
	maxUses        = 10000
	// maxOverride is the longest an override may last: what is needed longer is a policy.
	maxOverride = 7 * 24 * time.Hour
)

// RuleOverride is the rule by which an override is refused.
const RuleOverride = "override"

// overrideYAML is the form of an override; it is JSON.
type overrideYAML struct {
	Schema    string    `yaml:"schema"`
	Cluster   string    `yaml:"cluster"`
	Nodes     []string  `yaml:"nodes"`
	Namespace string    `yaml:"namespace"`
	Digest    string    `yaml:"digest"`
	Verbs     []string  `yaml:"verbs"`
	Rules     []string  `yaml:"rules"`
	Ticket    string    `yaml:"ticket"`
	Reason    string    `yaml:"reason"`
	NotBefore time.Time `yaml:"notBefore"`
	NotAfter  time.Time `yaml:"notAfter"`
	MaxUses   int       `yaml:"maxUses"`
}

// override is a checked document, of which nothing is known yet of who signed it.
type override struct {
	policy.Override
	cluster string
	nodes   []*regexp.Regexp
	digest  ref.Digest // of the document: what is signed
}

var nodePattern = regexp.MustCompile(`\A[a-z0-9*]([a-z0-9.*-]{0,251}[a-z0-9*])?\z`)

// ParseOverride reads an override strictly: every field is required, and none may be wide open by being
// left out. It says nothing of who signed it.
func ParseOverride(text []byte) (policy.Override, error) {
	o, err := parseOverride(text)
	return o.Override, err
}

func parseOverride(text []byte) (override, error) {
	var y overrideYAML
	if err := strict.DecodeJSON(text, &y); err != nil {
		return override{}, err
	}
	d := ref.DigestOf(text)
	o := override{cluster: y.Cluster, digest: d, Override: policy.Override{ID: d.Hex(), Ticket: y.Ticket, Reason: y.Reason, Namespace: y.Namespace,
		Rules: y.Rules, NotBefore: y.NotBefore, NotAfter: y.NotAfter, MaxUses: y.MaxUses}}
	var err error
	switch {
	case y.Schema != overrideSchema:
		err = fmt.Errorf("schema: %.80q, want %q", y.Schema, overrideSchema)
	case !bundleName.MatchString(y.Cluster):
		err = fmt.Errorf("cluster: %.80q; want the name that root.json gives the cluster", y.Cluster)
	case !namespaceName.MatchString(y.Namespace):
		err = fmt.Errorf("namespace: %.80q is no name of one namespace", y.Namespace)
	case len(y.Rules) == 0 || len(y.Rules) > 64 || slices.Contains(y.Rules, ""):
		err = errors.New("rules: want the exact names of 1 to 64 rules")
	case slices.Contains(y.Rules, "revoked"):
		err = errors.New(`rules: "revoked" cannot be overridden; take the entry out of revocations.yaml`)
	case !bundleName.MatchString(y.Ticket):
		err = fmt.Errorf("ticket: %.80q; want 1 to 128 letters, digits, '.', '_', '-' and spaces", y.Ticket)
	case y.Reason == "" || len(y.Reason) > 500 || strings.ContainsFunc(y.Reason, func(r rune) bool { return r < ' ' }):
		err = errors.New("reason: want one line of at most 500 bytes")
	case y.NotBefore.IsZero() || !y.NotAfter.After(y.NotBefore) || y.NotAfter.Sub(y.NotBefore) > maxOverride:
		err = fmt.Errorf("notBefore, notAfter: want a span of at most %s; what is needed longer is a policy", maxOverride)
	case y.MaxUses < 1 || y.MaxUses > maxUses:
		err = fmt.Errorf("maxUses: %d, want 1 to %d on each node", y.MaxUses, maxUses)
	case len(y.Nodes) == 0 || len(y.Nodes) > 256:
		err = errors.New("nodes: want 1 to 256 names or patterns with *")
	case len(y.Verbs) == 0:
		err = errors.New("verbs: want pull, run or both")
	}
	if err != nil {
		return override{}, err
	}
	if o.Digest, err = ref.ParseDigest(y.Digest); err != nil {
		return override{}, fmt.Errorf("digest: %w", err)
	}
	for _, v := range y.Verbs {
		if v != string(policy.VerbPull) && v != string(policy.VerbRun) {
			return override{}, fmt.Errorf("verbs: %.80q, want pull or run; only what is about an image can be overridden", v)
		}
		o.Verbs = append(o.Verbs, policy.Verb(v))
	}
	for i, n := range y.Nodes {
		if !nodePattern.MatchString(n) {
			return override{}, fmt.Errorf("nodes[%d]: %.80q is no name of a node, nor a pattern", i, n)
		}
		re, err := regexp.Compile(`\A` + strings.ReplaceAll(regexp.QuoteMeta(n), `\*`, `.*`) + `\z`)
		if err != nil {
			return override{}, fmt.Errorf("nodes[%d]: %w", i, err)
		}
		o.nodes = append(o.nodes, re)
	}
	return o, nil
}

// overrides reads overrides/<name>.json with the signatures overrides/<name>.<anything>.sigstore.json
// beside it, in the directory that was installed with the node: whoever lays one down is at hand. One that
// does not count is a problem, and no more. A document for other nodes is passed over.
func (t *trust) overrides(root *os.Root, o Options) (out []policy.Override) {
	dir := filepath.Join(o.Root, overridesDir)
	if t.anchor != nil {
		root, dir = t.anchor, filepath.Join(t.at, overridesDir)
	}
	f, err := lying(root, overridesDir, dir)
	problem := func(err error) {
		rule := RuleOf(err)
		if rule == RuleBroken {
			rule = RuleOverride
		}
		t.problems = append(t.problems, Problem{Msg: err.Error(), Rule: rule})
	}
	if err != nil {
		problem(err)
		return nil
	}
	names := documents(f)
	if len(names) > maxOverrides {
		problem(fmt.Errorf("%s: %d overrides, want at most %d; none counts", dir, len(names), maxOverrides))
		return nil
	}
	for _, name := range names {
		v, err := t.override(f, name, o.Signed)
		if err != nil {
			problem(fmt.Errorf("%s: %w", filepath.Join(dir, name), err))
		} else if v != nil {
			out = append(out, *v)
		}
	}
	return out
}

// documents are the names of the overrides among the files of overrides/, sorted.
func documents(f files) (names []string) {
	for name := range f {
		if strings.HasSuffix(name, ".json") && !strings.HasSuffix(name, ".sigstore.json") && !strings.Contains(name, "/") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// override verifies one; nil and no error where it is for other nodes or has ended.
func (t *trust) override(f files, name string, s *Signed) (*policy.Override, error) {
	o, err := parseOverride(f[name])
	if err != nil {
		return nil, err
	}
	if t.root.override == nil {
		return nil, &Refused{RuleDelegation, fmt.Sprintf("root.json (version %d) lets nobody sign overrides", t.root.version)}
	}
	if o.cluster != t.root.cluster {
		return nil, &Refused{RuleDelegation, fmt.Sprintf("it is for cluster %q, this is %q", o.cluster, t.root.cluster)}
	}
	sigs := signatures{digest: o.digest}
	base := strings.TrimSuffix(name, ".json") + "."
	for _, n := range slices.Sorted(maps.Keys(f)) {
		if strings.HasPrefix(n, base) && strings.HasSuffix(n, ".sigstore.json") && len(sigs.bundles) < layout.MaxSignatures {
			sigs.bundles = append(sigs.bundles, f[n])
		}
	}
	if err := t.root.signed(context.Background(), *t.root.override, sigs, t.now); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(o.nodes, func(re *regexp.Regexp) bool { return s.Node != "" && re.MatchString(s.Node) }) || !t.now.Before(o.NotAfter) {
		return nil, nil
	}
	o.Name = strings.TrimSuffix(name, ".json")
	c := count{dir: s.State, id: o.ID, most: o.MaxUses, end: o.NotAfter}
	o.Spend, o.Uses = c.spend, c.uses
	return &o.Override, nil
}

// count keeps how often an override was used on this node.
type count struct {
	dir, id string
	most    int
	end     time.Time
}

// counted is one entry of override-uses.json.
type counted struct {
	Uses int       `json:"uses"`
	End  time.Time `json:"end"` // of the override; kept until then
}

var counting sync.Mutex // serialises changes of override-uses.json; held over a sync

// spend raises the count on disk. A count that cannot be read or written spends nothing.
func (c count) spend() (int, error) {
	counting.Lock()
	defer counting.Unlock()
	all, err := c.read()
	if err != nil {
		return 0, err
	}
	n := all[c.id].Uses + 1
	if n > c.most {
		return n - 1, fmt.Errorf("all %d uses are spent", c.most)
	}
	for id, e := range all {
		if e.End.Add(maxOverride).Before(c.end) { // long over: judged time never goes back
			delete(all, id)
		}
	}
	all[c.id] = counted{Uses: n, End: c.end}
	text, err := json.Marshal(all)
	if err != nil {
		return 0, fmt.Errorf("count override: %w", err)
	}
	if err := durable.WriteFile(filepath.Join(c.dir, usesFile), text, 0o600); err != nil {
		return 0, fmt.Errorf("count override: %w", err)
	}
	return n, nil
}

func (c count) uses() (int, error) {
	counting.Lock()
	defer counting.Unlock()
	all, err := c.read()
	return all[c.id].Uses, err
}

func (c count) read() (map[string]counted, error) {
	if c.dir == "" {
		return nil, errors.New("count override: there is nowhere to keep the count")
	}
	text, err := os.ReadFile(filepath.Join(c.dir, usesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]counted{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("count override: %w", cause(err))
	}
	all := map[string]counted{}
	if err := json.Unmarshal(text, &all); err != nil || all == nil {
		return nil, fmt.Errorf("count override: read %s: it is broken; restore it, or no override counts", usesFile)
	}
	return all, nil
}
