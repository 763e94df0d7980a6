package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"sallyport/audit"
	"sallyport/enforce"
	"sallyport/policy"
	"sallyport/policy/bundle"
)

// policySource reads the policy directory and installs what it finds in the gate. It may be used
// concurrently.
type policySource struct {
	dir     string        // constant
	scratch string        // constant; short-lived files of policy.json evaluation
	gate    *enforce.Gate // constant
	log     *slog.Logger  // constant

	mu      sync.Mutex  // guards the fields; held over a reload, so that two cannot cross
	set     *bundle.Set // guarded by mu; in force
	problem string      // guarded by mu; what is wrong with the files, one line
}

// reload reads the policy and installs it whole. What is broken never replaces what is in force: the
// last good policy goes on judging, or, if there never was one, everything is denied. Both are recorded.
func (p *policySource) reload(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	set, err := bundle.Read(bundle.Options{Root: p.dir, Scratch: p.scratch, Prev: p.set})
	if err != nil {
		p.problem = err.Error()
		p.log.Error("policy refused", "err", err)
		if p.set == nil { // never a good one: the denial is to name the file, not to ask for a policy
			broken := enforce.Hit{Layer: "node", Rule: "policy-broken", Msg: err.Error()}
			if err := p.gate.Install(ctx, enforce.Policies{For: func(string) (*policy.Layer, *policy.Hit) { return nil, &broken }}); err != nil {
				return fmt.Errorf("install policy: %w", err)
			}
		}
		return p.gate.Record(ctx, audit.Event{Type: "policy", Outcome: "refused",
			Hits: []audit.Hit{{Layer: "node", Rule: "policy-broken", Msg: err.Error()}}})
	}
	if err := p.gate.Install(ctx, enforce.Policies{Node: set.Node(), For: set.For}); err != nil {
		return fmt.Errorf("install policy: %w", err)
	}
	p.set, p.problem = set, ""
	var faults []string
	var errs []error
	for _, problem := range set.Problems() {
		faults = append(faults, problem.String())
		p.log.Warn("policy problem", "problem", problem.String())
		errs = append(errs, p.gate.Record(ctx, audit.Event{Type: "policy", Outcome: "refused", Namespace: problem.Namespace,
			Hits: []audit.Hit{{Layer: "namespace " + problem.Namespace, Rule: "policy-broken", Msg: problem.String()}}}))
	}
	p.problem = strings.Join(faults, "; ")
	if set.Node() == nil {
		p.log.Warn("no policy is installed: everything is denied", "install", p.dir+"/node")
	} else {
		p.log.Info("policy installed", "node", set.Node().Hash, "namespaces", len(set.Namespaces()), "hash", set.Hash())
	}
	return errors.Join(errs...)
}

// trouble is what is wrong with the policy files now, on one line; "" for nothing.
func (p *policySource) trouble() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.problem
}
