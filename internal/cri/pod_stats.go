package cri

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/enforce"
	"sallyport/sandbox"
	"sallyport/sandbox/spec"
	"sallyport/sandbox/stats"
)

const (
	defaultInterface = "eth0" // as sandbox/network names it
	maxInterfaces    = 32     // of one pod that are told; a pod may make as many as it likes
)

// PodSandboxStats tells what one pod uses. What a stopped pod no longer has is left out.
func (s *Server) PodSandboxStats(_ context.Context, req *v1.PodSandboxStatsRequest) (*v1.PodSandboxStatsResponse, error) {
	pod, err := s.findPod(req.GetPodSandboxId())
	if err != nil {
		return nil, toStatus(err)
	}
	out, err := s.podStatsOut(pod, s.running()[pod])
	if err != nil {
		return nil, toStatus(fmt.Errorf("read stats of pod %s: %w", pod.ID(), err))
	}
	return &v1.PodSandboxStatsResponse{Stats: out}, nil
}

// ListPodSandboxStats tells what each ready pod uses that passes the filter. One whose figures cannot be
// read, for example because it ended meanwhile, is left out.
func (s *Server) ListPodSandboxStats(_ context.Context, req *v1.ListPodSandboxStatsRequest) (*v1.ListPodSandboxStatsResponse, error) {
	f, running := req.GetFilter(), s.running()
	resp := &v1.ListPodSandboxStatsResponse{}
	for _, pod := range s.o.Pods.List() {
		if pod.Status().State != sandbox.Ready || !matchID(f.GetId(), pod.ID()) || !selects(f.GetLabelSelector(), pod.Config().Labels) {
			continue
		}
		if out, err := s.podStatsOut(pod, running[pod]); err == nil {
			resp.Stats = append(resp.Stats, out)
		}
	}
	return resp, nil
}

// running is the running containers of each pod.
func (s *Server) running() map[*sandbox.Pod][]*sandbox.Container {
	out := map[*sandbox.Pod][]*sandbox.Container{}
	for _, c := range s.o.Pods.Containers() {
		if c.Status().State == sandbox.Running {
			out[c.Pod()] = append(out[c.Pod()], c)
		}
	}
	return out
}

func (s *Server) podStatsOut(pod *sandbox.Pod, ctrs []*sandbox.Container) (*v1.PodSandboxStats, error) {
	cfg := pod.Config()
	linux := &v1.LinuxPodSandboxStats{}
	out := &v1.PodSandboxStats{Linux: linux, Attributes: &v1.PodSandboxAttributes{Id: pod.ID(), Metadata: podMetadata(cfg), Labels: cfg.Labels, Annotations: cfg.Annotations}}
	if cfg.CgroupParent != "" { // without one it shares the default parent with others
		f, err := s.o.Stats.Read(cfg.CgroupParent)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil {
			linux.Cpu, linux.Memory, linux.Io = cpuOut(f), memoryOut(f), ioOut(f)
			if f.Pids != nil {
				linux.Process = &v1.ProcessUsage{Timestamp: f.At.UnixNano(), ProcessCount: number64(f.Pids)}
			}
		}
	}
	for _, c := range ctrs {
		if f, err := s.o.Stats.Read(c.CgroupPath()); err == nil {
			linux.Containers = append(linux.Containers, s.statsOut(c, f))
		}
	}
	if nics, at := s.interfaces(pod); len(nics) > 0 {
		linux.Network = networkOut(nics, at)
	}
	return out, nil
}

// interfaces tells of the pod's network interfaces and when they were read; none for a pod on the node's
// network or off it.
func (s *Server) interfaces(pod *sandbox.Pod) ([]stats.Interface, time.Time) {
	path := pod.NetNS()
	if path == "" || pod.Status().State != sandbox.Ready {
		return nil, time.Time{}
	}
	nics, at, err := s.o.Stats.Network(path)
	if err != nil {
		return nil, at // it is being stopped
	}
	return nics[:min(len(nics), maxInterfaces)], at
}

// networkOut: the first interface is the default one where none has the usual name.
func networkOut(nics []stats.Interface, at time.Time) *v1.NetworkUsage {
	main := 0
	for i, n := range nics {
		if n.Name == defaultInterface {
			main = i
		}
	}
	out := &v1.NetworkUsage{Timestamp: at.UnixNano()}
	for i, n := range nics {
		u := &v1.NetworkInterfaceUsage{Name: n.Name, RxBytes: number64(&n.RxBytes), RxErrors: number64(&n.RxErrors), TxBytes: number64(&n.TxBytes), TxErrors: number64(&n.TxErrors)}
		if i == main {
			out.DefaultInterface = u
		} else {
			out.Interfaces = append(out.Interfaces, u)
		}
	}
	return out
}

// UpdatePodSandboxResources passes the gate as any change of limits does, and leaves its record. There
// is nothing else to do: the kubelet has set the pod's cgroup itself, and it changes the containers with
// calls of their own. It ignores a failure (api.proto, UpdatePodSandboxResources).
func (s *Server) UpdatePodSandboxResources(ctx context.Context, req *v1.UpdatePodSandboxResourcesRequest) (*v1.UpdatePodSandboxResourcesResponse, error) {
	pod, err := s.findPod(req.GetPodSandboxId())
	for _, r := range []*v1.LinuxContainerResources{req.GetOverhead(), req.GetResources()} {
		if err == nil && r != nil {
			err = s.judgePodResources(ctx, pod, resources(r))
		}
	}
	if err == nil {
		err = s.tellPodUpdate(ctx, pod, req)
	}
	if err != nil {
		return nil, toStatus(err)
	}
	return &v1.UpdatePodSandboxResourcesResponse{}, nil
}

func (s *Server) judgePodResources(ctx context.Context, pod *sandbox.Pod, r spec.Resources) error {
	want, err := spec.BuildResources(r, s.handler(pod.Config().Handler).Host)
	if err != nil {
		return fmt.Errorf("update pod %s: %w", pod.ID(), err)
	}
	adm, err := s.o.Gate.AdmitUpdate(ctx, enforce.UpdateRequest{Pod: podFacts(pod.Config()), Container: enforce.Container{ID: pod.ID()}, Resources: want})
	if err != nil {
		return err
	}
	_, err = s.o.Gate.RedeemUpdate(adm)
	return err
}
