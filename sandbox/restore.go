package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sallyport/internal/durable"
	"sallyport/internal/failpoint"
	"sallyport/sandbox/internal/hostmount"
	"sallyport/sandbox/internal/monitor"
	"sallyport/sandbox/internal/proc"
	"sallyport/sandbox/spec"
)

const (
	logWait      = 2 * time.Second // for conmon to open a new log file
	unclaimedFor = 5 * time.Minute // after a restart: until a retry claims it
	orphanGap    = 10 * time.Second
	sweepGap     = time.Minute
)

// waitFile waits until path exists.
func waitFile(path string, wait time.Duration) error {
	for end := time.Now().Add(wait); ; time.Sleep(time.Millisecond) {
		if _, err := os.Lstat(path); err == nil {
			return nil
		} else if time.Now().After(end) {
			return fmt.Errorf("wait for log file: %w", err)
		}
	}
}

// BootID is the kernel's boot ID.
func BootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot ID: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// Restore makes the state directory usable and takes over what an earlier daemon of this boot has left:
// running containers go on, what was half-made is removed. State of an earlier boot is removed. If the
// data directory knows this boot but the state directory does not (a wrong root, a late mount), it is
// ErrLostState and nothing is touched. It must be called once, before anything else.
func (p *Pods) Restore(ctx context.Context) error {
	if err := proc.Subreaper(); err != nil { // monitors and commands become our children
		return fmt.Errorf("restore: %w", err)
	}
	boot, err := BootID()
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := p.prepare(boot); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	pods, ctrs, err := p.readRecords()
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	for k, r := range pods {
		if err := p.restorePod(ctx, k, r); err != nil {
			return fmt.Errorf("restore pod %s: %w", r.ID, err)
		}
	}
	for k, r := range ctrs {
		if err := p.restoreContainer(ctx, k, r); err != nil {
			return fmt.Errorf("restore container %s: %w", r.ID, err)
		}
	}
	if p.opt.Network != nil {
		if err := p.opt.Network.Recover(ctx, p.known); err != nil {
			p.log.Warn("recover network; Tend tries again", "err", err) // it must not cost the node its pods
		}
	}
	p.mu.Lock()
	p.restored = true
	p.mu.Unlock()
	return nil
}

// known reports whether a pod is there or just being made.
func (p *Pods) known(podID string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pods[podID] != nil
}

// Close stops watching; pods and containers are left running for the next daemon.
func (p *Pods) Close() { p.cancel(errors.New("the daemon is stopping")) }

// Tend does what has to be done from time to time, until ctx ends: it removes what no client claimed
// after a restart and what a failed creation could not take back, and reaps orphans that were left to
// this process as subreaper. Only a child that was a zombie in two rounds is reaped: whoever started it
// would have waited for it by then.
func (p *Pods) Tend(ctx context.Context) error {
	begun := time.Now()
	seen := map[proc.ID]bool{}
	tick := time.NewTicker(orphanGap)
	defer tick.Stop()
	for tidy, swept := false, time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := map[proc.ID]bool{}
		for _, id := range proc.Orphans() {
			if now[id] = true; seen[id] {
				proc.Reap(id.Pid)
			}
		}
		seen = now
		if p.opt.Network != nil && time.Since(swept) > sweepGap {
			swept = time.Now()
			if err := p.opt.Network.Sweep(ctx, p.known); err != nil {
				p.log.Warn("detach what failed calls left", "err", err)
			}
		}
		p.sweep(ctx, func(o object) bool { return o.leftover })
		if !tidy && time.Since(begun) > unclaimedFor {
			tidy = true
			p.sweep(ctx, func(o object) bool { return !o.claimed && o.made.Before(begun) })
		}
	}
}

// object is what sweep knows of a pod or container.
type object struct {
	made     time.Time
	claimed  bool
	leftover bool // of a creation that could not be undone
}

// sweep removes what is picked.
func (p *Pods) sweep(ctx context.Context, pick func(object) bool) {
	p.mu.Lock()
	var pods []*Pod
	var ctrs []*Container
	for _, c := range p.containers {
		if pick(object{c.Status().Created, c.claimed.Load(), c.leftover.Load()}) {
			ctrs = append(ctrs, c)
		}
	}
	for _, pod := range p.pods {
		if pick(object{pod.Status().Created, pod.claimed.Load(), pod.leftover.Load()}) {
			pods = append(pods, pod)
		}
	}
	p.mu.Unlock()
	for _, c := range ctrs {
		if err := c.Remove(ctx); err != nil {
			p.log.Warn("remove unclaimed container", "id", c.id, "err", err)
		}
	}
	for _, pod := range pods {
		if err := pod.Remove(ctx); err != nil {
			p.log.Warn("remove unclaimed pod", "id", pod.id, "err", err)
		}
	}
}

// prepare makes the directories, and decides by the boot ID whose state this is.
func (p *Pods) prepare(boot string) error {
	for _, dir := range []string{p.opt.Root, p.opt.State} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := durable.Tidy(dir); err != nil {
			return err
		}
	}
	kept, here := filepath.Join(p.opt.State, "boot-id"), filepath.Join(p.opt.Root, "boot-id")
	last, err := readSmall(kept)
	if err != nil {
		return err
	}
	mark, err := readSmall(here)
	if err != nil {
		return err
	}
	if last == boot && mark != boot {
		return fmt.Errorf("%w: %s says that pods were made since the node booted, but %s knows none of them; is it the right directory? run \"sallyport doctor\", which says what to do",
			ErrLostState, kept, p.opt.Root)
	}
	if mark != "" && mark != boot {
		if err := p.clearStale(); err != nil {
			return err
		}
	}
	if err := hostmount.Private(p.opt.Root); err != nil {
		return err
	}
	for _, dir := range []string{"keys", "pods", "containers", "exits", "exec", "runtime"} {
		if err := os.MkdirAll(filepath.Join(p.opt.Root, dir), 0o700); err != nil {
			return err
		}
	}
	// A pod's root walks through these to its own directory, whose name it cannot find out (letIn).
	for _, dir := range []string{"", "pods", "containers"} {
		if err := os.Chmod(filepath.Join(p.opt.Root, dir), 0o711); err != nil {
			return err
		}
	}
	if err := durable.Replace(here, []byte(boot+"\n"), 0o600); err != nil {
		return err
	}
	failpoint.Hit("boot-noted")
	if last == boot {
		return nil
	}
	return durable.WriteFile(kept, []byte(boot+"\n"), 0o600)
}

// clearStale removes the state of an earlier boot, where the state directory is no tmpfs. No process of
// it lives and nothing is mounted there, which is checked, since removal is recursive.
func (p *Pods) clearStale() error {
	for _, dir := range []string{"keys", "pods", "containers", "exits", "exec", "runtime", "boot-id"} {
		path := filepath.Join(p.opt.Root, dir)
		if err := hostmount.None(path); err != nil {
			return fmt.Errorf("remove state of an earlier boot: %w", err)
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove state of an earlier boot: %w", err)
		}
	}
	return nil
}

func readSmall(path string) (string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(data)), nil
}

// readRecords reads every record. A reserved key without a record was nobody's yet and is freed.
func (p *Pods) readRecords() (pods, ctrs map[key]record, err error) {
	pods, ctrs = map[key]record{}, map[key]record{}
	entries, err := os.ReadDir(filepath.Join(p.opt.Root, "keys"))
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		k := key(e.Name())
		data, err := os.ReadFile(filepath.Join(p.keyDir(k), recordName))
		if errors.Is(err, os.ErrNotExist) {
			if err := p.unreserve(k); err != nil {
				return nil, nil, err
			}
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		r, err := parseRecord(data)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", filepath.Join(p.keyDir(k), recordName), err)
		}
		if r.Pod != nil {
			pods[k] = r
		} else {
			ctrs[k] = r
		}
	}
	return pods, ctrs, nil
}

func (p *Pods) restorePod(ctx context.Context, k key, r record) error {
	var cfg spec.PodConfig
	if err := json.Unmarshal([]byte(r.Sealed), &cfg); err != nil {
		return err
	}
	if podKey(cfg) != k {
		return fmt.Errorf("its record lies under another key: %w", ErrMismatch)
	}
	pod := &Pod{pods: p, id: r.ID, key: k, cfg: cfg, sealed: r.Sealed, audit: r.Audit, slot: newSlot(), init: r.Pod.Init}
	pod.claimed.Store(r.Claimed)
	pod.status.Store(&PodStatus{State: r.State, Created: r.Created, IPs: r.Pod.IPs, InitPid: r.Pod.Init.Container.Pid})
	if r.State == Creating { // cut off: nobody has its ID
		err := pod.dismantle(ctx)
		if err == nil {
			return p.unreserve(k)
		}
		pod.leftover.Store(true) // one stuck pod must not cost the node the others
		p.log.Warn("undo pod; it is tried again", "id", pod.id, "err", err)
	}
	pod.stopping = r.State == Stopped
	p.mu.Lock()
	p.pods[pod.id], p.podKeys[k] = pod, pod
	p.mu.Unlock()
	pod.tell() // nobody listens yet: what came before is not told
	return nil
}

func (p *Pods) restoreContainer(ctx context.Context, k key, r record) error {
	pod, err := p.Pod(r.Ctr.PodID)
	if err != nil {
		return err
	}
	var sealed Sealed
	if err := json.Unmarshal([]byte(r.Sealed), &sealed); err != nil {
		return err
	}
	if containerKey(pod.id, sealed.Container.Name, sealed.Container.Attempt) != k {
		return fmt.Errorf("its record lies under another key: %w", ErrMismatch)
	}
	want := expectation{Cgroup: r.Ctr.Cgroup}
	if data, err := os.ReadFile(filepath.Join(p.bundleDir(r.ID), "config.json")); err == nil && hashHex(data) == r.Ctr.SpecHash {
		if want, err = expect(data); err != nil {
			return err
		}
	}
	c, err := pod.container(r, sealed, want)
	if err != nil {
		return err
	}
	part := r.Ctr
	c.procs = part.Processes
	c.claimed.Store(r.Claimed)
	if r.State == Creating { // cut off: nobody has its ID
		err := c.dismantle(ctx)
		if err == nil {
			return p.unreserve(k)
		}
		p.log.Warn("undo container; it is tried again", "id", c.id, "err", err)
		c.leftover.Store(true)
		p.mu.Lock()
		p.containers[c.id], p.ctrKeys[k] = c, c
		p.mu.Unlock()
		return nil
	}
	st := &ContainerStatus{State: r.State, Created: r.Created, Started: part.Started, Finished: part.Finished,
		ExitCode: part.ExitCode, Reason: part.Reason, Message: part.Message, Resources: part.Resources}
	if r.State != Exited {
		st.Pid = part.Processes.Container.Pid
	}
	if part.Starting && r.State == Created {
		p.settle(ctx, c, st)
	}
	c.status.Store(st)
	p.mu.Lock()
	p.containers[c.id], p.ctrKeys[k] = c, c
	p.mu.Unlock()
	c.tell()
	if r.State == Exited {
		close(c.exited)
	} else {
		go c.watch(c.procs)
	}
	return nil
}

// settle finds out whether a start that was cut off has happened: the one case in which the runtime has
// to be asked. A container that was not verified after its start is not trusted and is killed by its
// monitor's watch being told so.
func (p *Pods) settle(ctx context.Context, c *Container, st *ContainerStatus) {
	got, err := c.runtime.State(ctx, c.id)
	if err != nil || got.Status == "created" {
		return
	}
	st.State, st.Started = Running, time.Now()
	if _, err := monitor.ReadExit(p.exitDir(), c.id); err == nil {
		return
	}
	if err := c.verify(ctx); err != nil {
		p.log.Warn("container whose start was cut off is not as judged; killing it", "id", c.id, "err", err)
		if err := endProcess(ctx, c.procs.Container, killWait); err != nil {
			p.log.Warn("kill container", "id", c.id, "err", err)
		}
	}
}
