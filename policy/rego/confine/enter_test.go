package confine

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"sallyport/test/roottest"
)

// The child has no files, no network, no programs, no other processes and no privilege, in all its
// threads.
func TestChildCanDoNothing(t *testing.T) {
	roottest.Need(t) // it gives up root
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "CONFINE_PROBE=1")
	out, err := cmd.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "could []" {
		t.Errorf("the child: %v\n%s", err, out)
	}
}
