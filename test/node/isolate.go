// Package node runs a whole Sallyport node under a temporary root for tests, benchmarks and the demo:
// the real daemon, CNI plugins, conmon and runc, in network, mount, IPC and PID namespaces of its own,
// so that the kernel itself ends every process, mount, bridge, shared memory segment and firewall rule
// when it is over.
package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	insideEnv = "SALLYPORT_TEST_INSIDE" // set in the isolated process to the scratch directory
	exitGrace = 20 * time.Second
)

// Isolate runs main in fresh network, mount, IPC and PID namespaces and returns its exit code. It starts
// this program again with the same arguments; the first process waits, and afterwards removes scratch
// directory and cgroups, also after SIGINT or SIGTERM. Call it first thing in main or TestMain. It
// needs root.
func Isolate(main func(scratch string) int) int {
	if dir := os.Getenv(insideEnv); dir != "" {
		if err := settle(); err != nil {
			fmt.Fprintln(os.Stderr, "isolate:", err)
			return 2
		}
		return main(dir)
	}
	code, err := outside()
	if err != nil {
		fmt.Fprintln(os.Stderr, "isolate:", err)
		return 2
	}
	return code
}

// Inside reports whether this process is the isolated one.
func Inside() bool { return os.Getenv(insideEnv) != "" }

func outside() (int, error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("needs root: the node makes namespaces, mounts and cgroups")
	}
	dir, err := os.MkdirTemp("/var/tmp", "sallyport-")
	if err != nil {
		return 0, err
	}
	defer cleanUp(dir)
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	cmd := exec.CommandContext(ctx, self, os.Args[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = exitGrace
	cmd.Env = append(os.Environ(), insideEnv+"="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    true, // a terminal's SIGINT reaches it once, through us
	}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if code := exit.ExitCode(); code >= 0 {
			return code, nil
		}
		return 130, nil
	}
	return 0, err
}

// settle makes the new namespaces usable: no mount reaches the host, /proc shows the new PIDs, mounts
// are shared among themselves as systemd has them, loopback is up.
func settle() error {
	steps := []struct {
		what string
		do   func() error
	}{
		{"cut mounts off", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }},
		{"share mounts within", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "") }},
		{"mount proc", func() error {
			return unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		}},
		{"mount run", func() error { return unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755") }},
		{"bring loopback up", func() error {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			return netlink.LinkSetUp(lo)
		}},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	return nil
}

// CgroupParent is the cgroup under which the node of a scratch directory makes its pods.
func CgroupParent(scratch string) string { return "/" + filepath.Base(scratch) }

// cleanUp removes what outlives the namespaces.
func cleanUp(dir string) {
	deadline := time.Now().Add(10 * time.Second)
	for {
		left := removeCgroups(CgroupParent(dir))
		if left == 0 || time.Now().After(deadline) {
			if left > 0 {
				fmt.Fprintf(os.Stderr, "isolate: %d cgroups named %s could not be removed\n", left, CgroupParent(dir))
			}
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, "isolate:", err)
	}
}

// removeCgroups removes the trees named parent below each hierarchy and returns how many are left.
func removeCgroups(parent string) (left int) {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*" + parent)
	roots = append(roots, "/sys/fs/cgroup"+parent)
	for _, root := range roots {
		var dirs []string
		filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			killAll(dirs[i])
			if err := unix.Rmdir(dirs[i]); err != nil && !errors.Is(err, unix.ENOENT) {
				left++
			}
		}
	}
	return left
}

// killAll ends what is still in a cgroup of ours: the PID namespace has ended already, so this is for
// processes that escaped it by a defect.
func killAll(cgroup string) {
	b, err := os.ReadFile(filepath.Join(cgroup, "cgroup.procs"))
	if err != nil {
		return
	}
	for _, line := range strings.Fields(string(b)) {
		if pid, err := strconv.Atoi(line); err == nil && pid > 1 {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
}
