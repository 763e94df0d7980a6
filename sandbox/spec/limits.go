package spec

import (
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const defaultCgroupParent = "/sallyport"

// unifiedKeys are the cgroup v2 files that a request may name: those of the kubelet's memory QoS. Any
// other could lift a limit (CVE-2023-6476).
var unifiedKeys = []string{"memory.high", "memory.low", "memory.min", "memory.oom.group"}

var (
	cpuList  = regexp.MustCompile(`\A[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*\z`)
	pageSize = regexp.MustCompile(`\A[1-9][0-9]{0,5}(KB|MB|GB)\z`)
	cgValue  = regexp.MustCompile(`\A(max|[0-9]{1,20})\z`)
)

// limits: without a cgroup path a container would land in the daemon's own cgroup, and without a limit
// of processes a fork bomb would end the node.
func (b *builder) limits() error {
	parent := b.in.Pod.CgroupParent
	if parent == "" {
		parent = b.in.Defaults.CgroupParent
	}
	var err error
	if b.spec.Linux.CgroupsPath, err = cgroupsPath(parent, b.in.ID); err != nil {
		return err
	}
	limits, err := resources(b.in.Container.Resources, b.in.Host)
	if err != nil {
		return err
	}
	limits.Devices = b.spec.Linux.Resources.Devices
	limits.Pids, err = pids(b.in.Defaults.PidsLimit, b.in.Host)
	b.spec.Linux.Resources = limits
	b.spec.Process.OOMScoreAdj = b.oomScoreAdj(b.in.Container.Resources.OOMScoreAdj)
	return err
}

func cgroupsPath(parent, id string) (string, error) {
	if parent == "" {
		parent = defaultCgroupParent
	}
	switch {
	case id == "" || strings.ContainsAny(id, "/:\x00\n"):
		return "", fmt.Errorf("the ID %q is malformed", id)
	case !path.IsAbs(parent) || path.Clean(parent) != parent || strings.ContainsAny(parent, ":\x00\n"):
		return "", fmt.Errorf("cgroup parent %q is not a clean absolute path (the systemd form is not supported)", parent)
	}
	return path.Join(parent, "sallyport-"+id), nil
}

func pids(limit int64, h Host) (*specs.LinuxPids, error) {
	if !slices.Contains(h.Controllers, "pids") {
		return nil, lacks("pids", "a limit of processes")
	}
	if limit <= 0 {
		limit = maxPids
	}
	return &specs.LinuxPids{Limit: &limit}, nil
}

func lacks(controller, what string) error {
	return fmt.Errorf("%s is asked for and the node has no cgroup controller %q", what, controller)
}

// resources are the cgroup limits asked for. A limit of 0 is none, and the kubelet sends 0 for
// hugepages also where no controller is: those are left out. Anything else that the node cannot hold
// is an error by name.
func resources(r Resources, h Host) (*specs.LinuxResources, error) {
	out := &specs.LinuxResources{}
	has := func(c string) bool { return slices.Contains(h.Controllers, c) }
	if r.CPUPeriod != 0 || r.CPUQuota != 0 || r.CPUShares != 0 {
		if r.CPUPeriod < 0 || r.CPUShares < 0 || r.CPUQuota < -1 {
			return nil, fmt.Errorf("cpu period %d, quota %d or shares %d is negative", r.CPUPeriod, r.CPUQuota, r.CPUShares)
		}
		if !has("cpu") {
			return nil, lacks("cpu", "a CPU limit or weight")
		}
		out.CPU = &specs.LinuxCPU{}
		set(&out.CPU.Period, uint64(r.CPUPeriod))
		set(&out.CPU.Quota, r.CPUQuota)
		set(&out.CPU.Shares, uint64(r.CPUShares))
	}
	if r.CPUs != "" || r.Mems != "" {
		if r.CPUs != "" && !cpuList.MatchString(r.CPUs) || r.Mems != "" && !cpuList.MatchString(r.Mems) {
			return nil, fmt.Errorf("cpuset cpus %.80q or mems %.80q is malformed", r.CPUs, r.Mems)
		}
		if !has("cpuset") {
			return nil, lacks("cpuset", "a set of CPUs or memory nodes")
		}
		if out.CPU == nil {
			out.CPU = &specs.LinuxCPU{}
		}
		out.CPU.Cpus, out.CPU.Mems = r.CPUs, r.Mems
	}
	if err := memory(out, r, h); err != nil {
		return nil, err
	}
	for _, p := range r.Hugepages {
		switch {
		case !pageSize.MatchString(p.PageSize):
			return nil, fmt.Errorf("hugepage size %.20q is malformed", p.PageSize)
		case has("hugetlb") && slices.Contains(h.HugepageSizes, p.PageSize):
			out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: p.PageSize, Limit: p.Limit})
		case p.Limit != 0:
			return nil, lacks("hugetlb", "a limit of "+p.PageSize+" pages")
		}
	}
	for key, value := range r.Unified {
		if h.CgroupVersion != 2 || !slices.Contains(unifiedKeys, key) || !cgValue.MatchString(value) {
			return nil, fmt.Errorf("cgroup v2 setting %.40q is not admitted, or its value is malformed, or the node has cgroup v1", key)
		}
	}
	if len(r.Unified) > 0 {
		out.Unified = r.Unified
	}
	return out, nil
}

func memory(out *specs.LinuxResources, r Resources, h Host) error {
	limit, swap := r.Memory, r.MemorySwap
	switch {
	case limit < 0 || swap < -1:
		return fmt.Errorf("memory limit %d or swap limit %d is negative", limit, swap)
	case swap > 0 && swap < limit:
		return fmt.Errorf("the limit of memory and swap together, %d, is below that of memory, %d", swap, limit)
	case limit == 0 && swap == 0:
		return nil
	case !slices.Contains(h.Controllers, "memory"):
		return lacks("memory", "a memory limit")
	case !h.Swap && swap > limit:
		return lacks("memory (swap)", "a swap limit")
	}
	out.Memory = &specs.LinuxMemory{}
	set(&out.Memory.Limit, limit)
	if h.Swap {
		if swap == 0 {
			swap = limit // no swap beyond the memory limit
		}
		set(&out.Memory.Swap, swap)
	}
	return nil
}

func set[T int64 | uint64](field **T, value T) {
	if value != 0 {
		*field = &value
	}
}

// oomScoreAdj raises a score that the daemon may not set to the lowest that it may.
func (b *builder) oomScoreAdj(want int64) *int {
	score := int(max(-1000, min(1000, want)))
	if low := b.in.Host.OOMScoreAdjMin; score < low {
		b.note("oomScoreAdj", "%d raised to %d, the lowest that the daemon may set", score, low)
		score = low
	}
	return &score
}

// rlimits: the hard limit never above what the daemon may set, the soft one never above the hard.
func (b *builder) rlimits() error {
	for _, r := range b.in.Defaults.Rlimits {
		if top, ok := b.in.Host.RlimitMax[r.Type]; ok && r.Hard > top {
			r.Hard = top
		}
		r.Soft = min(r.Soft, r.Hard)
		b.spec.Process.Rlimits = append(b.spec.Process.Rlimits, specs.POSIXRlimit{Type: r.Type, Hard: r.Hard, Soft: r.Soft})
	}
	return nil
}

// BuildResources makes OCI LinuxResources, as JSON, of a wanted change to a live container. Limits that
// are 0 stay as they are. Devices and the limit of processes are never part of it.
func BuildResources(r Resources, h Host) ([]byte, error) {
	out, err := resources(r, h)
	if err != nil {
		return nil, fmt.Errorf("build resources: %w", err)
	}
	data, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encode resources: %w", err)
	}
	return data, nil
}
