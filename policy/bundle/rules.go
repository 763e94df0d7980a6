package bundle

import (
	"os"

	"sallyport/policy"
	"sallyport/policy/containers"
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

// containersRule compiles policy.json. Key files are taken from the bundle; scratch is where signatures
// are laid out while they are judged.
func containersRule(text []byte, read func(string) ([]byte, error), scratch string) (policy.ImageRule, error) {
	if scratch == "" {
		scratch = os.TempDir()
	}
	inlined, err := containers.Inline(text, read)
	if err != nil {
		return nil, err
	}
	rule, err := containers.New(inlined, scratch)
	if err != nil {
		return nil, err
	}
	ids, err := keysIn(inlined)
	return keyed{rule, ids}, err
}
