package sandbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"sallyport/internal/failpoint"
	"sallyport/sandbox/internal/proc"
)

const (
	killWait    = 30 * time.Second // for a killed process to end; it may be in uninterruptible sleep
	monitorWait = 5 * time.Second  // for conmon to report an end that the kernel reports already
)

// stopFlight is one stop that any number of calls wait for.
type stopFlight struct {
	done     chan struct{} // closed at the end
	err      error         // valid after done
	sooner   chan struct{} // has an element when the deadline moved
	mu       sync.Mutex
	deadline time.Time // guarded by mu; when SIGKILL is sent
}

// shorten moves the deadline forward, never back.
func (f *stopFlight) shorten(to time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if to.Before(f.deadline) {
		f.deadline = to
		select {
		case f.sooner <- struct{}{}:
		default:
		}
	}
}

func (f *stopFlight) left() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Until(f.deadline)
}

// Stop ends the container: its stop signal, then SIGKILL after grace (seconds in CRI, a Duration here;
// 0 kills at once). It cancels a Create or Start that is under way. It returns nil if the container has
// exited already. The stop goes on if ctx ends first; a call that comes meanwhile joins it and can only
// shorten its grace.
func (c *Container) Stop(ctx context.Context, grace time.Duration) error {
	deadline := time.Now().Add(max(grace, 0))
	c.mu.Lock()
	f := c.stopping
	if f == nil {
		f = &stopFlight{done: make(chan struct{}), sooner: make(chan struct{}, 1), deadline: deadline}
		c.stopping = f
		if c.cancel != nil {
			c.cancel(ErrStopped)
		}
		go c.runStop(f)
	}
	c.mu.Unlock()
	f.shorten(deadline)
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return fmt.Errorf("stop container %s: %w", c.id, context.Cause(ctx))
	}
}

func (c *Container) runStop(f *stopFlight) {
	ctx := context.WithoutCancel(c.pod.pods.ctx)
	if err := c.slot.take(ctx); err == nil { // the cancelled operation gives it soon
		f.err = c.stopLocked(ctx, f)
		c.slot.give()
	}
	c.mu.Lock()
	c.stopping = nil
	c.mu.Unlock()
	if f.err != nil {
		f.err = fmt.Errorf("stop container %s: %w", c.id, f.err)
	}
	close(f.done)
}

func (c *Container) stopLocked(ctx context.Context, f *stopFlight) error {
	switch c.Status().State {
	case Exited, Creating: // a cancelled creation has undone itself
		return nil
	case Created:
		return c.kill(ctx) // nothing runs that could make use of a grace
	}
	sig, err := parseSignal(c.sealed.StopSignal)
	if err != nil {
		sig = syscall.SIGTERM
	}
	if err := c.thaw(ctx); err != nil { // a frozen process would take no signal, on cgroup v1 not even the last
		return err
	}
	if f.left() > 0 {
		if err := c.signal(sig); err != nil && !errors.Is(err, proc.ErrGone) {
			return err
		}
	}
	failpoint.Hit("stop-signalled")
	for f.left() > 0 {
		select {
		case <-c.exited:
			return nil
		case <-f.sooner:
		case <-time.After(f.left()):
		}
	}
	return c.kill(ctx)
}

// signal sends to the container's first process, never to another that has its pid by now.
func (c *Container) signal(sig syscall.Signal) error {
	c.mu.Lock()
	id := c.procs.Container
	c.mu.Unlock()
	held, err := proc.Open(id)
	if err != nil {
		return err
	}
	defer held.Close()
	return held.Signal(sig)
}

// kill ends all of the container's processes and returns when the status says exited. The first
// process takes its PID namespace with it; where the container shares one, its cgroup is emptied too.
// A monitor that does not report an end is killed in turn.
func (c *Container) kill(ctx context.Context) error {
	c.mu.Lock()
	procs := c.procs
	c.mu.Unlock()
	err := endProcess(ctx, procs.Container, killWait)
	killCgroup(c.base.Ctr.Cgroup)
	if err != nil {
		return err
	}
	failpoint.Hit("container-killed")
	select {
	case <-c.exited:
		return nil
	case <-time.After(monitorWait):
	}
	c.pod.pods.log.Warn("monitor does not report; killing it", "id", c.id, "pid", procs.Monitor.Pid)
	if err := endProcess(ctx, procs.Monitor, killWait); err != nil {
		return err
	}
	select {
	case <-c.exited:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// endProcesses ends container and monitor and lets the runtime forget the container. It works from
// whatever is known: after a creation that was cut off there may be no pid.
func (c *Container) endProcesses(ctx context.Context) error {
	c.mu.Lock()
	procs := c.procs
	c.mu.Unlock()
	if err := endProcess(ctx, procs.Container, killWait); err != nil {
		return fmt.Errorf("remove container %s: %w", c.id, err)
	}
	killCgroup(c.base.Ctr.Cgroup)
	remove := c.runtime.Delete
	if procs.Container.Pid == 0 {
		remove = c.runtime.DeleteForce
	}
	if err := remove(ctx, c.id); err != nil {
		if err = c.runtime.DeleteForce(ctx, c.id); err != nil {
			return fmt.Errorf("remove container %s: %w", c.id, err)
		}
	}
	failpoint.Hit("runtime-deleted")
	if err := endProcess(ctx, procs.Monitor, killWait); err != nil {
		return fmt.Errorf("remove container %s: %w", c.id, err)
	}
	proc.Reap(procs.Monitor.Pid)
	return nil
}

// Remove stops the container at once if need be and removes everything it consists of. It is
// idempotent.
func (c *Container) Remove(ctx context.Context) error {
	if err := c.Stop(ctx, 0); err != nil {
		return err
	}
	if err := c.slot.take(ctx); err != nil {
		return fmt.Errorf("remove container %s: %w", c.id, err)
	}
	defer c.slot.give()
	c.mu.Lock()
	gone := c.gone
	c.mu.Unlock()
	if gone {
		return nil
	}
	ctx, cancel := after(ctx) // half a removal is worse than a slow one
	defer cancel()
	if err := c.dismantle(ctx); err != nil {
		return err
	}
	c.pod.pods.forget(c)
	c.tellGone(ctx)
	c.pod.pods.freeContainerKey(c.key)
	c.pod.pods.opt.Gate.Forget(c.id)
	return nil
}
