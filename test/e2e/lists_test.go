package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/test/node"
)

// collect reads a streamed list to its end and checks that each message has an item.
func collect[R, T any](t *testing.T, open func(context.Context) (grpc.ServerStreamingClient[R], error), items func(*R) []T) (all []T) {
	t.Helper()
	stream, err := open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(items(m)) == 0 {
			t.Error("a message without an item")
		}
		all = append(all, items(m)...)
	}
}

func same[T proto.Message](t *testing.T, what string, streamed, listed []T) {
	t.Helper()
	if len(listed) == 0 || !slices.EqualFunc(streamed, listed, func(a, b T) bool { return proto.Equal(a, b) }) {
		t.Errorf("%s: streamed %d, listed %d, want the same", what, len(streamed), len(listed))
	}
}

// TestStreamedLists: a streamed list is the list.
func TestStreamedLists(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{})
	pod1, id1, _ := w.running(image, "one", "/bin/sleep", "1000")
	_, id2, _ := w.running(image, "two", "/bin/sleep", "1000")
	rt, im := w.Runtime, w.Images

	pods, _ := rt.ListPodSandbox(w.ctx, &cri.ListPodSandboxRequest{})
	same(t, "pods", collect(t, func(ctx context.Context) (grpc.ServerStreamingClient[cri.StreamPodSandboxesResponse], error) {
		return rt.StreamPodSandboxes(ctx, &cri.StreamPodSandboxesRequest{})
	}, (*cri.StreamPodSandboxesResponse).GetPodSandboxes), pods.GetItems())
	ctrs, _ := rt.ListContainers(w.ctx, &cri.ListContainersRequest{})
	same(t, "containers", collect(t, func(ctx context.Context) (grpc.ServerStreamingClient[cri.StreamContainersResponse], error) {
		return rt.StreamContainers(ctx, &cri.StreamContainersRequest{})
	}, (*cri.StreamContainersResponse).GetContainers), ctrs.GetContainers())
	images, _ := im.ListImages(w.ctx, &cri.ListImagesRequest{})
	same(t, "images", collect(t, func(ctx context.Context) (grpc.ServerStreamingClient[cri.StreamImagesResponse], error) {
		return im.StreamImages(ctx, &cri.StreamImagesRequest{})
	}, (*cri.StreamImagesResponse).GetImages), images.GetImages())

	one := collect(t, func(ctx context.Context) (grpc.ServerStreamingClient[cri.StreamContainersResponse], error) {
		return rt.StreamContainers(ctx, &cri.StreamContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: pod1}})
	}, (*cri.StreamContainersResponse).GetContainers)
	if len(one) != 1 || one[0].Id != id1 {
		t.Errorf("containers of one pod = %v, want %s", one, id1)
	}
	none := collect(t, func(ctx context.Context) (grpc.ServerStreamingClient[cri.StreamContainersResponse], error) {
		return rt.StreamContainers(ctx, &cri.StreamContainersRequest{Filter: &cri.ContainerFilter{Id: "nobody"}})
	}, (*cri.StreamContainersResponse).GetContainers)
	if len(none) != 0 {
		t.Errorf("containers of nobody = %v", none)
	}
	var ids []string
	for _, s := range collect(t, func(ctx context.Context) (grpc.ServerStreamingClient[cri.StreamContainerStatsResponse], error) {
		return rt.StreamContainerStats(ctx, &cri.StreamContainerStatsRequest{})
	}, (*cri.StreamContainerStatsResponse).GetContainerStats) {
		ids = append(ids, s.Attributes.Id)
	}
	slices.Sort(ids)
	if want := []string{id1, id2}; !slices.Equal(ids, slices.Sorted(slices.Values(want))) {
		t.Errorf("streamed stats of %v, want %v", ids, want)
	}
	if got := len(collect(t, func(ctx context.Context) (grpc.ServerStreamingClient[cri.StreamPodSandboxStatsResponse], error) {
		return rt.StreamPodSandboxStats(ctx, &cri.StreamPodSandboxStatsRequest{})
	}, (*cri.StreamPodSandboxStatsResponse).GetPodSandboxStats)); got != 2 {
		t.Errorf("streamed stats of %d pods, want 2", got)
	}
	if got := len(collect(t, func(ctx context.Context) (grpc.ServerStreamingClient[cri.StreamPodSandboxMetricsResponse], error) {
		return rt.StreamPodSandboxMetrics(ctx, &cri.StreamPodSandboxMetricsRequest{})
	}, (*cri.StreamPodSandboxMetricsResponse).GetPodSandboxMetrics)); got != 2 {
		t.Errorf("streamed metrics of %d pods, want 2", got)
	}
}

// TestPodStats: figures of a pod, its network and its containers, and what an exited one still has.
func TestPodStats(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{})
	podID, id, pod := w.running(image, "web", "/bin/sh", "-c", "dd if=/dev/zero of=/big bs=1k count=512; sleep 1000 & echo | nc -w 1 10.213.0.1 1; sleep 1000; true")
	var st *cri.PodSandboxStats
	wait(t, "network figures", func() bool {
		r, err := w.Runtime.PodSandboxStats(w.ctx, &cri.PodSandboxStatsRequest{PodSandboxId: podID})
		if err != nil {
			t.Fatal(err)
		}
		st = r.Stats
		return st.Linux.GetProcess().GetProcessCount().GetValue() == 3
	})
	l := st.Linux
	if st.Attributes.Id != podID || !proto.Equal(st.Attributes.Metadata, pod.Metadata) {
		t.Errorf("attributes = %v", st.Attributes)
	}
	if l.Cpu.GetTimestamp() == 0 || l.Cpu.GetUsageCoreNanoSeconds().GetValue() == 0 || l.Memory.GetWorkingSetBytes().GetValue() == 0 {
		t.Errorf("cpu %v, memory %v, want figures", l.Cpu, l.Memory)
	}
	if n := l.Network; n.GetTimestamp() == 0 || n.GetDefaultInterface().GetName() != "eth0" || n.DefaultInterface.TxBytes.GetValue() == 0 || n.DefaultInterface.RxErrors == nil {
		t.Errorf("network = %v, want eth0 with traffic", n)
	}
	if len(l.Containers) != 1 || l.Containers[0].Attributes.Id != id || l.Containers[0].Memory.GetUsageBytes().GetValue() == 0 {
		t.Errorf("containers = %v, want the one", l.Containers)
	}
	if w := l.Containers[0].WritableLayer; w.GetTimestamp() == 0 || w.GetInodesUsed().GetValue() == 0 || w.GetFsId().GetMountpoint() == "" {
		t.Errorf("writable layer = %v", w)
	}
	list, err := w.Runtime.ListPodSandboxStats(w.ctx, &cri.ListPodSandboxStatsRequest{Filter: &cri.PodSandboxStatsFilter{Id: podID}})
	if err != nil || len(list.Stats) != 1 {
		t.Errorf("ListPodSandboxStats() = %v, %v, want one", list, err)
	}
	list, err = w.Runtime.ListPodSandboxStats(w.ctx, &cri.ListPodSandboxStatsRequest{Filter: &cri.PodSandboxStatsFilter{LabelSelector: map[string]string{"no": "such"}}})
	if err != nil || len(list.Stats) != 0 {
		t.Errorf("ListPodSandboxStats() of other labels = %v, %v, want none", list, err)
	}
	time.Sleep(1100 * time.Millisecond)
	again, err := w.Runtime.PodSandboxStats(w.ctx, &cri.PodSandboxStatsRequest{PodSandboxId: podID})
	if err != nil || again.Stats.Linux.Cpu.UsageNanoCores == nil {
		t.Errorf("second sample = %v, %v, want a rate", again.GetStats().GetLinux().GetCpu(), err)
	}
	if _, err := w.Runtime.StopPodSandbox(w.ctx, &cri.StopPodSandboxRequest{PodSandboxId: podID}); err != nil {
		t.Fatal(err)
	}
	c, err := w.Runtime.ContainerStats(w.ctx, &cri.ContainerStatsRequest{ContainerId: id})
	if err != nil || c.Stats.WritableLayer == nil {
		t.Errorf("stats of an exited container = %v, %v, want its writable layer", c, err)
	}
	p, err := w.Runtime.PodSandboxStats(w.ctx, &cri.PodSandboxStatsRequest{PodSandboxId: podID})
	if err != nil || p.Stats.Linux.Network != nil || len(p.Stats.Linux.Containers) != 0 {
		t.Errorf("stats of a stopped pod = %v, %v, want neither network nor containers", p, err)
	}
	_, err = w.Runtime.PodSandboxStats(w.ctx, &cri.PodSandboxStatsRequest{PodSandboxId: strings.Repeat("0", 64)})
	if status.Code(err) != codes.NotFound {
		t.Errorf("stats of no pod = %v, want NotFound", err)
	}
}

// TestMetrics: each metric is described, has as many labels as described, and true values.
func TestMetrics(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{})
	podID, pod := w.pod("default", "web")
	c := node.Container("main", image, w.pulled(image, pod), "/bin/sleep", "1000")
	c.Linux.Resources = &cri.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 20000, CpuShares: 1024, MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 64 << 20}
	id, err := w.Create(w.ctx, podID, pod, c)
	if err == nil {
		err = w.Start(w.ctx, id)
	}
	if err != nil {
		t.Fatal(err)
	}
	descs, err := w.Runtime.ListMetricDescriptors(w.ctx, &cri.ListMetricDescriptorsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string][]string{}
	for _, d := range descs.Descriptors {
		if keys[d.Name] != nil || d.Help == "" {
			t.Errorf("descriptor %v: twice, or without help", d)
		}
		keys[d.Name] = d.LabelKeys
	}
	var r *cri.ListPodSandboxMetricsResponse
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) { // the runtime's threads end a moment after it became the program
		if r, err = w.Runtime.ListPodSandboxMetrics(w.ctx, &cri.ListPodSandboxMetricsRequest{}); err != nil || time.Now().After(end) || threads(r) == 1 {
			break
		}
	}
	if err != nil || len(r.PodMetrics) != 1 || len(r.PodMetrics[0].ContainerMetrics) != 1 || r.PodMetrics[0].ContainerMetrics[0].ContainerId != id {
		t.Fatalf("ListPodSandboxMetrics() = %v, %v", r, err)
	}
	found, series := map[string]uint64{}, map[string]bool{}
	for i, all := range [][]*cri.Metric{r.PodMetrics[0].Metrics, r.PodMetrics[0].ContainerMetrics[0].Metrics} {
		for _, m := range all {
			if len(m.LabelValues) != len(keys[m.Name]) {
				t.Errorf("%s: %d labels, described %v", m.Name, len(m.LabelValues), keys[m.Name])
				continue
			}
			label := func(key string) string { return m.LabelValues[slices.Index(keys[m.Name], key)] }
			if label("namespace") != "default" || label("pod") != "web" || label("container") != []string{"", "main"}[i] {
				t.Errorf("%s: labels %v", m.Name, m.LabelValues)
			}
			key := m.Name + strings.Join(m.LabelValues, "\x00")
			if series[key] {
				t.Errorf("%s %q: twice", m.Name, m.LabelValues)
			}
			series[key], found[m.Name] = true, m.Value.Value
		}
	}
	optional := []string{"container_blkio_device_usage_total", "container_fs_reads_bytes_total", "container_fs_reads_total", "container_fs_writes_bytes_total", "container_fs_writes_total"}
	for name := range keys {
		if _, ok := found[name]; !ok && !slices.Contains(optional, name) && !strings.HasPrefix(name, "container_hugetlb_") && !strings.HasPrefix(name, "container_pressure_") {
			t.Errorf("%s: described, no value", name)
		}
	}
	for name, want := range map[string]uint64{"container_spec_cpu_period": 100000, "container_spec_cpu_quota": 20000, "container_spec_cpu_shares": 1024,
		"container_spec_memory_limit_bytes": 64 << 20, "container_processes": 1, "container_threads": 1, "container_oom_events_total": 0} {
		if got := found[name]; got != want {
			t.Errorf("%s = %d, want %d", name, got, want)
		}
	}
	if found["container_file_descriptors"] < 3 || found["container_memory_usage_bytes"] == 0 || found["container_fs_limit_bytes"] == 0 || found["container_start_time_seconds"] == 0 {
		t.Errorf("values = %v", found)
	}
}

// TestEvents: a client hears of every step, with the status of pod and container.
func TestEvents(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{})
	stream, err := w.Runtime.GetContainerEvents(w.ctx, &cri.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // the daemon has begun to listen
	podID, id, _ := w.running(image, "web", "/bin/false")
	wait(t, "the end", func() bool { return w.state(id).State == cri.ContainerState_CONTAINER_EXITED })
	if _, err := w.Runtime.RemoveContainer(w.ctx, &cri.RemoveContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	if err := w.RemovePod(w.ctx, podID); err != nil {
		t.Fatal(err)
	}
	created, started, stopped, deleted := cri.ContainerEventType_CONTAINER_CREATED_EVENT, cri.ContainerEventType_CONTAINER_STARTED_EVENT, cri.ContainerEventType_CONTAINER_STOPPED_EVENT, cri.ContainerEventType_CONTAINER_DELETED_EVENT
	last := int64(0)
	for i, want := range []struct {
		id   string
		kind cri.ContainerEventType
	}{{podID, created}, {podID, started}, {id, created}, {id, started}, {id, stopped}, {id, deleted}, {podID, stopped}, {podID, deleted}} {
		ev, err := stream.Recv()
		if err != nil {
			t.Fatalf("event %d: %v", i, err)
		}
		if ev.ContainerId != want.id || ev.ContainerEventType != want.kind || ev.CreatedAt < last || ev.PodSandboxStatus.GetId() != podID {
			t.Errorf("event %d = %v, want %v", i, ev, want)
		}
		last = ev.CreatedAt
		if want.id == id && want.kind == stopped && (len(ev.ContainersStatuses) != 1 || ev.ContainersStatuses[0].ExitCode != 1) {
			t.Errorf("event of the end has statuses %v, want exit code 1", ev.ContainersStatuses)
		}
		if want.id == id && want.kind == deleted && len(ev.ContainersStatuses) != 0 {
			t.Errorf("event of the removal has statuses %v, want none", ev.ContainersStatuses)
		}
	}
}

// TestSlowEventReader: a client that reads nothing is dropped with a reason, holds up nobody, and keeps
// the daemon from nothing, its end included (which start checks).
func TestSlowEventReader(t *testing.T) {
	w := start(t, nil, "")
	conn, err := grpc.NewClient("unix://"+w.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithInitialWindowSize(65535), grpc.WithInitialConnWindowSize(65535))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	slow, err := cri.NewRuntimeServiceClient(conn).GetContainerEvents(w.ctx, &cri.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	idle, err := w.Runtime.GetContainerEvents(w.ctx, &cri.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			if _, err := idle.Recv(); err != nil {
				return
			}
		}
	}()
	time.Sleep(200 * time.Millisecond)
	image := w.push("open/app", v1.Config{})
	podID, pod := w.pod("default", "web")
	imageID := w.pulled(image, pod)
	fat := strings.Repeat("x", 60<<10) // a status that fills the windows soon
	begun := time.Now()
	var g errgroup.Group
	g.SetLimit(4)
	for i := range 380 { // 3 events each; the queue holds 1,024
		g.Go(func() error {
			c := node.Container(fmt.Sprintf("c%d", i), image, imageID, "/bin/true")
			c.LogPath = ""
			c.Annotations = map[string]string{"fat": fat}
			id, err := w.Runtime.CreateContainer(w.ctx, &cri.CreateContainerRequest{PodSandboxId: podID, Config: c, SandboxConfig: pod})
			if err != nil {
				return err
			}
			_, err = w.Runtime.RemoveContainer(w.ctx, &cri.RemoveContainerRequest{ContainerId: id.ContainerId})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("containers made and removed in %v", time.Since(begun))
	var got error
	for got == nil {
		_, got = slow.Recv()
	}
	if status.Code(got) != codes.ResourceExhausted || !strings.Contains(got.Error(), "too slow") {
		t.Errorf("slow reader got %v, want ResourceExhausted with the reason", got)
	}
}

// TestEventsEndWithDaemon: a client that listens is told of the daemon's end and does not delay it.
func TestEventsEndWithDaemon(t *testing.T) {
	w := start(t, nil, "")
	conn, err := grpc.NewClient("unix://"+w.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	events, err := cri.NewRuntimeServiceClient(conn).GetContainerEvents(w.ctx, &cri.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // the daemon has begun to listen
	begun := time.Now()
	if err := w.StopDaemon(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("the daemon took %v to end while a client listened for events", took)
	}
	if _, err := events.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "the daemon is stopping") {
		t.Errorf("Recv() = %v, want Unavailable with the reason", err)
	}
	if err := w.StartDaemon(w.ctx); err != nil {
		t.Fatal(err)
	}
}

// TestUpdatePodResources: the call passes the gate and leaves a record.
func TestUpdatePodResources(t *testing.T) {
	w := start(t, map[string]string{
		"node/bundle.yaml":      "name: node\nrevision: 1\nrego: [sallyport.exec, sallyport.update]\nnamespaces: {unlisted: allow}\n",
		"node/rego/update.rego": "package sallyport.update\n\ndeny contains {\"rule\": \"no-giants\", \"msg\": \"too much\"} if input.resources.memory.limit > 1000000000\n",
	}, "")
	podID, _ := w.pod("default", "web")
	update := func(memory int64) error {
		_, err := w.Runtime.UpdatePodSandboxResources(w.ctx, &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: podID, Resources: &cri.LinuxContainerResources{MemoryLimitInBytes: memory}})
		return err
	}
	if err := update(1 << 20); err != nil {
		t.Errorf("UpdatePodSandboxResources() = %v", err)
	}
	if err := update(2 << 30); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "no-giants") {
		t.Errorf("UpdatePodSandboxResources() of a giant = %v, want a denial by no-giants", err)
	}
	if _, err := w.Runtime.UpdatePodSandboxResources(w.ctx, &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: podID}); err != nil {
		t.Errorf("UpdatePodSandboxResources() of nothing = %v", err)
	}
}

// TestCheckpointsAreNamed: what is not served says so by name.
func TestCheckpointsAreNamed(t *testing.T) {
	w := start(t, nil, "")
	_, err := w.Runtime.CheckpointContainer(w.ctx, &cri.CheckpointContainerRequest{ContainerId: "x", Location: filepath.Join(t.TempDir(), "a")})
	named(t, "CheckpointContainer", err)
	_, err = w.Runtime.CheckpointPod(w.ctx, &cri.CheckpointPodRequest{})
	named(t, "CheckpointPod", err)
	_, err = w.Runtime.RestorePod(w.ctx, &cri.RestorePodRequest{})
	named(t, "RestorePod", err)
}

func named(t *testing.T, method string, err error) {
	t.Helper()
	if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), method+" is not implemented: ") {
		t.Errorf("%s() = %v, want Unimplemented by name with a reason", method, err)
	}
}

// threads is what the only container has, or 0.
func threads(r *cri.ListPodSandboxMetricsResponse) (n uint64) {
	for _, p := range r.PodMetrics {
		for _, c := range p.ContainerMetrics {
			for _, m := range c.Metrics {
				if m.Name == "container_threads" {
					n = m.Value.Value
				}
			}
		}
	}
	return n
}
