package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"

	"sallyport/internal/failpoint"
	"sallyport/sandbox/spec"
)

// PodReservation is an ID kept for a pod that the gate has yet to judge. It ends with Run or Cancel.
type PodReservation struct {
	id   string
	key  key
	cfg  spec.PodConfig
	pods *Pods
}

// Reserve keeps the key of cfg (namespace, name, UID, attempt) and gives the pod its ID, for the gate to
// judge. ErrBusy if another call makes that pod now, ErrExists if it is there. A pod under that key
// whose ID no client was ever told is removed first.
func (p *Pods) Reserve(ctx context.Context, cfg spec.PodConfig) (*PodReservation, error) {
	k := podKey(cfg)
	what := fmt.Sprintf("reserve pod %s/%s attempt %d", cfg.Namespace, cfg.Name, cfg.Attempt)
	if _, err := p.runtime(cfg.Handler); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	p.mu.Lock()
	old, taken := p.podKeys[k]
	if !p.restored {
		p.mu.Unlock()
		return nil, fmt.Errorf("%s: state is not restored yet", what)
	}
	if !taken {
		p.podKeys[k] = nil
	}
	p.mu.Unlock()
	switch {
	case taken && old == nil:
		return nil, fmt.Errorf("%s: %w", what, ErrBusy)
	case taken && old.claimed.Load():
		return nil, fmt.Errorf("%s: %w as %s", what, ErrExists, old.id)
	case taken:
		if err := old.Remove(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		return p.Reserve(ctx, cfg)
	}
	if err := p.reserve(k); err != nil {
		p.mu.Lock()
		delete(p.podKeys, k)
		p.mu.Unlock()
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	failpoint.Hit("pod-key")
	r := &PodReservation{id: newID(), key: k, cfg: cfg, pods: p}
	p.mu.Lock()
	p.podReserved[r.id] = r
	p.mu.Unlock()
	return r, nil
}

// ID is what the pod will be called.
func (r *PodReservation) ID() string { return r.id }

// Namespaces are the paths that the pod's namespaces will have, for spec.BuildInit.
func (r *PodReservation) Namespaces() spec.Namespaces { return r.pods.namespaces(r.id, r.cfg) }

// Seal is the configuration for PodRequest.Config: what is judged and remembered.
func (r *PodReservation) Seal() (string, error) {
	data, err := json.Marshal(r.cfg)
	if err != nil {
		return "", fmt.Errorf("seal pod %s: %w", r.id, err)
	}
	return string(data), nil
}

// Cancel gives the key back. It does nothing once Run has begun.
func (r *PodReservation) Cancel() {
	r.pods.mu.Lock()
	mine := r.pods.podReserved[r.id] == r
	delete(r.pods.podReserved, r.id)
	r.pods.mu.Unlock()
	if mine {
		r.pods.freePodKey(r.key)
	}
}

func (p *Pods) freePodKey(k key) {
	if err := p.unreserve(k); err != nil {
		p.log.Warn("free pod key", "err", err)
	}
	p.mu.Lock()
	delete(p.podKeys, k)
	p.mu.Unlock()
}

func (p *Pods) namespaces(id string, cfg spec.PodConfig) spec.Namespaces {
	dir := filepath.Join(p.podDir(id), "ns")
	opt := cfg.Security.Namespaces
	var out spec.Namespaces
	if opt.Network != spec.NamespaceNode {
		out.Network = filepath.Join(p.opt.NetNS, id)
		out.UTS = filepath.Join(dir, "uts")
	}
	if opt.IPC != spec.NamespaceNode {
		out.IPC = filepath.Join(dir, "ipc")
	}
	if opt.User.Mode == spec.NamespacePod {
		out.User = filepath.Join(dir, "user")
	}
	if opt.PID == spec.NamespacePod {
		out.PID = filepath.Join(dir, "pid")
	}
	return out
}
