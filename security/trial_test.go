package security

import (
	"slices"
	"testing"
)

// TestStatedClaimsStayOutOfTheDaemon: policy/trial takes claims as proved that a file states. The
// operator's tool alone may hold it.
func TestStatedClaimsStayOutOfTheDaemon(t *testing.T) {
	for _, f := range tree(t) {
		if !f.test && f.pkg != "cmd/sallyport" && slices.Contains(f.imports(), "sallyport/policy/trial") {
			t.Errorf("%s imports policy/trial", f.path)
		}
	}
}
