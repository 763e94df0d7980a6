package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"

	"sallyport/enforce"
	"sallyport/internal/failpoint"
	"sallyport/sandbox/internal/hostmount"
	"sallyport/sandbox/spec"
)

// maxMounts bounds what one container can make the daemon open.
const maxMounts = 1000

// Reservation is an ID kept for a container that the gate has yet to judge, with its mount sources
// open: what is judged is what will be mounted. It ends with Create or Cancel.
type Reservation struct {
	id      string
	key     key
	pod     *Pod
	cfg     spec.ContainerConfig
	mounts  []spec.ResolvedMount
	sources []*hostmount.Source // by index of mounts; owned
	cdi     []string            // names of the CDI devices given
	devices []enforce.Device    // the device nodes that they bring
}

// Sealed is what is remembered of a container: RunRequest.Config holds it as JSON.
type Sealed struct {
	Container  spec.ContainerConfig `json:"container"`
	StopSignal string               `json:"stopSignal"` // effective: the container's, the image's or SIGTERM
	Mounts     []spec.ResolvedMount `json:"mounts,omitempty"`
	Weakenings []string             `json:"weakenings,omitempty"`
	CDI        []string             `json:"cdi,omitempty"`     // names of the CDI devices given
	Devices    []enforce.Device     `json:"devices,omitempty"` // the device nodes that they bring
}

// Reserve keeps the key of cfg (pod, name, attempt), gives the container its ID and opens its mount
// sources. ErrBusy if another call makes that container now, ErrExists if it is there. A container of
// that name whose ID no client was ever told is stopped and removed first, whatever its attempt.
func (p *Pod) Reserve(ctx context.Context, cfg spec.ContainerConfig) (*Reservation, error) {
	what := fmt.Sprintf("reserve container %q attempt %d", cfg.Name, cfg.Attempt)
	if p.Status().State != Ready {
		return nil, fmt.Errorf("%s: %w", what, ErrNotReady)
	}
	if err := p.removeUnclaimed(ctx, cfg.Name); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	k := containerKey(p.id, cfg.Name, cfg.Attempt)
	s := p.pods
	s.mu.Lock()
	old, taken := s.ctrKeys[k]
	if !taken {
		s.ctrKeys[k] = nil
	}
	s.mu.Unlock()
	if taken && old == nil {
		return nil, fmt.Errorf("%s: %w", what, ErrBusy)
	}
	if taken {
		return nil, fmt.Errorf("%s: %w as %s", what, ErrExists, old.id)
	}
	r := &Reservation{id: newID(), key: k, pod: p, cfg: cfg}
	var undo undo
	defer undo.run()
	undo.add(func() { s.freeContainerKey(k) })
	if err := s.reserve(k); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	failpoint.Hit("container-key")
	undo.add(r.close)
	if err := r.open(); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	s.mu.Lock()
	s.ctrReserved[r.id] = r
	s.mu.Unlock()
	undo.disarm()
	return r, nil
}

// removeUnclaimed removes containers of that name that no client knows: the kubelet gave up on them and
// asks anew. One that is just being made is cancelled by its Stop.
func (p *Pod) removeUnclaimed(ctx context.Context, name string) error {
	for _, c := range p.Containers() {
		if c.cfg.Name == name && !c.claimed.Load() {
			if err := c.Remove(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *Pods) freeContainerKey(k key) {
	if err := p.unreserve(k); err != nil {
		p.log.Warn("free container key", "err", err)
	}
	p.mu.Lock()
	delete(p.ctrKeys, k)
	p.mu.Unlock()
}

// open opens every mount source once. Files of ours come first; a container's own mount at the same
// place takes theirs.
func (r *Reservation) open() error {
	if len(r.cfg.Mounts) > maxMounts {
		return fmt.Errorf("%d mounts; at most %d", len(r.cfg.Mounts), maxMounts)
	}
	taken := map[string]bool{}
	for _, m := range r.cfg.Mounts {
		taken[filepath.Clean(m.Destination)] = true
	}
	ours := []spec.ResolvedMount{
		{Destination: "/dev/shm", Source: r.pod.shmPath(), Kind: "shm"},
		{Destination: "/etc/resolv.conf", Source: r.pod.resolvPath(), Kind: "file", ReadOnly: r.cfg.Security.ReadOnlyRootfs},
		{Destination: "/etc/hostname", Source: r.pod.hostnamePath(), Kind: "file", ReadOnly: r.cfg.Security.ReadOnlyRootfs},
	}
	if ns := r.pod.cfg.Security.Namespaces; ns.User.Mode == spec.NamespacePod && ns.Network == spec.NamespaceNode {
		ours = append(ours, spec.ResolvedMount{Destination: "/sys", Source: "/sys", Kind: "sys", ReadOnly: true})
	}
	for _, m := range ours {
		if taken[m.Destination] {
			continue
		}
		m.Propagation = spec.PropagationPrivate
		if err := r.add(m); err != nil {
			return err
		}
	}
	for _, m := range r.cfg.Mounts {
		if m.Image != nil { // which image, the gate says; it is mounted when that has admitted it
			r.sources = append(r.sources, nil)
			r.mounts = append(r.mounts, spec.ResolvedMount{Destination: m.Destination, Source: filepath.Join("/", m.ImageSubPath), Kind: "image",
				ReadOnly: true, Propagation: spec.PropagationPrivate, Options: m.Options})
			continue
		}
		if m.Propagation == "" {
			m.Propagation = spec.PropagationPrivate
		}
		err := r.add(spec.ResolvedMount{Destination: m.Destination, Source: m.Source, Kind: "host", ReadOnly: m.ReadOnly,
			RecursiveReadOnly: m.RecursiveReadOnly, Propagation: m.Propagation, Options: m.Options, UIDs: m.UIDs, GIDs: m.GIDs})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *Reservation) add(m spec.ResolvedMount) error {
	src, err := hostmount.Open(m.Source)
	if err != nil {
		return fmt.Errorf("mount %s: %w", m.Destination, err)
	}
	m.Source = src.Path()
	r.sources = append(r.sources, src)
	r.mounts = append(r.mounts, m)
	return nil
}

// Given notes the CDI devices that the container gets, to be judged and remembered.
func (r *Reservation) Given(names []string, nodes []enforce.Device) { r.cdi, r.devices = names, nodes }

// Edit takes mounts away by their destinations and adds others, whose sources are opened like any other;
// one that is added takes the place of what is there. Files of ours can be replaced and not taken away.
// It belongs to the goroutine that holds the reservation, before the gate is asked.
func (r *Reservation) Edit(away []string, add []spec.Mount) error {
	for _, dest := range away {
		if i := slices.IndexFunc(r.mounts, func(m spec.ResolvedMount) bool { return filepath.Clean(m.Destination) == dest }); i < 0 || r.mounts[i].Kind != "host" {
			return fmt.Errorf("edit mounts: there is none of the pod's at %q to take away", dest)
		}
		r.drop(dest)
	}
	if len(r.mounts)+len(add) > maxMounts {
		return fmt.Errorf("edit mounts: %d mounts; at most %d", len(r.mounts)+len(add), maxMounts)
	}
	var user spec.UserNamespace
	if ns := r.pod.cfg.Security.Namespaces; ns.User.Mode == spec.NamespacePod {
		user = ns.User
	}
	for _, m := range add {
		r.drop(m.Destination)
		err := r.add(spec.ResolvedMount{Destination: m.Destination, Source: m.Source, Kind: "host", ReadOnly: m.ReadOnly,
			RecursiveReadOnly: m.RecursiveReadOnly, Propagation: m.Propagation, Options: m.Options, UIDs: user.UIDs, GIDs: user.GIDs})
		if err != nil {
			return err
		}
	}
	return nil
}

// drop forgets what is mounted at dest, which is clean.
func (r *Reservation) drop(dest string) {
	for i := len(r.mounts) - 1; i >= 0; i-- {
		if filepath.Clean(r.mounts[i].Destination) == dest {
			r.sources[i].Close()
			r.mounts, r.sources = slices.Delete(r.mounts, i, i+1), slices.Delete(r.sources, i, i+1)
		}
	}
}

func (r *Reservation) close() {
	for _, s := range r.sources {
		s.Close()
	}
}

// ID is what the container will be called.
func (r *Reservation) ID() string { return r.id }

// Pod is the container's pod.
func (r *Reservation) Pod() *Pod { return r.pod }

// Mounts are the container's mounts with their resolved sources; the Nth is mounts/N in the runtime
// bundle. It is a copy.
func (r *Reservation) Mounts() []spec.ResolvedMount {
	return append([]spec.ResolvedMount(nil), r.mounts...)
}

// Resolved is Mounts as the gate wants them.
func (r *Reservation) Resolved() []enforce.Mount { return resolved(r.mounts) }

func resolved(mounts []spec.ResolvedMount) []enforce.Mount {
	out := make([]enforce.Mount, len(mounts))
	for i, m := range mounts {
		out[i] = enforce.Mount{Destination: m.Destination, Source: m.Source, Kind: m.Kind, ReadOnly: m.ReadOnly, Propagation: string(m.Propagation)}
	}
	return out
}

// Namespaces are the paths for spec.Input. For a container that shares the PID namespace of another
// one, that one must run.
func (r *Reservation) Namespaces() (spec.Namespaces, error) {
	paths := r.pod.Namespaces()
	opt := r.cfg.Security.Namespaces
	switch opt.PID {
	case spec.NamespaceTarget:
		target, err := r.pod.pods.Container(opt.Target)
		if err != nil {
			return paths, fmt.Errorf("share PID namespace: %w", err)
		}
		if target.pod != r.pod || target.Status().State != Running {
			return paths, fmt.Errorf("share PID namespace of %s: %w in this pod", opt.Target, ErrNotRunning)
		}
		paths.PID = r.pod.pods.targetPin(r.id)
	case spec.NamespacePod:
		if paths.PID == "" {
			return paths, fmt.Errorf("share the pod's PID namespace: the pod has none")
		}
	}
	return paths, nil
}

// Seal is the configuration for RunRequest.Config: what is judged and remembered.
func (r *Reservation) Seal(img spec.ImageConfig, out spec.Output) (string, error) {
	s := Sealed{Container: r.cfg, StopSignal: r.cfg.StopSignal, Mounts: r.mounts, Weakenings: out.Weakenings, CDI: r.cdi, Devices: r.devices}
	if s.StopSignal == "" {
		s.StopSignal = img.StopSignal
	}
	if _, err := parseSignal(s.StopSignal); err != nil && r.cfg.StopSignal == "" {
		s.StopSignal = "" // an image's nonsense must not keep a container from stopping
	} else if err != nil {
		return "", fmt.Errorf("seal container %s: %w", r.id, err)
	}
	if s.StopSignal == "" {
		s.StopSignal = "SIGTERM"
	}
	data, err := json.Marshal(s)
	if err != nil {
		return "", fmt.Errorf("seal container %s: %w", r.id, err)
	}
	return string(data), nil
}

// Cancel gives key and descriptors back. It does nothing once Create has begun.
func (r *Reservation) Cancel() {
	if r.pod.pods.takeReservation(r.id) == r {
		r.close()
		r.pod.pods.freeContainerKey(r.key)
	}
}

func (p *Pods) takeReservation(id string) *Reservation {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.ctrReserved[id]
	delete(p.ctrReserved, id)
	return r
}
