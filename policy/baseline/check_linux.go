package baseline

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// sections refuses what no check reads. A test takes all fields of the OCI types and fails on one that
// is neither named here nor read by a check.
func sections(v *view) (out []string) {
	s, p, l := v.spec, v.process, v.linux
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"domainname", s.Domainname != ""},
		{"solaris", s.Solaris != nil},
		{"windows", s.Windows != nil},
		{"vm", s.VM != nil},
		{"zos", s.ZOS != nil},
		{"freebsd", s.FreeBSD != nil},
		{"process.consoleSize", p.ConsoleSize != nil},
		{"process.commandLine", p.CommandLine != ""},
		{"process.user.username", p.User.Username != ""},
		{"process.user.umask (beyond 0777)", p.User.Umask != nil && *p.User.Umask > 0o777},
		{"process.scheduler", p.Scheduler != nil},
		{"process.ioPriority", p.IOPriority != nil},
		{"process.execCPUAffinity", p.ExecCPUAffinity != nil},
		{"linux.uidMappings", l.UIDMappings != nil},
		{"linux.gidMappings", l.GIDMappings != nil},
		{"linux.netDevices", l.NetDevices != nil},
		{"linux.intelRdt", l.IntelRdt != nil},
		{"linux.memoryPolicy", l.MemoryPolicy != nil},
		{"linux.personality", l.Personality != nil},
		{"linux.timeOffsets", l.TimeOffsets != nil},
	} {
		out = append(out, found(f.set, "%s is set", f.name)...)
	}
	return append(out, found(!strings.HasPrefix(s.Version, "1."), "ociVersion is %q", s.Version)...)
}

func rootfs(v *view) (out []string) {
	out = found(v.spec.Root.Path != "rootfs", "root.path is %q, want rootfs", v.spec.Root.Path)
	switch p := v.linux.RootfsPropagation; p {
	case "", "private", "rprivate", "slave", "rslave":
	case "shared", "rshared":
		out = append(out, found(v.floor.BidirMounts != Allow && !v.privileged, "linux.rootfsPropagation is %s", p)...)
	default:
		out = append(out, fmt.Sprintf("linux.rootfsPropagation is %q", p))
	}
	return out
}

// devices: those that an admitted CDI device brings come with it; any other needs the floor's devices.
func devices(v *view) (out []string) {
	if v.privileged || v.floor.Devices == Allow {
		return nil
	}
	for _, d := range v.linux.Devices {
		brought := func(c Device) bool {
			return v.floor.AdmitsCDI(c.CDI) && contains(v.CDI, c.CDI) && c.Path == d.Path && c.Type == d.Type && c.Major == d.Major && c.Minor == d.Minor
		}
		out = append(out, found(v.PodInit || !slices.ContainsFunc(v.Devices, brought), "the host device %.80q; the floor admits none", d.Path)...)
	}
	return out
}

// deviceCgroup: nothing, then what is named. The runtime adds the standard devices itself.
func deviceCgroup(v *view) (out []string) {
	if v.privileged {
		return nil
	}
	if v.linux.Resources == nil || len(v.linux.Resources.Devices) == 0 {
		return []string{"linux.resources.devices does not begin by denying all"}
	}
	rules := v.linux.Resources.Devices
	if d := rules[0]; d.Allow || d.Access != "rwm" || d.Major != nil || d.Minor != nil || d.Type != "" && d.Type != "a" {
		out = append(out, "linux.resources.devices does not begin by denying all")
	}
	for _, r := range rules[1:] {
		named := func(d specs.LinuxDevice) bool {
			return r.Major != nil && r.Minor != nil && d.Major == *r.Major && d.Minor == *r.Minor && d.Type == r.Type
		}
		if r.Allow && !slices.ContainsFunc(v.linux.Devices, named) {
			out = append(out, "linux.resources.devices allows a device that linux.devices does not name")
		}
	}
	return out
}

// The paths of runc's example, of moby (oci/defaults.go) and of the kubelet (pkg/securitycontext), and
// those that later advisories added (GHSA-jq35-85cj-fj4p, GHSA-6fw5-f8r9-fgfm).
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
	readOnlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/sys/fs/cgroup"}
)

func masked(v *view) []string {
	return missing(v, "linux.maskedPaths", maskedPaths, v.linux.MaskedPaths)
}

func readOnly(v *view) []string {
	return missing(v, "linux.readonlyPaths", readOnlyPaths, v.linux.ReadonlyPaths)
}

func missing(v *view, field string, want, got []string) (out []string) {
	if !v.PodInit && (v.privileged || v.floor.UnmaskedPaths == Allow) {
		return nil
	}
	for _, p := range want {
		out = append(out, found(!contains(got, p), "%s lacks %s", field, p)...)
	}
	return out
}

// namespaces: absent means the node's. Which of the node's a pod may have was asked of the floor when
// the pod was made, and is asked again.
func namespaces(v *view) (out []string) {
	have := map[specs.LinuxNamespaceType]bool{}
	for _, n := range v.linux.Namespaces {
		out = append(out, found(have[n.Type], "%s is given twice", n.Type)...)
		have[n.Type] = true
		// /proc/1/ns/net is the node's: only pinned namespaces are joined.
		bad := n.Path != "" && (!path.IsAbs(n.Path) || path.Clean(n.Path) != n.Path || Beneath(n.Path, "/proc"))
		out = append(out, found(bad, "%s namespace joins %q", n.Type, n.Path)...)
		switch n.Type {
		case specs.MountNamespace, specs.CgroupNamespace:
			out = append(out, found(n.Path != "", "%s namespace joins %q; it must be new", n.Type, n.Path)...)
		case specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.UserNamespace:
		default:
			out = append(out, fmt.Sprintf("namespace %q is unknown", n.Type))
		}
	}
	f := v.floor
	for _, n := range []struct {
		kind   specs.LinuxNamespaceType
		waived bool
	}{
		{specs.MountNamespace, false},
		{specs.PIDNamespace, v.Pod.HostPID && f.HostPID == Allow && !v.PodInit},
		{specs.NetworkNamespace, v.Pod.HostNetwork && f.HostNetwork == Allow},
		{specs.UTSNamespace, v.Pod.HostNetwork && f.HostNetwork == Allow},
		{specs.IPCNamespace, v.Pod.HostIPC && f.HostIPC == Allow},
		{specs.UserNamespace, v.Pod.HostUsers && f.HostUsers == Allow},
	} {
		out = append(out, found(!have[n.kind] && !n.waived, "the %s namespace is the node's", n.kind)...)
	}
	return out
}

// sysctls belong to the pod's namespaces and are set when those are made (CheckPod), never by a
// container.
func sysctls(v *view) []string {
	return found(len(v.linux.Sysctl) > 0, "linux.sysctl is set; sysctls are the pod's")
}

// unifiedKeys are the cgroup v2 files that a request may name: those that the kubelet's memory QoS
// sends. Any other could lift a limit (CVE-2023-6476).
var unifiedKeys = []string{"memory.high", "memory.low", "memory.min", "memory.oom.group"}

func limits(v *view) (out []string) {
	r := v.linux.Resources
	if r == nil {
		return []string{"linux.resources is missing"}
	}
	out = append(out, found(r.Pids == nil || r.Pids.Limit == nil || *r.Pids.Limit <= 0, "there is no limit of processes")...)
	return append(out, knownLimits(*r)...)
}

// knownLimits are the rules for limits that a container has at its start and for a change to them.
func knownLimits(r specs.LinuxResources) (out []string) {
	out = append(out, found(r.BlockIO != nil || r.Network != nil || r.Rdma != nil, "blockIO, network or rdma is set")...)
	if m := r.Memory; m != nil {
		out = append(out, found(m.DisableOOMKiller != nil && *m.DisableOOMKiller, "the OOM killer is disabled")...)
	}
	if c := r.CPU; c != nil {
		out = append(out, found(c.RealtimeRuntime != nil || c.RealtimePeriod != nil || c.Burst != nil, "real time or burst is asked of the CPU")...)
	}
	for key, value := range r.Unified {
		out = append(out, found(!contains(unifiedKeys, key) || strings.ContainsFunc(value, isControl), "linux.resources.unified has %q", key)...)
	}
	slices.Sort(out)
	return out
}

// cgroupPath: without one, a container lands in the daemon's own cgroup; one with colons is a systemd
// unit.
func cgroupPath(v *view) []string {
	p := v.linux.CgroupsPath
	want := "sallyport-" + v.ID
	return found(v.ID == "" || !path.IsAbs(p) || path.Clean(p) != p || strings.ContainsAny(p, ":\n") || path.Base(p) != want,
		"linux.cgroupsPath is %q, want an absolute path that ends in /%s", p, want)
}

// annotationKeys are the only annotations of a spec; runtimes read others as orders (runc:
// org.systemd.property.*, CVE-2024-3154; crun: run.oci.*; CRI-O: CVE-2023-6476).
var annotationKeys = []string{"sallyport/container", "sallyport/namespace", "sallyport/pod", "sallyport/pod-id", "sallyport/pod-uid"}

func annotations(v *view) (out []string) {
	for key, value := range v.spec.Annotations {
		out = append(out, found(!contains(annotationKeys, key) || len(value) > 256 || strings.ContainsFunc(value, isControl), "annotation %q", key)...)
	}
	slices.Sort(out)
	return out
}
