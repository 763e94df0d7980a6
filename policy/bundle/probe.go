package bundle

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"

	"sallyport/policy"
)

// probeRules are about policy.ProbeRepository alone. The keys that signed under them are gone
// (test/selftestgen).
//
//go:embed selftest/requirements.yaml
var probeRules []byte

// Probe is the layer that judges pulls of the self-test, nil without a node policy. What the node's mode
// or revocations let pass it lets pass too: a node that only warns does not pass its self-test.
func (s *Set) Probe() (*policy.Layer, error) {
	if s.node == nil {
		return nil, nil
	}
	c, err := compile(files{"bundle.yaml": []byte("name: selftest\n"), "requirements.yaml": probeRules}, Namespace, "selftest", means{})
	if err != nil {
		return nil, fmt.Errorf("compile the self-test's rules: %w", err)
	}
	l := under(c.layer, s.node)
	l.Mode, l.NotAfter = s.node.layer.Mode, s.node.layer.NotAfter
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %q %d", l.Hash, l.Mode, l.NotAfter.Unix()))
	l.Hash = hex.EncodeToString(sum[:])
	return &l, nil
}
