package enforce

import (
	"strings"
	"sync"
	"time"

	"sallyport/policy"
	"sallyport/policy/baseline"
)

// State is what the gate says of itself, for Status and metrics.
type State struct {
	Installed bool              // a node policy is installed
	NodeHash  string            // its content hash
	Source    string            // where policy comes from
	AuditErr  error             // last failure to record
	Overrides string            // break-glass documents in force now, one line; "" for none
	Decisions map[string]uint64 // "<verb> allow" and "<verb> deny"
	Shadow    map[string]uint64 // "<verb> would-deny" and "<verb> would-admit": where mode shadow differs
	Denials   map[string]uint64 // "<verb> <rule>": by the first rule that denied
	Revision  uint64            // of the node policy
	NotAfter  time.Time         // end of the node policy; zero: none
}

// State is a snapshot.
func (g *Gate) State() State {
	s := State{Source: g.source, AuditErr: g.AuditError(), Decisions: g.counts.copy(), Shadow: g.shadows.copy(), Denials: g.denied.copy()}
	now, _ := g.now()
	s.Overrides = activeOverrides(g.policies.Load().Overrides, now)
	if n := g.policies.Load().Node; n != nil {
		s.Installed, s.NodeHash, s.Revision, s.NotAfter = true, n.Hash, n.Revision, n.NotAfter
	}
	return s
}

type counters struct {
	mu sync.Mutex
	n  map[string]uint64 // guarded by mu
}

func (c *counters) add(verb policy.Verb, outcome string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]uint64{}
	}
	key := string(verb) + " " + outcome
	if _, known := c.n[key]; !known && len(c.n) >= maxCounters {
		key = string(verb) + " other"
	}
	c.n[key]++
}

// maxCounters bounds what one kind of counter holds: rules come and go with policies.
const maxCounters = 256

// counted is the name under which a denial is counted. A namespace's own rules are one, since its owner
// names them.
func counted(hits []policy.Hit) string {
	switch {
	case len(hits) == 0:
		return "none"
	case strings.HasPrefix(hits[0].Layer, "namespace "):
		return "namespace-policy"
	}
	return hits[0].Rule
}

func (c *counters) copy() map[string]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := make(map[string]uint64, len(c.n))
	for k, v := range c.n {
		m[k] = v
	}
	return m
}

func podFacts(p Pod) baseline.PodFacts {
	return baseline.PodFacts{HostNetwork: p.HostNetwork, HostPID: p.HostPID, HostIPC: p.HostIPC,
		HostUsers: !p.UserNamespace, UIDs: baselineMappings(p.UIDs), GIDs: baselineMappings(p.GIDs), Privileged: p.Privileged, Sysctls: p.Sysctls}
}

func baselineMappings(in []policy.IDMapping) (out []baseline.IDMapping) {
	for _, m := range in {
		out = append(out, baseline.IDMapping(m))
	}
	return out
}

func baselineMounts(in []Mount) (out []baseline.Mount) {
	for _, m := range in {
		out = append(out, baseline.Mount(m))
	}
	return out
}
