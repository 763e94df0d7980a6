package sandbox

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"sallyport/enforce"
	"sallyport/sandbox/internal/monitor"
	"sallyport/sandbox/internal/ociruntime"
)

// Size is a terminal's, in characters.
type Size = struct{ Width, Height uint16 }

// Streams are a client's ends of a process's streams; nil is none. They stay the caller's, who closes
// them when Exec or Attach has returned: a read that hangs ends only then.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Terminal       bool        // Exec: as the process that was judged has it
	Resize         <-chan Size // nil: none come; closed by the caller in the end
}

// Exec runs the admitted command in the running container with a client's streams, and gives its exit
// code, 128+n for signal n. When ctx ends, the client having gone, the command is killed with all it
// started: nobody could end it any more.
func (c *Container) Exec(ctx context.Context, adm enforce.ExecAdmission, s Streams) (int, error) {
	grant, err := c.pod.pods.opt.Gate.RedeemExec(adm)
	if err == nil {
		err = c.streamable(grant)
	}
	if err != nil {
		return -1, fmt.Errorf("exec in container %s: %w", c.id, err)
	}
	ctx, end := c.untilClose(ctx)
	defer end()
	return c.runtime.ExecStream(ctx, ociruntime.Exec{
		ID: c.id, Process: []byte(grant.Spec()), PidFile: filepath.Join(c.pod.pods.opt.Root, "exec", newID()),
	}, ociruntime.Streams{Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr, Terminal: s.Terminal, Resize: s.Resize})
}

// Attach connects a client to the container's first process until its output or ctx ends; the container
// goes on. Input goes where the container has one. When the client's input ends, so does that of a
// container that was made with stdin once; another keeps it open, and the client leaves.
func (c *Container) Attach(ctx context.Context, adm enforce.AttachAdmission, s Streams) error {
	grant, err := c.pod.pods.opt.Gate.RedeemAttach(adm)
	if err == nil {
		err = c.streamable(grant)
	}
	if err != nil {
		return fmt.Errorf("attach to container %s: %w", c.id, err)
	}
	ctx, end := c.untilClose(ctx)
	defer end()
	m := monitor.Streams{Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr, Resize: s.Resize, Leave: !c.cfg.TTY}
	if err := c.pod.pods.monitor.Attach(ctx, monitor.Target{Bundle: c.bundle(), Stdin: stdin(c.cfg.Stdin, c.cfg.StdinOnce)}, m); err != nil {
		return fmt.Errorf("attach to container %s: %w", c.id, err)
	}
	return nil
}

// streamable: the grant is for this container, and it runs.
func (c *Container) streamable(grant enforce.Grant) error {
	if grant.Subject() != c.id {
		return ErrMismatch
	}
	if c.Status().State != Running {
		return ErrNotRunning
	}
	return nil
}

// untilClose ends ctx also when the daemon does.
func (c *Container) untilClose(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.pod.pods.ctx, func() { cancel(context.Cause(c.pod.pods.ctx)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}
