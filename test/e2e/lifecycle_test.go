package e2e

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/test/node"
)

func TestLifecycle(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{Env: []string{"FROM_IMAGE=1"}, WorkingDir: "/tmp", User: "1000:1000"})
	podID, pod := w.pod("default", "web")
	imageID := w.pulled(image, pod)
	c := node.Container("main", image, imageID, "/bin/sh", "-c", "echo out; echo err >&2; echo $FROM_IMAGE $FROM_POD; id -u; pwd; sleep 1000")
	c.Envs = []*cri.KeyValue{{Key: "FROM_POD", Value: []byte("2")}}
	c.Annotations = map[string]string{"a": "b"}
	c.Linux.Resources.MemoryLimitInBytes = 64 << 20
	id, err := w.Create(w.ctx, podID, pod, c)
	if err != nil {
		t.Fatal(err)
	}
	if st := w.state(id); st.State != cri.ContainerState_CONTAINER_CREATED || st.CreatedAt == 0 || st.StartedAt != 0 {
		t.Errorf("status after create = %v", st)
	}
	if err := w.Start(w.ctx, id); err != nil {
		t.Fatal(err)
	}
	wait(t, "the log", func() bool {
		text, _ := w.ContainerLog(pod, c)
		lines := strings.Split(text, "\n") // of two streams, in no order between them
		return !slices.ContainsFunc([]string{"out", "err", "1 2", "1000", "/tmp"}, func(want string) bool { return !slices.Contains(lines, want) })
	})
	st := w.state(id)
	if st.State != cri.ContainerState_CONTAINER_RUNNING || st.ImageId != imageID || st.ImageRef != imageID || st.Image.Image != image ||
		st.Annotations["a"] != "b" || st.Resources.GetLinux().GetMemoryLimitInBytes() != 64<<20 || st.User.GetLinux().GetUid() != 1000 ||
		st.LogPath != filepath.Join(pod.LogDirectory, c.LogPath) || st.StopSignal != cri.Signal_SIGNAL_SIGTERM {
		t.Errorf("status of the running container = %v", st)
	}
	ps, err := w.Runtime.PodSandboxStatus(w.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: podID, Verbose: true})
	if err != nil || ps.Status.State != cri.PodSandboxState_SANDBOX_READY || ps.Status.Network.Ip == "" || !proto.Equal(ps.Status.Metadata, pod.Metadata) || len(ps.ContainersStatuses) != 1 {
		t.Errorf("PodSandboxStatus() = %v, %v", ps, err)
	}
	t.Run("exec", func(t *testing.T) { w.exec(t, id) })
	t.Run("lists", func(t *testing.T) { w.lists(t, podID, id) })
	t.Run("stats", func(t *testing.T) { w.stats(t, id) })
	t.Run("update", func(t *testing.T) {
		_, err := w.Runtime.UpdateContainerResources(w.ctx, &cri.UpdateContainerResourcesRequest{ContainerId: id,
			Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 96 << 20}})
		if err != nil || w.state(id).Resources.GetLinux().GetMemoryLimitInBytes() != 96<<20 {
			t.Errorf("UpdateContainerResources() = %v, status %v", err, w.state(id).Resources)
		}
	})
	t.Run("reopen log", func(t *testing.T) {
		log := filepath.Join(pod.LogDirectory, c.LogPath)
		if err := os.Rename(log, log+".1"); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Runtime.ReopenContainerLog(w.ctx, &cri.ReopenContainerLogRequest{ContainerId: id}); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(log); err != nil {
			t.Errorf("no new log: %v", err)
		}
	})
	if _, err := w.Runtime.StopContainer(w.ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: 1}); err != nil {
		t.Fatal(err)
	}
	if st := w.state(id); st.State != cri.ContainerState_CONTAINER_EXITED || st.ExitCode == 0 || st.FinishedAt < st.StartedAt || st.Reason == "" {
		t.Errorf("status after stop = %v", st)
	}
	if err := w.RemovePod(w.ctx, podID); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Runtime.ContainerStatus(w.ctx, &cri.ContainerStatusRequest{ContainerId: id}); status.Code(err) != codes.NotFound {
		t.Errorf("ContainerStatus(removed) = %v, want NotFound", err)
	}
	if _, err := w.Runtime.PodSandboxStatus(w.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: podID}); status.Code(err) != codes.NotFound {
		t.Errorf("PodSandboxStatus(removed) = %v, want NotFound", err)
	}
}

func (w *world) exec(t *testing.T, id string) {
	run := func(limit int64, cmd ...string) (*cri.ExecSyncResponse, error) {
		return w.Runtime.ExecSync(w.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: cmd, Timeout: limit})
	}
	r, err := run(10, "/bin/sh", "-c", "echo hello; echo bad >&2; exit 7")
	if err != nil || string(r.Stdout) != "hello\n" || string(r.Stderr) != "bad\n" || r.ExitCode != 7 {
		t.Errorf("ExecSync() = %v, %v", r, err)
	}
	r, err = run(10, "/bin/grep", "^Cap\\|^NoNewPrivs\\|^Seccomp:", "/proc/self/status")
	if err != nil || !strings.Contains(string(r.Stdout), "Seccomp:\t2") || !strings.Contains(string(r.Stdout), "CapInh:\t0000000000000000") || !strings.Contains(string(r.Stdout), "CapAmb:\t0000000000000000") {
		t.Errorf("ExecSync(status) = %v, %v, want a filter and no inheritable capability", r, err)
	}
	begin := time.Now()
	if _, err := run(1, "/bin/sleep", "100"); status.Code(err) != codes.DeadlineExceeded || time.Since(begin) > 20*time.Second {
		t.Errorf("ExecSync(too long) = %v after %s, want DeadlineExceeded", err, time.Since(begin))
	}
	if _, err := run(5, "/bin/forbidden"); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), `rule "no-forbidden"`) {
		t.Errorf("ExecSync(forbidden) = %v, want PermissionDenied by the rule", err)
	}
	if _, err := run(5); status.Code(err) != codes.InvalidArgument {
		t.Errorf("ExecSync(nothing) = %v, want InvalidArgument", err)
	}
	if r, err := run(60, "/bin/sh", "-c", "dd if=/dev/zero bs=1M count=40 2>/dev/null"); err != nil || len(r.Stdout) != 0 && !bytes.Equal(r.Stdout[:1], []byte{0}) || len(r.Stdout) > 16<<20 {
		t.Errorf("ExecSync(40 MiB) = %d bytes, %v, want at most 16 MiB", len(r.GetStdout()), err)
	}
}

func (w *world) lists(t *testing.T, podID, id string) {
	for _, tt := range []struct {
		name   string
		filter *cri.ContainerFilter
		want   int
	}{
		{"none", nil, 1},
		{"id", &cri.ContainerFilter{Id: id}, 1},
		{"start of the id", &cri.ContainerFilter{Id: id[:12]}, 1},
		{"other id", &cri.ContainerFilter{Id: "0"}, 0},
		{"pod", &cri.ContainerFilter{PodSandboxId: podID}, 1},
		{"other pod", &cri.ContainerFilter{PodSandboxId: id}, 0},
		{"state", &cri.ContainerFilter{State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}}, 1},
		{"other state", &cri.ContainerFilter{State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_CREATED}}, 0},
		{"label", &cri.ContainerFilter{LabelSelector: map[string]string{"io.kubernetes.container.name": "main"}}, 1},
		{"other label", &cri.ContainerFilter{LabelSelector: map[string]string{"io.kubernetes.container.name": "x"}}, 0},
	} {
		if tt.name == "other id" && strings.HasPrefix(id, "0") {
			continue
		}
		r, err := w.Runtime.ListContainers(w.ctx, &cri.ListContainersRequest{Filter: tt.filter})
		if err != nil || len(r.Containers) != tt.want {
			t.Errorf("ListContainers(%s) = %v, %v, want %d", tt.name, r, err, tt.want)
		}
	}
	r, err := w.Runtime.ListPodSandbox(w.ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{
		State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}, LabelSelector: map[string]string{"io.kubernetes.pod.name": "web"}}})
	if err != nil || len(r.Items) != 1 || r.Items[0].Id != podID {
		t.Errorf("ListPodSandbox() = %v, %v, want the pod", r, err)
	}
}

func (w *world) stats(t *testing.T, id string) {
	r, err := w.Runtime.ContainerStats(w.ctx, &cri.ContainerStatsRequest{ContainerId: id})
	if err != nil || r.Stats.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 || r.Stats.GetMemory().GetWorkingSetBytes().GetValue() == 0 || r.Stats.Attributes.Id != id {
		t.Errorf("ContainerStats() = %v, %v", r, err)
	}
	all, err := w.Runtime.ListContainerStats(w.ctx, &cri.ListContainerStatsRequest{Filter: &cri.ContainerStatsFilter{Id: id}})
	if err != nil || len(all.Stats) != 1 {
		t.Errorf("ListContainerStats() = %v, %v, want one", all, err)
	}
}

func TestImages(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{User: "app"})
	absent, err := w.Images.ImageStatus(w.ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: image}})
	if err != nil || absent.Image != nil {
		t.Errorf("ImageStatus(absent) = %v, %v, want no image and no error", absent, err)
	}
	id := w.pulled(image, nil)
	for _, name := range []string{image, id, strings.TrimPrefix(id, "sha256:")} {
		r, err := w.Images.ImageStatus(w.ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}, Verbose: true})
		if err != nil || r.Image == nil || r.Image.Id != id || r.Image.Username != "app" || r.Image.Size == 0 || len(r.Image.RepoTags) != 1 || len(r.Image.RepoDigests) == 0 {
			t.Errorf("ImageStatus(%s) = %v, %v", name, r, err)
		}
	}
	list, err := w.Images.ListImages(w.ctx, &cri.ListImagesRequest{})
	if err != nil || len(list.Images) != 1 {
		t.Errorf("ListImages() = %v, %v, want one", list, err)
	}
	fs, err := w.Images.ImageFsInfo(w.ctx, &cri.ImageFsInfoRequest{})
	if err != nil || len(fs.ImageFilesystems) != 1 || fs.ImageFilesystems[0].UsedBytes.GetValue() == 0 || fs.ImageFilesystems[0].FsId.GetMountpoint() == "" {
		t.Errorf("ImageFsInfo() = %v, %v", fs, err)
	}
	for range 2 { // idempotent
		if _, err := w.Images.RemoveImage(w.ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: image}}); err != nil {
			t.Errorf("RemoveImage() = %v", err)
		}
	}
	if list, err = w.Images.ListImages(w.ctx, &cri.ListImagesRequest{}); err != nil || len(list.Images) != 0 {
		t.Errorf("ListImages() after removal = %v, %v, want none", list, err)
	}
}

func TestOnceAndAgain(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{})
	podID, pod := w.pod("default", "again")
	if again, err := w.RunPod(w.ctx, pod); err != nil || again != podID {
		t.Errorf("RunPodSandbox() again = %q, %v, want the same %q", again, err, podID)
	}
	other := proto.Clone(pod).(*cri.PodSandboxConfig)
	other.Hostname = "elsewhere"
	if _, err := w.RunPod(w.ctx, other); status.Code(err) != codes.AlreadyExists {
		t.Errorf("RunPodSandbox(same name, other configuration) = %v, want AlreadyExists", err)
	}
	c := node.Container("main", image, w.pulled(image, pod), "/bin/sleep", "1000")
	id, err := w.Create(w.ctx, podID, pod, c)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := w.Create(w.ctx, podID, pod, c); err != nil || again != id {
		t.Errorf("CreateContainer() again = %q, %v, want the same %q", again, err, id)
	}
	for range 2 {
		if _, err := w.Runtime.StopContainer(w.ctx, &cri.StopContainerRequest{ContainerId: id}); err != nil {
			t.Errorf("StopContainer() = %v", err)
		}
	}
	for range 2 {
		if _, err := w.Runtime.RemoveContainer(w.ctx, &cri.RemoveContainerRequest{ContainerId: id}); err != nil {
			t.Errorf("RemoveContainer() = %v", err)
		}
	}
	for range 2 {
		if err := w.RemovePod(w.ctx, podID); err != nil {
			t.Errorf("StopPodSandbox() + RemovePodSandbox() = %v", err)
		}
	}
	if _, err := w.Runtime.StartContainer(w.ctx, &cri.StartContainerRequest{ContainerId: id}); status.Code(err) != codes.NotFound {
		t.Errorf("StartContainer(removed) = %v, want NotFound", err)
	}
}

// A call that timed out is joined by its retry: there is one pod and one container in the end.
func TestRetryJoins(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{})
	pod := w.Pod("default", "slow")
	imageID := w.pulled(image, pod)
	podID := untilDone(t, w, func(ctx context.Context) (string, error) { return w.RunPod(ctx, pod) })
	c := node.Container("main", image, imageID, "/bin/sleep", "1000")
	id := untilDone(t, w, func(ctx context.Context) (string, error) { return w.Create(ctx, podID, pod, c) })
	pods, err := w.Runtime.ListPodSandbox(w.ctx, &cri.ListPodSandboxRequest{})
	if err != nil || len(pods.Items) != 1 {
		t.Errorf("ListPodSandbox() = %v, %v, want one pod", pods, err)
	}
	ctrs, err := w.Runtime.ListContainers(w.ctx, &cri.ListContainersRequest{})
	if err != nil || len(ctrs.Containers) != 1 || ctrs.Containers[0].Id != id {
		t.Errorf("ListContainers() = %v, %v, want one container", ctrs, err)
	}
}

// untilDone calls with a deadline that is too short until the work is done.
func untilDone(t *testing.T, w *world, call func(context.Context) (string, error)) string {
	t.Helper()
	for range 1000 {
		ctx, cancel := context.WithTimeout(w.ctx, 5*time.Millisecond)
		id, err := call(ctx)
		cancel()
		if err == nil {
			return id
		}
		if status.Code(err) != codes.DeadlineExceeded {
			t.Fatal(err)
		}
	}
	t.Fatal("never done")
	return ""
}

func TestUnservedIsNamed(t *testing.T) {
	w := start(t, nil, "")
	if _, err := w.Runtime.CheckpointContainer(w.ctx, &cri.CheckpointContainerRequest{}); status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "CheckpointContainer") {
		t.Errorf("CheckpointContainer() = %v, want Unimplemented by name", err)
	}
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("waited in vain for %s", what)
}
