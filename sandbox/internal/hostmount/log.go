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

// LogFile resolves the log file rel beneath the pod's log directory and makes the directories on the
// way. The result has no symbolic link below dir and does not leave it (CVE-2025-0750); the file
// itself is not made, and if it exists it must be a regular file.
func LogFile(dir, rel string) (string, error) {
	at, path, err := openLog(dir, rel)
	if err != nil {
		return "", err
	}
	at.Close()
	return path, nil
}

// BindLog shows the directory of a log file, resolved as LogFile does, at target, which it makes, and gives
// the log file's path. On that mount no symbolic link is followed, so that who writes by names there (the
// monitor) meets none, whatever a tenant who can write to the directory does meanwhile. It needs Linux
// 5.14 (mount_setattr(2), MOUNT_ATTR_NOSYMFOLLOW).
func BindLog(dir, rel, target string) (string, error) {
	at, path, err := openLog(dir, rel)
	if err != nil {
		return "", err
	}
	defer at.Close()
	tree, err := unix.OpenTree(int(at.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return "", fmt.Errorf("mount log directory: open tree: %w", err)
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSYMFOLLOW | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSUID, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return "", fmt.Errorf("mount log directory without links (Linux 5.14): %w", err)
	}
	if err := os.Mkdir(target, 0o700); err != nil {
		return "", fmt.Errorf("mount log directory: %w", err)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return "", fmt.Errorf("mount log directory on %s: %w", target, err)
	}
	return path, nil
}

// openLog opens the directory of a log file and gives the file's path. The caller closes it.
func openLog(dir, rel string) (_ *os.File, _ string, err error) {
	if !filepath.IsAbs(dir) || !filepath.IsLocal(rel) || strings.ContainsAny(dir+rel, "\x00\n") {
		return nil, "", fmt.Errorf("resolve log file %q beneath %q: want a path that stays beneath an absolute directory", rel, dir)
	}
	for _, part := range strings.Split(rel+"/"+dir, "/") {
		if part == ".." {
			return nil, "", fmt.Errorf("resolve log file %q beneath %q: no .. is allowed", rel, dir)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, "", fmt.Errorf("make log directory: %w", err)
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, dir, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC | unix.O_DIRECTORY, Resolve: unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return nil, "", fmt.Errorf("open log directory %q: %w", dir, err)
	}
	at := os.NewFile(uintptr(fd), dir)
	defer func() {
		if err != nil {
			at.Close()
		}
	}()
	sub, base := filepath.Split(filepath.Clean(rel))
	for _, name := range strings.Split(strings.Trim(sub, "/"), "/") {
		if name == "" {
			continue
		}
		next, err := makeDir(at, name)
		if err != nil {
			return nil, "", fmt.Errorf("make log directory %q beneath %q: %w", sub, dir, err)
		}
		at.Close()
		at = next
	}
	// conmon makes a new file beside the log and renames it (its reopening follows links and truncates).
	for _, base := range []string{base, base + ".tmp"} {
		var st unix.Stat_t
		err := unix.Fstatat(int(at.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
			return nil, "", fmt.Errorf("resolve log file %q beneath %q: %s exists and is no regular file", rel, dir, base)
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, "", fmt.Errorf("resolve log file %q beneath %q: %w", rel, dir, err)
		}
	}
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(at.Fd())))
	if err != nil {
		return nil, "", fmt.Errorf("resolve log file %q beneath %q: %w", rel, dir, err)
	}
	if err := isAt(int(at.Fd()), name); err != nil {
		return nil, "", fmt.Errorf("resolve log file %q beneath %q: %w", rel, dir, err)
	}
	return at, filepath.Join(name, base), nil
}
