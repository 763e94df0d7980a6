package ns

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

var shared struct {
	mu   sync.Mutex      // guards done; held over two mounts, once per directory and process
	done map[string]bool // guarded by mu
}

// share makes dir a shared mount of its own, once, as "ip netns add" does: a pin in it then reaches the
// mount namespaces that were copied from ours (CNI agents in containers), and so does its removal.
// A lock on the directory, which iproute2 takes too, keeps two processes from stacking two mounts.
func share(dir string) error {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.done[dir] {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make directory of network namespaces: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open directory of network namespaces: %w", err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", dir, err)
	}
	err = unix.Mount("", dir, "none", unix.MS_SHARED, "")
	if errors.Is(err, unix.EINVAL) { // not a mount point yet
		if err := unix.Mount(dir, dir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s onto itself: %w", dir, err)
		}
		err = unix.Mount("", dir, "none", unix.MS_SHARED, "")
	}
	if err != nil {
		return fmt.Errorf("share mount %s: %w", dir, err)
	}
	if shared.done == nil {
		shared.done = map[string]bool{}
	}
	shared.done[dir] = true
	return nil
}
