package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/enforce"
	"sallyport/internal/failpoint"
	"sallyport/sandbox/internal/ns"
	"sallyport/sandbox/network"
	"sallyport/sandbox/spec"
)

// PodStatus is what a pod is at one moment. It is immutable.
type PodStatus struct {
	State   State
	Created time.Time
	IPs     []netip.Addr // the first is the primary one; none on the node's network
	InitPid int          // of the first process; 0 where there is none
}

// Pod is one pod. It may be used concurrently.
type Pod struct {
	pods    *Pods          // constant
	id      string         // constant
	key     key            // constant
	cfg     spec.PodConfig // constant
	sealed  string         // constant
	audit   uint64         // constant; sequence of the admission
	slot    slot           // held by the lifecycle operation that runs
	told    EventKind      // guarded by pods.events.mu; what subscribers know of
	status  atomic.Pointer[PodStatus]
	claimed atomic.Bool

	leftover     atomic.Bool // undoing its creation failed and is tried again
	toldStopping atomic.Bool // the observer knows that it stops

	stopping bool // guarded by pods.mu; no container is made any more

	mu   sync.Mutex // guards init, and writing the status and the record
	init running    // guarded
}

// ID is the pod's random ID.
func (p *Pod) ID() string { return p.id }

// Config is the configuration as judged.
func (p *Pod) Config() spec.PodConfig { return p.cfg }

// Status is the pod's present status; it never waits.
func (p *Pod) Status() PodStatus { return *p.status.Load() }

// Namespaces are the paths of the pod's pinned namespaces.
func (p *Pod) Namespaces() spec.Namespaces { return p.pods.namespaces(p.id, p.cfg) }

// NetNS is the pin of the pod's network namespace; "" on the node's network.
func (p *Pod) NetNS() string { return p.Namespaces().Network }

// Published reports whether the pod is visible to List.
func (p *Pod) Published() bool { return p.claimed.Load() }

// Publish makes the pod visible to List: an RPC is about to return its ID.
func (p *Pod) Publish() {
	if p.claimed.CompareAndSwap(false, true) {
		if err := p.save(); err != nil {
			p.pods.log.Warn("publish pod", "id", p.id, "err", err)
		}
		failpoint.Hit("pod-published")
	}
}

// Containers is the pod's containers, also unpublished ones, in no order.
func (p *Pod) Containers() []*Container {
	p.pods.mu.Lock()
	defer p.pods.mu.Unlock()
	var out []*Container
	for _, c := range p.pods.containers {
		if c.pod == p {
			out = append(out, c)
		}
	}
	return out
}

func (p *Pod) save() error { return p.set(func(*PodStatus) {}) }

// set swaps the status and writes it down; the network and the first process report at the same time.
func (p *Pod) set(change func(*PodStatus)) error {
	defer p.tell()
	p.mu.Lock()
	defer p.mu.Unlock() // over a write to a tmpfs, 50 us; readers take no lock
	st := p.Status()
	change(&st)
	p.status.Store(&st)
	return p.pods.save(p.key, record{ID: p.id, State: st.State, Claimed: p.claimed.Load(), Created: st.Created,
		Audit: p.audit, Sealed: p.sealed, Pod: &podPart{IPs: st.IPs, Init: p.init}})
}

// Run makes the pod that adm admits: its files, namespaces, network and, where it shares a PID
// namespace, its first process. On an error nothing is left. The pod is not visible to List until
// Publish.
func (p *Pods) Run(ctx context.Context, adm enforce.PodAdmission) (*Pod, error) {
	grant, err := p.opt.Gate.RedeemPod(adm)
	if err != nil {
		return nil, fmt.Errorf("run pod: %w", err)
	}
	p.mu.Lock()
	r := p.podReserved[grant.Subject()]
	delete(p.podReserved, grant.Subject())
	p.mu.Unlock()
	if r == nil {
		return nil, fmt.Errorf("run pod %s: no reservation: %w", grant.Subject(), ErrMismatch)
	}
	var undo undo
	defer undo.run()
	var kept bool // undoing failed: key, record and object stay, for Tend or a retry to remove
	undo.add(func() {
		if !kept {
			p.freePodKey(r.key)
		}
	})

	var cfg spec.PodConfig
	if err := json.Unmarshal([]byte(grant.Config()), &cfg); err != nil {
		return nil, fmt.Errorf("run pod %s: read configuration: %w", r.id, err)
	}
	if podKey(cfg) != r.key || cfg.Namespace != grant.Namespace() {
		return nil, fmt.Errorf("run pod %s: %w", r.id, ErrMismatch)
	}
	pod := &Pod{pods: p, id: r.id, key: r.key, cfg: cfg, sealed: grant.Config(), audit: grant.Receipt().Seq(), slot: newSlot()}
	pod.status.Store(&PodStatus{State: Creating, Created: time.Now()})
	if err := pod.save(); err != nil {
		return nil, fmt.Errorf("run pod %s: %w", r.id, err)
	}
	failpoint.Hit("pod-recorded")
	p.mu.Lock()
	p.pods[pod.id] = pod // before the network knows it, or a sweep would detach it
	p.mu.Unlock()
	undo.add(func() {
		ctx, cancel := after(ctx)
		defer cancel()
		err := pod.dismantle(ctx)
		p.mu.Lock()
		defer p.mu.Unlock()
		if err == nil {
			delete(p.pods, pod.id)
			return
		}
		kept = true
		p.podKeys[pod.key] = pod
		pod.leftover.Store(true)
		p.log.Warn("undo pod; it is tried again", "id", pod.id, "err", err)
	})
	if err := pod.assemble(ctx, grant); err != nil {
		return nil, fmt.Errorf("run pod %s/%s: %w", cfg.Namespace, cfg.Name, err)
	}
	if err := pod.set(func(s *PodStatus) { s.State = Ready }); err != nil {
		return nil, fmt.Errorf("run pod %s/%s: %w", cfg.Namespace, cfg.Name, err)
	}
	failpoint.Hit("pod-ready")
	p.mu.Lock()
	p.podKeys[pod.key] = pod
	p.mu.Unlock()
	undo.disarm()
	return pod, nil
}

// assemble makes everything that the pod consists of. What it has made is undone by dismantle.
func (p *Pod) assemble(ctx context.Context, grant enforce.Grant) error {
	if err := p.makeFiles(); err != nil {
		return err
	}
	if err := p.makeNamespaces(ctx); err != nil {
		return err
	}
	// The network and the first process do not need each other.
	first := make(chan error, 1)
	go func() { first <- p.startInit(ctx, grant) }()
	err := p.attach(ctx)
	return errors.Join(err, <-first)
}

func (p *Pod) makeNamespaces(ctx context.Context) error {
	paths := p.Namespaces()
	opt := ns.Options{
		InitPath: p.pods.opt.Init, NetPath: paths.Network, Dir: filepath.Join(p.dir(), "ns"),
		HostIPC: paths.IPC == "", HostUTS: paths.UTS == "", Sysctls: p.cfg.Sysctls,
	}
	if paths.UTS != "" {
		opt.Hostname = p.cfg.Hostname
	}
	if paths.User != "" {
		user := p.cfg.Security.Namespaces.User
		opt.UIDs, opt.GIDs = mappings(user.UIDs), mappings(user.GIDs)
		if len(opt.UIDs) == 0 || len(opt.GIDs) == 0 {
			return errors.New("make namespaces: a user namespace needs ID mappings")
		}
	}
	_, err := ns.Make(ctx, opt)
	return err
}

func mappings(in []spec.IDMapping) []ns.Mapping {
	out := make([]ns.Mapping, len(in))
	for i, m := range in {
		out[i] = ns.Mapping{Inside: m.Container, Outside: m.Host, Size: m.Length}
	}
	return out
}

func (p *Pod) attach(ctx context.Context) error {
	path := p.NetNS()
	if path == "" {
		return nil
	}
	if p.pods.opt.Network == nil {
		return network.ErrNoNetwork
	}
	a := network.Attachment{PodID: p.id, Namespace: p.cfg.Namespace, Name: p.cfg.Name, UID: p.cfg.UID, NetNS: path}
	for _, m := range p.cfg.PortMappings {
		if m.HostPort == 0 {
			continue
		}
		if m.HostPort < 0 || m.HostPort > 65535 || m.ContainerPort < 1 || m.ContainerPort > 65535 {
			return fmt.Errorf("map port %d of the node to %d: out of range", m.HostPort, m.ContainerPort)
		}
		a.Ports = append(a.Ports, network.Port{HostPort: uint16(m.HostPort), ContainerPort: uint16(m.ContainerPort), Protocol: m.Protocol, HostIP: m.HostIP})
	}
	res, err := p.pods.opt.Network.Attach(ctx, a)
	if err != nil {
		return err
	}
	return p.set(func(s *PodStatus) { s.IPs = res.IPs })
}

func (p *Pod) dir() string { return p.pods.podDir(p.id) }

// Stop ends the pod's containers, all at once and each with its own grace, then its first process, and
// takes it off the network. It is idempotent; what failed is tried again by the next call.
func (p *Pod) Stop(ctx context.Context) error {
	p.pods.mu.Lock()
	p.stopping = true
	p.pods.mu.Unlock()
	var wg sync.WaitGroup
	ctrs := p.Containers()
	errs := make([]error, len(ctrs), len(ctrs)+1)
	for i, c := range ctrs {
		wg.Go(func() { errs[i] = c.Stop(ctx, 0) })
	}
	wg.Wait()
	if err := p.slot.take(ctx); err != nil {
		return fmt.Errorf("stop pod %s: %w", p.id, err)
	}
	defer p.slot.give()
	err := errors.Join(append(errs, p.stopLocked(ctx))...)
	if err != nil {
		return fmt.Errorf("stop pod %s: %w", p.id, err)
	}
	return nil
}

func (p *Pod) stopLocked(ctx context.Context) error {
	if p.Status().State == Stopped {
		return nil
	}
	p.tellStopping(ctx)
	err := p.stopInit(ctx)
	if p.NetNS() != "" && p.pods.opt.Network != nil {
		err = errors.Join(err, p.pods.opt.Network.Detach(ctx, p.id))
	}
	if err != nil {
		return err
	}
	err = p.set(func(s *PodStatus) { s.State = Stopped })
	failpoint.Hit("pod-stopped")
	return err
}

// Remove stops the pod, removes its containers and everything it consists of. It is idempotent.
func (p *Pod) Remove(ctx context.Context) error {
	ctx, cancel := after(ctx) // half a removal is worse than a slow one
	defer cancel()
	if err := p.Stop(ctx); err != nil {
		return err
	}
	for _, c := range p.Containers() {
		if err := c.Remove(ctx); err != nil {
			return fmt.Errorf("remove pod %s: %w", p.id, err)
		}
	}
	if err := p.slot.take(ctx); err != nil {
		return fmt.Errorf("remove pod %s: %w", p.id, err)
	}
	defer p.slot.give()
	p.pods.mu.Lock()
	gone := p.pods.pods[p.id] != p
	p.pods.mu.Unlock()
	if gone {
		return nil
	}
	if err := p.dismantle(ctx); err != nil {
		return fmt.Errorf("remove pod %s: %w", p.id, err)
	}
	p.pods.mu.Lock()
	delete(p.pods.pods, p.id)
	p.pods.mu.Unlock()
	p.tell()
	p.tellGone(ctx)
	p.pods.freePodKey(p.key)
	return nil
}

// dismantle takes away whatever assemble has made, in whatever state it was left. It is idempotent.
func (p *Pod) dismantle(ctx context.Context) error {
	err := p.stopInit(ctx)
	if path := p.NetNS(); path != "" && p.pods.opt.Network != nil {
		err = errors.Join(err, p.pods.opt.Network.Detach(ctx, p.id))
	}
	if err != nil {
		return err // the namespaces stay, so that a later DEL finds them
	}
	if err := ns.Remove(filepath.Join(p.dir(), "ns"), p.NetNS()); err != nil {
		return err
	}
	failpoint.Hit("namespaces-unpinned")
	if err := p.removeFiles(); err != nil {
		return err
	}
	failpoint.Hit("pod-files-removed")
	if err := os.Remove(p.dir()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove pod directory: %w", err)
	}
	failpoint.Hit("pod-directory-removed")
	return nil
}
