package enforce_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"sallyport/audit"
	"sallyport/enforce"
	"sallyport/enforce/enforcetest"
	"sallyport/policy"
	"sallyport/policy/baseline"
	"sallyport/policy/rego"
)

func attachRequest() enforce.AttachRequest {
	return enforce.AttachRequest{Pod: enforce.Pod{Namespace: "shop", Name: "web", UID: "u"}, PodID: "pod1", Container: policy.Container{Name: "app", ID: "ctr1"}}
}

func portsRequest(ports ...uint16) enforce.PortForwardRequest {
	return enforce.PortForwardRequest{Pod: attachRequest().Pod, PodID: "pod1", Ports: ports}
}

func TestAttachAndPortForwardFacts(t *testing.T) {
	g := gate(t)
	if _, err := g.AdmitAttach(t.Context(), attachRequest()); err != nil {
		t.Errorf("AdmitAttach() = %v, want nil", err)
	}
	for name, change := range map[string]func(*enforce.AttachRequest){
		"no namespace": func(r *enforce.AttachRequest) { r.Pod.Namespace = "" },
		"no pod":       func(r *enforce.AttachRequest) { r.PodID = "" },
		"no container": func(r *enforce.AttachRequest) { r.Container.ID = "" },
		"a command":    func(r *enforce.AttachRequest) { r.Exec.Argv = []string{"sh"} },
	} {
		t.Run(name, func(t *testing.T) {
			r := attachRequest()
			change(&r)
			_, err := g.AdmitAttach(t.Context(), r)
			rule(t, err, "attach-facts")
		})
	}
	if _, err := g.AdmitPortForward(t.Context(), portsRequest(80)); err != nil {
		t.Errorf("AdmitPortForward() = %v, want nil", err)
	}
	_, err := g.AdmitPortForward(t.Context(), portsRequest(80, 0))
	rule(t, err, "portforward-facts")
	r := portsRequest(80)
	r.PodID = ""
	_, err = g.AdmitPortForward(t.Context(), r)
	rule(t, err, "portforward-facts")
}

// A grant reaches the ports that were judged, whatever the caller does with its slice later.
func TestPortForwardGrant(t *testing.T) {
	g := gate(t)
	r := portsRequest(80, 443)
	adm, err := g.AdmitPortForward(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	r.Ports[0] = 22
	grant, err := g.RedeemPortForward(adm)
	if err != nil || grant.Subject() != "pod1" || !slices.Equal(grant.Ports(), []uint16{80, 443}) {
		t.Errorf("grant = %q %v, %v, want pod1 80 443", grant.Subject(), grant.Ports(), err)
	}
	grant.Ports()[0] = 22
	if !slices.Equal(grant.Ports(), []uint16{80, 443}) {
		t.Error("a grant's ports can be changed")
	}
	if _, err := g.RedeemPortForward(adm); !errors.Is(err, enforce.ErrRedeemed) {
		t.Errorf("RedeemPortForward() again = %v, want ErrRedeemed", err)
	}
}

// An admission of one kind is none of another, though Go converts between the types.
func TestStreamAdmissionsDiffer(t *testing.T) {
	g := gate(t)
	attach, err := g.AdmitAttach(t.Context(), attachRequest())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.RedeemExec(enforce.ExecAdmission(attach)); !errors.Is(err, enforce.ErrForged) {
		t.Errorf("RedeemExec(attach) = %v, want ErrForged", err)
	}
	exec, err := g.AdmitExec(t.Context(), execRequest(t, "/bin/true"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.RedeemAttach(enforce.AttachAdmission(exec)); !errors.Is(err, enforce.ErrForged) {
		t.Errorf("RedeemAttach(exec) = %v, want ErrForged", err)
	}
	if _, err := g.RedeemPortForward(enforce.PortForwardAdmission(exec)); !errors.Is(err, enforce.ErrForged) {
		t.Errorf("RedeemPortForward(exec) = %v, want ErrForged", err)
	}
}

// The rules for commands judge an attach too, and see which of both it is; ports have rules of their own.
func TestStreamsAreJudged(t *testing.T) {
	rules, err := rego.Compile(rego.Options{Modules: map[string]string{
		"exec.rego":        "package sallyport.exec\n\ndeny contains {\"rule\": \"closed\", \"msg\": input.verb} if input.pod.name == \"closed\"\n",
		"portforward.rego": "package sallyport.portforward\n\ndeny contains {\"rule\": \"no-ssh\", \"msg\": \"no\"} if 22 in input.ports\n",
	}, Packages: []string{"sallyport.exec", "sallyport.portforward"}})
	if err != nil {
		t.Fatal(err)
	}
	layer := enforcetest.AnyImage(t, baseline.ForLevel(baseline.Baseline))
	layer.Acts = append(layer.Acts, rules)
	g, dir := enforcetest.With(t, enforce.Policies{Node: layer})
	ctx := context.Background()
	if _, err := g.AdmitAttach(ctx, attachRequest()); err != nil {
		t.Errorf("AdmitAttach() = %v, want nil", err)
	}
	r := attachRequest()
	r.Pod.Name = "closed"
	_, err = g.AdmitAttach(ctx, r)
	rule(t, err, "closed")
	if _, err := g.AdmitPortForward(ctx, portsRequest(80)); err != nil {
		t.Errorf("AdmitPortForward(80) = %v, want nil", err)
	}
	_, err = g.AdmitPortForward(ctx, portsRequest(80, 22))
	rule(t, err, "no-ssh")
	verbs := map[string]int{}
	if err := audit.Read(dir, func(rec audit.Record) error { verbs[rec.Event.Verb+" "+rec.Event.Outcome]++; return nil }); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"attach allow", "attach deny", "portforward allow", "portforward deny"} {
		if verbs[want] != 1 {
			t.Errorf("%d records of %q, want 1", verbs[want], want)
		}
	}
}
