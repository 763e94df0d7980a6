package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"sallyport/enforce"
	"sallyport/sandbox/internal/hostmount"
	"sallyport/sandbox/internal/monitor"
	"sallyport/sandbox/internal/ociruntime"
)

// MaxOutput is how much of each of stdout and stderr an ExecSync returns (CVE-2022-1708); the rest is
// dropped without an error.
const MaxOutput = 16 << 20

// ExecResult is how a command in a container ended.
type ExecResult struct {
	Stdout, Stderr []byte
	Code           int
}

// ExecSync runs the admitted command in the running container and waits for it: the process is the
// admission's, byte for byte. timeout 0 means as long as ctx; ErrTimeout means that the command was
// killed with all it started.
func (c *Container) ExecSync(ctx context.Context, adm enforce.ExecAdmission, timeout time.Duration) (ExecResult, error) {
	grant, err := c.pod.pods.opt.Gate.RedeemExec(adm)
	if err != nil {
		return ExecResult{}, fmt.Errorf("exec in container %s: %w", c.id, err)
	}
	if grant.Subject() != c.id {
		return ExecResult{}, fmt.Errorf("exec in container %s: %w", c.id, ErrMismatch)
	}
	if c.Status().State != Running {
		return ExecResult{}, fmt.Errorf("exec in container %s: %w", c.id, ErrNotRunning)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.pod.pods.ctx, func() { cancel(context.Cause(c.pod.pods.ctx)) })()
	res, err := c.runtime.Exec(ctx, ociruntime.Exec{
		ID: c.id, Process: []byte(grant.Spec()), Timeout: timeout, MaxOutput: MaxOutput,
		PidFile: filepath.Join(c.pod.pods.opt.Root, "exec", newID()),
	})
	return ExecResult{Stdout: res.Stdout, Stderr: res.Stderr, Code: res.Code}, err
}

// Update applies the admitted resources to the container, created or running. The runtime applies all
// or says why not.
func (c *Container) Update(ctx context.Context, adm enforce.UpdateAdmission) error {
	grant, err := c.pod.pods.opt.Gate.RedeemUpdate(adm)
	if err != nil {
		return fmt.Errorf("update container %s: %w", c.id, err)
	}
	if grant.Subject() != c.id {
		return fmt.Errorf("update container %s: %w", c.id, ErrMismatch)
	}
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return fmt.Errorf("update container %s: %w", c.id, err)
	}
	defer end()
	if st := c.Status().State; st != Running && st != Created {
		return fmt.Errorf("update container %s: %w", c.id, ErrNotRunning)
	}
	if err := c.runtime.Update(ctx, c.id, []byte(grant.Spec())); err != nil {
		return fmt.Errorf("update container %s: %w", c.id, err)
	}
	now, err := inForce(c.Status().Resources, []byte(grant.Spec()))
	if err != nil {
		return fmt.Errorf("update container %s: %w", c.id, err)
	}
	c.change(func(s *ContainerStatus) { s.Resources = now })
	if err := c.save(); err != nil {
		return fmt.Errorf("update container %s: %w", c.id, err)
	}
	return nil
}

// inForce is what holds after an update: a limit that the update does not name stays (api.proto,
// LinuxContainerResources: 0 is "not specified"). The kubelet resizes CPU and memory in calls of their
// own and then compares the status with both.
func inForce(before json.RawMessage, update []byte) (json.RawMessage, error) {
	var r specs.LinuxResources
	for _, text := range [][]byte{before, update} { // the second is laid over the first, field by field
		if len(text) == 0 {
			continue
		}
		if err := json.Unmarshal(text, &r); err != nil {
			return nil, fmt.Errorf("read resources: %w", err)
		}
	}
	return json.Marshal(r)
}

// ReopenLog makes the monitor write to a new log file, after the old one was moved away. On an error
// no new file is there. The path is resolved anew: directories may have been swapped for links.
func (c *Container) ReopenLog(context.Context) error {
	if c.Status().State != Running {
		return fmt.Errorf("reopen log of container %s: %w", c.id, ErrNotRunning)
	}
	path, err := hostmount.LogFile(c.pod.cfg.LogDirectory, c.cfg.LogPath)
	if err != nil {
		return fmt.Errorf("reopen log of container %s: %w", c.id, err)
	}
	if path != c.base.Ctr.Log {
		return fmt.Errorf("reopen log of container %s: its directory is another one now: %w", c.id, ErrMismatch)
	}
	if err := monitor.ReopenLog(c.bundle()); err != nil {
		return fmt.Errorf("reopen log of container %s: %w", c.id, err)
	}
	return waitFile(path, logWait)
}
