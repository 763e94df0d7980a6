package enforce

import (
	"context"
	"encoding/json"

	"sallyport/internal/span"
	"sallyport/policy"
)

// What a FreezeRequest can ask for.
const (
	Pause  = "pause"
	Resume = "resume"
)

// FreezeRequest asks to hold up all processes of a live container, or to let them go on.
type FreezeRequest struct {
	Pod       Pod
	PodID     string
	Container Container
	Do        string // Pause or Resume
}

// FreezeAdmission is permission for one FreezeRequest. The zero value is refused.
type FreezeAdmission struct{ permit *permit }

// AdmitFreeze judges a FreezeRequest by the rules for updates, of which it is one that changes no limit:
// a paused container answers no probe. Each leaves a record of its own.
func (g *Gate) AdmitFreeze(ctx context.Context, r FreezeRequest) (FreezeAdmission, error) {
	ctx, sp := traced(ctx, policy.VerbUpdate)
	defer sp.End(nil)
	sp.Set(span.Container, r.Container.ID)
	j := g.judgement(policy.VerbUpdate, r.Pod.Namespace)
	j.act.Pod, j.act.Container, j.act.Resources, j.podID = &r.Pod, &r.Container, json.RawMessage("{}"), r.PodID
	j.require("freeze-facts", r.Pod.Namespace, r.PodID, r.Container.ID)
	if r.Do != Pause && r.Do != Resume {
		j.add(policy.Refusal("gate", "freeze-facts", "a container can be paused or resumed, and nothing else"))
	}
	j.detail["act"] = r.Do
	j.acts(ctx)
	p, err := j.conclude(ctx, &grant{subject: r.Container.ID, spec: r.Do})
	return FreezeAdmission{p}, err
}

// RedeemFreeze redeems permission to pause or resume a container; the grant's Spec says which.
func (g *Gate) RedeemFreeze(a FreezeAdmission) (Grant, error) {
	return g.redeem(a.permit, policy.VerbUpdate)
}
