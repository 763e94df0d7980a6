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
	if !filepath.IsAbs(dir) || !filepath.IsLocal(rel) || strings.ContainsAny(dir+rel, "\x00\n") {
		return "", fmt.Errorf("resolve log file %q beneath %q: want a path that stays beneath an absolute directory", rel, dir)
	}
	for _, part := range strings.Split(rel+"/"+dir, "/") {
		if part == ".." {
			return "", fmt.Errorf("resolve log file %q beneath %q: no .. is allowed", rel, dir)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make log directory: %w", err)
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, dir, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC | unix.O_DIRECTORY, Resolve: unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return "", fmt.Errorf("open log directory %q: %w", dir, err)
	}
	at := os.NewFile(uintptr(fd), dir)
	defer func() { at.Close() }()
	sub, base := filepath.Split(filepath.Clean(rel))
	for _, name := range strings.Split(strings.Trim(sub, "/"), "/") {
		if name == "" {
			continue
		}
		next, err := makeDir(at, name)
		if err != nil {
			return "", fmt.Errorf("make log directory %q beneath %q: %w", sub, dir, err)
		}
		at.Close()
		at = next
	}
	// conmon makes a new file beside the log and renames it (its reopening follows links and truncates).
	for _, base := range []string{base, base + ".tmp"} {
		var st unix.Stat_t
		err := unix.Fstatat(int(at.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
			return "", fmt.Errorf("resolve log file %q beneath %q: %s exists and is no regular file", rel, dir, base)
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return "", fmt.Errorf("resolve log file %q beneath %q: %w", rel, dir, err)
		}
	}
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(at.Fd())))
	if err != nil {
		return "", fmt.Errorf("resolve log file %q beneath %q: %w", rel, dir, err)
	}
	if err := isAt(int(at.Fd()), name); err != nil {
		return "", fmt.Errorf("resolve log file %q beneath %q: %w", rel, dir, err)
	}
	return filepath.Join(name, base), nil
}
