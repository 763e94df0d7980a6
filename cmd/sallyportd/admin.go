package main

import (
	"strings"

	"sallyport/internal/admin"
	"sallyport/internal/admin/wire"
	"sallyport/internal/cri"
	"sallyport/internal/inspect"
	"sallyport/internal/rejudge"
	"sallyport/policy"
)

// openAdmin wires the re-judging of what runs, and the operator's door.
func (d *daemon) openAdmin(server *cri.Server) (*admin.Server, error) {
	judge, err := rejudge.New(rejudge.Options{Gate: d.gate, Pods: d.pods, Request: server.Again, Every: d.c.Policy.Rejudge, Log: d.log})
	if err != nil {
		return nil, err
	}
	d.judge = judge
	show, err := inspect.New(inspect.Options{Pods: d.pods, Freeze: server.Freeze, Config: d.c.Text(), Metrics: d.figures,
		Info:       inspect.Info{StorageDriver: "overlay", StorageRoot: d.c.ImageRoot(), CgroupDriver: d.c.Runtime.Cgroups, Version: version},
		Goroutines: d.c.Inspect.Goroutines, Heap: d.c.Inspect.Heap, Log: d.log})
	if err != nil {
		return nil, err
	}
	return admin.New(admin.Options{Gate: d.gate, Images: d.images, Pods: d.pods, Judge: judge, Policy: d.policyStatus, Test: d.test, Inspect: show, Log: d.log})
}

// trouble is what is wrong with policy now, on one line: its files, or that re-judging halted.
func (d *daemon) trouble() string {
	var parts []string
	if p := d.policy.trouble(); p != "" {
		parts = append(parts, p)
	}
	if h := d.judge.State().Halted; h != "" {
		parts = append(parts, h)
	}
	return strings.Join(parts, "; ")
}

// policyStatus shows what policy is in force, layer by layer, and what is wrong with the files.
func (d *daemon) policyStatus() wire.Policy {
	p := d.policy
	p.mu.Lock()
	set, loaded, problem := p.set, p.loaded, p.problem
	p.mu.Unlock()
	out := wire.Policy{Source: d.c.Policy.Source, Dir: d.c.Policy.Dir, Loaded: loaded, Layers: []wire.Layer{}, Problems: []wire.Problem{}}
	if set == nil {
		if problem != "" {
			out.Problems = append(out.Problems, wire.Problem{Layer: "node", Msg: problem})
		}
		return out
	}
	out.Hash = set.Hash()
	kept := map[string]bool{}
	for _, found := range set.Problems() {
		h := problemHit(found)
		kept[h.Layer] = kept[h.Layer] || found.Kept
		out.Problems = append(out.Problems, wire.Problem{Layer: h.Layer, Rule: h.Rule, Msg: found.Msg, Kept: found.Kept})
	}
	if len(out.Problems) == 0 && problem != "" { // the files as a whole were refused after set was installed
		kept["node"] = true
		out.Problems = append(out.Problems, wire.Problem{Layer: "node", Msg: problem, Kept: true})
	}
	add := func(l *policy.Layer) {
		if l != nil {
			out.Layers = append(out.Layers, wire.Layer{Name: l.Name, Revision: l.Revision, Mode: modeName(l.Mode), Hash: l.Hash,
				NotAfter: l.NotAfter, Kept: kept[l.Name], Shadow: strings.HasPrefix(l.Name, "shadow ")})
		}
	}
	add(set.Node())
	for _, name := range set.Namespaces() {
		if l, refused := set.For(name); refused == nil {
			add(l)
		}
	}
	for _, name := range set.Shadows() {
		for _, l := range set.Shadow(strings.TrimPrefix(name, "shadow namespace ")) {
			if l.Name == name {
				add(l)
			}
		}
	}
	for _, o := range set.Overrides() {
		uses, err := o.Uses()
		if err != nil {
			uses = -1
		}
		w := wire.Override{Name: o.Name, ID: o.ID, Ticket: o.Ticket, Reason: o.Reason, Namespace: o.Namespace, Digest: o.Digest.String(),
			Rules: o.Rules, NotBefore: o.NotBefore, NotAfter: o.NotAfter, Uses: uses, MaxUses: o.MaxUses}
		for _, v := range o.Verbs {
			w.Verbs = append(w.Verbs, string(v))
		}
		out.Overrides = append(out.Overrides, w)
	}
	return out
}

func modeName(m policy.Mode) string {
	if m == "" {
		return string(policy.Enforce)
	}
	return string(m)
}
