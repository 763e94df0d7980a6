package enforce

import (
	"context"

	"sallyport/policy"
)

// VetImage judges who signed the image of a container before anything foreign may learn of the container
// or change its spec. It issues nothing and an answer of yes leaves no record: AdmitRun judges the image
// again, with the final spec, from the same cached verdict. A no is recorded like any other. Of r, pod,
// container, image, evidence and refusals are read.
func (g *Gate) VetImage(ctx context.Context, r RunRequest) error {
	j := g.judgement(policy.VerbRun, r.Pod.Namespace)
	j.act.Image, j.act.Pod, j.act.Container, j.podID = &r.Image, &r.Pod, &r.Container, r.PodID
	j.require("run-facts", r.Pod.Namespace, r.PodID, r.Container.ID, r.Container.Name)
	j.refuse(r.Refusals)
	j.signatures(ctx, r.Evidence, func(*policy.Layer, policy.Verdict) {})
	if j.decision = policy.Decide(j.act, j.judged...); j.decision.Allowed() {
		return nil
	}
	if _, ok := j.excused(); ok && !j.stepped {
		return nil // an override, which AdmitRun counts
	}
	return j.deny(ctx, j.event())
}
