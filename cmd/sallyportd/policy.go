package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"sallyport/audit"
	"sallyport/enforce"
	"sallyport/image/artifact"
	"sallyport/image/ref"
	"sallyport/internal/config"
	"sallyport/policy"
	"sallyport/policy/bundle"
	"sallyport/policy/bundle/fetch"
	"sallyport/policy/rego"
	"sallyport/policy/trial"
)

// policySource reads the policy directory and installs what it finds in the gate. It may be used
// concurrently.
type policySource struct {
	dir     string           // constant
	state   string           // constant; persistent memory of signed policy, "" where it is unsigned
	scratch string           // constant; short-lived files of policy.json evaluation
	node    string           // constant; this node's name
	latest  func() time.Time // constant; the latest time that was recorded
	gate    *enforce.Gate    // constant
	log     *slog.Logger     // constant
	// confine compiles the rules of namespaces in their own process; nil: in this one. Constant.
	confine func(namespace string, o rego.Options) (policy.ActRule, error)
	later   func(namespace string, o rego.Options) (policy.ActRule, error) // likewise, at first use; constant

	stage    string          // constant; where policy from a registry is laid out, "" where none is brought
	registry *fetch.Registry // constant; nil where none is brought

	mu      sync.Mutex  // guards the fields; held over a reload, so that two cannot cross
	set     *bundle.Set // guarded by mu; in force
	loaded  time.Time   // guarded by mu; when set was installed
	problem string      // guarded by mu; what is wrong with the files, one line
	faults  []string    // guarded by mu; what set's problems were, each recorded once
	read    fetch.State // guarded by mu; the directory before it was read last
}

// compareEvery is how often the policy directory is compared with what was read, whatever inotify says.
const compareEvery = 30 * time.Second

// Run reads the policy again whenever its directory changes, until ctx ends.
func (p *policySource) Run(ctx context.Context) error {
	p.mu.Lock()
	since := p.read
	p.mu.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return fetch.Dir{Path: p.dir, Poll: compareEvery, Log: p.log, Since: since}.Run(ctx, p.again)
	})
	if p.registry != nil {
		g.Go(func() error { return p.registry.Run(ctx, p.deliver) })
	}
	return g.Wait()
}

// deliver stages what a registry brought and reads the policy anew. It is refused only where it cannot
// be staged or recorded: what is wrong with it the problems say, and bringing it again would not help.
func (p *policySource) deliver(ctx context.Context, d fetch.Delivery) error {
	p.mu.Lock()
	err := fetch.Stage(p.stage, d)
	p.mu.Unlock()
	if err != nil {
		return err
	}
	return p.reload(ctx)
}

// again is reload where nobody waits for the answer.
func (p *policySource) again(ctx context.Context) {
	if err := p.reload(ctx); err != nil {
		p.log.Error("reload policy", "err", err)
	}
}

// reload reads the policy and installs it whole. What is broken never replaces what is in force: the
// last good policy goes on judging, or, if there never was one, everything is denied. Both are recorded,
// once: reading the same again changes and records nothing. Acts that are being judged go on under the
// policy that they began with; one that was admitted by a policy that changed has to ask once more.
func (p *policySource) reload(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.read = fetch.StateOf(p.dir)
	set, err := bundle.Read(p.options())
	if err != nil {
		again := p.problem == err.Error()
		p.problem, p.faults = err.Error(), nil
		p.log.Error("policy refused", "err", err)
		if p.withdrawn(err) {
			p.set = nil
		}
		if p.set == nil { // never a good one: the denial is to name the file, not to ask for a policy
			broken := enforce.Hit{Layer: "node", Rule: bundle.RuleOf(err), Msg: err.Error()}
			if err := p.gate.Install(ctx, enforce.Policies{For: func(string) (*policy.Layer, *policy.Hit) { return nil, &broken }}); err != nil {
				return fmt.Errorf("install policy: %w", err)
			}
		}
		if again {
			return nil
		}
		return p.gate.Record(ctx, audit.Event{Type: "policy", Outcome: "refused",
			Hits: []audit.Hit{{Layer: "node", Rule: bundle.RuleOf(err), Msg: err.Error()}}})
	}
	same := p.set != nil && p.set.Hash() == set.Hash()
	if !same {
		probe, err := set.Probe()
		if err == nil {
			err = p.gate.Install(ctx, enforce.Policies{Node: set.Node(), For: set.For, Shadow: set.Shadow, Probe: probe, Overrides: set.Overrides()})
		}
		if err != nil {
			return fmt.Errorf("install policy: %w", err)
		}
		p.loaded = time.Now()
	}
	before := p.faults
	p.set, p.faults = set, nil
	var errs []error
	for _, problem := range set.Problems() {
		p.faults = append(p.faults, problem.String())
		if slices.Contains(before, problem.String()) {
			continue
		}
		p.log.Warn("policy problem", "problem", problem.String())
		errs = append(errs, p.gate.Record(ctx, audit.Event{Type: "policy", Outcome: "refused", Namespace: problem.Namespace,
			Hits: []audit.Hit{problemHit(problem)}}))
	}
	p.problem = strings.Join(p.faults, "; ")
	if same {
		return errors.Join(errs...)
	}
	if set.Node() == nil {
		p.log.Warn("no policy is installed: everything is denied", "install", p.dir+"/node")
	} else {
		p.log.Info("policy installed", "node", set.Node().Hash, "namespaces", len(set.Namespaces()), "hash", set.Hash())
	}
	return errors.Join(errs...)
}

// options say what to read and under what trust. Policy source "signed" has a state directory.
func (p *policySource) options() bundle.Options {
	o := bundle.Options{Root: p.dir, Scratch: p.scratch, Prev: p.set, Try: trial.Own, Confine: p.confine, Later: p.later}
	if p.state != "" {
		o.Signed = &bundle.Signed{State: p.state, Now: later(time.Now(), p.latest()), Node: p.node}
		if p.stage != "" {
			o.Root, o.Signed.Anchor = p.stage, p.dir
		}
	}
	return o
}

// withdrawn reports whether the node policy in force lost its signers: reading signed policy falls back to
// the last good one by itself, so that a refusal by name says that this does not count any more either.
func (p *policySource) withdrawn(err error) bool {
	return p.state != "" && bundle.RuleOf(err) != bundle.RuleBroken
}

// later is the judged time: the clock may have been set back behind what was recorded.
func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func problemHit(p bundle.Problem) audit.Hit {
	h := audit.Hit{Layer: "node", Rule: p.Rule, Msg: p.String()}
	if p.Namespace != "" {
		h.Layer = "namespace " + p.Namespace
	}
	if h.Rule == "" {
		h.Rule = bundle.RuleBroken
	}
	return h
}

// trouble is what is wrong with the policy files now, on one line; "" for nothing.
func (p *policySource) trouble() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.registry != nil {
		if t := p.registry.Trouble(); t != "" {
			return strings.TrimPrefix(p.problem+"; "+t, "; ")
		}
	}
	return p.problem
}

// brought makes the source that brings policy from a registry; nil where the configuration names none.
func brought(c config.Config, log *slog.Logger) (*fetch.Registry, error) {
	if c.Policy.Repository == "" {
		return nil, nil
	}
	name, err := ref.Parse(c.Policy.Repository)
	if err != nil {
		return nil, fmt.Errorf("policy.repository: %w", err)
	}
	src, err := artifact.New(artifact.Options{RegistriesConf: existing(c.Image.RegistriesConf), AuthFile: existing(c.Image.AuthFile)})
	if err != nil {
		return nil, fmt.Errorf("policy.repository: %w", err)
	}
	return &fetch.Registry{Name: name, Poll: c.Policy.Poll, Source: src, Log: log}, nil
}
