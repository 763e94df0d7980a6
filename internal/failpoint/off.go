//go:build !failpoint

package failpoint

// Hit does nothing: this program was built without the tag failpoint, and the compiler leaves the call
// out.
func Hit(string) {}
