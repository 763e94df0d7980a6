package enforce

import (
	"fmt"
	"testing"

	"sallyport/policy"
)

// What a namespace's owner names is never counted by its name, and names that come and go are bounded.
func TestDenialsAreCountedBounded(t *testing.T) {
	for want, hits := range map[string][]policy.Hit{
		"none":             nil,
		"release":          {{Layer: "node", Rule: "release"}, {Layer: "floor", Rule: "B01"}},
		"namespace-policy": {{Layer: "namespace shop", Rule: "whatever the shop says"}},
	} {
		if got := counted(hits); got != want {
			t.Errorf("counted(%v) = %q, want %q", hits, got, want)
		}
	}
	var c counters
	for i := range 3 * maxCounters {
		c.add(policy.VerbRun, fmt.Sprint("rule ", i))
	}
	n := c.copy()
	if len(n) > maxCounters+1 || n["run other"] != 2*maxCounters || n["run rule 0"] != 1 {
		t.Errorf("%d counters, %d of them other; want %d and the rest in other", len(n), n["run other"], maxCounters)
	}
}
