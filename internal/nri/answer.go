package nri

import (
	"fmt"

	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"

	"sallyport/sandbox/spec"
)

// Answer is what plugins want, in our terms.
type Answer struct {
	Edits   spec.Edits // of the container that is created
	CDI     []string   // devices that it should have
	Refused []string   // what was asked for and cannot be had, one line each: it must not be created
	Changes []Change   // of limits: of the container that is updated and of others
	Evict   []Eviction
}

// Change is new limits for a container. Refused says what of it cannot be had: then none of it may be
// applied.
type Change struct {
	ID            string
	Resources     spec.Resources
	Refused       []string
	IgnoreFailure bool
	raw           *api.ContainerUpdate
}

// Eviction is a container that a plugin wants gone.
type Eviction struct {
	Plugin, ID, Reason string
}

// Read reads an adjustment. What it does not know how to give is refused by name and never left out:
// a plugin that believes it confined a container must not be wrong.
func Read(a *api.ContainerAdjustment) (out Answer) {
	refuse := func(when bool, format string, args ...any) {
		if when {
			out.Refused = append(out.Refused, fmt.Sprintf(format, args...))
		}
	}
	for key := range a.GetAnnotations() {
		refuse(true, "an annotation, %.80q: OCI runtimes read them as orders", key)
	}
	for _, m := range a.GetMounts() {
		if dest, remove := m.IsMarkedForRemoval(); remove {
			out.Edits.Unmount = append(out.Edits.Unmount, dest)
			continue
		}
		t, err := spec.EditMount(specs.Mount{Destination: m.GetDestination(), Type: m.GetType(), Source: m.GetSource(), Options: m.GetOptions()})
		if err != nil {
			refuse(true, "%v", err)
			continue
		}
		out.Edits.Mounts = append(out.Edits.Mounts, t)
	}
	for _, kv := range a.GetEnv() {
		name, remove := kv.IsMarkedForRemoval()
		out.Edits.Env = append(out.Edits.Env, spec.EnvEdit{Name: name, Value: kv.GetValue(), Remove: remove})
	}
	if args := a.GetArgs(); len(args) > 0 {
		if args[0] == "" { // the protocol's mark that replaces what another plugin set
			args = args[1:]
		}
		out.Edits.Args = args
	}
	out.Edits.Hooks = hooksOf(a.GetHooks())
	for _, r := range a.GetRlimits() {
		out.Edits.Rlimits = append(out.Edits.Rlimits, specs.POSIXRlimit{Type: r.GetType(), Hard: r.GetHard(), Soft: r.GetSoft()})
	}
	for _, d := range a.GetCDIDevices() {
		out.CDI = append(out.CDI, d.GetName())
	}
	linux(a.GetLinux(), &out.Edits, refuse)
	return out
}

func linux(l *api.LinuxContainerAdjustment, e *spec.Edits, refuse func(bool, string, ...any)) {
	refuse(l.GetCgroupsPath() != "", "a cgroup path: the cgroup is ours")
	refuse(l.GetIoPriority() != nil, "an I/O priority")
	refuse(len(l.GetNamespaces()) > 0, "other namespaces: they are the pod's")
	refuse(len(l.GetSysctl()) > 0, "sysctls: they are the pod's")
	refuse(len(l.GetNetDevices()) > 0, "network devices")
	refuse(l.GetScheduler() != nil, "a scheduler")
	rdt := l.GetRdt() // the library makes an empty one of any answer
	refuse(rdt.GetClosId() != nil || rdt.GetSchemata() != nil || rdt.GetEnableMonitoring() != nil || rdt.GetRemove(), "cache classes (RDT)")
	refuse(l.GetMemoryPolicy() != nil, "a memory policy")
	for _, d := range l.GetDevices() {
		if path, remove := d.IsMarkedForRemoval(); remove {
			e.RemoveDevices = append(e.RemoveDevices, path)
			continue
		}
		if d.GetType() != "c" && d.GetType() != "b" {
			refuse(true, "a device of type %.20q at %.80q", d.GetType(), d.GetPath())
			continue
		}
		dev := d.ToOCI()
		e.Devices = append(e.Devices, dev)
		e.DeviceRules = append(e.DeviceRules, specs.LinuxDeviceCgroup{Allow: true, Type: dev.Type, Major: &dev.Major, Minor: &dev.Minor, Access: d.AccessString()})
	}
	if s := l.GetOomScoreAdj().Get(); s != nil {
		e.OOMScoreAdj = s
	}
	if s := l.GetSeccompPolicy(); s != nil {
		e.Seccomp = seccompOf(s)
	}
	var bad []string
	e.Resources, e.Pids, bad = resourcesOf(l.GetResources())
	for _, b := range bad {
		refuse(true, "%s", b)
	}
}

func hooksOf(h *api.Hooks) (out specs.Hooks) {
	for _, l := range []struct {
		to   *[]specs.Hook
		from []*api.Hook
	}{
		{&out.Prestart, h.GetPrestart()}, //nolint:staticcheck // deprecated and still run
		{&out.CreateRuntime, h.GetCreateRuntime()}, {&out.CreateContainer, h.GetCreateContainer()},
		{&out.StartContainer, h.GetStartContainer()}, {&out.Poststart, h.GetPoststart()}, {&out.Poststop, h.GetPoststop()},
	} {
		for _, k := range l.from {
			*l.to = append(*l.to, specs.Hook{Path: k.GetPath(), Args: k.GetArgs(), Env: k.GetEnv(), Timeout: k.GetTimeout().Get()})
		}
	}
	return out
}

func seccompOf(s *api.LinuxSeccomp) *specs.LinuxSeccomp {
	out := &specs.LinuxSeccomp{DefaultAction: specs.LinuxSeccompAction(s.GetDefaultAction()), ListenerPath: s.GetListenerPath(),
		ListenerMetadata: s.GetListenerMetadata(), Syscalls: api.ToOCILinuxSyscalls(s.GetSyscalls())}
	if n := s.GetDefaultErrno().Get(); n != nil {
		errno := uint(*n)
		out.DefaultErrnoRet = &errno
	}
	for _, a := range s.GetArchitectures() {
		out.Architectures = append(out.Architectures, specs.Arch(a))
	}
	for _, f := range s.GetFlags() {
		out.Flags = append(out.Flags, specs.LinuxSeccompFlag(f))
	}
	return out
}

// changesOf reads updates; ones that name no container are left out.
func changesOf(updates []*api.ContainerUpdate) (out []Change) {
	for _, u := range updates {
		if u.GetContainerId() == "" || u.GetLinux().GetResources() == nil {
			continue
		}
		c := Change{ID: u.GetContainerId(), IgnoreFailure: u.GetIgnoreFailure(), raw: u}
		var pids int64
		c.Resources, pids, c.Refused = resourcesOf(u.GetLinux().GetResources())
		if pids != 0 {
			c.Refused = append(c.Refused, "a limit of processes: that of a live container stays")
		}
		out = append(out, c)
	}
	return out
}

// resourcesOf reads limits; refused names those that nothing can be made of.
func resourcesOf(r *api.LinuxResources) (out spec.Resources, pids int64, refused []string) {
	cpu, mem := r.GetCpu(), r.GetMemory()
	for _, v := range []struct {
		set  bool
		what string
	}{
		{cpu.GetRealtimeRuntime() != nil || cpu.GetRealtimePeriod() != nil, "real time of the CPU"},
		{mem.GetReservation() != nil || mem.GetKernel() != nil || mem.GetKernelTcp() != nil, "a memory reservation or a limit of the kernel's memory"},
		{mem.GetSwappiness() != nil || mem.GetUseHierarchy() != nil, "swappiness or the memory hierarchy"},
		{mem.GetDisableOomKiller().GetValue(), "an end of the OOM killer"},
		{r.GetBlockioClass() != nil, "a class of block I/O"},
		{r.GetRdtClass() != nil, "a cache class (RDT)"},
		{len(r.GetDevices()) > 0, "rules of the device cgroup"},
		{cpu.GetShares().GetValue() > 1<<62 || cpu.GetPeriod().GetValue() > 1<<62, "CPU shares or a period out of range"},
	} {
		if v.set {
			refused = append(refused, v.what)
		}
	}
	out = spec.Resources{
		CPUPeriod: int64(cpu.GetPeriod().GetValue()), CPUQuota: cpu.GetQuota().GetValue(), CPUShares: int64(cpu.GetShares().GetValue()),
		Memory: mem.GetLimit().GetValue(), MemorySwap: mem.GetSwap().GetValue(), CPUs: cpu.GetCpus(), Mems: cpu.GetMems(),
	}
	if len(r.GetUnified()) > 0 {
		out.Unified = r.GetUnified()
	}
	for _, l := range r.GetHugepageLimits() {
		out.Hugepages = append(out.Hugepages, spec.HugepageLimit{PageSize: l.GetPageSize(), Limit: l.GetLimit()})
	}
	return out, r.GetPids().GetLimit(), refused
}
