package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"sallyport/image/ref"
)

// Container layers are overlay mounts of our own over the layers in containers/storage. The library's
// own containers cost 7 ms to make and 19 to remove where these cost a fraction: it rewrites JSON files
// under the lock that pulls hold too.

// lowers opens the unpacked directories of an image's layers, topmost first. The caller closes them.
func (s *Store) lowers(chains []ref.Digest) (files []*os.File, err error) {
	for i := len(chains) - 1; i >= 0; i-- {
		f, err := openPath(s.diffDir(chains[i]))
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("%w: layer %s: %w", ErrCorrupt, chains[i], err)
		}
		files = append(files, f)
	}
	return files, nil
}

func openPath(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return os.NewFile(uintptr(fd), dir), nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// fdPath names an open directory in overlay's options: short, so that the options fit in a page, and
// free of the colons and commas that a path may have.
func fdPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

func lowerOption(files []*os.File) string {
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = fdPath(f)
	}
	return "lowerdir=" + strings.Join(names, ":")
}

// overlayOptions are those that hold whatever the kernel's defaults are: an upper layer never has names
// or data by reference into another place.
const overlayOptions = "index=off,metacopy=off,redirect_dir=off,"

// mountRootfs makes and mounts the read-write layer in dir, which exists and is the container's own.
func (s *Store) mountRootfs(dir string, chains []ref.Digest, spec runSpec) error {
	files, err := s.lowers(chains)
	if err != nil {
		return err
	}
	defer func() { closeAll(files) }()
	if len(files) == 0 { // an image without layers
		empty, err := emptyLayer(dir)
		if err != nil {
			return err
		}
		files = append(files, empty)
	}
	if err := mountOverlay(dir, files, spec); err != nil {
		return fmt.Errorf("mount overlay of %d layers: %w", len(chains), err)
	}
	return nil
}

func checkLabel(label string) error {
	if strings.ContainsAny(label, "\"\\\n") {
		return fmt.Errorf("mount label %q has a character that no label has", label)
	}
	return nil
}

func emptyLayer(dir string) (*os.File, error) {
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	return openPath(filepath.Join(dir, "empty"))
}

// mountOverlay mounts lowers, topmost first, under a fresh or kept upper layer of dir on dir/merged.
func mountOverlay(dir string, lowers []*os.File, spec runSpec) error {
	if err := checkLabel(spec.label); err != nil {
		return err
	}
	for _, d := range []string{"upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if spec.userNS != "" {
		twins, done, err := mapIDs(dir, lowers, spec.userNS)
		if err != nil {
			return err
		}
		defer done()
		lowers = twins
	}
	// The merged root shows the upper directory's own mode and owner: those of the topmost layer.
	var st unix.Stat_t
	if err := unix.Fstatat(int(lowers[0].Fd()), "", &st, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	upper := filepath.Join(dir, "upper")
	if err := os.Chown(upper, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(upper, st.Mode&0o7777); err != nil {
		return err
	}
	// A volatile layer that was unmounted must be told that no crash came between.
	if err := os.RemoveAll(filepath.Join(dir, "work", "work", "incompat")); err != nil {
		return err
	}
	var own []*os.File
	defer func() { closeAll(own) }()
	for _, d := range []string{"upper", "work"} {
		f, err := openPath(filepath.Join(dir, d))
		if err != nil {
			return err
		}
		own = append(own, f)
	}
	opts := overlayOptions + "volatile," + lowerOption(lowers) + ",upperdir=" + fdPath(own[0]) + ",workdir=" + fdPath(own[1])
	if spec.label != "" {
		opts += `,context="` + spec.label + `"`
	}
	return unix.Mount("overlay", filepath.Join(dir, "merged"), "overlay", unix.MS_NODEV, opts)
}

// view opens the merged layers of an image for reading. Nobody else can reach it, and closing the file
// takes it away.
func (s *Store) view(chains []ref.Digest) (*os.File, error) {
	files, err := s.lowers(chains)
	if err != nil {
		return nil, err
	}
	defer closeAll(files)
	switch len(files) {
	case 0:
		return nil, nil
	case 1: // overlay wants two; whiteouts of a single layer hide nothing and are no regular files
		return openPath(files[0].Name())
	}
	dir, err := os.MkdirTemp(s.path("tmp"), "view-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(dir)
	if err := unix.Mount("overlay", dir, "overlay", unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, overlayOptions+lowerOption(files)); err != nil {
		return nil, fmt.Errorf("mount overlay of %d layers: %w", len(files), err)
	}
	f, err := openPath(dir)
	return f, errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH))
}

// mounted reports whether something is mounted on dir.
func mounted(dir string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &st)
	if err != nil {
		return false, &os.PathError{Op: "statx", Path: dir, Err: err}
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// private keeps the mounts below dir to this mount namespace: a copy in another would hold them busy.
func private(dir string) error {
	is, err := mounted(dir)
	if err != nil || is {
		return err
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", dir, err)
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make %s private: %w", dir, err)
	}
	return nil
}
