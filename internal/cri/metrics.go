package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/image"
	"sallyport/sandbox"
	"sallyport/sandbox/stats"
)

// podGroups are the groups of metrics that can be told alone, by CRI-O's names. The first group with a
// fitting beginning is a metric's.
var podGroups = []struct {
	name   string
	begins []string
}{
	{"cpu", []string{"container_cpu_"}},
	{"diskIO", []string{"container_blkio_", "container_fs_reads_", "container_fs_writes_"}},
	{"disk", []string{"container_fs_"}},
	{"hugetlb", []string{"container_hugetlb_"}},
	{"memory", []string{"container_memory_"}},
	{"network", []string{"container_network_"}},
	{"oom", []string{"container_oom_"}},
	{"pressure", []string{"container_pressure_"}},
	{"process", []string{"container_file_descriptors", "container_processes", "container_sockets", "container_threads", "container_ulimits_"}},
	{"spec", []string{"container_spec_"}},
	{"misc", []string{"container_last_seen", "container_start_time_"}},
}

func groupOf(name string) string {
	for _, g := range podGroups {
		if slices.ContainsFunc(g.begins, func(b string) bool { return strings.HasPrefix(name, b) }) {
			return g.name
		}
	}
	return ""
}

// chosen are the metrics of the groups; "all" is every one. They keep their order.
func chosen(groups []string) (out []metric) {
	for _, m := range metrics {
		if slices.Contains(groups, "all") || slices.Contains(groups, groupOf(m.name)) {
			out = append(out, m)
		}
	}
	return out
}

// tells reports whether any metric of the group is told.
func (s *Server) tells(group string) bool {
	return slices.ContainsFunc(s.metrics, func(m metric) bool { return groupOf(m.name) == group })
}

// metric describes one of the figures that a kubelet's /metrics/cadvisor had (KEP-2371). Its values are
// whole numbers, as the API has it: seconds are cut off.
type metric struct {
	name, help string
	counter    bool
	labels     []string // after the base labels
	values     func(*sample) []point
}

// point is one value with the labels that the metric adds.
type point struct {
	value  uint64
	labels []string
	at     time.Time // zero: read just now
}

// baseLabels are those that cAdvisor gives, under its names. Each is bounded: they name objects that the
// node holds, never a label or annotation that a pod made up.
var baseLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

// maxLabel bounds a label's value in bytes; a longer one is cut off.
const maxLabel = 512

// sample is what one pass read of a pod or container. A nil part is one that is not known.
type sample struct {
	labels    []string // values of baseLabels
	now       time.Time
	figures   *stats.Figures
	detail    *stats.Detail
	kills     *uint64
	opened    *opened
	network   []stats.Interface
	layer     *image.Usage
	capacity  *image.Capacity
	resources *specs.LinuxResources
	started   time.Time
}

// ListMetricDescriptors describes all metrics; they never change while the daemon runs.
func (s *Server) ListMetricDescriptors(context.Context, *v1.ListMetricDescriptorsRequest) (*v1.ListMetricDescriptorsResponse, error) {
	resp := &v1.ListMetricDescriptorsResponse{}
	for _, m := range s.metrics {
		resp.Descriptors = append(resp.Descriptors, &v1.MetricDescriptor{Name: m.name, Help: m.help, LabelKeys: append(baseLabels[:len(baseLabels):len(baseLabels)], m.labels...)})
	}
	return resp, nil
}

// ListPodSandboxMetrics reads the metrics of every ready pod and its running containers. What ended
// meanwhile is left out.
func (s *Server) ListPodSandboxMetrics(context.Context, *v1.ListPodSandboxMetricsRequest) (*v1.ListPodSandboxMetricsResponse, error) {
	resp := &v1.ListPodSandboxMetricsResponse{}
	if len(s.metrics) == 0 {
		return resp, nil
	}
	var room *image.Capacity
	if c, err := s.o.Images.Capacity(); err == nil {
		room = &c
	}
	running := s.running()
	for _, pod := range s.o.Pods.List() {
		if pod.Status().State != sandbox.Ready {
			continue
		}
		out := &v1.PodSandboxMetrics{PodSandboxId: pod.ID(), Metrics: s.podSample(pod).out(s.metrics)}
		for _, c := range running[pod] {
			m := s.containerSample(c)
			if m == nil {
				continue
			}
			m.capacity = room
			out.ContainerMetrics = append(out.ContainerMetrics, &v1.ContainerMetrics{ContainerId: c.ID(), Metrics: m.out(s.metrics)})
		}
		resp.PodMetrics = append(resp.PodMetrics, out)
	}
	return resp, nil
}

// podSample is of the pod's own cgroup and network. As with cAdvisor its label container is empty.
func (s *Server) podSample(pod *sandbox.Pod) *sample {
	cfg := pod.Config()
	m := &sample{now: time.Now(), labels: []string{"", cfg.CgroupParent, "", "", cfg.Namespace, cfg.Name}}
	if s.tells("network") {
		m.network, _ = s.interfaces(pod)
	}
	if cfg.CgroupParent != "" {
		m.read(s.o.Stats, cfg.CgroupParent)
		m.kills = nil // told by container
	}
	return m
}

// containerSample is nil for a container that has ended.
func (s *Server) containerSample(c *sandbox.Container) *sample {
	pod, st := c.Pod().Config(), c.Status()
	m := &sample{now: time.Now(), started: st.Started,
		labels: []string{c.Config().Name, c.CgroupPath(), imageSpecOut(c).Image, c.ID(), pod.Namespace, pod.Name}}
	m.read(s.o.Stats, c.CgroupPath())
	if m.figures == nil {
		return nil
	}
	if s.tells("process") {
		m.opened = s.opened.look(c.ID(), c.CgroupPath())
	}
	if u, ok := s.o.Images.Usage(c.ID()); ok {
		m.layer = &u
	}
	var r specs.LinuxResources
	if json.Unmarshal(st.Resources, &r) == nil {
		m.resources = &r
	}
	return m
}

func (m *sample) read(r *stats.Collector, cgroup string) {
	if f, detail, kills, err := r.ReadDeep(cgroup); err == nil {
		m.figures, m.detail, m.kills = &f, detail, kills
	}
}

// out are those of the metrics that the sample has values for.
func (m *sample) out(metrics []metric) (out []*v1.Metric) {
	for i, l := range m.labels {
		m.labels[i] = cut(l)
	}
	for _, d := range metrics {
		kind := v1.MetricType_GAUGE
		if d.counter {
			kind = v1.MetricType_COUNTER
		}
		for _, p := range d.values(m) {
			one := &v1.Metric{Name: d.name, MetricType: kind, LabelValues: m.labels, Value: &v1.UInt64Value{Value: p.value}}
			if len(p.labels) > 0 {
				one.LabelValues = append(m.labels[:len(m.labels):len(m.labels)], p.labels...)
			}
			if !p.at.IsZero() {
				one.Timestamp = p.at.UnixNano()
			}
			out = append(out, one)
		}
	}
	return out
}

func cut(label string) string {
	if len(label) > maxLabel {
		return label[:maxLabel]
	}
	return label
}

// maybe is a single value, or none of nil.
func maybe(v *uint64) []point {
	if v == nil {
		return nil
	}
	return []point{{value: *v}}
}

func single(v uint64) []point { return []point{{value: v}} }

// Each of these takes a value from one part of a sample, if the part is there.

func ofFigures(f func(*stats.Figures) []point) func(*sample) []point {
	return func(m *sample) []point {
		if m.figures == nil {
			return nil
		}
		return f(m.figures)
	}
}

func ofMemory(f func(*stats.Memory) uint64) func(*sample) []point {
	return ofFigures(func(g *stats.Figures) []point {
		if g.Memory == nil {
			return nil
		}
		return single(f(g.Memory))
	})
}

func ofPressure(f func(*stats.PSI) uint64) func(*sample) []point {
	return ofFigures(func(g *stats.Figures) []point {
		if g.PSI == nil {
			return nil
		}
		return single(f(g.PSI) / uint64(time.Second))
	})
}

func ofCPUDetail(f func(*stats.CPUDetail) uint64) func(*sample) []point {
	return func(m *sample) []point {
		if m.detail == nil || m.detail.CPU == nil {
			return nil
		}
		return single(f(m.detail.CPU))
	}
}

func ofMemoryDetail(f func(*stats.MemoryDetail) []point) func(*sample) []point {
	return func(m *sample) []point {
		if m.detail == nil || m.detail.Memory == nil {
			return nil
		}
		return f(m.detail.Memory)
	}
}

func ofDevices(f func(stats.DeviceIO) uint64) func(*sample) (out []point) {
	return func(m *sample) (out []point) {
		if m.detail == nil {
			return nil
		}
		for _, d := range m.detail.Devices {
			out = append(out, point{value: f(d), labels: []string{d.Name}})
		}
		return out
	}
}

func blockUsage(m *sample) (out []point) {
	if m.detail == nil {
		return nil
	}
	for _, d := range m.detail.Devices {
		major, minor := fmt.Sprint(d.Major), fmt.Sprint(d.Minor)
		out = append(out, point{value: d.ReadBytes, labels: []string{d.Name, major, minor, "Read"}},
			point{value: d.WriteBytes, labels: []string{d.Name, major, minor, "Write"}})
	}
	return out
}

func ofHuge(f func(stats.HugePages) uint64) func(*sample) []point {
	return func(m *sample) (out []point) {
		if m.detail == nil {
			return nil
		}
		for _, h := range m.detail.Huge {
			out = append(out, point{value: f(h), labels: []string{h.Size}})
		}
		return out
	}
}

func ofNetwork(f func(stats.Interface) uint64) func(*sample) []point {
	return func(m *sample) (out []point) {
		for _, n := range m.network {
			out = append(out, point{value: f(n), labels: []string{cut(n.Name)}})
		}
		return out
	}
}

func ofOpened(f func(stats.Processes) *uint64, labels ...string) func(*sample) []point {
	return func(m *sample) []point {
		if m.opened == nil {
			return nil
		}
		v := f(m.opened.Processes)
		if v == nil {
			return nil
		}
		return []point{{value: *v, labels: labels, at: m.opened.at}}
	}
}

func ofCapacity(f func(image.Capacity) uint64) func(*sample) []point {
	return func(m *sample) []point {
		if m.capacity == nil {
			return nil
		}
		return single(f(*m.capacity))
	}
}

func ofCPULimits(f func(*specs.LinuxCPU) []point) func(*sample) []point {
	return func(m *sample) []point {
		switch {
		case m.resources == nil:
			return nil
		case m.resources.CPU == nil:
			return f(&specs.LinuxCPU{})
		}
		return f(m.resources.CPU)
	}
}

func ofMemoryLimits(f func(*specs.LinuxMemory) *int64) func(*sample) []point {
	return func(m *sample) []point {
		switch {
		case m.resources == nil:
			return nil
		case m.resources.Memory == nil:
			return single(0)
		}
		return single(uint64(max(value(f(m.resources.Memory)), 0))) // 0: unlimited, as cAdvisor has it
	}
}
