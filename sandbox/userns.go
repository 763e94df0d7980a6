package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"sallyport/sandbox/internal/ns"
	"sallyport/sandbox/spec"
)

// root is the owner, on the node, of what belongs to root in the pod.
func (p *Pod) root() (uid, gid int) {
	user := p.cfg.Security.Namespaces.User
	if user.Mode != spec.NamespacePod {
		return 0, 0
	}
	return outside(user.UIDs), outside(user.GIDs)
}

// outside is what ID 0 of a user namespace is on the node. A map without it was refused by the gate
// (P07), and nobody is nobody's.
func outside(lines []spec.IDMapping) int {
	for _, m := range lines {
		if m.Container == 0 && m.Length > 0 {
			return int(m.Host)
		}
	}
	return 65534
}

// letIn lets the root of a pod's user namespace, and nobody else, walk through a directory of ours: the
// OCI runtime enters the root filesystem as that user. It cannot list it, and what else lies there is
// closed.
func (p *Pod) letIn(dir string) error {
	if p.cfg.Security.Namespaces.User.Mode != spec.NamespacePod {
		return nil
	}
	_, gid := p.root()
	if err := os.Chown(dir, 0, gid); err != nil {
		return fmt.Errorf("let the pod in: %w", err)
	}
	if err := os.Chmod(dir, 0o710); err != nil {
		return fmt.Errorf("let the pod in: %w", err)
	}
	return nil
}

// IDMapper proves that root filesystems can be mounted for the user namespace pinned at a path; it is
// *image.Store.
type IDMapper interface{ ProbeIDMap(path string) error }

// ProbeUserNamespaces proves that this node can give a pod a user namespace of its own: it makes one
// and has a root filesystem mounted for it. Call it after Restore, which makes the directories.
func (p *Pods) ProbeUserNamespaces(ctx context.Context, images IDMapper) (err error) {
	for dir := p.opt.Root; dir != "/"; dir = filepath.Dir(dir) {
		st, err := os.Stat(dir)
		if err != nil || st.Mode()&0o001 == 0 {
			return fmt.Errorf("probe user namespaces: %s is closed to other users, so a pod's root cannot reach its root filesystem; chmod o+x", dir)
		}
	}
	dir, err := os.MkdirTemp(p.opt.Root, "probe-")
	if err != nil {
		return fmt.Errorf("probe user namespaces: %w", err)
	}
	defer func() { err = errors.Join(err, ns.Remove(dir, ""), os.Remove(dir)) }()
	all := []ns.Mapping{{Inside: 0, Outside: 65536, Size: 65536}}
	set, err := ns.Make(ctx, ns.Options{InitPath: p.opt.Init, Dir: dir, HostIPC: true, HostUTS: true, UIDs: all, GIDs: all})
	if err != nil {
		return fmt.Errorf("probe user namespaces: %w", err)
	}
	if err := images.ProbeIDMap(set.User); err != nil {
		return fmt.Errorf("probe user namespaces: %w", err)
	}
	return nil
}
