// Package network attaches a pod's network namespace to the node's CNI network, and detaches it for
// certain: what was begun is on disk before a plugin runs, so that a kill, a failed DEL or a reboot
// (which the leases of host-local outlive) leaves nothing that Recover does not find.
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/containernetworking/cni/libcni"

	"sallyport/internal/failpoint"
	"sallyport/internal/span"
)

// Errors that callers tell apart.
var (
	// ErrNotRecovered answers Attach before Recover: an address of an earlier boot might still be held.
	ErrNotRecovered = errors.New("attachments of earlier runs are not recovered yet")
	// ErrNoNetwork answers Attach and Status while no usable network configuration is loaded.
	ErrNoNetwork = errors.New("no CNI network")
	// ErrAttached answers Attach for a pod that has an attachment, if only one that could not be undone: a
	// second ADD without a DEL would leak the first one's address (CNI specification, ADD).
	ErrAttached = errors.New("the pod is attached already")
)

const (
	ifName         = "eth0" // of the pod, as every runtime names it
	defaultTimeout = 60 * time.Second
	statusTimeout  = 5 * time.Second
	statusFresh    = 5 * time.Second // the kubelet asks every 5 s; a STATUS costs one exec a plugin
)

// Options says where CNI's parts are.
type Options struct {
	ConfDir  string        // *.conflist, *.conf, *.json; the first name in byte order is the network
	BinDirs  []string      // searched in order
	CacheDir string        // ours alone, on a disk: records of attachments, and libcni's results
	BootID   string        // of the running kernel; distinguishes attachments of an earlier boot
	Timeout  time.Duration // of one ADD, DEL or CHECK of the whole chain; 0 is 60 s
	Log      *slog.Logger  // nil: slog.Default()
}

// CNI is the node's pod network. Its methods may be called concurrently; the calls for one pod are the
// caller's to put in order. No lock is held while a plugin runs.
type CNI struct {
	o         Options                // constant
	lib       *libcni.CNIConfig      // constant
	conf      atomic.Pointer[loaded] // immutable value, swapped by load; nil until the first
	recovered atomic.Bool
	status    atomic.Pointer[answer] // last answer of the STATUS verb
}

// answer is what STATUS said, of which configuration, and when.
type answer struct {
	of  *loaded
	at  time.Time
	err error
}

// New checks o and touches nothing.
func New(o Options) (*CNI, error) {
	for name, dir := range map[string]string{"configuration": o.ConfDir, "cache": o.CacheDir} {
		if !filepath.IsAbs(dir) {
			return nil, fmt.Errorf("open CNI: %s directory %q is not an absolute path", name, dir)
		}
	}
	switch {
	case len(o.BinDirs) == 0:
		return nil, errors.New("open CNI: no plugin directory")
	case o.BootID == "":
		return nil, errors.New("open CNI: no boot ID")
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &CNI{
		o:   o,
		lib: libcni.NewCNIConfigWithCacheDir(o.BinDirs, filepath.Join(o.CacheDir, "libcni"), &runner{}),
	}, nil
}

// Attachment is a pod that wants a network.
type Attachment struct {
	PodID     string // hexadecimal; CNI's container ID
	Namespace string // Kubernetes namespace, for CNI_ARGS
	Name      string
	UID       string
	NetNS     string // path of the pinned network namespace
	Ports     []Port
}

// Port is a port of the node that leads to the pod. It is given to plugins with the capability
// "portMappings"; its JSON is CNI's (CONVENTIONS.md).
type Port struct {
	HostPort      uint16 `json:"hostPort"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"` // tcp, udp or sctp
	HostIP        string `json:"hostIP,omitempty"`
}

// Result is what the network gave the pod.
type Result struct {
	Network string       // the configuration's name
	IPs     []netip.Addr // at least one; the first is the pod's primary address
}

// Attach adds the pod to the network (ADD). If it fails, a DEL has been tried; what a failed DEL leaves is
// kept for Sweep. It ends with ctx, or after the timeout of Options.
func (c *CNI) Attach(ctx context.Context, a Attachment) (_ Result, err error) {
	ctx, sp := span.Start(ctx, span.Network)
	defer sp.End(&err)
	sp.Set(span.PodID, a.PodID)
	if !c.recovered.Load() {
		return Result{}, fmt.Errorf("attach pod %s: %w", a.PodID, ErrNotRecovered)
	}
	if err := a.check(); err != nil {
		return Result{}, fmt.Errorf("attach pod %s: %w", a.PodID, err)
	}
	conf, err := c.ready()
	if err != nil {
		return Result{}, fmt.Errorf("attach pod %s: %w", a.PodID, err)
	}
	if _, err := os.Lstat(c.file(a.PodID)); err == nil {
		return Result{}, fmt.Errorf("attach pod %s: %w", a.PodID, ErrAttached)
	}
	r := newRecord(c.o.BootID, conf.list, a)
	if err := c.keep(r); err != nil { // before ADD: see the package comment
		return Result{}, fmt.Errorf("attach pod %s: %w", a.PodID, err)
	}
	failpoint.Hit("network-recorded")
	res, err := c.add(ctx, conf.list, r)
	failpoint.Hit("network-added")
	if err == nil {
		return res, nil
	}
	// The undo has a deadline of its own, because ctx may be what ended the ADD.
	if undo := c.del(context.WithoutCancel(ctx), r); undo != nil {
		err = errors.Join(err, undo)
	}
	return Result{}, fmt.Errorf("attach pod %s to network %q: %w", a.PodID, conf.list.Name, oneLine(err))
}

// Detach takes the pod off the network that it was attached to (DEL), whatever is configured by now. It
// returns nil if the pod is not attached, also when its namespace is gone: StopPodSandbox is idempotent.
func (c *CNI) Detach(ctx context.Context, podID string) error {
	r, err := c.find(podID)
	if err != nil || r == nil {
		return err
	}
	if err := c.del(ctx, r); err != nil {
		return fmt.Errorf("detach pod %s from network %q: %w", podID, r.Network, oneLine(err))
	}
	return nil
}

// Check asks the plugins whether the pod's network is as they left it (CHECK). A configuration that
// is too old for it, or that switches it off, passes.
func (c *CNI) Check(ctx context.Context, podID string) error {
	r, err := c.find(podID)
	if err != nil {
		return err
	}
	if r == nil {
		return fmt.Errorf("check network of pod %s: not attached", podID)
	}
	list, err := r.list()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	err = c.lib.CheckNetworkList(ctx, list, r.runtimeConf(r.NetNS))
	if err != nil && !errors.Is(err, libcni.ErrorCheckNotSupp) {
		return fmt.Errorf("check network of pod %s: %w", podID, oneLine(err))
	}
	return nil
}

// Status returns nil if pods can be attached: a configuration is loaded, its plugins are there, and
// they say so themselves where the configuration's version has STATUS (1.1.0). It is cheap to ask often.
func (c *CNI) Status(ctx context.Context) error {
	conf, err := c.ready()
	if err != nil {
		return err
	}
	if err := conf.missing(c.o.BinDirs); err != nil {
		return err
	}
	if last := c.status.Load(); last != nil && last.of == conf && time.Since(last.at) < statusFresh {
		return last.err
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	err = c.lib.GetStatusNetworkList(ctx, conf.list)
	if err != nil {
		err = fmt.Errorf("network %q: %w", conf.list.Name, oneLine(err))
	}
	c.status.Store(&answer{conf, time.Now(), err})
	return err
}

// add runs the chain with ADD and reads its result.
func (c *CNI) add(ctx context.Context, list *libcni.NetworkConfigList, r *record) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	res, err := c.lib.AddNetworkList(ctx, list, r.runtimeConf(r.NetNS))
	if err != nil {
		return Result{}, err
	}
	ips, err := addresses(res)
	if err != nil {
		return Result{}, err
	}
	return Result{Network: list.Name, IPs: ips}, nil
}

// del runs the chain of r with DEL and forgets r if that went well.
func (c *CNI) del(ctx context.Context, r *record) error {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	list, err := r.list()
	if err != nil {
		return err
	}
	if err := c.lib.DelNetworkList(ctx, list, r.runtimeConf(existing(r.NetNS))); err != nil {
		return err
	}
	failpoint.Hit("network-deleted")
	err = c.forget(r.PodID)
	failpoint.Hit("network-forgotten")
	return err
}
