// Package trial tries cases on a policy: files of a policy directory, an act and the wanted decision, in
// one txtar archive. It loads and judges with the code that the gate judges with. Cases may state claims
// as though they had been verified, so no room that judges may import it, and
// nothing but an error leaves it (security.TestStatedClaimsStayInTheirCases).
package trial

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/tools/txtar"

	"sallyport/image/ref"
	"sallyport/policy"
	"sallyport/policy/baseline"
	"sallyport/policy/bundle"
	"sallyport/policy/internal/claim"
	"sallyport/policy/internal/strict"
)

// The form of request.yaml and want.yaml.
type (
	requestYAML struct {
		Verb      string            `yaml:"verb"`      // "" is run
		Namespace string            `yaml:"namespace"` // "" only for a pull without one
		Time      time.Time         `yaml:"time"`      // judged time; "" is now
		Image     string            `yaml:"image"`
		Claims    []claimYAML       `yaml:"claims"`
		Pod       policyPod         `yaml:"pod"`
		Container string            `yaml:"container"`
		Command   []string          `yaml:"command"` // of an exec
		Labels    map[string]string `yaml:"labels"`  // of the pod
	}
	policyPod struct {
		Name        string            `yaml:"name"`
		HostNetwork bool              `yaml:"hostNetwork"`
		HostPID     bool              `yaml:"hostPID"`
		HostIPC     bool              `yaml:"hostIPC"`
		Privileged  bool              `yaml:"privileged"`
		Sysctls     map[string]string `yaml:"sysctls"`
	}
	claimYAML struct {
		Issuer        string            `yaml:"issuer"`
		Subject       string            `yaml:"subject"`
		Key           string            `yaml:"key"` // a file of the case with the public key
		Root          string            `yaml:"root"`
		Of            string            `yaml:"of"` // index or instance; "" is instance
		Signed        time.Time         `yaml:"signed"`
		Unlogged      bool              `yaml:"unlogged"`
		PredicateType string            `yaml:"predicateType"`
		Predicate     string            `yaml:"predicate"` // a file of the case
		Extensions    map[string]string `yaml:"extensions"`
	}
	wantYAML struct {
		Decision string `yaml:"decision"` // allow or deny
		Layer    string `yaml:"layer"`
		Rule     string `yaml:"rule"`
		Message  string `yaml:"message"` // part of the rule's message
		Warns    string `yaml:"warns"`   // a rule that warns
	}
)

// Run tries one case. Where its archive has no node/bundle.yaml, the policy is that of dir. An error says
// what is wrong with the case, or how the decision differs from the wanted one.
func Run(ctx context.Context, archive []byte, dir string) error {
	c, err := parse(archive)
	if err != nil {
		return err
	}
	set, err := c.load(dir)
	if err != nil {
		return err
	}
	d, err := c.decide(ctx, set)
	if err != nil {
		return err
	}
	return c.compare(d)
}

func parse(archive []byte) (*trialCase, error) {
	c := &trialCase{files: map[string][]byte{}}
	for _, f := range txtar.Parse(archive).Files {
		if !filepath.IsLocal(f.Name) || c.files[f.Name] != nil {
			return nil, fmt.Errorf("read case: file %q stands twice or leads outside", f.Name)
		}
		c.files[f.Name] = f.Data
	}
	for name, into := range map[string]any{"request.yaml": &c.request, "want.yaml": &c.want} {
		if c.files[name] == nil {
			return nil, fmt.Errorf("read case: %s: missing", name)
		}
		if err := strict.Decode(c.files[name], into); err != nil {
			return nil, fmt.Errorf("read case: %s: %w", name, err)
		}
	}
	if d := c.want.Decision; d != "allow" && d != "deny" || d == "deny" && c.want.Rule == "" || d == "allow" && c.want.Rule != "" {
		return nil, errors.New("read case: want.yaml: give decision allow, or deny with the rule that denies")
	}
	return c, nil
}

type trialCase struct {
	files   map[string][]byte
	request requestYAML
	want    wantYAML
}

// load makes a policy directory of the case's files and reads it as the daemon does.
func (c *trialCase) load(dir string) (*bundle.Set, error) {
	if c.files["node/bundle.yaml"] == nil {
		if dir == "" {
			return nil, errors.New("read case: node/bundle.yaml: missing, and there is no policy beside the cases")
		}
		return c.whole(bundle.Load(dir))
	}
	tmp, err := os.MkdirTemp("", "sallyport-trial-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	for name, data := range c.files {
		if !strings.HasPrefix(name, "node/") && !strings.HasPrefix(name, "namespaces/") {
			continue
		}
		at := filepath.Join(tmp, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
			return nil, err
		}
		if err := os.WriteFile(at, data, 0o600); err != nil {
			return nil, err
		}
	}
	return c.whole(bundle.Load(tmp))
}

func (c *trialCase) whole(set *bundle.Set, err error) (*bundle.Set, error) {
	if err != nil {
		return nil, fmt.Errorf("load policy: %w", err)
	}
	if p := set.Problems(); len(p) > 0 {
		return nil, fmt.Errorf("load policy: %s", p[0])
	}
	return set, nil
}

// decide asks the layers as the gate does: each alone, joined by policy.Decide.
func (c *trialCase) decide(ctx context.Context, set *bundle.Set) (policy.Decision, error) {
	act, claims, err := c.facts()
	if err != nil {
		return policy.Decision{}, err
	}
	var judged []policy.Verdict
	layers := []*policy.Layer{set.Node()}
	if act.Namespace != "" {
		l, refused := set.For(act.Namespace)
		if refused != nil {
			judged = append(judged, policy.Refusal(refused.Layer, refused.Rule, refused.Msg))
		}
		if l != nil {
			layers = append(layers, l)
		}
	} else if act.Verb != policy.VerbPull {
		return policy.Decision{}, errors.New("read case: request.yaml: namespace: missing; only a pull may have none")
	}
	if act.Pod != nil {
		for _, v := range baseline.CheckPod(podFacts(act.Pod), set.Floor(act.Namespace)) {
			judged = append(judged, policy.Refusal("floor", v.ID+" "+v.Name, v.Msg))
		}
	}
	for _, l := range layers {
		judged = append(judged, judge(ctx, l, act, claims)...)
	}
	return policy.Decide(act, judged...), nil
}

// judge asks one layer.
func judge(ctx context.Context, l *policy.Layer, act policy.Act, claims []policy.Claim) (judged []policy.Verdict) {
	var proved []policy.Claim
	if act.Image != nil {
		v := stated(l, claims).JudgeImage(ctx, *act.Image, policy.Evidence{TopManifest: top, InstanceManifest: manifest, Complete: true}, act.Now)
		judged, proved = append(judged, v), v.Claims()
	}
	return append(judged, l.JudgeAct(ctx, act, proved))
}

func (c *trialCase) facts() (policy.Act, []policy.Claim, error) {
	act, err := c.act()
	if err != nil {
		return act, nil, err
	}
	claims, err := c.claims(act)
	return act, claims, err
}

// The manifests of every case's image.
var (
	manifest = []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}`)
	top      = fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"digest":%q}]}`, ref.DigestOf(manifest))
)

func (c *trialCase) act() (policy.Act, error) {
	r := c.request
	act := policy.Act{Verb: policy.Verb(r.Verb), Now: r.Time, Namespace: r.Namespace,
		Pod: &policy.Pod{Namespace: r.Namespace, Name: r.Pod.Name, HostNetwork: r.Pod.HostNetwork, HostPID: r.Pod.HostPID, HostIPC: r.Pod.HostIPC,
			Privileged: r.Pod.Privileged, Sysctls: r.Pod.Sysctls, Labels: r.Labels}}
	if r.Verb == "" {
		act.Verb = policy.VerbRun
	}
	if act.Now.IsZero() {
		act.Now = time.Now()
	}
	switch act.Verb {
	case policy.VerbPull, policy.VerbRun:
		name, err := ref.Parse(r.Image)
		if err != nil {
			return act, fmt.Errorf("read case: request.yaml: image: %w", err)
		}
		act.Image = &policy.Image{Name: name, Top: ref.DigestOf(top), Instance: ref.DigestOf(manifest), ID: ref.DigestOf([]byte("config")), OS: "linux", Arch: "amd64"}
	case policy.VerbExec:
		act.Exec = &policy.Exec{Argv: r.Command}
	case policy.VerbPod:
	default:
		return act, fmt.Errorf("read case: request.yaml: verb: %q; want pull, pod, run or exec", r.Verb)
	}
	if act.Verb == policy.VerbRun || act.Verb == policy.VerbExec {
		act.Container = &policy.Container{Name: r.Container, Privileged: r.Pod.Privileged}
	}
	if act.Verb == policy.VerbPull {
		act.Pod = nil
	}
	return act, nil
}

func (c *trialCase) claims(act policy.Act) (out []policy.Claim, err error) {
	for i, y := range c.request.Claims {
		f := claim.Fields{Kind: "keyless", Issuer: y.Issuer, SAN: y.Subject, Root: y.Root, Subject: ref.DigestOf(manifest), Signed: y.Signed,
			PredicateType: y.PredicateType, Extensions: y.Extensions, Logged: 1, Timestamped: 1, SCTs: 1}
		if y.Key != "" {
			k, err := policy.ParseKey(c.files[y.Key])
			if err != nil {
				return nil, fmt.Errorf("read case: request.yaml: claims[%d].key: %q: %w", i, y.Key, err)
			}
			f.Kind, f.KeyID, f.SCTs, f.Logged, f.Timestamped = "key", k.ID, 0, 0, 0
		} else if f.Signed.IsZero() {
			f.Signed = act.Now
		}
		if y.Unlogged {
			f.Logged = 0
		}
		if y.Of == "index" {
			f.Subject = ref.DigestOf(top)
		} else if y.Of != "" && y.Of != "instance" {
			return nil, fmt.Errorf("read case: request.yaml: claims[%d].of: %q; want index or instance", i, y.Of)
		}
		if y.Predicate != "" {
			if f.Predicate = c.files[y.Predicate]; !json.Valid(f.Predicate) {
				return nil, fmt.Errorf("read case: request.yaml: claims[%d].predicate: %q is no file of the case that holds JSON", i, y.Predicate)
			}
		}
		out = append(out, claim.New(f))
	}
	return out, nil
}

// stated is l with the claims taken as proved. A layer that has neither roots nor keys proves nothing.
func stated(l *policy.Layer, claims []policy.Claim) *policy.Layer {
	if l == nil || l.Verifier == nil {
		return l
	}
	c := *l
	c.Verifier = given(claims)
	return &c
}

type given []policy.Claim

func (g given) Verify(context.Context, policy.Image, policy.Evidence, time.Time) ([]policy.Claim, []string, error) {
	return g, nil, nil
}

func podFacts(p *policy.Pod) baseline.PodFacts {
	return baseline.PodFacts{HostNetwork: p.HostNetwork, HostPID: p.HostPID, HostIPC: p.HostIPC, HostUsers: true, Privileged: p.Privileged, Sysctls: p.Sysctls}
}

// compare says how a decision differs from the wanted one.
func (c *trialCase) compare(d policy.Decision) error {
	w, hits := c.want, d.Hits()
	if w.Decision == "allow" && !d.Allowed() {
		return fmt.Errorf("denied by %s, rule %q: %s; want allow", hits[0].Layer, hits[0].Rule, hits[0].Msg)
	}
	if w.Decision == "deny" {
		if d.Allowed() {
			return fmt.Errorf("allowed; want a denial by rule %q", w.Rule)
		}
		if !found(hits, w) {
			return fmt.Errorf("denied by %s, rule %q: %s; want rule %q of layer %q with %q", hits[0].Layer, hits[0].Rule, hits[0].Msg, w.Rule, w.Layer, w.Message)
		}
	}
	if w.Warns == "" {
		return nil
	}
	for _, v := range d.Verdicts() {
		if found(v.Warnings(), wantYAML{Rule: w.Warns}) {
			return nil
		}
	}
	return fmt.Errorf("no warning by rule %q", w.Warns)
}

func found(hits []policy.Hit, w wantYAML) bool {
	for _, h := range hits {
		if h.Rule == w.Rule && (w.Layer == "" || h.Layer == w.Layer) && strings.Contains(h.Msg, w.Message) {
			return true
		}
	}
	return false
}
