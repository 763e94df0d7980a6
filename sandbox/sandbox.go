// Package sandbox makes pods and containers, starts and stops them, and remembers what the gate
// admitted. A container is made only from a redeemed admission, which carries the final OCI spec: there
// is no parameter through which another spec could come in.
//
// What is true only while the kernel runs lives in records under Options.Root, written whole before
// each step that cannot be taken back, so that a daemon that was killed finds everything again. Reading
// (Get, List, Status) takes immutable values from memory: it never waits for a running operation, never
// executes a runtime and never touches the disk.
package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/enforce"
	"sallyport/image"
	"sallyport/sandbox/internal/monitor"
	"sallyport/sandbox/internal/ociruntime"
	"sallyport/sandbox/network"
)

// Errors that callers branch on.
var (
	ErrNotFound       = errors.New("not found")
	ErrBusy           = errors.New("is being made by another call")
	ErrExists         = errors.New("exists already")
	ErrNotReady       = errors.New("pod is not ready")
	ErrNotRunning     = errors.New("container is not running")
	ErrNotCreated     = errors.New("container is not in state created")
	ErrNeedsAdmission = errors.New("admission is too old to start with; ask the gate again")
	ErrImageVolume    = errors.New("image volume")
	ErrStopped        = errors.New("cancelled by a stop")
	ErrMismatch       = errors.New("admission is for something else")
	ErrLostState      = errors.New("state of this boot is gone")
	ErrTimeout        = ociruntime.ErrTimeout // an exec's time was up
	ErrUnsafeRuntime  = ociruntime.ErrUnsafe
)

// Images gives containers their root filesystems; it is *image.Store. Mount checks the grant, gives a
// writable root filesystem of the granted image, and MountVolume a read-only one of the image granted
// for a mount, keyed by the grant's subject, and is durable enough
// for Unmount and Release to work after a restart. Unmount and Release take a container ID, and return
// nil for one that is unknown. All may be called concurrently.
type Images interface {
	Mount(ctx context.Context, g enforce.Grant) (image.Rootfs, error)
	MountVolume(ctx context.Context, g enforce.Grant, mount int) (image.Rootfs, error)
	Unmount(containerID string) error
	Release(containerID string) error
}

// RuntimeFacts is what an OCI runtime says of itself.
type RuntimeFacts = ociruntime.Facts

// Options are the parts of Pods.
type Options struct {
	Root     string            // volatile state, on a tmpfs; 0700
	State    string            // what survives a reboot: the boot ID
	NetNS    string            // where network namespaces are pinned; "" is /var/run/netns
	Gate     *enforce.Gate     // whose admissions are redeemed
	Images   Images            //
	Network  *network.CNI      //
	Runtimes map[string]string // CRI runtime handler to path of its OCI runtime; "" is the default handler
	GVisor   []string          // paths of those OCI runtimes that are gVisor's runsc
	Conmon   string            // path
	Init     string            // path of sallyport-init
	LogMax   int64             // bytes of a container's log after which conmon starts it anew; 0: never
	Deadline time.Duration     // of one creation by monitor and runtime; 0: two minutes
	Log      *slog.Logger      // nil: slog.Default()
}

// Pods is all pods of this node. It may be used concurrently.
type Pods struct {
	opt      Options                        // constant
	runtimes map[string]*ociruntime.Runtime // constant; by handler
	monitor  *monitor.Monitor               // constant
	log      *slog.Logger                   // constant
	ctx      context.Context                // constant; ends with Close
	cancel   context.CancelCauseFunc        // constant

	mu          sync.Mutex                 // guards the maps; never held over exec, mount, network, disk or a wait
	pods        map[string]*Pod            // by ID; guarded
	containers  map[string]*Container      // by ID; guarded
	podKeys     map[key]*Pod               // guarded; nil value: reserved
	ctrKeys     map[key]*Container         // guarded; nil value: reserved
	podReserved map[string]*PodReservation // by ID; guarded
	ctrReserved map[string]*Reservation    // by ID; guarded
	restored    bool                       // guarded

	events   events                   // has its own lock
	observer atomic.Pointer[Observer] // nil: none
}

// New wires Pods. It does no I/O and starts nothing; Restore comes before anything else.
func New(o Options) (*Pods, error) {
	for what, path := range map[string]string{"state directory": o.Root, "data directory": o.State, "conmon": o.Conmon, "sallyport-init": o.Init} {
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("open sandbox: %s %q is not an absolute path", what, path)
		}
	}
	if o.Gate == nil || o.Images == nil {
		return nil, errors.New("open sandbox: no gate or no image store")
	}
	if o.Runtimes[""] == "" {
		return nil, errors.New("open sandbox: no default OCI runtime")
	}
	if o.NetNS == "" {
		o.NetNS = "/var/run/netns"
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	p := &Pods{
		opt: o, log: o.Log, monitor: monitor.New(o.Conmon, o.Deadline),
		runtimes: map[string]*ociruntime.Runtime{},
		pods:     map[string]*Pod{}, containers: map[string]*Container{},
		podKeys: map[key]*Pod{}, ctrKeys: map[key]*Container{},
		podReserved: map[string]*PodReservation{}, ctrReserved: map[string]*Reservation{},
	}
	p.ctx, p.cancel = context.WithCancelCause(context.Background())
	for handler, path := range o.Runtimes {
		name := handler
		if name == "" {
			name = filepath.Base(path)
		}
		// Handlers that share an executable share its state, so that renaming a handler loses nothing.
		root := filepath.Join(o.Root, "runtime", filepath.Base(path))
		kind := ociruntime.Native
		if slices.Contains(o.GVisor, path) {
			kind = ociruntime.GVisor
		}
		p.runtimes[handler] = ociruntime.New(ociruntime.Options{Handler: name, Kind: kind, Path: path, Root: root})
	}
	return p, nil
}

// Probe asks every OCI runtime and conmon who they are. An error that is ErrUnsafeRuntime names a
// runtime that must not be used; the daemon then refuses to start.
func (p *Pods) Probe(ctx context.Context) (map[string]RuntimeFacts, error) {
	facts := map[string]RuntimeFacts{}
	var errs []error
	for handler, r := range p.runtimes {
		f, err := r.Probe(ctx)
		facts[handler], errs = f, append(errs, err)
	}
	_, err := p.monitor.Probe(ctx)
	return facts, errors.Join(append(errs, err)...)
}

// Handlers lists the runtime handlers; "" is the default one.
func (p *Pods) Handlers() []string {
	out := make([]string, 0, len(p.runtimes))
	for h := range p.runtimes {
		out = append(out, h)
	}
	return out
}

// Pod finds a pod by its whole ID; ErrNotFound if there is none.
func (p *Pods) Pod(id string) (*Pod, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pod := p.pods[id]; pod != nil {
		return pod, nil
	}
	return nil, fmt.Errorf("find pod %q: %w", id, ErrNotFound)
}

// Container finds a container by its whole ID; ErrNotFound if there is none.
func (p *Pods) Container(id string) (*Container, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.containers[id]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("find container %q: %w", id, ErrNotFound)
}

// List is every pod whose ID an RPC has returned, in no order. A pod that nobody knows of yet must not
// be seen: the kubelet would count it and make another attempt.
func (p *Pods) List() []*Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*Pod, 0, len(p.pods))
	for _, pod := range p.pods {
		if pod.claimed.Load() {
			out = append(out, pod)
		}
	}
	return out
}

// Containers is every container whose ID an RPC has returned, in no order.
func (p *Pods) Containers() []*Container {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*Container, 0, len(p.containers))
	for _, c := range p.containers {
		if c.claimed.Load() {
			out = append(out, c)
		}
	}
	return out
}

func (p *Pods) runtime(handler string) (*ociruntime.Runtime, error) {
	r := p.runtimes[handler]
	if r == nil {
		return nil, fmt.Errorf("find runtime handler %q: %w", handler, ErrNotFound)
	}
	return r, nil
}

// Paths under Options.Root. IDs are ours: 64 hexadecimal digits.
func (p *Pods) podDir(id string) string    { return filepath.Join(p.opt.Root, "pods", id) }
func (p *Pods) bundleDir(id string) string { return filepath.Join(p.opt.Root, "containers", id) }
func (p *Pods) exitDir() string            { return filepath.Join(p.opt.Root, "exits") }
func (p *Pods) keyDir(k key) string        { return filepath.Join(p.opt.Root, "keys", string(k)) }

// newID is random, so that an ID names one object for ever, also in the audit log.
func newID() string {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
