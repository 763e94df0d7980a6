package sandbox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/enforce"
	"sallyport/internal/failpoint"
	"sallyport/sandbox/internal/ociruntime"
	"sallyport/sandbox/spec"
)

// ContainerStatus is what a container is at one moment. It is immutable.
type ContainerStatus struct {
	State     State
	Created   time.Time
	Started   time.Time // zero until started
	Finished  time.Time // zero until exited
	ExitCode  int
	Reason    string          // of an exited one: Completed, Error, OOMKilled
	Message   string          // more on the reason, one line
	Pid       int             // of the first process; 0 unless created or running
	Resources json.RawMessage // OCI LinuxResources in force
}

// Container is one container. It may be used concurrently: one lifecycle operation runs at a time, and
// Stop cancels a Create or Start that is under way.
type Container struct {
	pod      *Pod                 // constant
	id       string               // constant
	key      key                  // constant
	cfg      spec.ContainerConfig // constant
	sealed   Sealed               // constant
	base     record               // constant; what records say besides the status
	want     expectation          // constant; from the spec
	runtime  *ociruntime.Runtime  // constant
	slot     slot                 // held by the lifecycle operation that runs
	status   atomic.Pointer[ContainerStatus]
	admitted atomic.Pointer[admitted] // nil: no admission of this daemon's life
	claimed  atomic.Bool
	leftover atomic.Bool   // undoing its creation failed and is tried again
	exited   chan struct{} // closed when the state has become exited
	told     EventKind     // guarded by pods.events.mu; what subscribers know of

	mu       sync.Mutex              // guards the rest
	procs    running                 // zero until created
	starting bool                    // the runtime was told to start it and has not answered yet
	cancel   context.CancelCauseFunc // of the operation that holds the slot and may be cancelled
	stopping *stopFlight
	gone     bool // removed
}

// admitted remembers by what the container may be started.
type admitted struct {
	effective string // policy that judged
	at        time.Time
}

// ID is the container's random ID.
func (c *Container) ID() string { return c.id }

// Pod is the container's pod.
func (c *Container) Pod() *Pod { return c.pod }

// Config is the configuration as judged.
func (c *Container) Config() spec.ContainerConfig { return c.cfg }

// Sealed is all that was judged besides the spec.
func (c *Container) Sealed() Sealed { return c.sealed }

// Resolved is what the container's mounts really are, as judged.
func (c *Container) Resolved() []enforce.Mount { return resolved(c.sealed.Mounts) }

// SealedText is the exact RunRequest.Config of the admission, for asking again.
func (c *Container) SealedText() string { return c.base.Sealed }

// Image is the judged image.
func (c *Container) Image() enforce.Image { return c.base.Ctr.Image }

// Volumes are the judged images of the container's image volumes, by mount.
func (c *Container) Volumes() []enforce.VolumeImage { return slices.Clone(c.base.Ctr.Volumes) }

// LogPath is the container's log file on the node; "" if it has none.
func (c *Container) LogPath() string { return c.base.Ctr.Log }

// CgroupPath is the container's cgroup as the spec names it.
func (c *Container) CgroupPath() string { return c.base.Ctr.Cgroup }

// SpecHash is the SHA-256 of the config.json that the runtime read, in hexadecimal.
func (c *Container) SpecHash() string { return c.base.Ctr.SpecHash }

// Audit is the sequence number of the admission's audit record.
func (c *Container) Audit() uint64 { return c.base.Audit }

// Status is the container's present status; it never waits.
func (c *Container) Status() ContainerStatus { return *c.status.Load() }

// Spec is the judged OCI spec, read from the runtime bundle; an error if it is not what was judged.
func (c *Container) Spec() ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(c.bundle(), "config.json"))
	if err != nil {
		return nil, fmt.Errorf("read spec of %s: %w", c.id, err)
	}
	if hashHex(data) != c.base.Ctr.SpecHash {
		return nil, fmt.Errorf("read spec of %s: it is not what was judged: %w", c.id, ErrMismatch)
	}
	return data, nil
}

// Publish makes the container visible to List: an RPC is about to return its ID.
func (c *Container) Publish() {
	if c.claimed.CompareAndSwap(false, true) {
		if err := c.save(); err != nil {
			c.pod.pods.log.Warn("publish container", "id", c.id, "err", err)
		}
		failpoint.Hit("container-published")
	}
}

// Published reports whether the container is visible to List.
func (c *Container) Published() bool { return c.claimed.Load() }

func (c *Container) bundle() string { return c.pod.pods.bundleDir(c.id) }

// save writes the record, and then tells subscribers.
func (c *Container) save() error {
	defer c.tell()
	r, part := c.base, *c.base.Ctr
	c.mu.Lock()
	defer c.mu.Unlock() // a later status must not be overwritten by an earlier one; tmpfs, 50 us
	if c.gone {
		return nil
	}
	st := c.Status()
	r.State, r.Claimed, r.Created = st.State, c.claimed.Load(), st.Created
	part.Processes, part.Starting = c.procs, c.starting
	part.Started, part.Finished, part.ExitCode = st.Started, st.Finished, st.ExitCode
	part.Reason, part.Message, part.Resources = st.Reason, st.Message, st.Resources
	r.Ctr = &part
	return c.pod.pods.save(c.key, r)
}

// change swaps the status. An exited container stays exited.
func (c *Container) change(f func(*ContainerStatus)) {
	for {
		old := c.status.Load()
		if old.State == Exited {
			return
		}
		st := *old
		f(&st)
		if c.status.CompareAndSwap(old, &st) {
			return
		}
	}
}

// begin takes the slot for an operation that a Stop may cancel.
func (c *Container) begin(ctx context.Context) (context.Context, func(), error) {
	if err := c.slot.take(ctx); err != nil {
		return nil, nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopping != nil || c.gone {
		c.slot.give()
		return nil, nil, ErrStopped
	}
	ctx, cancel := context.WithCancelCause(ctx)
	c.cancel = cancel
	return ctx, func() {
		c.mu.Lock()
		c.cancel = nil
		c.mu.Unlock()
		cancel(nil)
		c.slot.give()
	}, nil
}

// Start lets the created container's process run, if its admission is of this daemon's life, younger
// than two minutes and of the policy in force; ErrNeedsAdmission otherwise.
func (c *Container) Start(ctx context.Context) error {
	ok := c.admitted.Load()
	if ok == nil || time.Since(ok.at) >= enforce.Life || ok.effective != c.pod.pods.opt.Gate.Effective(c.pod.cfg.Namespace) {
		return fmt.Errorf("start container %s: %w", c.id, ErrNeedsAdmission)
	}
	return c.start(ctx)
}

// StartAdmitted is Start with a fresh admission, which must be for this container and the very spec
// that it was created from.
func (c *Container) StartAdmitted(ctx context.Context, adm enforce.RunAdmission) error {
	effective := c.pod.pods.opt.Gate.Effective(c.pod.cfg.Namespace)
	grant, err := c.pod.pods.opt.Gate.Redeem(adm)
	if err != nil {
		return fmt.Errorf("start container %s: %w", c.id, err)
	}
	if !c.covers(grant) {
		return fmt.Errorf("start container %s: %w", c.id, ErrMismatch)
	}
	c.admitted.Store(&admitted{effective: effective, at: time.Now()})
	return c.start(ctx)
}

// covers reports whether grant is for this container, its spec and its images.
func (c *Container) covers(grant enforce.Grant) bool {
	return grant.Subject() == c.id && hashHex([]byte(grant.Spec())) == c.base.Ctr.SpecHash && grant.Image().Instance == c.base.Ctr.Image.Instance &&
		slices.EqualFunc(grant.Volumes(), c.base.Ctr.Volumes, sameVolume)
}

func sameVolume(a, b enforce.VolumeImage) bool {
	return a.Mount == b.Mount && a.Image.Instance == b.Image.Instance
}

func (c *Container) start(ctx context.Context) error {
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return fmt.Errorf("start container %s: %w", c.id, err)
	}
	defer end()
	if st := c.Status().State; st != Created {
		return fmt.Errorf("start container %s in state %s: %w", c.id, st, ErrNotCreated)
	}
	// On record before the deed: after a kill in between, Restore asks the runtime.
	c.setStarting(true)
	if err := c.save(); err != nil {
		return fmt.Errorf("start container %s: %w", c.id, err)
	}
	failpoint.Hit("start-recorded")
	started := time.Now()
	if err := c.runtime.Start(ctx, c.id); err != nil {
		c.setStarting(false)
		c.abort(ctx)
		return fmt.Errorf("start container %s: %w", c.id, err)
	}
	failpoint.Hit("container-started")
	c.setStarting(false)
	c.change(func(s *ContainerStatus) { s.State, s.Started = Running, started })
	if err := c.verify(ctx); err != nil {
		c.abort(ctx)
		return fmt.Errorf("start container %s: %w; it was killed", c.id, err)
	}
	failpoint.Hit("container-verified")
	if err := c.save(); err != nil {
		c.abort(ctx)
		return fmt.Errorf("start container %s: %w", c.id, err)
	}
	failpoint.Hit("running-recorded")
	return nil
}

func (c *Container) setStarting(on bool) {
	c.mu.Lock()
	c.starting = on
	c.mu.Unlock()
}

// abort kills a container whose start went wrong, and waits a little for its end to be noticed.
func (c *Container) abort(ctx context.Context) {
	ctx, cancel := after(ctx)
	defer cancel()
	if err := c.kill(ctx); err != nil {
		c.pod.pods.log.Warn("kill container after a bad start", "id", c.id, "err", err)
	}
}

func hashHex(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
