package sandbox

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/failpoint"
	"sallyport/sandbox/internal/monitor"
	"sallyport/sandbox/internal/proc"
)

const (
	lostCode = 255         // exit code of a container whose monitor died without leaving one
	pollGap  = time.Second // where no pidfd is to be had
)

// watch waits until the container's monitor ends, which it does once it has written the exit code, and
// then takes the code. It holds one descriptor and no thread. A monitor that ends without a code was
// killed: the container, which nobody would reap or log any more, is killed too.
func (c *Container) watch(procs running) {
	s := c.pod.pods
	if err := c.await(s.ctx, procs.Monitor); err != nil {
		return // the daemon is going; the next one takes over
	}
	proc.Reap(procs.Monitor.Pid)
	exit, err := monitor.ReadExit(s.exitDir(), c.id)
	var note string
	if err != nil {
		note = "the container's monitor ended without an exit code"
		s.log.Warn("monitor ended without an exit code; killing the container", "id", c.id, "err", err)
		if err := endProcess(s.ctx, procs.Container, killWait); err != nil {
			s.log.Warn("kill container", "id", c.id, "err", err)
		}
		proc.Reap(procs.Container.Pid)
		exit = monitor.Exit{Code: lostCode, At: time.Now()}
	}
	c.finish(exit, note)
}

// await returns nil when the process has ended, or an error when ctx has.
func (c *Container) await(ctx context.Context, id proc.ID) error {
	warned := false
	for {
		held, err := proc.Open(id)
		switch {
		case err == nil:
			err = held.Wait(ctx)
			held.Close()
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err == nil {
				return nil
			}
		case errors.Is(err, proc.ErrGone):
			return nil
		}
		if !warned {
			c.pod.pods.log.Warn("watch monitor by polling: no descriptor is to be had", "id", c.id, "err", err)
			warned = true
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pollGap):
			if _, err := proc.Of(id.Pid); errors.Is(err, proc.ErrGone) {
				return nil
			}
		}
	}
}

// finish records the end. It happens once.
func (c *Container) finish(exit monitor.Exit, note string) {
	code := exit.Code
	if code < 0 {
		code = lostCode
	}
	reason := "Completed"
	switch {
	case code != 0 && (monitor.OOM(c.bundle()) || oomKilled(c.base.Ctr.Cgroup)):
		reason = "OOMKilled" // the kubelet knows this word
	case code != 0:
		reason = "Error"
	}
	failpoint.Hit("exit-seen")
	c.change(func(s *ContainerStatus) {
		s.State, s.ExitCode, s.Reason, s.Message, s.Pid = Exited, code, reason, note, 0
		s.Finished = exit.At
	})
	if err := c.save(); err != nil {
		c.pod.pods.log.Warn("record exit", "id", c.id, "err", err)
	}
	failpoint.Hit("exit-recorded")
	close(c.exited)
}

// parseSignal reads a signal as images and pods name it: SIGTERM, TERM or 15.
func parseSignal(s string) (syscall.Signal, error) {
	if s == "" {
		return syscall.SIGTERM, nil
	}
	var n int
	if _, err := fmt.Sscanf(s, "%d", &n); err == nil && fmt.Sprint(n) == s && n > 0 && n < 65 {
		return syscall.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	var off int
	switch {
	case scan(name, "SIGRTMIN+%d", &off) && off >= 0 && off <= 30:
		return syscall.Signal(34 + off), nil
	case scan(name, "SIGRTMAX-%d", &off) && off >= 0 && off <= 30:
		return syscall.Signal(64 - off), nil
	case name == "SIGRTMIN":
		return 34, nil
	case name == "SIGRTMAX":
		return 64, nil
	}
	return 0, fmt.Errorf("parse signal %.40q: unknown", s)
}

func scan(s, format string, n *int) bool {
	_, err := fmt.Sscanf(s, format, n)
	return err == nil && fmt.Sprintf(format, *n) == s
}
