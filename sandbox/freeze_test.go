package sandbox

import (
	"errors"
	"testing"
	"time"

	"sallyport/enforce"
	"sallyport/policy"
)

func (n *node) freeze(c *Container, do, id string) error {
	adm, err := n.gate.AdmitFreeze(n.tb.Context(), enforce.FreezeRequest{Pod: policyPod(c.pod.cfg), PodID: c.pod.id,
		Container: policy.Container{Name: c.cfg.Name, ID: id}, Do: do})
	must(n.tb, err)
	return c.Freeze(n.tb.Context(), adm)
}

// A paused container does nothing, and a stop still ends it in order.
func TestFreeze(t *testing.T) {
	n := newNode(t)
	cfg := script("app", "trap 'echo ended; exit 0' TERM; while true; do sleep 0.05 & wait $!; done")
	c := n.run(n.pod(podConfig("a")), cfg)
	if err := n.freeze(c, enforce.Resume, c.id); !errors.Is(err, ErrFreeze) || c.Frozen() {
		t.Errorf("Freeze(resume) of one that runs = %v, want ErrFreeze", err)
	}
	if err := n.freeze(c, enforce.Pause, "other"); !errors.Is(err, ErrMismatch) || c.Frozen() {
		t.Errorf("Freeze(of another) = %v, want ErrMismatch", err)
	}
	must(t, n.freeze(c, enforce.Pause, c.id))
	if !c.Frozen() || c.Status().State != Running {
		t.Errorf("frozen %t, state %s, want a running container that is paused", c.Frozen(), c.Status().State)
	}
	if err := n.freeze(c, enforce.Pause, c.id); !errors.Is(err, ErrFreeze) {
		t.Errorf("second Freeze(pause) = %v, want ErrFreeze", err)
	}
	must(t, n.freeze(c, enforce.Resume, c.id))
	if c.Frozen() {
		t.Error("it is still paused")
	}
	must(t, n.freeze(c, enforce.Pause, c.id))
	begin := time.Now()
	must(t, c.Stop(t.Context(), 20*time.Second))
	if st := c.Status(); st.ExitCode != 0 || time.Since(begin) > 10*time.Second {
		t.Errorf("a paused container ended with %d after %s, want 0 by its own hand", st.ExitCode, time.Since(begin))
	}
	if err := n.freeze(c, enforce.Pause, c.id); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Freeze() of a stopped one = %v, want ErrNotRunning", err)
	}
}

func TestFrozen(t *testing.T) {
	if frozen("") || frozen("relative") || frozen("/sallyport-no-such-cgroup") {
		t.Error("what is not there is paused")
	}
}
