// Package ownnet gives a test binary a network namespace of its own, so that the bridges, addresses and
// firewall rules of its tests touch no one else's and are gone with it, however it ends.
package ownnet

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
)

const inside = "SALLYPORT_TEST_OWNNET"

// Main is the body of a TestMain. As root it starts the binary anew in a new network namespace with
// loopback up; else it runs the tests where they are, and those that need root say so.
func Main(m *testing.M) {
	if os.Geteuid() == 0 && os.Getenv(inside) == "" {
		fmt.Fprintln(os.Stderr, "enter own network namespace:", enter())
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// enter replaces the process; it returns only an error. The thread that has the new namespace is the one
// that survives execve(2), so every thread of the new program is in it.
func enter() error {
	runtime.LockOSThread()
	if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
		return err
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), inside+"=1"))
}
