// Package enforcetest makes real gates for tests: a real audit log in a temporary directory, and real
// layers. It mints nothing; a test that needs an admission asks the gate.
package enforcetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"testing"

	"sallyport/audit"
	"sallyport/enforce"
	"sallyport/policy"
	"sallyport/policy/baseline"
)

// Gate is a gate whose node policy accepts any image and whose floor is floor, for every namespace.
func Gate(tb testing.TB, floor baseline.Floor) *enforce.Gate {
	tb.Helper()
	g, _ := With(tb, enforce.Policies{Node: AnyImage(tb, floor)})
	return g
}

// With is a gate with the given policies, and the directory of its audit log.
func With(tb testing.TB, p enforce.Policies) (*enforce.Gate, string) {
	tb.Helper()
	dir := tb.TempDir()
	log, err := audit.Open(audit.Options{Dir: dir, Node: "test", BootID: "test"})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { log.Close() })
	g, err := enforce.New(enforce.Options{Log: log, Source: "test", EnvKey: bytes.Repeat([]byte{7}, 32)})
	if err != nil {
		tb.Fatal(err)
	}
	if err := g.Install(context.Background(), p); err != nil {
		tb.Fatal(err)
	}
	return g, dir
}

// AnyImage is a node layer whose requirements.yaml lets any image pass.
func AnyImage(tb testing.TB, floor baseline.Floor) *policy.Layer {
	tb.Helper()
	return Layer(tb, "node", `policies:
- name: any-image
  images: [{glob: "**"}]
  authorities: [{static: {action: pass}}]
`, floor)
}

// Layer is a layer of that name with the given requirements.yaml, which names no key files.
func Layer(tb testing.TB, name, requirements string, floor baseline.Floor) *policy.Layer {
	tb.Helper()
	rule, err := policy.ParseRequirements([]byte(requirements), nil)
	if err != nil {
		tb.Fatal(err)
	}
	hash := fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%q %q %+v", name, requirements, floor)))
	return &policy.Layer{Name: name, Hash: hash, Images: []policy.ImageRule{rule}, Floor: floor}
}
