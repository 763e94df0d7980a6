package monitor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoExit means that conmon has left no exit code.
var ErrNoExit = errors.New("no exit code was left")

// Exit is how a container's first process ended.
type Exit struct {
	Code int       // 128+n for signal n
	At   time.Time // when conmon wrote it down
}

// ReadExit reads the exit code that conmon left for id in dir; ErrNoExit if there is none (yet).
func ReadExit(dir, id string) (Exit, error) {
	f, err := os.Open(filepath.Join(dir, id))
	if errors.Is(err, os.ErrNotExist) {
		return Exit{}, ErrNoExit
	}
	if err != nil {
		return Exit{}, fmt.Errorf("read exit code of %s: %w", id, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Exit{}, fmt.Errorf("read exit code of %s: %w", id, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return Exit{}, fmt.Errorf("read exit code of %s: %w", id, err)
	}
	code, err := ParseExit(data)
	if err != nil {
		return Exit{}, fmt.Errorf("read exit code of %s: %w", id, err)
	}
	return Exit{Code: code, At: info.ModTime()}, nil
}

// ParseExit parses the contents of an exit file: a decimal number from -1 to 255.
func ParseExit(data []byte) (int, error) {
	code, err := strconv.Atoi(string(bytes.TrimSpace(data)))
	if err != nil || code < -1 || code > 255 {
		return 0, fmt.Errorf("%q is no exit code", data[:min(len(data), 32)])
	}
	return code, nil
}

// RemoveExit removes the exit file; nil if there is none.
func RemoveExit(dir, id string) error {
	if err := os.Remove(filepath.Join(dir, id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove exit code of %s: %w", id, err)
	}
	return nil
}

// reopen is the control message that makes conmon reopen its log (conmon's ctrl.c).
const reopen = "2 0 0\n"

// ReopenLog makes the conmon of a bundle close its log file and open it by name again, after somebody
// moved it away. It fails if conmon is gone, and never waits for it.
func ReopenLog(bundle string) error {
	if err := control(bundle, reopen); err != nil {
		return fmt.Errorf("reopen log: %w", err)
	}
	return nil
}

// control sends one control message; it never waits.
func control(bundle, message string) error {
	path := filepath.Join(bundle, "ctl")
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(message)); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// OOM reports whether conmon saw the kernel kill a process of the bundle's container for memory.
func OOM(bundle string) bool {
	_, err := os.Lstat(filepath.Join(bundle, "oom"))
	return err == nil
}
