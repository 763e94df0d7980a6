package spec

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/policy/baseline"
	"sallyport/test/roottest"
)

// runInside builds a spec for script, runs it with the real runc over a busybox root filesystem, and
// returns what it printed.
func runInside(t *testing.T, script string, change func(*Input)) string {
	t.Helper()
	roottest.Need(t)
	runc, busybox := roottest.Binary(t, "runc"), roottest.Binary(t, "busybox")
	bundle := t.TempDir()
	for _, dir := range []string{"rootfs/bin", "rootfs/etc", "rootfs/tmp", "mounts", "ns", "volume"} {
		must(t, os.MkdirAll(filepath.Join(bundle, dir), 0o755))
	}
	data, err := os.ReadFile(busybox)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(bundle, "rootfs/bin/busybox"), data, 0o4755))
	for _, name := range []string{"sh", "cat", "grep", "id", "ls", "touch", "mount", "env", "pwd", "hostname", "head", "mkdir", "mknod", "dd"} {
		must(t, os.Symlink("busybox", filepath.Join(bundle, "rootfs/bin", name)))
	}
	must(t, os.WriteFile(filepath.Join(bundle, "mounts/0"), []byte("127.0.0.1 localhost\n"), 0o644))
	must(t, os.MkdirAll(filepath.Join(bundle, "mounts/1"), 0o777))

	in := usual()
	in.ID = fmt.Sprintf("spectest%d", os.Getpid())
	in.Defaults.CgroupParent = "/sallyport-spectest"
	in.Container.Command, in.Container.Args = []string{"/bin/sh", "-c", script}, nil
	in.Mounts = []ResolvedMount{
		{Destination: "/etc/hosts", Kind: "file", Source: filepath.Join(bundle, "mounts/0"), ReadOnly: true},
		{Destination: "/data", Kind: "host", Source: filepath.Join(bundle, "mounts/1")},
	}
	in.Host.Bounding = ownBounding(t)
	in.Host.Swap = false
	in.Namespaces = pinned(t, filepath.Join(bundle, "ns"))
	if change != nil {
		change(&in)
	}
	out, err := Build(in)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(bundle, "config.json"), out.JSON, 0o600))
	root := filepath.Join(bundle, "state")
	t.Cleanup(func() {
		_ = exec.Command(runc, "--root", root, "delete", "--force", in.ID).Run()
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/sallyport-spectest")
		for _, g := range groups {
			_ = os.Remove(g)
		}
	})
	cmd := exec.Command(runc, "--root", root, "run", "--bundle", bundle, in.ID)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("runc run: %v: %s%s\n%s", err, text, errs.String(), out.JSON)
	}
	return string(text) + errs.String()
}

// pinned makes network, IPC and UTS namespaces and pins them beneath dir.
func pinned(t *testing.T, dir string) Namespaces {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS, Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	pin := func(kind string) string {
		file := filepath.Join(dir, kind)
		must(t, os.WriteFile(file, nil, 0o600))
		must(t, unix.Mount(fmt.Sprintf("/proc/%d/ns/%s", cmd.Process.Pid, kind), file, "", unix.MS_BIND, ""))
		t.Cleanup(func() { _ = unix.Unmount(file, unix.MNT_DETACH) })
		return file
	}
	return Namespaces{Network: pin("net"), IPC: pin("ipc"), UTS: pin("uts")}
}

func ownBounding(t *testing.T) (held []string) {
	t.Helper()
	for i, name := range capabilityNumbers {
		if v, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(i), 0, 0, 0); err == nil && v == 1 {
			held = append(held, name)
		}
	}
	return held
}

// capabilityNumbers is capability.h, in the order of its numbers.
var capabilityNumbers = strings.Fields(`CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID
	CAP_SETUID CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK
	CAP_IPC_OWNER CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE
	CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP
	CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF
	CAP_CHECKPOINT_RESTORE`)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, got string, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if !strings.Contains(got, l) {
			t.Errorf("inside: no %q in\n%s", l, got)
		}
	}
}

func TestRuncRunsWhatWasBuilt(t *testing.T) {
	got := runInside(t, `grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; id; pwd; echo $LANG $COLOUR $HOME
		touch /sys/x /proc/sys/kernel/hostname 2>&1; dd if=/proc/kcore bs=1 count=1 2>&1 | head -1; ls /sys/firmware | head -1
		echo x > /proc/sys/kernel/hostname; mknod /tmp/d b 1 1; mount -t tmpfs x /tmp; touch /etc/hosts; touch /data/ok && echo wrote
		touch /sys/fs/cgroup/x; echo max > /sys/fs/cgroup/pids/pids.max; mkdir /sys/fs/cgroup/pids/x; grep cgroup /proc/self/mountinfo;grep ' /sys/fs/cgroup' /proc/self/mountinfo | head -1; cat /proc/self/cgroup | head -2`, nil)
	want(t, got,
		"CapInh:\t0000000000000000", "CapPrm:\t00000000000005fb", "CapEff:\t00000000000005fb", "CapBnd:\t00000000000005fb", "CapAmb:\t0000000000000000",
		"NoNewPrivs:\t0", "Seccomp:\t2", "uid=0", "C blue /root", "/sys/x: Read-only", "mknod: /tmp/d: Operation not permitted",
		"mount: ", "/etc/hosts: Read-only", "wrote", "/sys/fs/cgroup/x: Read-only", "pids.max: Read-only", "can't create /proc/sys/kernel/hostname: Read-only")
	t.Log(got)
}

func TestRuncRunsRestricted(t *testing.T) {
	got := runInside(t, `grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status; id; touch /x 2>&1; true`, func(in *Input) {
		in.Floor = baseline.ForLevel(baseline.Restricted)
		in.Image.User = "app"
		in.Container.Security.ReadOnlyRootfs = true
		in.Container.Security.SupplementalGroups = []int64{7}
	})
	want(t, got, "CapBnd:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "uid=1000 gid=1000", "Groups:\t7 29 1000", "Read-only")
}

func TestRuncRunsPrivilegedWithoutWhatTheDaemonLacks(t *testing.T) {
	got := runInside(t, `grep -E '^(CapBnd|Seccomp:)' /proc/self/status; touch /sys/fs/cgroup 2>&1 && echo cgroup; mount -t tmpfs x /tmp && echo mounted`, func(in *Input) {
		in.Floor = baseline.ForLevel(baseline.Privileged)
		in.Pod.Security.Privileged, in.Container.Security.Privileged = true, true
		in.Container.Resources.OOMScoreAdj = -997
	})
	want(t, got, "Seccomp:\t2", "mounted")
	t.Log(got)
}
