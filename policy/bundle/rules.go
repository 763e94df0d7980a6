package bundle

import (
	"errors"

	"sallyport/policy"
	"sallyport/policy/sigstore"
)

// verifier makes what turns evidence into claims. reqs may be nil; root is nil where the bundle has no
// trusted_root.json.
func verifier(root []byte, reqs *policy.Requirements) (policy.Verifier, error) {
	var o sigstore.Options
	if root != nil {
		o.Roots = [][]byte{root}
	}
	if reqs != nil {
		o.Keys = reqs.Keys()
		o.AcceptUnlogged, o.AcceptWithoutSCT = reqs.Lowered()
	}
	return sigstore.New(o)
}

// containersRule compiles policy.json.
func containersRule([]byte, func(string) ([]byte, error), string) (policy.ImageRule, error) {
	return nil, errors.New("this build cannot judge by it")
}
