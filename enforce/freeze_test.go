package enforce_test

import (
	"errors"
	"testing"

	"sallyport/audit"
	"sallyport/enforce"
	"sallyport/enforce/enforcetest"
	"sallyport/policy/baseline"
	"sallyport/policy/rego"
)

func freezeRequest(do string) enforce.FreezeRequest {
	return enforce.FreezeRequest{Pod: enforce.Pod{Namespace: "shop", Name: "web", UID: "u1"}, PodID: "p", Container: enforce.Container{Name: "main", ID: "c"}, Do: do}
}

// A pause is judged by the rules for updates and leaves its record; nothing else is let through as one.
func TestFreezeIsJudged(t *testing.T) {
	rules, err := rego.Compile(rego.Options{Modules: map[string]string{
		"update.rego": "package sallyport.update\n\ndeny contains {\"rule\": \"closed\", \"msg\": \"no\"} if input.pod.name == \"closed\"\n",
	}, Packages: []string{"sallyport.update"}})
	if err != nil {
		t.Fatal(err)
	}
	layer := enforcetest.AnyImage(t, baseline.ForLevel(baseline.Baseline))
	layer.Acts = append(layer.Acts, rules)
	g, dir := enforcetest.With(t, enforce.Policies{Node: layer})
	adm, err := g.AdmitFreeze(t.Context(), freezeRequest(enforce.Pause))
	if err != nil {
		t.Fatalf("AdmitFreeze() = %v, want nil", err)
	}
	grant, err := g.RedeemFreeze(adm)
	if err != nil || grant.Spec() != enforce.Pause || grant.Subject() != "c" {
		t.Errorf("RedeemFreeze() = %q of %q, %v, want pause of c", grant.Spec(), grant.Subject(), err)
	}
	if _, err := g.RedeemFreeze(adm); !errors.Is(err, enforce.ErrRedeemed) {
		t.Errorf("second RedeemFreeze() = %v, want ErrRedeemed", err)
	}
	if _, err := g.RedeemFreeze(enforce.FreezeAdmission{}); !errors.Is(err, enforce.ErrForged) {
		t.Errorf("RedeemFreeze(zero) = %v, want ErrForged", err)
	}
	if _, err := g.AdmitFreeze(t.Context(), freezeRequest(enforce.Resume)); err != nil {
		t.Errorf("AdmitFreeze(resume) = %v, want nil", err)
	}
	closed := freezeRequest(enforce.Pause)
	closed.Pod.Name = "closed"
	_, err = g.AdmitFreeze(t.Context(), closed)
	rule(t, err, "closed")
	_, err = g.AdmitFreeze(t.Context(), freezeRequest("kill"))
	rule(t, err, "freeze-facts")
	nobody := freezeRequest(enforce.Pause)
	nobody.Container.ID = ""
	_, err = g.AdmitFreeze(t.Context(), nobody)
	rule(t, err, "freeze-facts")
	paused := 0
	if err := audit.Read(dir, func(r audit.Record) error {
		if r.Event.Verb == "update" && r.Event.Outcome == "allow" && r.Event.Detail["act"] == "pause" && r.Event.ID == "c" {
			paused++
		}
		return nil
	}); err != nil || paused != 1 {
		t.Errorf("%d records of the pause, %v, want 1", paused, err)
	}
}
