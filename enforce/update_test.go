package enforce_test

import (
	"errors"
	"testing"

	"sallyport/enforce"
	"sallyport/enforce/enforcetest"
	"sallyport/policy"
	"sallyport/policy/baseline"
)

// TestUpdateChangesLimitsOnly: an update may not open devices, however wide the floor is.
func TestUpdateChangesLimitsOnly(t *testing.T) {
	g := enforcetest.Gate(t, baseline.ForLevel(baseline.Privileged))
	request := enforce.UpdateRequest{Pod: policy.Pod{Namespace: "shop", Name: "web", UID: "u"}, Container: policy.Container{ID: "c1", Name: "c"}}
	request.Resources = []byte(`{"devices":[{"allow":true,"access":"rwm"}]}`)
	var denied *enforce.Denied
	if _, err := g.AdmitUpdate(t.Context(), request); !errors.As(err, &denied) || denied.Hits[0].Rule != "U02 limits only" {
		t.Errorf("AdmitUpdate() of devices = %v, want U02", err)
	}
	request.Resources = []byte(`{"cpu":{"shares":100}}`)
	if _, err := g.AdmitUpdate(t.Context(), request); err != nil {
		t.Errorf("AdmitUpdate() of shares = %v, want it admitted", err)
	}
}
