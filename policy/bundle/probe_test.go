package bundle

import (
	"testing"

	"sallyport/policy"
)

// The self-test's layer has the mode of the node's, so that a node that only warns fails its self-test;
// without a node policy there is none.
func TestProbeFollowsTheNode(t *testing.T) {
	if l, err := new(Set).Probe(); l != nil || err != nil {
		t.Errorf("Probe() without a node policy = %v, %v, want none", l, err)
	}
	hashes := map[string]bool{}
	for _, mode := range []policy.Mode{policy.Enforce, policy.Warn} {
		l, err := (&Set{node: &compiled{layer: policy.Layer{Name: "node", Hash: "h", Mode: mode}}}).Probe()
		if err != nil {
			t.Fatal(err)
		}
		if l.Mode != mode || l.Name != "selftest" || len(l.Images) != 1 || l.Verifier == nil || hashes[l.Hash] {
			t.Errorf("Probe() under mode %s = %+v", mode, l)
		}
		hashes[l.Hash] = true
	}
}
