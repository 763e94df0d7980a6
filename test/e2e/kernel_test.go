package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/test/node"
	"sallyport/test/roottest"
)

// pid is the container's first process, in this namespace.
func (w *world) pid(id string) int {
	w.t.Helper()
	r, err := w.Runtime.ContainerStatus(w.ctx, &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		w.t.Fatal(err)
	}
	var info struct {
		Pid int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(r.Info["info"]), &info); err != nil || info.Pid == 0 {
		w.t.Fatalf("no pid of %s: %v, %q", id, err, r.Info["info"])
	}
	return info.Pid
}

// procField is a field of /proc/pid/status.
func procField(t *testing.T, pid int, name string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\n"+name+":")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}

// What the kernel says of the uid agrees with what ImageStatus told the kubelet for runAsNonRoot
// (CVE-2024-40635, CVE-2026-46680): a USER that overflows into root runs under no name.
func TestKernelUser(t *testing.T) {
	w := start(t, nil, "")
	podID, pod := w.pod("default", "users")
	for i, tt := range []struct {
		user string
		ok   bool // may run
	}{
		{"", true}, {"0", true}, {"1000", true}, {"app", true}, {"1000:extra", true}, {"2147483647", true},
		{"00", false}, {"+0", false}, {"-0", false}, {"0x0", false}, {"-1", false}, {"2147483648", false}, {"4294967295", false},
		{"4294967296", false}, {"4294968296", false}, {"18446744073709551616", false}, {"1e0", false}, {" 0", false}, {"0 ", false},
		{"1000\n0", false}, {"\x00", false}, {"root:0:0", false}, {":0", true},
	} {
		image := w.push(fmt.Sprintf("open/user%d", i), v1.Config{User: tt.user})
		imageID, err := w.Pull(w.ctx, image, pod)
		if err != nil {
			if tt.ok {
				t.Errorf("USER %q: pull = %v", tt.user, err)
			}
			continue
		}
		st, err := w.Images.ImageStatus(w.ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: imageID}})
		if err != nil {
			t.Fatal(err)
		}
		told := int64(-1) // as the kubelet reads it: a name is refused, nothing is root
		switch {
		case st.Image.Uid != nil:
			told = st.Image.Uid.Value
		case st.Image.Username == "":
			told = 0
		}
		id, err := w.Create(w.ctx, podID, pod, node.Container(fmt.Sprintf("user-%d", i), image, imageID, "/bin/sleep", "1000"))
		if err == nil {
			err = w.Start(w.ctx, id)
		}
		if (err == nil) != tt.ok {
			t.Errorf("USER %q: %v, want ok %t", tt.user, err, tt.ok)
		}
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("USER %q: the error %q is more than a line", tt.user, err)
			}
			continue
		}
		uid, err := strconv.ParseInt(strings.Fields(procField(t, w.pid(id), "Uid"))[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if told >= 0 && told != uid {
			t.Errorf("USER %q: the kernel runs uid %d, ImageStatus said %d", tt.user, uid, told)
		}
		groups := strings.Fields(procField(t, w.pid(id), "Groups")) // CVE-2022-2995, CVE-2023-25173
		gid := strings.Fields(procField(t, w.pid(id), "Gid"))[0]
		if !strings.Contains(" "+strings.Join(groups, " ")+" ", " "+gid+" ") {
			t.Errorf("USER %q: groups %v lack the primary one, %s", tt.user, groups, gid)
		}
		w.Runtime.RemoveContainer(w.ctx, &cri.RemoveContainerRequest{ContainerId: id})
	}
}

// A container and a command in it get three descriptors, no inheritable or ambient capability
// (CVE-2022-27652), a filter, and masked paths; the runtime they came through is not theirs to change
// (CVE-2019-5736, CVE-2024-21626).
func TestKernelConfinement(t *testing.T) {
	w := start(t, nil, "")
	runc := roottest.Binary(t, "runc")
	was := fileHash(t, runc)
	image := w.push("open/app", v1.Config{})
	podID, id, pod := w.running(image, "confined", "/bin/sleep", "1000")
	pid := w.pid(id)
	wait(t, "the runtime's part of the process to end", func() bool {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		return err == nil && exe == "/bin/busybox"
	})
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil || len(entries) != 3 || entries[0].Name() != "0" || entries[2].Name() != "2" {
		t.Errorf("the container has descriptors %v, %v, want 0, 1, 2", entries, err)
	}
	exec := func(script string) string {
		t.Helper()
		r, err := w.Runtime.ExecSync(w.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/sh", "-c", script}, Timeout: 20})
		if err != nil {
			t.Fatal(err)
		}
		return string(r.Stdout) + string(r.Stderr)
	}
	if got := strings.Fields(exec("ls /proc/$$/fd; true")); strings.Join(got, " ") != "0 1 2" {
		t.Errorf("a command has descriptors %v, want 0 1 2", got)
	}
	for _, name := range []string{"CapInh", "CapAmb"} {
		if got := procField(t, pid, name); strings.Trim(got, "0") != "" {
			t.Errorf("%s of the container = %s, want none", name, got)
		}
		if got := exec("grep ^" + name + " /proc/self/status"); strings.Trim(strings.TrimPrefix(strings.TrimSpace(got), name+":"), "0\t") != "" {
			t.Errorf("%s of a command = %s, want none", name, got)
		}
	}
	for _, script := range []string{
		"cat /proc/kcore | head -c 1 | wc -c", "cat /proc/keys | wc -l", "cat /proc/timer_list | wc -l", "ls /proc/scsi | wc -l",
		"ls /sys/firmware | wc -l", "cat /proc/interrupts | wc -l",
	} {
		if got := strings.TrimSpace(exec(script)); got != "0" && !strings.Contains(got, "No such file") {
			t.Errorf("%s = %q, want 0: the path is to be masked", script, got)
		}
	}
	for _, script := range []string{
		"echo 1 > /proc/sys/kernel/core_pattern", "echo b > /proc/sysrq-trigger", "echo 1 > /sys/kernel/uevent_helper",
		"mkdir /sys/fs/cgroup/x", "mount -t tmpfs x /tmp", "echo x > /proc/1/attr/current && false",
	} {
		if got := exec("( " + script + " ) 2>/dev/null && echo done"); strings.Contains(got, "done") {
			t.Errorf("%s succeeded in the container", script)
		}
	}
	for _, tt := range []struct {
		name string
		dir  string
		args []string
		ok   bool
	}{
		{"plain", "/tmp", []string{"/bin/true"}, true},
		{"dir-in-proc", "/proc/self/fd/7", []string{"/bin/true"}, false},
		{"dir-in-proc-2", "/proc/self/fd/8/../..", []string{"/bin/true"}, false},
		{"dir-in-fd", "/dev/fd/7", []string{"/bin/cat", "/etc/../../../../etc/shadow"}, false},
		{"runtime-itself", "/", []string{"/proc/self/exe", "--version"}, false},
	} {
		c := node.Container(tt.name, image, w.pulled(image, pod), tt.args...)
		c.WorkingDir = tt.dir
		cid, err := w.Create(w.ctx, podID, pod, c)
		if err == nil {
			err = w.Start(w.ctx, cid)
		}
		if err == nil {
			st, werr := w.Wait(w.ctx, cid)
			if err = werr; err == nil && st.ExitCode != 0 {
				err = fmt.Errorf("exit code %d", st.ExitCode)
			}
		}
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v, want ok %t", tt.name, err, tt.ok)
		}
	}
	if fileHash(t, runc) != was {
		t.Error("the runtime was changed")
	}
}

func fileHash(t *testing.T, path string) [32]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}

// Nobody listens on an abstract socket (CVE-2020-15257), in the node's network namespace or a pod's.
func TestNoAbstractSockets(t *testing.T) {
	w := start(t, nil, "")
	_, id, _ := w.running(w.push("open/app", v1.Config{}), "sockets", "/bin/sleep", "1000")
	for _, of := range []string{"self", strconv.Itoa(w.pid(id))} {
		b, err := os.ReadFile("/proc/" + of + "/net/unix")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), w.Socket) && of == "self" {
			t.Errorf("our own socket is not in the list; the test sees nothing")
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 7 && strings.HasPrefix(f[7], "@") {
				t.Errorf("abstract socket %s seen by %s", f[7], of)
			}
		}
	}
}

// Whatever a command writes, the reply is at most 16 MiB, and the daemon's memory and disk stay flat
// (CVE-2022-1708, CVE-2022-31030).
func TestExecFlood(t *testing.T) {
	w := start(t, nil, "")
	_, id, _ := w.running(w.push("open/app", v1.Config{}), "flood", "/bin/sleep", "1000")
	w.Runtime.ExecSync(w.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/true"}, Timeout: 10})
	peak := func() int {
		kb, err := strconv.Atoi(strings.Fields(procField(t, w.Daemon.Process.Pid, "VmHWM"))[0])
		if err != nil {
			t.Fatal(err)
		}
		return kb >> 10
	}
	var fs0, fs1 unix.Statfs_t
	unix.Statfs("/run", &fs0) // a tmpfs of these tests' own
	written := diskBytes(t, w.Daemon.Process.Pid)
	before := peak()
	r, err := w.Runtime.ExecSync(w.ctx, &cri.ExecSyncRequest{ContainerId: id, Timeout: 120,
		Cmd: []string{"/bin/sh", "-c", "dd if=/dev/zero bs=1M count=5120; dd if=/dev/zero bs=1M count=64 >&2; exit 3"}})
	if err != nil || r.ExitCode != 3 || len(r.Stdout)+len(r.Stderr) > 16<<20 || len(r.Stdout) < 1<<20 {
		t.Errorf("ExecSync() = %d + %d bytes, code %d, %v, want at most 16 MiB and code 3", len(r.GetStdout()), len(r.GetStderr()), r.GetExitCode(), err)
	}
	unix.Statfs("/run", &fs1)
	if grown := peak() - before; grown > 160 {
		t.Errorf("the daemon grew by %d MiB", grown)
	} else {
		t.Logf("the daemon grew by %d MiB", grown)
	}
	if used := (int64(fs0.Bfree) - int64(fs1.Bfree)) * fs0.Bsize; used > 32<<20 {
		t.Errorf("the state directory's file system lost %d bytes", used)
	}
	if n := diskBytes(t, w.Daemon.Process.Pid) - written; n > 32<<20 {
		t.Errorf("the daemon wrote %d bytes to disk", n)
	}
}

// diskBytes is what a process has sent to disks so far (proc_pid_io(5), write_bytes).
func diskBytes(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\nwrite_bytes: ")
	line, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseInt(line, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A fork bomb ends at the limit of processes, and the daemon answers meanwhile.
func TestForkBomb(t *testing.T) {
	w := start(t, nil, "[limits]\npids = 40\n")
	_, id, _ := w.running(w.push("open/app", v1.Config{}), "bomb", "/bin/sh", "-c",
		"/bin/sh -c 'while true; do /bin/sleep 100 & done'; exec /bin/sleep 1000")
	time.Sleep(time.Second)
	dir, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", w.pid(id)))
	if err != nil {
		t.Fatal(err)
	}
	var path string
	for line := range strings.Lines(string(dir)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if f[1] == "pids" {
			path = "/sys/fs/cgroup/pids" + f[2]
		} else if f[1] == "" && path == "" {
			path = "/sys/fs/cgroup" + f[2]
		}
	}
	b, err := os.ReadFile(filepath.Join(path, "pids.current"))
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := strconv.Atoi(string(bytes.TrimSpace(b))); n > 40 || n < 20 {
		t.Errorf("%d processes, want them bounded by 40", n)
	}
	begin := time.Now()
	if _, err := w.Runtime.ListContainers(w.ctx, &cri.ListContainersRequest{}); err != nil || time.Since(begin) > time.Second {
		t.Errorf("ListContainers() = %v after %s", err, time.Since(begin))
	}
	if _, err := w.Runtime.StopContainer(w.ctx, &cri.StopContainerRequest{ContainerId: id}); err != nil {
		t.Errorf("StopContainer() = %v", err)
	}
	wait(t, "the end of all its processes", func() bool {
		b, err := os.ReadFile(filepath.Join(path, "pids.current"))
		return err != nil || string(bytes.TrimSpace(b)) == "0"
	})
}
