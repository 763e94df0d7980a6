package cri

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/sandbox"
	"sallyport/sandbox/stats"
)

// ContainerStats tells what one container uses. One whose cgroup is gone has a
// writable layer alone.
func (s *Server) ContainerStats(_ context.Context, req *v1.ContainerStatsRequest) (*v1.ContainerStatsResponse, error) {
	c, err := s.findContainer(req.GetContainerId())
	if err != nil {
		return nil, toStatus(err)
	}
	f, err := s.o.Stats.Read(c.CgroupPath())
	if err != nil && !(errors.Is(err, fs.ErrNotExist) && c.Status().State != sandbox.Running) {
		return nil, toStatus(fmt.Errorf("read stats of container %s: %w", c.ID(), err))
	}
	return &v1.ContainerStatsResponse{Stats: s.statsOut(c, f)}, nil
}

// ListContainerStats tells what each running container uses that passes the filter. One that ended
// meanwhile is left out.
func (s *Server) ListContainerStats(_ context.Context, req *v1.ListContainerStatsRequest) (*v1.ListContainerStatsResponse, error) {
	f := req.GetFilter()
	var found []*sandbox.Container
	var cgroups []string
	for _, c := range s.o.Pods.Containers() {
		if c.Status().State == sandbox.Running && matchID(f.GetId(), c.ID()) && matchID(f.GetPodSandboxId(), c.Pod().ID()) &&
			selects(f.GetLabelSelector(), c.Config().Labels) {
			found, cgroups = append(found, c), append(cgroups, c.CgroupPath())
		}
	}
	figures := s.o.Stats.ReadAll(cgroups)
	resp := &v1.ListContainerStatsResponse{}
	for i, c := range found {
		if f, ok := figures[cgroups[i]]; ok {
			resp.Stats = append(resp.Stats, s.statsOut(c, f))
		}
	}
	return resp, nil
}

// statsOut adds what the last pass over the writable layers found, with its own time. The disk is not
// touched.
func (s *Server) statsOut(c *sandbox.Container, f stats.Figures) *v1.ContainerStats {
	cfg := c.Config()
	out := &v1.ContainerStats{
		Attributes: &v1.ContainerAttributes{Id: c.ID(), Metadata: containerMetadata(cfg), Labels: cfg.Labels, Annotations: cfg.Annotations},
		Cpu:        cpuOut(f), Memory: memoryOut(f), Io: ioOut(f),
	}
	if w := f.Swap; w != nil {
		out.Swap = &v1.SwapUsage{Timestamp: f.At.UnixNano(), SwapUsageBytes: number64(&w.Usage), SwapAvailableBytes: number64(w.Available)}
	}
	if u, ok := s.o.Images.Usage(c.ID()); ok {
		out.WritableLayer = &v1.FilesystemUsage{Timestamp: u.At.UnixNano(), FsId: &v1.FilesystemIdentifier{Mountpoint: s.o.Images.FsInfo().Mountpoint},
			UsedBytes: number64(&u.Bytes), InodesUsed: number64(&u.Inodes)}
	}
	return out
}

func cpuOut(f stats.Figures) *v1.CpuUsage {
	if f.CPU == nil {
		return nil
	}
	out := &v1.CpuUsage{Timestamp: f.At.UnixNano(), UsageCoreNanoSeconds: number64(&f.CPU.Usage), UsageNanoCores: number64(f.CPU.NanoCores)}
	if f.PSI != nil {
		out.Psi = pressureOut(f.PSI.CPU)
	}
	return out
}

func memoryOut(f stats.Figures) *v1.MemoryUsage {
	m := f.Memory
	if m == nil {
		return nil
	}
	out := &v1.MemoryUsage{Timestamp: f.At.UnixNano(), WorkingSetBytes: number64(&m.WorkingSet), AvailableBytes: number64(m.Available),
		UsageBytes: number64(&m.Usage), RssBytes: number64(&m.RSS), PageFaults: number64(&m.Faults), MajorPageFaults: number64(&m.MajorFaults)}
	if f.PSI != nil {
		out.Psi = pressureOut(f.PSI.Memory)
	}
	return out
}

func ioOut(f stats.Figures) *v1.IoUsage {
	if f.PSI == nil {
		return nil
	}
	return &v1.IoUsage{Timestamp: f.At.UnixNano(), Psi: pressureOut(f.PSI.IO)}
}

func pressureOut(p stats.Pressure) *v1.PsiStats {
	one := func(s stats.Stall) *v1.PsiData {
		return &v1.PsiData{Total: s.Total, Avg10: s.Avg10, Avg60: s.Avg60, Avg300: s.Avg300}
	}
	return &v1.PsiStats{Full: one(p.Full), Some: one(p.Some)}
}

func number64(v *uint64) *v1.UInt64Value {
	if v == nil {
		return nil
	}
	return &v1.UInt64Value{Value: *v}
}
