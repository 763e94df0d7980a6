package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/enforce"
	"sallyport/internal/failpoint"
	"sallyport/sandbox/internal/hostmount"
	"sallyport/sandbox/internal/monitor"
)

// Create makes the container that adm admits, up to the point where only its own process is missing.
// The spec, the image and the configuration are those of the admission; there is nothing else to pass.
// On an error nothing is left. After enforce.ErrExpired the reservation stays, so that the gate can be
// asked once more; the caller cancels it otherwise.
func (p *Pod) Create(ctx context.Context, adm enforce.RunAdmission) (*Container, error) {
	effective := p.pods.opt.Gate.Effective(p.cfg.Namespace)
	grant, err := p.pods.opt.Gate.Redeem(adm)
	if err != nil {
		return nil, fmt.Errorf("create container: %w", err)
	}
	r := p.pods.takeReservation(grant.Subject())
	if r == nil {
		return nil, fmt.Errorf("create container %s: no reservation: %w", grant.Subject(), ErrMismatch)
	}
	var undo undo
	defer undo.run()
	var kept bool // undoing failed: key, record and object stay, for Tend or a retry to remove
	undo.add(func() {
		if !kept {
			p.pods.freeContainerKey(r.key)
		}
	})
	defer r.close()
	if r.pod != p || grant.Namespace() != p.cfg.Namespace {
		return nil, fmt.Errorf("create container %s: %w", r.id, ErrMismatch)
	}
	c, err := p.newContainer(r, grant)
	if err != nil {
		return nil, fmt.Errorf("create container %s: %w", r.id, err)
	}
	c.admitted.Store(&admitted{effective: effective, at: time.Now()})
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("create container %s: %w", r.id, err)
	}
	defer func() {
		undo.run() // before the slot is given: who waits for it must find all or nothing
		end()
	}()
	if err := p.register(c); err != nil {
		return nil, fmt.Errorf("create container %q: %w", c.cfg.Name, err)
	}
	undo.add(func() {
		if !kept {
			p.pods.forget(c)
		}
	})
	if err := c.save(); err != nil {
		return nil, fmt.Errorf("create container %q: %w", c.cfg.Name, err)
	}
	failpoint.Hit("container-recorded")
	undo.add(func() {
		ctx, cancel := after(ctx)
		defer cancel()
		if err := c.dismantle(ctx); err != nil {
			kept = true
			c.leftover.Store(true)
			p.pods.log.Warn("undo container; it is tried again", "id", c.id, "err", err)
		}
	})
	if err := c.assemble(ctx, grant, r); err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = errors.Join(cause, err)
		}
		return nil, fmt.Errorf("create container %q: %w", c.cfg.Name, err)
	}
	c.change(func(s *ContainerStatus) { s.State, s.Pid = Created, c.procs.Container.Pid })
	if err := c.save(); err != nil {
		return nil, fmt.Errorf("create container %q: %w", c.cfg.Name, err)
	}
	failpoint.Hit("created-recorded")
	undo.disarm()
	go c.watch(c.procs)
	return c, nil
}

// newContainer is a container in state creating, of what was granted.
func (p *Pod) newContainer(r *Reservation, grant enforce.Grant) (*Container, error) {
	var sealed Sealed
	if err := json.Unmarshal([]byte(grant.Config()), &sealed); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if containerKey(p.id, sealed.Container.Name, sealed.Container.Attempt) != r.key {
		return nil, ErrMismatch
	}
	want, err := expect([]byte(grant.Spec()))
	if err != nil {
		return nil, err
	}
	base := record{ID: r.id, Created: time.Now(), Audit: grant.Receipt().Seq(), Sealed: grant.Config(), Ctr: &ctrPart{
		PodID: p.id, Namespace: p.cfg.Namespace, Image: grant.Image(), SpecHash: hashHex([]byte(grant.Spec())),
		Handler: p.cfg.Handler, Cgroup: want.Cgroup, Volumes: grant.Volumes()}}
	if p.cfg.LogDirectory != "" && sealed.Container.LogPath != "" {
		if base.Ctr.Log, err = hostmount.LogFile(p.cfg.LogDirectory, sealed.Container.LogPath); err != nil {
			return nil, err
		}
	}
	return p.container(base, sealed, want)
}

// container builds the live object of a record; Create and Restore share it.
func (p *Pod) container(base record, sealed Sealed, want expectation) (*Container, error) {
	runtime, err := p.pods.runtime(base.Ctr.Handler)
	if err != nil {
		return nil, err
	}
	c := &Container{pod: p, id: base.ID, key: containerKey(p.id, sealed.Container.Name, sealed.Container.Attempt),
		cfg: sealed.Container, sealed: sealed, base: base, want: want, runtime: runtime, slot: newSlot(), exited: make(chan struct{})}
	c.status.Store(&ContainerStatus{State: Creating, Created: base.Created, Resources: want.Resources})
	return c, nil
}

// register makes the container findable, unless the pod has begun to stop.
func (p *Pod) register(c *Container) error {
	p.pods.mu.Lock()
	defer p.pods.mu.Unlock()
	if p.stopping || p.Status().State != Ready {
		return ErrNotReady
	}
	p.pods.containers[c.id], p.pods.ctrKeys[c.key] = c, c
	return nil
}

// forget makes a container that is no more unfindable; its key is freed elsewhere.
func (p *Pods) forget(c *Container) {
	c.mu.Lock()
	c.gone = true
	c.mu.Unlock()
	p.mu.Lock()
	delete(p.containers, c.id)
	p.mu.Unlock()
	c.tell()
}

// assemble makes the runtime bundle and has the container created. What it has made is undone by
// dismantle.
func (c *Container) assemble(ctx context.Context, grant enforce.Grant, r *Reservation) error {
	s := c.pod.pods
	for _, dir := range []string{c.bundle(), filepath.Join(c.bundle(), "rootfs"), filepath.Join(c.bundle(), "mounts")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("make bundle: %w", err)
		}
	}
	failpoint.Hit("bundle-made")
	if err := c.pod.letIn(c.bundle()); err != nil {
		return err
	}
	rootfs, err := s.opt.Images.Mount(ctx, grant)
	if err != nil {
		return err
	}
	if err := unix.Mount(rootfs.Path, filepath.Join(c.bundle(), "rootfs"), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind root filesystem: %w", err)
	}
	failpoint.Hit("rootfs-bound")
	for i, src := range r.sources {
		if src == nil {
			if err := c.mountVolume(ctx, grant, i); err != nil {
				return fmt.Errorf("%w at %s: %w", ErrImageVolume, c.sealed.Mounts[i].Destination, err)
			}
			continue
		}
		bind := src.Bind
		if c.sealed.Mounts[i].Kind == "sys" {
			bind = src.BindAlone // what the node mounts below it is not for pods
		}
		if err := bind(c.mountPoint(i)); err != nil {
			return err
		}
		failpoint.Hit("mount-bound")
	}
	if c.cfg.Security.Namespaces.Target != "" {
		if err := c.pinTarget(); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(c.bundle(), "config.json"), []byte(grant.Spec()), 0o600); err != nil {
		return fmt.Errorf("write spec: %w", err)
	}
	failpoint.Hit("spec-written")
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	log, err := c.mountLog()
	if err != nil {
		return err
	}
	procs, err := s.monitor.Create(ctx, monitor.Container{
		ID: c.id, Bundle: c.bundle(), ExitDir: s.exitDir(), Log: log, LogMax: s.opt.LogMax,
		Terminal: c.want.Terminal, Stdin: stdin(c.cfg.Stdin, c.cfg.StdinOnce), Runtime: c.runtime,
	})
	if err != nil {
		return err
	}
	failpoint.Hit("container-created")
	c.mu.Lock()
	c.procs = running{Monitor: procs.Monitor, Container: procs.Container}
	c.mu.Unlock()
	return c.ownPipes(procs.Container)
}

// mountLog shows the log file's directory where the monitor finds it, without links, and gives the log
// file's name there: the monitor opens it, and when it is moved away another, by name. "" is no log.
func (c *Container) mountLog() (string, error) {
	if c.base.Ctr.Log == "" {
		return "", nil
	}
	path, err := hostmount.BindLog(c.pod.cfg.LogDirectory, c.cfg.LogPath, c.logMount())
	if err != nil {
		return "", err
	}
	if path != c.base.Ctr.Log {
		return "", fmt.Errorf("mount log directory: it is %s now, it was %s: %w", path, c.base.Ctr.Log, ErrMismatch)
	}
	return filepath.Join(c.logMount(), filepath.Base(path)), nil
}

func (c *Container) logMount() string { return filepath.Join(c.bundle(), "log") }

// mountVolume shows the image that was judged for a mount, or a part of it.
func (c *Container) mountVolume(ctx context.Context, grant enforce.Grant, i int) error {
	root, err := c.pod.pods.opt.Images.MountVolume(ctx, grant, i)
	if err != nil {
		return err
	}
	src, err := hostmount.OpenIn(root.Path, c.sealed.Mounts[i].Source)
	if err != nil {
		return err
	}
	defer src.Close()
	return src.BindAlone(c.mountPoint(i))
}

func stdin(open, once bool) monitor.StdinMode {
	switch {
	case !open:
		return monitor.NoStdin
	case once:
		return monitor.StdinOnce
	default:
		return monitor.StdinOpen
	}
}

func (c *Container) mountPoint(i int) string {
	return filepath.Join(c.bundle(), "mounts", strconv.Itoa(i))
}

func (p *Pods) targetPin(id string) string { return filepath.Join(p.bundleDir(id), "target-pid") }

// pinTarget pins the PID namespace of the container named as target, which must be of this pod: the
// spec was judged with the pin's path.
func (c *Container) pinTarget() error {
	target, err := c.pod.pods.Container(c.cfg.Security.Namespaces.Target)
	if err != nil {
		return err
	}
	target.mu.Lock()
	procs := target.procs
	target.mu.Unlock()
	if target.pod != c.pod || target.Status().State != Running {
		return fmt.Errorf("share PID namespace of %s: %w in this pod", target.id, ErrNotRunning)
	}
	return pinPID(procs.Container, c.pod.pods.targetPin(c.id))
}

// dismantle takes away whatever assemble has made, in whatever state it was left: first the processes,
// then mounts, then files. It is idempotent.
func (c *Container) dismantle(ctx context.Context) error {
	if err := c.endProcesses(ctx); err != nil {
		return err
	}
	s := c.pod.pods
	entries, err := os.ReadDir(filepath.Join(c.bundle(), "mounts"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove bundle: %w", err)
	}
	errs := []error{hostmount.Unmount(s.targetPin(c.id)), hostmount.Unmount(c.logMount())}
	for i := len(entries) - 1; i >= 0; i-- {
		errs = append(errs, hostmount.Unmount(filepath.Join(c.bundle(), "mounts", entries[i].Name())))
	}
	errs = append(errs,
		hostmount.Unmount(filepath.Join(c.bundle(), "rootfs")),
		s.opt.Images.Unmount(c.id),
		s.opt.Images.Release(c.id),
		monitor.RemoveExit(s.exitDir(), c.id),
	)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove container %s: %w", c.id, err)
	}
	failpoint.Hit("container-unmounted")
	err = removeBundle(c.bundle())
	failpoint.Hit("bundle-removed")
	return err
}

// removeBundle removes a bundle by name and not recursively: what is still mounted in it keeps its
// contents and makes this fail.
func removeBundle(dir string) error {
	if err := os.Remove(filepath.Join(dir, "mounts")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove bundle: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove bundle: %w", err)
	}
	for _, e := range entries {
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("remove bundle: %w", err)
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove bundle: %w", err)
	}
	return nil
}
