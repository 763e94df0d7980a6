// Package hostmount opens the host side of a container's mounts once and mounts that very descriptor
// later. What is judged is the path that the kernel gives for the descriptor; a symlink that is moved
// between judging and mounting changes nothing, since no path is walked twice.
package hostmount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Source is an opened mount source, or the deepest existing parent of one that is yet to be made. The
// owner closes it.
type Source struct {
	f       *os.File // owned; O_PATH
	path    string   // constant; resolved
	missing []string // constant; components below f that do not exist
	dir     bool     // constant
}

const maxPath = 4096 // PATH_MAX

// Open opens path, which must be absolute, following symbolic links but no magic links (those of
// /proc lead out of any namespace). A path that does not exist is taken as a directory to be made by
// Bind, beneath its deepest existing parent: nothing is made before the gate has judged.
func Open(path string) (*Source, error) {
	if !filepath.IsAbs(path) || len(path) > maxPath || strings.ContainsRune(path, 0) {
		return nil, fmt.Errorf("open mount source %q: want an absolute path", path)
	}
	var missing []string
	for at := filepath.Clean(path); ; at = filepath.Dir(at) {
		fd, err := unix.Openat2(unix.AT_FDCWD, at, &unix.OpenHow{
			Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS})
		if errors.Is(err, unix.ENOENT) && at != "/" {
			if _, lerr := os.Lstat(at); lerr == nil {
				return nil, fmt.Errorf("open mount source %q: %s is a dangling symbolic link", path, at)
			}
			missing = append([]string{filepath.Base(at)}, missing...)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open mount source %q: %w", path, err)
		}
		return fromFD(fd, missing)
	}
}

// OpenIn opens path in a directory tree as if that were the root: no link leads out of it, and none of
// the kernel's own is followed. A path that does not exist is an error that is os.ErrNotExist.
func OpenIn(root, path string) (*Source, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", root, err)
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV})
	if err != nil {
		return nil, fmt.Errorf("open %q in %s: %w", path, root, err)
	}
	return fromFD(fd, nil)
}

func fromFD(fd int, missing []string) (*Source, error) {
	f := os.NewFile(uintptr(fd), "mount source")
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err == nil {
		err = isAt(fd, name)
	}
	var st unix.Stat_t
	if err == nil {
		err = unix.Fstat(fd, &st)
	}
	dir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if err == nil && len(missing) > 0 && !dir {
		err = unix.ENOTDIR
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open mount source: %w", err)
	}
	return &Source{f: f, path: filepath.Join(append([]string{name}, missing...)...), missing: missing, dir: dir}, nil
}

// isAt holds the name that the kernel gave against the descriptor: a file that was deleted or lies
// outside our root has a name that means something else.
func isAt(fd int, name string) error {
	var a, b unix.Stat_t
	if err := unix.Fstat(fd, &a); err != nil {
		return err
	}
	if !filepath.IsAbs(name) {
		return fmt.Errorf("%q is no path", name)
	}
	if err := unix.Lstat(name, &b); err != nil {
		return err
	}
	if a.Dev != b.Dev || a.Ino != b.Ino {
		return fmt.Errorf("%s is another file now", name)
	}
	return nil
}

// Path is the resolved path: what the gate judges.
func (s *Source) Path() string { return s.path }

// Dir reports whether the source is a directory (a missing one will be).
func (s *Source) Dir() bool { return s.dir }

// Close releases the descriptor. It may be called more than once.
func (s *Source) Close() {
	if s != nil {
		s.f.Close()
	}
}

// Bind mounts the source, with all that is mounted below it, on target, which it makes. The mount
// belongs to the peer group of its source, so that propagation works as the spec asks.
func (s *Source) Bind(target string) error { return s.bind(target, unix.AT_RECURSIVE) }

// BindAlone is Bind without what is mounted below the source.
func (s *Source) BindAlone(target string) error { return s.bind(target, 0) }

func (s *Source) bind(target string, flags uint) error {
	f := s.f
	for _, name := range s.missing {
		child, err := makeDir(f, name)
		if f != s.f {
			f.Close()
		}
		if err != nil {
			return fmt.Errorf("make mount source %s: %w", s.path, err)
		}
		f = child
	}
	if f != s.f {
		defer f.Close()
	}
	if err := makeTarget(target, s.dir); err != nil {
		return fmt.Errorf("mount %s: %w", s.path, err)
	}
	tree, err := unix.OpenTree(int(f.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|flags)
	if err != nil {
		return fmt.Errorf("mount %s: open tree: %w", s.path, err)
	}
	defer unix.Close(tree)
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s on %s: %w", s.path, target, err)
	}
	return nil
}

// makeDir makes and opens one directory; a symbolic link in its place is an error.
func makeDir(parent *os.File, name string) (*os.File, error) {
	if err := unix.Mkdirat(int(parent.Fd()), name, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	fd, err := unix.Openat2(int(parent.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC | unix.O_DIRECTORY | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func makeTarget(target string, dir bool) error {
	if dir {
		return os.Mkdir(target, 0o700)
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// Unmount detaches everything that is mounted on target and removes the empty mount point. It is not
// an error if there is none. It never removes what a mount shows: the mount point goes only when
// nothing is mounted there.
func Unmount(target string) error {
	for {
		err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
	// Not recursive, on purpose: a mount point is empty, and anything else must not be removed.
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove mount point: %w", err)
	}
	return nil
}

// Private makes dir a mount of its own that passes no mount events on, so that what is mounted below
// it shows nowhere else. It does nothing if dir is a mount point already.
func Private(dir string) error {
	var self, up unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_MNT_ID, &self); err != nil {
		return fmt.Errorf("make %s a private mount: %w", dir, err)
	}
	if err := unix.Statx(unix.AT_FDCWD, filepath.Dir(dir), 0, unix.STATX_MNT_ID, &up); err != nil {
		return fmt.Errorf("make %s a private mount: %w", dir, err)
	}
	if self.Mnt_id == up.Mnt_id {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("make %s a private mount: %w", dir, err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make %s a private mount: %w", dir, err)
	}
	return nil
}

// None is an error if anything is mounted on dir or beneath it. A missing dir is no error.
func None(dir string) error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) > 4 && (f[4] == dir || strings.HasPrefix(f[4], dir+"/")) {
			return fmt.Errorf("%s is mounted", f[4])
		}
	}
	return nil
}
