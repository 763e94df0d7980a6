package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/config"
)

// kept are the variables that survive scrubbing. The libraries that read images and storage take
// files, tools and switches from dozens of others (CONTAINERS_*, STORAGE_*, REGISTRY_AUTH_FILE,
// XDG_*, HOME, TMPDIR, SIGSTORE_*): what decides whose code runs comes from the configuration alone.
var kept = []string{"PATH", "TZ", "NOTIFY_SOCKET", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}

// defaultPath is where runtimes, CNI plugins and iptables are looked for when PATH is empty.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func scrubEnvironment() {
	values := map[string]string{"PATH": defaultPath}
	for _, name := range kept {
		if v := os.Getenv(name); v != "" {
			values[name] = v
		}
	}
	os.Clearenv()
	for name, v := range values {
		os.Setenv(name, v)
	}
}

// gcPercent lets the heap grow by half between collections: the daemon's live heap is small, and its
// memory on every node counts for more than the collector's time.
const gcPercent = 50

// settle sets what holds for the whole process: a reaper for the monitors' children, and the
// collector's pace unless the operator chose one.
func settle() error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	return nil
}

// newLog writes the daemon's log to standard error.
func newLog(c config.Log) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level)) // checked with the configuration
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, o))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, o))
}

// makeDirs makes the directories that are ours alone, and takes access from others where one was left
// too open (CVE-2024-25621).
func makeDirs(dirs ...string) error {
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
		st, err := os.Lstat(dir)
		if err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
		if !st.IsDir() {
			return fmt.Errorf("make directory %s: it is no directory", dir)
		}
		if err := os.Chmod(dir, 0o700); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	return nil
}

// realPath is path without symbolic links, as far as it exists: the name by which the kernel tells of it.
func realPath(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	if up := filepath.Dir(path); up != path {
		return filepath.Join(realPath(up), filepath.Base(path))
	}
	return path
}

// bothNames are the paths as configured and as the kernel tells of them, which is how mounts are judged.
func bothNames(paths []string) (out []string) {
	for _, p := range paths {
		out = append(out, p)
		if real := realPath(p); real != p {
			out = append(out, real)
		}
	}
	return out
}

// lockDir makes this the only daemon on dir until the returned file is closed or the process ends.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "daemon.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	held := make([]byte, 16)
	n, _ := f.ReadAt(held, 0)
	flock := func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }
	err = flock()
	// A daemon that was killed while it started a program has left a copy of its descriptor in a process
	// that has yet to become that program.
	for end := time.Now().Add(lockWait); errors.Is(err, unix.EWOULDBLOCK) && dead(string(held[:n])) && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
		err = flock()
	}
	if err != nil {
		f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		return nil, fmt.Errorf("lock %s: another sallyportd (process %s) uses it; stop that one or choose another directory", dir, strings.TrimSpace(string(held[:n])))
	}
	if err := f.Truncate(0); err == nil {
		_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

// lockWait is for what a daemon that died has started to come into its own: a fork becomes an exec.
const lockWait = 5 * time.Second

// dead reports whether no process has the pid that a lock file holds.
func dead(pid string) bool {
	n, err := strconv.Atoi(strings.TrimSpace(pid))
	return err == nil && n > 1 && errors.Is(unix.Kill(n, 0), unix.ESRCH)
}

// notify tells systemd a state (sd_notify(3)); without systemd it does nothing.
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if path[0] == '@' {
		path = "\x00" + path[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(state))
}
