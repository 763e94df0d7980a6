package nri

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"

	"sallyport/sandbox/spec"
)

// PodOf describes a pod to plugins. pid is that of its first process, 0 where it has none.
func PodOf(id string, cfg spec.PodConfig, ips []netip.Addr, pid int) *Pod {
	out := &Pod{Id: id, Name: cfg.Name, Uid: cfg.UID, Namespace: cfg.Namespace, Labels: cfg.Labels, Annotations: cfg.Annotations,
		RuntimeHandler: cfg.Handler, Pid: uint32(pid), Linux: &api.LinuxPodSandbox{CgroupParent: cfg.CgroupParent}}
	for _, ip := range ips {
		out.Ips = append(out.Ips, ip.String())
	}
	return out
}

// Description is what plugins are told of a container. Spec may be nil.
type Description struct {
	ID, PodID string
	Config    spec.ContainerConfig
	Mounts    []spec.ResolvedMount // of the spec's mounts/N
	Spec      *specs.Spec
	Image     *Image
	State     api.ContainerState
	Pid       int
	Created   time.Time
	Started   time.Time // zero: not yet
	Finished  time.Time // likewise
	ExitCode  int
	Reason    string
}

// State is what a container is at one moment; the zero value is unknown.
type State = api.ContainerState

// The states of containers.
const (
	Unknown = api.ContainerState_CONTAINER_UNKNOWN
	Created = api.ContainerState_CONTAINER_CREATED
	Running = api.ContainerState_CONTAINER_RUNNING
	Stopped = api.ContainerState_CONTAINER_STOPPED
)

// Image names a container's image.
type Image = api.Image

// ContainerOf describes a container to plugins: its mounts with their sources on the node.
func ContainerOf(d *Description) *Container {
	out := &Container{Id: d.ID, PodSandboxId: d.PodID, Name: d.Config.Name, State: d.State, Labels: d.Config.Labels, Annotations: d.Config.Annotations,
		Pid: uint32(d.Pid), CreatedAt: nanos(d.Created), StartedAt: nanos(d.Started), FinishedAt: nanos(d.Finished), ExitCode: int32(d.ExitCode),
		StatusReason: d.Reason, Image: d.Image,
		Linux: &api.LinuxContainer{}}
	for _, name := range d.Config.CDI {
		out.CDIDevices = append(out.CDIDevices, &api.CDIDevice{Name: name})
	}
	s := d.Spec
	if s == nil {
		return out
	}
	for _, m := range s.Mounts {
		if digits, ok := strings.CutPrefix(m.Source, "mounts/"); ok {
			if n, err := strconv.Atoi(digits); err == nil && n >= 0 && n < len(d.Mounts) {
				m.Source = d.Mounts[n].Source
			}
		}
		out.Mounts = append(out.Mounts, &api.Mount{Destination: m.Destination, Type: m.Type, Source: m.Source, Options: m.Options})
	}
	if p := s.Process; p != nil {
		out.Args, out.Env = p.Args, p.Env
		out.User = &api.User{Uid: p.User.UID, Gid: p.User.GID, AdditionalGids: p.User.AdditionalGids}
		for _, r := range p.Rlimits {
			out.Rlimits = append(out.Rlimits, &api.POSIXRlimit{Type: r.Type, Hard: r.Hard, Soft: r.Soft})
		}
		if p.OOMScoreAdj != nil {
			out.Linux.OomScoreAdj = api.Int(*p.OOMScoreAdj)
		}
	}
	if l := s.Linux; l != nil {
		for _, n := range l.Namespaces {
			out.Linux.Namespaces = append(out.Linux.Namespaces, &api.LinuxNamespace{Type: string(n.Type), Path: n.Path})
		}
		out.Linux.Devices = api.FromOCILinuxDevices(l.Devices)
		out.Linux.Resources = api.FromOCILinuxResources(l.Resources, nil)
		out.Linux.CgroupsPath = l.CgroupsPath
		out.Linux.SeccompProfile = seccompKind(d.Config.Security.Seccomp)
	}
	return out
}

func seccompKind(p spec.Profile) *api.SecurityProfile {
	out := &api.SecurityProfile{ProfileType: api.SecurityProfile_RUNTIME_DEFAULT}
	switch p.Kind {
	case spec.Unconfined:
		out.ProfileType = api.SecurityProfile_UNCONFINED
	case spec.Localhost:
		out.ProfileType, out.LocalhostRef = api.SecurityProfile_LOCALHOST, p.Ref
	}
	return out
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// ResourcesOf describes wanted limits; those that are 0 are not wanted.
func ResourcesOf(r spec.Resources) *Resources {
	out := &Resources{Memory: &api.LinuxMemory{}, Cpu: &api.LinuxCPU{Cpus: r.CPUs, Mems: r.Mems}, Unified: r.Unified}
	if r.CPUPeriod > 0 {
		out.Cpu.Period = api.UInt64(uint64(r.CPUPeriod))
	}
	if r.CPUQuota != 0 {
		out.Cpu.Quota = api.Int64(r.CPUQuota)
	}
	if r.CPUShares > 0 {
		out.Cpu.Shares = api.UInt64(uint64(r.CPUShares))
	}
	if r.Memory != 0 {
		out.Memory.Limit = api.Int64(r.Memory)
	}
	if r.MemorySwap != 0 {
		out.Memory.Swap = api.Int64(r.MemorySwap)
	}
	for _, l := range r.Hugepages {
		out.HugepageLimits = append(out.HugepageLimits, &api.HugepageLimit{PageSize: l.PageSize, Limit: l.Limit})
	}
	return out
}
