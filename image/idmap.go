package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// A container in a user namespace sees its image's files under its own IDs: each layer is mounted once
// more with the namespace's ID map (mount_setattr(2), MOUNT_ATTR_IDMAP), and the overlay lies over
// those. Nothing is copied or changes its owner on disk. Overlay itself takes no ID map, but takes
// layers that have one (Linux 5.19).

// runSpec is what the store reads of a judged spec.
type runSpec struct {
	label  string // SELinux mount label; "" for none
	userNS string // path of the pinned user namespace; "" for the node's
}

func readRunSpec(text string) (runSpec, error) {
	var s struct {
		Linux struct {
			MountLabel string `json:"mountLabel"`
			Namespaces []struct {
				Type string `json:"type"`
				Path string `json:"path"`
			} `json:"namespaces"`
		} `json:"linux"`
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return runSpec{}, fmt.Errorf("read spec: %w", err)
	}
	out := runSpec{label: s.Linux.MountLabel}
	for _, n := range s.Linux.Namespaces {
		if n.Type != "user" {
			continue
		}
		if n.Path == "" {
			return runSpec{}, errors.New("read spec: the user namespace is not pinned")
		}
		out.userNS = n.Path
	}
	return out, nil
}

// openUserNS opens a pinned user namespace and nothing else.
func openUserNS(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open user namespace: %w", err)
	}
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWUSER {
		f.Close()
		return nil, fmt.Errorf("open user namespace: %s pins none", path)
	}
	return f, nil
}

// mapIDs mounts each of files anew in dir/lower with the ID map of a user namespace, read-only, and
// returns the twins. done detaches them: an overlay that was mounted over them keeps them. A daemon
// that dies between leaves them to detachLayers.
func mapIDs(dir string, files []*os.File, userNS string) (twins []*os.File, done func(), err error) {
	ns, err := openUserNS(userNS)
	if err != nil {
		return nil, nil, err
	}
	defer ns.Close()
	lower := filepath.Join(dir, "lower")
	done = func() {
		closeAll(twins)
		_ = detachLayers(dir) // what stays is read-only, and release tries again
	}
	if err := os.Mkdir(lower, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, nil, err
	}
	for i, f := range files {
		twin, err := mapOne(f, ns, filepath.Join(lower, strconv.Itoa(i)))
		if err != nil {
			done()
			return nil, nil, fmt.Errorf("mount layer %d with the pod's IDs: %w", i, err)
		}
		twins = append(twins, twin)
	}
	return twins, done, nil
}

func mapOne(f, ns *os.File, at string) (*os.File, error) {
	fd, err := unix.OpenTree(int(f.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, err
	}
	twin := os.NewFile(uintptr(fd), f.Name())
	err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{
		Attr_set: unix.MOUNT_ATTR_IDMAP | unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV, Userns_fd: uint64(ns.Fd())})
	if err == nil {
		err = os.Mkdir(at, 0o700)
	}
	if err == nil { // overlay took no detached layers before Linux 6.15
		err = unix.MoveMount(fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH)
	}
	if err != nil {
		twin.Close()
		return nil, err
	}
	return twin, nil
}

// detachLayers undoes mapIDs. It is idempotent. No directory is removed while something is mounted on
// it.
func detachLayers(dir string) error {
	lower := filepath.Join(dir, "lower")
	entries, err := os.ReadDir(lower)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		at := filepath.Join(lower, e.Name())
		if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return &os.PathError{Op: "unmount", Path: at, Err: err}
		}
		if err := os.Remove(at); err != nil {
			return err
		}
	}
	return os.Remove(lower)
}

// ProbeIDMap proves that root filesystems can be mounted for the user namespace pinned at path: it
// mounts one. A nil error is what Status may tell of.
func (s *Store) ProbeIDMap(path string) error {
	dir, err := os.MkdirTemp(s.path("tmp"), "idmap-")
	if err != nil {
		return fmt.Errorf("probe ID maps: %w", err)
	}
	defer os.RemoveAll(dir)
	layer := filepath.Join(dir, "layer")
	if err := os.Mkdir(layer, 0o755); err != nil {
		return fmt.Errorf("probe ID maps: %w", err)
	}
	f, err := openPath(layer)
	if err != nil {
		return fmt.Errorf("probe ID maps: %w", err)
	}
	defer f.Close()
	if err := mountOverlay(dir, []*os.File{f}, runSpec{userNS: path}); err != nil {
		return fmt.Errorf("probe ID maps: %w", err)
	}
	return unix.Unmount(filepath.Join(dir, "merged"), unix.MNT_DETACH)
}
