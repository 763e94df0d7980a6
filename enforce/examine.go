package enforce

import (
	"context"
	"fmt"
	"slices"
	"time"

	"sallyport/policy"
	"sallyport/policy/baseline"
)

// Opinion is what the gate would say of an act. It admits nothing: no admission can be made of it.
type Opinion struct {
	Allowed  bool
	Seq      uint64 // audit record of the question; 0 where none was written
	Override string // that would let it pass, "name (ticket T) until TIME"; Allowed is false then
	Parts    []Part // by layer, in the order in which they spoke
}

// Part is one layer's part of an opinion. "gate" and "floor" are layers too.
type Part struct {
	Layer    string
	Hash     string // of the policy
	Allowed  bool
	Rules    []string // that are about the image
	Hits     []Hit    // that deny
	Warnings []Hit
	Used     []string // signers and attestations by which it passed
	Found    []string // everything that was proved to this layer
	Reasons  []string // why other evidence proved nothing
	Until    time.Time
	// Aged says that the layer denies only because time has passed since the evidence was fetched, or
	// because of a fault: nothing that was admitted is taken back for it.
	Aged bool
	// Rejudge is what the layer does about a container that runs and is denied; the floor's is the node's.
	Rejudge policy.Rejudge
}

// Hits are the objections of all parts that deny.
func (o Opinion) Hits() (hits []Hit) {
	for _, p := range o.Parts {
		hits = append(hits, p.Hits...)
	}
	return hits
}

// ExaminePull judges an image as AdmitPull does, and admits nothing. The question is recorded as type
// "verify", so that who asked for what can be read; without a record there is no answer.
func (g *Gate) ExaminePull(ctx context.Context, r PullRequest) (Opinion, error) {
	j := g.judgement(policy.VerbPull, r.Namespace)
	j.act.Image = &r.Image
	j.image(ctx, r.Evidence)
	out := j.opinion()
	ev := j.event()
	ev.Type, ev.Outcome = "verify", "would-deny"
	if out.Allowed {
		ev.Outcome = "would-allow"
	}
	receipt, err := g.append(ctx, ev, nil)
	if err != nil {
		return Opinion{}, err
	}
	out.Seq = receipt.Seq()
	return out, nil
}

// ExamineRun judges a container that runs as AdmitRun would judge it now, and admits and records nothing.
func (g *Gate) ExamineRun(ctx context.Context, r RunRequest) Opinion {
	j := g.judgement(policy.VerbRun, r.Pod.Namespace)
	j.act.Image, j.act.Pod, j.act.Container, j.podID = &r.Image, &r.Pod, &r.Container, r.PodID
	j.refuse(r.Refusals)
	j.spec(r.Spec, j.gate.runFacts(r))
	j.image(ctx, r.Evidence)
	out := []Opinion{j.examined(ctx, r)}
	for _, v := range r.Volumes {
		jv := g.judgement(policy.VerbRun, r.Pod.Namespace)
		jv.act.Image, jv.act.Pod, jv.act.Container, jv.act.Spec = &v.Image, &r.Pod, &r.Container, j.act.Spec
		jv.act.Volume = r.Resolved[v.Mount].Destination
		jv.refuse(v.Refusals)
		jv.image(ctx, v.Evidence)
		out = append(out, jv.examined(ctx, RunRequest{Image: v.Image, Evidence: v.Evidence}))
	}
	return together(out)
}

// examined is the opinion of an image, with what its layers do about a container that runs.
func (j *judgement) examined(ctx context.Context, r RunRequest) Opinion {
	out := j.opinion()
	for i := range out.Parts {
		if p := &out.Parts[i]; !p.Allowed {
			p.Aged = j.aged(ctx, p.Layer, r)
			j.rejudge(p)
		}
	}
	return out
}

// together is one opinion of a container's image, the first, and of its volumes. An override covers what
// it is about and no other image: one is named only where everything that is denied has one. What is
// covered stops nothing beside what is not.
func together(all []Opinion) Opinion {
	out := Opinion{Allowed: true}
	bare := slices.ContainsFunc(all, func(o Opinion) bool { return !o.Allowed && o.Override == "" })
	for i, o := range all {
		out.Allowed = out.Allowed && o.Allowed
		if out.Override == "" && !bare {
			out.Override = o.Override
		}
		for _, p := range o.Parts {
			if bare && o.Override != "" {
				p.Rejudge = policy.Rejudge{}
			}
			if i == 0 || !p.Allowed {
				out.Parts = append(out.Parts, p)
			}
		}
	}
	return out
}

func (g *Gate) runFacts(r RunRequest) baseline.Facts {
	return baseline.Facts{
		ID: r.Container.ID, Privileged: r.Container.Privileged, Pod: podFacts(r.Pod), PodUID: r.Pod.UID,
		KubeletDir: g.kubelet, Mounts: baselineMounts(r.Resolved), ControlPaths: g.control,
		Devices: r.Devices, CDI: r.CDI, Hooks: r.Hooks,
	}
}

// opinion joins what was judged, layer by layer.
func (j *judgement) opinion() Opinion {
	j.decision = policy.Decide(j.act, j.judged...)
	out := Opinion{Allowed: j.decision.Allowed()}
	if o, ok := j.excused(); ok && !out.Allowed && !j.stepped {
		out.Override = fmt.Sprintf("%s (ticket %s) until %s", o.Name, o.Ticket, o.NotAfter.UTC().Format(time.RFC3339))
	}
	for _, v := range j.judged {
		i := slices.IndexFunc(out.Parts, func(p Part) bool { return p.Layer == v.Layer() })
		if i < 0 {
			i = len(out.Parts)
			out.Parts = append(out.Parts, Part{Layer: v.Layer(), Allowed: true})
		}
		p := &out.Parts[i]
		p.Allowed = p.Allowed && v.Allowed()
		if v.Hash() != "" {
			p.Hash = v.Hash()
		}
		if !v.Allowed() {
			p.Hits = append(p.Hits, v.Hits()...)
		}
		p.Rules = append(p.Rules, v.Rules()...)
		p.Warnings = append(p.Warnings, v.Warnings()...)
		p.Reasons = append(p.Reasons, v.Reasons()...)
		for _, c := range v.Used() {
			p.Used = append(p.Used, identity(c))
		}
		for _, c := range v.Claims() {
			p.Found = append(p.Found, identity(c))
		}
		if u := v.Until(); !u.IsZero() && (p.Until.IsZero() || u.Before(p.Until)) {
			p.Until = u
		}
	}
	return out
}

// aged reports whether the layer of that name would have admitted the image when its evidence was
// fetched, by the rules of today: then time alone speaks against it. A fault is no judgement either. What
// is revoked is never merely aged, nor is what the floor refuses.
func (j *judgement) aged(ctx context.Context, name string, r RunRequest) bool {
	switch {
	case name == "floor" || j.says(name, "revoked"):
		return false
	case name == "gate":
		return !j.says(name, "digest-mismatch")
	case !slices.ContainsFunc(j.judged, func(v policy.Verdict) bool { return v.Layer() == name && !v.Allowed() && !v.Transient() }):
		return true
	}
	for _, layer := range j.layers.list() {
		if layer == nil || layer.Name != name || r.Evidence.Fetched.IsZero() {
			continue
		}
		then, act := *layer, j.act
		then.Revocations = nil // the list may be younger than the evidence, and has spoken
		act.Now = r.Evidence.Fetched
		v := then.JudgeImage(ctx, r.Image, r.Evidence, act.Now)
		return v.Allowed() && then.JudgeAct(ctx, act, v.Claims()).Allowed()
	}
	return false
}

// rejudge says what p's layer does about running containers; those of the gate and of the floor are the
// node's affair.
func (j *judgement) rejudge(p *Part) {
	for _, layer := range j.layers.list() {
		if layer != nil && (layer.Name == p.Layer || layer == j.layers.node && (p.Layer == "floor" || p.Layer == "gate")) {
			p.Rejudge, p.Hash = layer.Rejudge, layer.Hash
			return
		}
	}
}

// says reports whether the layer objects by that rule.
func (j *judgement) says(layer, rule string) bool {
	for _, v := range j.judged {
		if v.Layer() == layer && slices.ContainsFunc(v.Hits(), func(h Hit) bool { return h.Rule == rule }) {
			return true
		}
	}
	return false
}
