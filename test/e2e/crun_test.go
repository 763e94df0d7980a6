package e2e

import (
	"fmt"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/test/node"
	"sallyport/test/roottest"
)

// TestCrun: crun serves a handler as runc does. Debian 12's is old enough to have known escapes, so the
// configuration names the risk. On a hybrid host crun takes the v2 mount for the node's version, so that
// is hidden in these tests' own mount namespace.
func TestCrun(t *testing.T) {
	crun := roottest.Binary(t, "crun")
	const hybrid = "/sys/fs/cgroup/unified"
	var st unix.Statfs_t
	if unix.Statfs(hybrid, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		if err := unix.Unmount(hybrid, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Mount("cgroup2", hybrid, "cgroup2", 0, ""); err != nil {
				t.Error(err)
			}
		})
	}
	w := start(t, nil, fmt.Sprintf("[runtime.handlers.crun]\npath = %q\nallow_unsafe_version = true\n", crun))
	image := w.push("open/app", v1.Config{})
	pod := w.Pod("default", "crun")
	podID := w.withHandler("crun", pod)
	c := node.Container("main", image, w.pulled(image, pod), "/bin/sh", "-c", "echo hello; trap 'exit 7' TERM; while true; do sleep 0.1; done")
	c.Linux.Resources.MemoryLimitInBytes = 64 << 20
	c.Linux.SecurityContext.Capabilities = &cri.Capability{AddAmbientCapabilities: []string{"KILL"}}
	id, err := w.Create(w.ctx, podID, pod, c)
	if err == nil {
		err = w.Start(w.ctx, id)
	}
	if err != nil {
		t.Fatal(err)
	}
	pid := w.pid(id)
	for name, want := range map[string]string{"Seccomp": "2", "CapAmb": "20", "CapBnd": "5fb", "CapInh": "20"} {
		if got := strings.TrimLeft(procField(t, pid, name), "0"); got != want {
			t.Errorf("%s = %s, want %s", name, got, want)
		}
	}
	r, err := w.Runtime.ExecSync(w.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/sh", "-c", "grep ^Seccomp: /proc/self/status; exit 3"}, Timeout: 20})
	if err != nil || r.ExitCode != 3 || strings.Join(strings.Fields(string(r.Stdout)), " ") != "Seccomp: 2" {
		t.Errorf("ExecSync() = %v, %v, want code 3 and a filter", r, err)
	}
	if stats, err := w.Runtime.ContainerStats(w.ctx, &cri.ContainerStatsRequest{ContainerId: id}); err != nil || stats.Stats.GetMemory().GetWorkingSetBytes().GetValue() == 0 {
		t.Errorf("ContainerStats() = %v, %v", stats, err)
	}
	if _, err := w.Runtime.UpdateContainerResources(w.ctx, &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 48 << 20}}); err != nil {
		t.Errorf("UpdateContainerResources() = %v", err)
	}
	if _, err := w.Runtime.StopContainer(w.ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: 20}); err != nil {
		t.Errorf("StopContainer() = %v", err)
	}
	if s := w.state(id); s.ExitCode != 7 {
		t.Errorf("exit code = %d (%s), want 7", s.ExitCode, s.Reason)
	}
	if log, err := w.ContainerLog(pod, c); err != nil || log != "hello\n" {
		t.Errorf("log = %q, %v", log, err)
	}
}

// TestOldRuntimeOfHandler: a handler whose runtime has known escapes keeps the daemon from starting.
func TestOldRuntimeOfHandler(t *testing.T) {
	w := prepare(t)
	_, err := node.New(w.ctx, w.options(nil, fmt.Sprintf("[runtime.handlers.crun]\npath = %q\n", roottest.Binary(t, "crun"))))
	if err == nil || !strings.Contains(err.Error(), "crun 1.8.1 has known escapes") || !strings.Contains(err.Error(), "runtime.handlers.crun.allow_unsafe_version") {
		t.Errorf("New() = %v, want the version and the key that names the risk", err)
	}
}
