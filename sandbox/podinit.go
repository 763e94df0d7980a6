package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/enforce"
	"sallyport/internal/failpoint"
	"sallyport/sandbox/internal/hostmount"
	"sallyport/sandbox/internal/monitor"
	"sallyport/sandbox/internal/proc"
)

const (
	initName = "sallyport-init"
	initWait = 10 * time.Second // for a killed first process to end
)

// startInit starts the pod's first process, where it shares a PID namespace, from the judged spec, and
// pins that namespace. Its root filesystem holds the program and nothing else.
func (p *Pod) startInit(ctx context.Context, grant enforce.Grant) error {
	pin := p.Namespaces().PID
	if pin == "" {
		if grant.Spec() != "" {
			return fmt.Errorf("start first process: %w", ErrMismatch)
		}
		return nil
	}
	if grant.Spec() == "" {
		return fmt.Errorf("start first process: the pod shares a PID namespace and no process was admitted: %w", ErrMismatch)
	}
	runtime, err := p.pods.runtime(p.cfg.Handler)
	if err != nil {
		return err
	}
	bundle := p.initBundle()
	rootfs := filepath.Join(bundle, "rootfs")
	if err := os.Mkdir(bundle, 0o755); err != nil { // the pod's own directory is closed
		return fmt.Errorf("start first process: %w", err)
	}
	for _, dir := range []string{"proc", "dev"} { // mount points; the rest of it stays empty
		if err := os.MkdirAll(filepath.Join(rootfs, dir), 0o755); err != nil {
			return fmt.Errorf("start first process: %w", err)
		}
	}
	failpoint.Hit("init-bundle")
	program, err := hostmount.Open(p.pods.opt.Init)
	if err != nil {
		return fmt.Errorf("start first process: %w", err)
	}
	defer program.Close()
	if err := program.Bind(filepath.Join(rootfs, initName)); err != nil {
		return fmt.Errorf("start first process: %w", err)
	}
	failpoint.Hit("init-bound")
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(grant.Spec()), 0o600); err != nil {
		return fmt.Errorf("start first process: %w", err)
	}
	procs, err := p.pods.monitor.Create(ctx, monitor.Container{ID: p.id, Bundle: bundle, ExitDir: p.pods.exitDir(), Runtime: runtime})
	if err != nil {
		return fmt.Errorf("start first process: %w", err)
	}
	failpoint.Hit("init-created")
	p.mu.Lock()
	p.init = running{Monitor: procs.Monitor, Container: procs.Container}
	p.mu.Unlock()
	if err := p.set(func(s *PodStatus) { s.InitPid = procs.Container.Pid }); err != nil {
		return err
	}
	failpoint.Hit("init-recorded")
	if err := runtime.Start(ctx, p.id); err != nil {
		return err
	}
	failpoint.Hit("init-started")
	return pinPID(procs.Container, pin)
}

// pinPID binds the PID namespace of a process that is held open meanwhile, so that its pid cannot become
// another's between look and use.
func pinPID(id proc.ID, pin string) error {
	held, err := proc.Open(id)
	if err != nil {
		return fmt.Errorf("pin PID namespace: %w", err)
	}
	defer held.Close()
	f, err := os.OpenFile(pin, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o400)
	if err != nil {
		return fmt.Errorf("pin PID namespace: %w", err)
	}
	f.Close()
	if err := unix.Mount("/proc/"+strconv.Itoa(id.Pid)+"/ns/pid", pin, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin PID namespace: %w", err)
	}
	if held.Exited() {
		return fmt.Errorf("pin PID namespace: %w", proc.ErrGone)
	}
	return nil
}

func (p *Pod) initBundle() string { return filepath.Join(p.dir(), "init") }

// stopInit ends the first process and removes what startInit made, in whatever state it was left.
func (p *Pod) stopInit(ctx context.Context) error {
	if p.Namespaces().PID == "" {
		return nil
	}
	p.mu.Lock()
	procs := p.init
	p.mu.Unlock()
	runtime, err := p.pods.runtime(p.cfg.Handler)
	if err != nil {
		return err
	}
	if _, serr := os.Lstat(p.initBundle()); serr == nil {
		if err := endProcess(ctx, procs.Container, initWait); err != nil {
			return fmt.Errorf("stop first process: %w", err)
		}
		err := runtime.Delete(ctx, p.id)
		if err != nil || procs.Container.Pid == 0 {
			err = runtime.DeleteForce(ctx, p.id)
		}
		if err != nil {
			return fmt.Errorf("stop first process: %w", err)
		}
		if err := endProcess(ctx, procs.Monitor, initWait); err != nil {
			return fmt.Errorf("stop monitor: %w", err)
		}
		proc.Reap(procs.Monitor.Pid)
	}
	failpoint.Hit("init-deleted")
	rootfs := filepath.Join(p.initBundle(), "rootfs")
	err = errors.Join(
		hostmount.Unmount(filepath.Join(p.dir(), "ns", "pid")),
		hostmount.Unmount(filepath.Join(rootfs, initName)),
		monitor.RemoveExit(p.pods.exitDir(), p.id),
	)
	if err != nil {
		return fmt.Errorf("stop first process: %w", err)
	}
	// The runtime made mount points in the root filesystem; nothing of the node is mounted there any more.
	if err := os.RemoveAll(p.initBundle()); err != nil {
		return fmt.Errorf("stop first process: %w", err)
	}
	failpoint.Hit("init-removed")
	p.mu.Lock()
	p.init = running{}
	p.mu.Unlock()
	return nil
}

// endProcess kills a process and waits until it has ended. A process that is gone is no error; neither
// is the zero ID.
func endProcess(ctx context.Context, id proc.ID, wait time.Duration) error {
	if id.Pid == 0 {
		return nil
	}
	held, err := proc.Open(id)
	if errors.Is(err, proc.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer held.Close()
	if err := held.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, proc.ErrGone) {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wait, fmt.Errorf("process %d does not end", id.Pid))
	defer cancel()
	return held.Wait(ctx)
}
