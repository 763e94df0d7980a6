package e2e

import (
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

// withHandler makes a pod of a runtime handler.
func (w *world) withHandler(handler string, pod *cri.PodSandboxConfig) string {
	w.t.Helper()
	r, err := w.Runtime.RunPodSandbox(w.ctx, &cri.RunPodSandboxRequest{Config: pod, RuntimeHandler: handler})
	if err != nil {
		w.t.Fatal(err)
	}
	return r.PodSandboxId
}

// TestGVisor: a pod of gVisor's runsc has kernels of its own, and everything that a kubelet asks of a
// container works there: logs, commands, their deadlines and exit codes, figures, network, a second
// container beside the first, a restart, a stop.
func TestGVisor(t *testing.T) {
	w := start(t, nil, fmt.Sprintf("[runtime.handlers.runsc]\ntype = \"gvisor\"\npath = %q\n", roottest.Binary(t, "runsc")))
	st, err := w.Runtime.Status(w.ctx, &cri.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range st.RuntimeHandlers {
		if want := h.Name != "runsc"; h.Features.RecursiveReadOnlyMounts != want || h.Features.UserNamespaces != want {
			t.Errorf("features of handler %q = %v, want each %t", h.Name, h.Features, want)
		}
	}
	image := w.push("open/app", v1.Config{})
	pod := w.Pod("default", "apart")
	podID := w.withHandler("runsc", pod)
	c := node.Container("main", image, w.pulled(image, pod), "/bin/sh", "-c",
		"cat /proc/version; hostname; trap 'echo stopping; exit 7' TERM; while true; do sleep 0.1; done")
	id, err := w.Create(w.ctx, podID, pod, c)
	if err == nil {
		err = w.Start(w.ctx, id)
	}
	if err != nil {
		t.Fatal(err)
	}
	exec := func(id string, timeout int64, script string) (*cri.ExecSyncResponse, error) {
		return w.Runtime.ExecSync(w.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/sh", "-c", script}, Timeout: timeout})
	}
	r, err := exec(id, 20, "grep -e ^CapEff -e ^Seccomp: /proc/self/status; cat /proc/keys; touch /proc/sys/kernel/x && echo written; echo err >&2; exit 3")
	if got := strings.Fields(string(r.GetStdout())); err != nil || r.ExitCode != 3 || !strings.Contains(string(r.Stderr), "err\n") ||
		len(got) != 4 || strings.TrimLeft(got[1], "0") != "5fb" || got[3] != "2" {
		t.Errorf("ExecSync() = %v, %v, want code 3, the default capabilities and a filter", r, err)
	}
	checkKernel(t, w.pid(id))
	begin := time.Now()
	if _, err := exec(id, 1, "sleep 100"); err == nil || time.Since(begin) > 10*time.Second {
		t.Errorf("ExecSync() past its time = %v after %v", err, time.Since(begin))
	}
	if r, err := exec(id, 20, "ps | grep -c '[s]leep 100'"); err != nil || strings.TrimSpace(string(r.Stdout)) != "0" {
		t.Errorf("processes of a command that was ended = %v, %v", r, err)
	}
	stats, err := w.Runtime.ContainerStats(w.ctx, &cri.ContainerStatsRequest{ContainerId: id})
	if err != nil || stats.Stats.GetMemory().GetWorkingSetBytes().GetValue() < 1<<20 || stats.Stats.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 {
		t.Errorf("ContainerStats() = %v, %v", stats, err)
	}
	text, err := w.ContainerLog(pod, c)
	if err != nil || !strings.Contains(text, "-gvisor") || !strings.Contains(text, "\napart\n") {
		t.Errorf("log = %q, %v, want gVisor's version and the pod's name", text, err)
	}
	// A second container meets the first in the pod's network.
	if _, err := exec(id, 20, "(echo hello | nc -l -p 8000) > /dev/null 2>&1 &"); err != nil {
		t.Error(err)
	}
	beside := node.Container("beside", image, c.Image.Image, "/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do nc -w 5 127.0.0.1 8000 < /dev/null && exit 0; sleep 0.3; done; exit 1")
	second, err := w.Create(w.ctx, podID, pod, beside)
	if err == nil {
		err = w.Start(w.ctx, second)
	}
	if err == nil {
		_, err = w.Wait(w.ctx, second)
	}
	if text, lerr := w.ContainerLog(pod, beside); err != nil || text != "hello\n" {
		t.Errorf("from one container to the other = %q, %v, %v", text, err, lerr)
	}
	if _, err := w.Runtime.StopContainer(w.ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: 20}); err != nil {
		t.Errorf("StopContainer() = %v", err)
	}
	if s := w.state(id); s.ExitCode != 7 {
		t.Errorf("exit code after the stop signal = %d (%s), want 7", s.ExitCode, s.Reason)
	}
	c.Metadata.Attempt, c.LogPath = 1, "main/1.log"
	c.Command = []string{"/bin/sh", "-c", "trap '' TERM; while true; do sleep 0.1; done"}
	again, err := w.Create(w.ctx, podID, pod, c)
	if err == nil {
		err = w.Start(w.ctx, again)
	}
	if err != nil {
		t.Fatal(err)
	}
	if r, err := exec(again, 20, "cat /proc/net/dev"); err != nil || !strings.Contains(string(r.Stdout), "eth0") {
		t.Errorf("network after a restart = %v, %v", r, err)
	}
	if err := w.RemovePod(w.ctx, podID); err != nil {
		t.Error(err)
	}
	if left := programs(t, "runsc"); len(left) > 0 {
		t.Errorf("left behind: processes %v of runsc", left)
	}
}

// checkKernel: what the node sees of the container is a process under a filter, with few capabilities.
func checkKernel(t *testing.T, pid int) {
	t.Helper()
	caps, err := strconv.ParseUint(procField(t, pid, "CapEff"), 16, 64)
	if err != nil || caps&(1<<unix.CAP_SYS_ADMIN|1<<unix.CAP_SYS_MODULE|1<<unix.CAP_SETUID) != 0 || procField(t, pid, "Seccomp") != "2" || procField(t, pid, "NoNewPrivs") != "1" {
		t.Errorf("gVisor's kernel runs with capabilities %#x (%v), seccomp %s, no_new_privs %s", caps, err, procField(t, pid, "Seccomp"), procField(t, pid, "NoNewPrivs"))
	}
}

// programs are the processes of this namespace whose program has that name.
func programs(t *testing.T, name string) (pids []string) {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && filepath.Base(to) == name {
			pids = append(pids, l)
		}
	}
	return pids
}

// TestGVisorRefuses: what a kernel of one's own cannot give is refused when the pod is made, by name.
func TestGVisorRefuses(t *testing.T) {
	w := start(t, nil, fmt.Sprintf("[runtime.handlers.runsc]\ntype = \"gvisor\"\npath = %q\n", roottest.Binary(t, "runsc")))
	for name, tt := range map[string]struct {
		change func(*cri.NamespaceOption)
		want   string
	}{
		"plain":   {func(*cri.NamespaceOption) {}, ""},
		"pids":    {func(n *cri.NamespaceOption) { n.Pid = cri.NamespaceMode_POD }, "a kernel of its own"},
		"hostpid": {func(n *cri.NamespaceOption) { n.Pid = cri.NamespaceMode_NODE }, "a kernel of its own"},
		"users": {func(n *cri.NamespaceOption) {
			all := []*cri.IDMapping{{HostId: 65536, Length: 65536}}
			n.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: all, Gids: all}
		}, "hostUsers: false"},
	} {
		pod := w.Pod("default", name)
		tt.change(pod.Linux.SecurityContext.NamespaceOptions)
		_, err := w.Runtime.RunPodSandbox(w.ctx, &cri.RunPodSandboxRequest{Config: pod, RuntimeHandler: "runsc"})
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: RunPodSandbox() = %v, want %q", name, err, tt.want)
		}
	}
}
