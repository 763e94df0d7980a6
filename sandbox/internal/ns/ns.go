// Package ns makes, pins, finds again and removes a pod's namespaces. They are made by starting
// sallyport-init in them (a threaded process cannot enter a user namespace), and kept by bind mounts of
// its /proc/<pid>/ns files, so that no process has to live for them.
package ns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/failpoint"
	"sallyport/internal/span"
)

// makeTimeout is long: Make takes 2 ms on an idle node.
const makeTimeout = 30 * time.Second

// Options says what a pod gets. The zero value of each field is the most isolated, except NetPath, where
// the network namespace needs a place.
type Options struct {
	InitPath string            // sallyport-init
	NetPath  string            // pin of the network namespace, e.g. /var/run/netns/<id>; "" is the node's network
	Dir      string            // existing directory for the pins "ipc", "uts" and "user"
	HostIPC  bool              // the node's IPC namespace
	HostUTS  bool              // the node's UTS namespace
	Hostname string            // "" keeps the node's name
	Sysctls  map[string]string // dotted or slashed names of namespaced sysctls
	UIDs     []Mapping         // not empty: a user namespace, which owns the others; needs GIDs too
	GIDs     []Mapping
}

// Mapping is a line of uid_map or gid_map (user_namespaces(7)).
type Mapping struct {
	Inside  uint32 // first ID in the user namespace
	Outside uint32 // first ID on the node; 0 is refused
	Size    uint32
}

// Set holds the paths of a pod's pins. A path is "" where the pod uses the node's namespace.
type Set struct {
	Net  string
	IPC  string
	UTS  string
	User string
}

// kind is one kind of namespace: its file in /proc/<pid>/ns, which is its pin's name too.
type kind struct {
	file string
	flag uintptr
}

var kinds = []kind{
	{"user", unix.CLONE_NEWUSER},
	{"net", unix.CLONE_NEWNET},
	{"ipc", unix.CLONE_NEWIPC},
	{"uts", unix.CLONE_NEWUTS},
}

// Make makes and pins the namespaces that o asks for, with loopback up, hostname and sysctls set. On an
// error nothing of it is left. It may be called concurrently for different pods. It ends with ctx, or after
// makeTimeout.
func Make(ctx context.Context, o Options) (_ Set, err error) {
	ctx, sp := span.Start(ctx, span.Namespaces)
	defer sp.End(&err)
	ctx, cancel := context.WithTimeout(ctx, makeTimeout)
	defer cancel()
	job, err := plan(o)
	if err != nil {
		return Set{}, fmt.Errorf("make namespaces: %w", err)
	}
	if job.flags == 0 {
		return job.set, nil
	}
	if o.NetPath != "" {
		if err := share(filepath.Dir(o.NetPath)); err != nil {
			return Set{}, fmt.Errorf("make namespaces: %w", err)
		}
	}
	child, err := start(o.InitPath, job)
	if err != nil {
		return Set{}, fmt.Errorf("make namespaces: %w", err)
	}
	defer child.end()
	if err := child.ready(ctx); err != nil {
		return Set{}, fmt.Errorf("make namespaces: %w", err)
	}
	if err := child.pin(job.set); err != nil {
		return Set{}, fmt.Errorf("make namespaces: %w", err)
	}
	failpoint.Hit("namespaces-pinned")
	return job.set, nil
}

// Open finds the pins that Make left in dir and at netPath, as after a restart of the daemon. A file that
// is there but pins no namespace is an error: the node was rebooted, or someone unmounted it. A missing
// file of dir means the node's namespace; netPath is "" where the pod uses the node's network.
func Open(dir, netPath string) (Set, error) {
	var s Set
	for _, k := range kinds {
		path := filepath.Join(dir, k.file)
		if k.flag == unix.CLONE_NEWNET {
			path = netPath
		}
		if path == "" {
			continue
		}
		var st unix.Statfs_t
		switch err := unix.Statfs(path, &st); {
		case errors.Is(err, fs.ErrNotExist) && path != netPath:
			continue
		case err != nil:
			return Set{}, fmt.Errorf("open namespace %s: %w", path, err)
		case st.Type != unix.NSFS_MAGIC:
			return Set{}, fmt.Errorf("open namespace %s: no namespace is pinned there", path)
		}
		*s.path(k) = path
	}
	return s, nil
}

// Remove unpins and removes what Make left in dir and at netPath ("" is none). What is gone already is
// no error. The namespaces live on for as long as processes are in them.
func Remove(dir, netPath string) error {
	var errs []error
	for _, k := range kinds {
		path := filepath.Join(dir, k.file)
		if k.flag == unix.CLONE_NEWNET {
			path = netPath
		}
		if path != "" {
			errs = append(errs, unpin(path))
		}
	}
	return errors.Join(errs...)
}

// path returns where s keeps the path of a kind.
func (s *Set) path(k kind) *string {
	switch k.flag {
	case unix.CLONE_NEWNET:
		return &s.Net
	case unix.CLONE_NEWIPC:
		return &s.IPC
	case unix.CLONE_NEWUTS:
		return &s.UTS
	default:
		return &s.User
	}
}

// pin binds the namespace of process pid to a new file, which must not exist: an ID is never reused, so
// a file that is there is someone else's.
func pin(pid int, k kind, path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return fmt.Errorf("pin %s namespace: %w", k.file, err)
	}
	f.Close()
	failpoint.Hit("pin-file")
	source := "/proc/" + strconv.Itoa(pid) + "/ns/" + k.file
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		os.Remove(path)
		return fmt.Errorf("pin %s namespace at %s: %w", k.file, path, err)
	}
	failpoint.Hit("pin-mounted")
	return nil
}

// unpin undoes pin. The mount is detached, since a monitor outside may hold it open.
func unpin(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unpin namespace %s: %w", path, err)
	}
	failpoint.Hit("pin-unmounted")
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unpin namespace: %w", err)
	}
	return nil
}
