package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"sallyport/sandbox/internal/ns"
	"sallyport/sandbox/internal/proc"
	"sallyport/sandbox/spec"
)

// root is the owner, on the node, of what belongs to root in the pod.
func (p *Pod) root() (uid, gid int) { return p.owner(0, 0) }

// owner is what IDs of the pod are on the node.
func (p *Pod) owner(uid, gid uint32) (int, int) {
	user := p.cfg.Security.Namespaces.User
	if user.Mode != spec.NamespacePod {
		return int(uid), int(gid)
	}
	return outside(user.UIDs, uid), outside(user.GIDs, gid)
}

// outside is what an ID of a user namespace is on the node: nobody, where it has no place there.
func outside(lines []spec.IDMapping, id uint32) int {
	for _, m := range lines {
		if id >= m.Container && id-m.Container < m.Length {
			return int(m.Host + (id - m.Container))
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

// ownPipes gives a created container's pipes to its user, who may then open /dev/stdout. The runtime
// does so within a user namespace, where root's pipes are nobody's. The process is the runtime's own
// until the start, so its descriptors are those that the monitor gave it.
func (c *Container) ownPipes(id proc.ID) error {
	if c.pod.cfg.Security.Namespaces.User.Mode != spec.NamespacePod {
		return nil
	}
	held, err := proc.Open(id)
	if err != nil {
		return fmt.Errorf("give pipes to the container's user: %w", err)
	}
	defer held.Close()
	uid, gid := c.pod.owner(c.want.uid, c.want.gid)
	for n := range 3 {
		if err := ownPipe(fmt.Sprintf("/proc/%d/fd/%d", id.Pid, n), uid, gid); err != nil && !held.Exited() {
			return fmt.Errorf("give pipes to the container's user: %w", err)
		}
	}
	return nil
}

// ownPipe changes the owner of a pipe, and of nothing else.
func ownPipe(path string, uid, gid int) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return err
	}
	return unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH)
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
