package enforce

import (
	"context"
	"fmt"
	"slices"

	"sallyport/policy"
)

// AdmitAttach judges the way to a live container's first process, by the rules for commands. Each
// attach leaves a record of its own.
func (g *Gate) AdmitAttach(ctx context.Context, r AttachRequest) (AttachAdmission, error) {
	ctx, sp := traced(ctx, policy.VerbAttach)
	defer sp.End(nil)
	j := g.judgement(policy.VerbAttach, r.Pod.Namespace)
	j.act.Pod, j.act.Container, j.act.Exec, j.podID = &r.Pod, &r.Container, &r.Exec, r.PodID
	j.require("attach-facts", r.Pod.Namespace, r.PodID, r.Container.ID)
	if len(r.Exec.Argv) > 0 || r.Exec.Probe {
		j.add(policy.Refusal("gate", "attach-facts", "an attach runs no command"))
	}
	j.acts(ctx)
	p, err := j.conclude(ctx, &grant{subject: r.Container.ID})
	return AttachAdmission{p}, err
}

// AdmitPortForward judges connections to ports of a pod. The grant reaches the ports that were judged,
// so none where none was named.
func (g *Gate) AdmitPortForward(ctx context.Context, r PortForwardRequest) (PortForwardAdmission, error) {
	ctx, sp := traced(ctx, policy.VerbPortForward)
	defer sp.End(nil)
	j := g.judgement(policy.VerbPortForward, r.Pod.Namespace)
	j.act.Pod, j.act.Ports, j.podID = &r.Pod, slices.Clone(r.Ports), r.PodID
	j.require("portforward-facts", r.Pod.Namespace, r.PodID)
	if slices.Contains(r.Ports, 0) {
		j.add(policy.Refusal("gate", "portforward-facts", "port 0 is no port"))
	}
	j.detail["ports"] = fmt.Sprint(r.Ports)
	j.acts(ctx)
	p, err := j.conclude(ctx, &grant{subject: r.PodID, ports: slices.Clone(r.Ports)})
	return PortForwardAdmission{p}, err
}

// RedeemAttach redeems permission to attach.
func (g *Gate) RedeemAttach(a AttachAdmission) (Grant, error) {
	return g.redeem(a.permit, policy.VerbAttach)
}

// RedeemPortForward redeems permission to reach the ports of the grant.
func (g *Gate) RedeemPortForward(a PortForwardAdmission) (Grant, error) {
	return g.redeem(a.permit, policy.VerbPortForward)
}
