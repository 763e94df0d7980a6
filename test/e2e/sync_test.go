package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/audit"
	"sallyport/test/roottest"
)

// A disk that fails every sync (EIO, by strace) admits nothing: no pod without its record on disk. What runs
// runs on; with a disk again the same call succeeds, and the log verifies.
func TestDiskFailsSync(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{})
	_, stays, _ := w.running(image, "stays", "/bin/sleep", "100000")
	was := w.traces()
	pid := w.Daemon.Process.Pid
	tracer := exec.Command(roottest.Binary(t, "strace"), "-f", "-qq", "-o", os.DevNull, "-p", fmt.Sprint(pid), "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO")
	if err := tracer.Start(); err != nil {
		t.Fatal(err)
	}
	traced := func() bool {
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		for _, task := range tasks {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", pid, task.Name()))
			if strings.Contains(string(b), "TracerPid:\t0\n") {
				return false
			}
		}
		return len(tasks) > 0
	}
	wait(t, "strace", traced)
	pod := w.Pod("default", "no-record")
	_, err := w.RunPod(w.ctx, pod)
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "input/output error") {
		t.Errorf("RunPodSandbox() on a disk that fails = %v, want Unavailable and the cause", err)
	}
	if st := w.state(stays); st.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("what ran is %v", st.State)
	}
	tracer.Process.Signal(syscall.SIGTERM) // it detaches
	tracer.Wait()
	w.noTraces(was)
	wait(t, "the log", func() bool {
		id, err := w.RunPod(w.ctx, pod)
		return err == nil && w.RemovePod(w.ctx, id) == nil
	})
	if err := w.StopDaemon(); err != nil {
		t.Error(err)
	}
	if r, err := audit.Verify(w.Path("root/audit")); err != nil {
		t.Errorf("audit log: %v, %v", r, err)
	}
	if err := w.StartDaemon(w.ctx); err != nil {
		t.Fatal(err)
	}
}
