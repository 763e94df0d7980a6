package enforce

import (
	"context"
	"fmt"
	"strings"
	"time"

	"sallyport/policy"
)

// shadowLimit bounds what policies on trial may take of one act; past it they are recorded as failing.
const shadowLimit = time.Second

// compare judges the act by the policies on trial and notes where they differ from what was decided.
// The decision is made already, and nothing here can reach it.
func (j *judgement) compare(ctx context.Context) {
	allowed := j.decision.Allowed()
	for _, v := range j.judged {
		for _, h := range v.Shadow() { // single policies in mode shadow
			j.differ(h, v.Allowed())
		}
	}
	trials := j.gate.policies.Load().Shadow
	if trials == nil || j.act.Namespace == policy.ProbeNamespace { // which has a layer of its own
		return
	}
	ctx, cancel := context.WithTimeout(ctx, shadowLimit)
	defer cancel()
	for _, layer := range trials(j.act.Namespace) {
		hits := j.trial(ctx, layer)
		for _, h := range hits {
			h.Mode = string(policy.Shadow)
			j.differ(h, false)
		}
		switch enforced := strings.TrimPrefix(layer.Name, "shadow "); {
		case len(hits) > 0 && allowed:
			j.gate.shadows.add(j.act.Verb, "would-deny")
		case len(hits) == 0 && j.deniedBy(enforced):
			j.differ(policy.Hit{Layer: layer.Name, Rule: "would-admit", Msg: fmt.Sprintf("the %s policy denies this and the one on trial does not", enforced), Mode: string(policy.Shadow)}, false)
			j.gate.shadows.add(j.act.Verb, "would-admit")
		}
	}
}

// differ notes one objection, and counts it if count says so.
func (j *judgement) differ(h policy.Hit, count bool) {
	j.shadow = append(j.shadow, h)
	if count {
		j.gate.shadows.add(j.act.Verb, "would-deny")
	}
}

// trial is what a layer on trial objects to.
func (j *judgement) trial(ctx context.Context, layer *policy.Layer) (hits []policy.Hit) {
	var claims []policy.Claim
	if j.evidence != nil {
		v := j.gate.cache.judge(ctx, layer, *j.act.Image, *j.evidence, j.act.Now)
		hits, claims = v.Hits(), v.Claims()
	}
	return append(hits, layer.JudgeAct(ctx, j.act, claims).Hits()...)
}

// deniedBy reports whether the layer of that name denied.
func (j *judgement) deniedBy(layer string) bool {
	for _, v := range j.judged {
		if v.Layer() == layer && !v.Allowed() {
			return true
		}
	}
	return false
}
