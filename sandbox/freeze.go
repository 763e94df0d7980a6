package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"sallyport/enforce"
)

// ErrFreeze means that a container is paused already, or is not.
var ErrFreeze = errors.New("nothing to do")

// Freeze pauses the container or lets it go on, as admitted. A paused container is still running for the
// kubelet; a stop lets it go on first, so that it can end in order.
func (c *Container) Freeze(ctx context.Context, adm enforce.FreezeAdmission) (err error) {
	grant, err := c.pod.pods.opt.Gate.RedeemFreeze(adm)
	if err != nil {
		return fmt.Errorf("freeze container %s: %w", c.id, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s container %s: %w", grant.Spec(), c.id, err)
		}
	}()
	if grant.Subject() != c.id {
		return ErrMismatch
	}
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	switch {
	case c.Status().State != Running:
		return ErrNotRunning
	case frozen(c.base.Ctr.Cgroup) == (grant.Spec() == enforce.Pause):
		return ErrFreeze
	case grant.Spec() == enforce.Pause:
		return c.runtime.Pause(ctx, c.id)
	}
	return c.runtime.Resume(ctx, c.id)
}

// Frozen reports whether the container is paused.
func (c *Container) Frozen() bool { return frozen(c.base.Ctr.Cgroup) }

// thaw lets a paused container go on: a frozen process takes no signal.
func (c *Container) thaw(ctx context.Context) error {
	if !frozen(c.base.Ctr.Cgroup) {
		return nil
	}
	return c.runtime.Resume(ctx, c.id)
}

// frozen asks the kernel, which knows it over a restart of the daemon.
func frozen(cgroup string) bool {
	path := cgroupFile("freezer", cgroup, "freezer.state", "cgroup.freeze")
	if path == "" {
		return false
	}
	state, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	switch strings.TrimSpace(string(state)) {
	case "FROZEN", "FREEZING", "1": // v1 twice, v2
		return true
	}
	return false
}
