package cri

import (
	"context"
	"fmt"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/sandbox"
	"sallyport/sandbox/stats"
)

// ContainerStats tells what one container uses.
func (s *Server) ContainerStats(_ context.Context, req *v1.ContainerStatsRequest) (*v1.ContainerStatsResponse, error) {
	c, err := s.findContainer(req.GetContainerId())
	if err != nil {
		return nil, toStatus(err)
	}
	f, err := s.o.Stats.Read(c.CgroupPath())
	if err != nil {
		return nil, toStatus(fmt.Errorf("read stats of container %s: %w", c.ID(), err))
	}
	return &v1.ContainerStatsResponse{Stats: statsOut(c, f)}, nil
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
			resp.Stats = append(resp.Stats, statsOut(c, f))
		}
	}
	return resp, nil
}

func statsOut(c *sandbox.Container, f stats.Figures) *v1.ContainerStats {
	cfg, at := c.Config(), f.At.UnixNano()
	out := &v1.ContainerStats{Attributes: &v1.ContainerAttributes{Id: c.ID(), Metadata: containerMetadata(cfg), Labels: cfg.Labels, Annotations: cfg.Annotations}}
	if u := f.CPU; u != nil {
		out.Cpu = &v1.CpuUsage{Timestamp: at, UsageCoreNanoSeconds: number64(&u.Usage), UsageNanoCores: number64(u.NanoCores)}
	}
	if m := f.Memory; m != nil {
		out.Memory = &v1.MemoryUsage{Timestamp: at, WorkingSetBytes: number64(&m.WorkingSet), AvailableBytes: number64(m.Available),
			UsageBytes: number64(&m.Usage), RssBytes: number64(&m.RSS), PageFaults: number64(&m.Faults), MajorPageFaults: number64(&m.MajorFaults)}
	}
	if w := f.Swap; w != nil {
		out.Swap = &v1.SwapUsage{Timestamp: at, SwapUsageBytes: number64(&w.Usage), SwapAvailableBytes: number64(w.Available)}
	}
	if p := f.PSI; p != nil {
		if out.Cpu != nil {
			out.Cpu.Psi = pressureOut(p.CPU)
		}
		if out.Memory != nil {
			out.Memory.Psi = pressureOut(p.Memory)
		}
		out.Io = &v1.IoUsage{Timestamp: at, Psi: pressureOut(p.IO)}
	}
	return out
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
