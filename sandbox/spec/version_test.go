package spec

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestSpecVersion: an old runtime is given the version that it reads, and no runtime one that we do not
// know.
func TestSpecVersion(t *testing.T) {
	for reads, want := range map[string]string{"": specs.Version, "1.0.0": "1.0.0", "1.2.1": "1.2.1", specs.Version: specs.Version, "1.99.0": specs.Version} {
		in := usual()
		in.Host.SpecVersion = reads
		out, err := Build(in)
		if err != nil || out.Spec.Version != want {
			t.Errorf("a runtime that reads %q gets %q, %v, want %q", reads, out.Spec.Version, err, want)
		}
	}
}
