package baseline

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// scene is one spec with what is known of it; standing is one that every floor of level baseline
// carries.
type scene struct {
	spec  specs.Spec
	facts Facts
	floor Floor
}

func ptr[T any](v T) *T { return &v }

func standing() *scene {
	caps := []string{"CAP_CHOWN", "CAP_KILL"}
	return &scene{
		spec: specs.Spec{
			Version: "1.3.0",
			Root:    &specs.Root{Path: "rootfs"},
			Process: &specs.Process{
				Args: []string{"/bin/app"}, Env: []string{"PATH=/bin"}, Cwd: "/", NoNewPrivileges: true, OOMScoreAdj: ptr(0),
				User:         specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{1000}},
				Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
				Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 10, Hard: 20}},
			},
			Mounts: []specs.Mount{
				{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
				{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec"}},
				{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
				{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
				{Destination: "/data", Type: "bind", Source: "mounts/0", Options: []string{"rbind", "rprivate", "ro"}},
			},
			Annotations: map[string]string{"sallyport/pod": "web"},
			Linux: &specs.Linux{
				CgroupsPath: "/sallyport/sallyport-c1",
				Namespaces: []specs.LinuxNamespace{
					{Type: "mount"}, {Type: "pid"}, {Type: "cgroup"}, {Type: "network", Path: "/var/run/netns/p"},
					{Type: "ipc", Path: "/run/sallyport/p/ipc"}, {Type: "uts", Path: "/run/sallyport/p/uts"},
				},
				Resources: &specs.LinuxResources{
					Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
					Pids:    &specs.LinuxPids{Limit: ptr(int64(100))},
				},
				MaskedPaths: slices.Clone(maskedPaths), ReadonlyPaths: slices.Clone(readOnlyPaths),
				Seccomp: &specs.LinuxSeccomp{
					DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64},
					Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow}},
				},
			},
		},
		facts: Facts{
			ID: "c1", PodUID: "u1", Pod: PodFacts{HostUsers: true}, ControlPaths: []string{"/srv/state"},
			Mounts: []Mount{{Destination: "/data", Source: "/var/lib/kubelet/pods/u1/volumes/x", Kind: "host", ReadOnly: true}},
		},
		floor: ForLevel(Baseline),
	}
}

func (s *scene) check(t *testing.T) []Violation {
	t.Helper()
	data, err := json.Marshal(s.spec)
	if err != nil {
		t.Fatal(err)
	}
	return Check(data, s.facts, s.floor)
}

func ids(found []Violation) (out []string) {
	for _, v := range found {
		out = append(out, v.ID)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func allow(a func(*Floor) *Answer) func(*scene) {
	return func(s *scene) { *a(&s.floor) = Allow }
}

func privileged(s *scene) {
	s.floor.Privileged, s.facts.Privileged = Allow, true
}

func mount(dest string, options ...string) func(*scene) {
	return func(s *scene) {
		s.spec.Mounts = append(s.spec.Mounts, specs.Mount{Destination: dest, Type: "bind", Source: "mounts/1", Options: options})
		s.facts.Mounts = append(s.facts.Mounts, Mount{Destination: dest, Source: "/var/lib/kubelet/pods/u1/volumes/y", Kind: "host"})
	}
}

func source(kind, dest, from string) func(*scene) {
	return func(s *scene) {
		mount(dest, "rbind", "ro")(s)
		s.facts.Mounts[1].Kind, s.facts.Mounts[1].Source = kind, from
		s.floor.HostPaths = []string{"/"}
	}
}

func all(changes ...func(*scene)) func(*scene) {
	return func(s *scene) {
		for _, c := range changes {
			c(s)
		}
	}
}

// TestChecks: each check objects to one change of a spec that stands, and to nothing once the one fact
// that it rests on is different (twin, applied after change).
func TestChecks(t *testing.T) {
	drop := func(kind specs.LinuxNamespaceType) func(*scene) {
		return func(s *scene) {
			s.spec.Linux.Namespaces = slices.DeleteFunc(s.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
		}
	}
	cases := []struct {
		id, name     string
		change, twin func(*scene)
	}{
		{"B02", "domainname", func(s *scene) { s.spec.Domainname = "x" }, func(s *scene) { s.spec.Domainname = "" }},
		{"B02", "time offsets", func(s *scene) { s.spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 1}} }, func(s *scene) { s.spec.Linux.TimeOffsets = nil }},
		{"B02", "version", func(s *scene) { s.spec.Version = "2.0.0" }, func(s *scene) { s.spec.Version = "1.2.0" }},
		{"B03", "hook without a rule", all(hook, func(s *scene) { s.floor.Hooks = nil }), func(s *scene) { s.floor.Hooks = []Hook{{"/opt/hook", "sha256:1"}} }},
		{"B03", "other bytes", all(hook, func(s *scene) { s.facts.Hooks[0].Digest = "sha256:2" }), func(s *scene) { s.facts.Hooks[0].Digest = "sha256:1" }},
		{"B03", "another program's bytes", all(hook, func(s *scene) { s.floor.Hooks = []Hook{{"/opt/hook", "sha256:2"}, {"/opt/other", "sha256:1"}} }), func(s *scene) { s.floor.Hooks[0].Digest = "sha256:1" }},
		{"B03", "unopened", all(hook, func(s *scene) { s.facts.Hooks = nil; s.floor.Hooks[0].Digest = "" }), func(s *scene) {
			s.facts.Hooks, s.floor.Hooks[0].Digest = []Hook{{"/opt/hook", "sha256:1"}}, "sha256:1"
		}},
		{"B03", "another spelling", all(hook, func(s *scene) { s.spec.Hooks.Prestart[0].Path = "/opt//hook" }), func(s *scene) { s.spec.Hooks.Prestart[0].Path = "/opt/hook" }},
		{"B03", "in the container", all(hook, func(s *scene) { s.spec.Hooks = &specs.Hooks{StartContainer: s.spec.Hooks.Prestart} }), func(s *scene) { s.spec.Hooks = &specs.Hooks{Poststop: s.spec.Hooks.StartContainer} }},
		{"B03", "preloaded", all(hook, func(s *scene) { s.spec.Hooks.Prestart[0].Env = []string{"LD_PRELOAD=/x"} }), func(s *scene) { s.spec.Hooks.Prestart[0].Env = []string{"OLD_X=/x"} }},
		{"B03", "zero byte", all(hook, func(s *scene) { s.spec.Hooks.Prestart[0].Args = []string{"a\x00"} }), func(s *scene) { s.spec.Hooks.Prestart[0].Args = []string{"a"} }},
		{"B09", "a CDI device's other node", all(cdiNode, func(s *scene) { s.spec.Linux.Devices[0].Minor = 2 }), func(s *scene) { s.spec.Linux.Devices[0].Minor = 1 }},
		{"B09", "a node of another CDI device", all(cdiNode, func(s *scene) { s.facts.Devices[0].CDI = "acme.example/gpu=1" }), func(s *scene) { s.facts.Devices[0].CDI = "acme.example/gpu=0" }},
		{"B09", "a node of a CDI device that was not given", all(cdiNode, func(s *scene) { s.facts.CDI = nil }), func(s *scene) { s.facts.CDI = []string{"acme.example/gpu=0"} }},
		{"B29", "CDI device", all(cdiNode, func(s *scene) { s.floor.CDI = []string{"acme.example/gpu=1", "acme.example/nic=*"} }), func(s *scene) { s.floor.CDI = []string{"acme.example/gpu=*"} }},
		{"B04", "other root", func(s *scene) { s.spec.Root.Path = "/" }, func(s *scene) { s.spec.Root.Path = "rootfs" }},
		{"B04", "shared root", func(s *scene) { s.spec.Linux.RootfsPropagation = "rshared" }, allow(func(f *Floor) *Answer { return &f.BidirMounts })},
		{"B05", "new privileges", func(s *scene) { s.spec.Process.NoNewPrivileges = false; s.floor.NoNewPrivileges = Override }, allow(func(f *Floor) *Answer { return &f.NoNewPrivileges })},
		{"B06", "no profile", func(s *scene) { s.spec.Linux.Seccomp = nil }, allow(func(f *Floor) *Answer { return &f.Seccomp })},
		{"B06", "privileged has a profile too", all(privileged, func(s *scene) { s.spec.Linux.Seccomp = nil }), allow(func(f *Floor) *Answer { return &f.Seccomp })},
		{"B06", "allows by default", func(s *scene) { s.spec.Linux.Seccomp.DefaultAction = specs.ActAllow }, func(s *scene) { s.spec.Linux.Seccomp.DefaultAction = specs.ActKillProcess }},
		{"B06", "no architecture", func(s *scene) { s.spec.Linux.Seccomp.Architectures = nil }, func(s *scene) { s.spec.Linux.Seccomp.Architectures = []specs.Arch{specs.ArchAARCH64} }},
		{"B06", "listener", func(s *scene) { s.spec.Linux.Seccomp.ListenerPath = "/x" }, func(s *scene) { s.spec.Linux.Seccomp.ListenerPath = "" }},
		{"B06", "speculation", func(s *scene) { s.spec.Linux.Seccomp.Flags = []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagSpecAllow} }, func(s *scene) { s.spec.Linux.Seccomp.Flags = []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog} }},
		{"B06", "perilous syscall", func(s *scene) { s.spec.Linux.Seccomp.Syscalls[0].Names = []string{"mount"} }, func(s *scene) {
			s.spec.Process.Capabilities.Bounding = append(s.spec.Process.Capabilities.Bounding, "CAP_SYS_ADMIN")
			s.floor.Capabilities = append(s.floor.Capabilities, "CAP_SYS_ADMIN")
		}},
		{"B07", "inheritable", func(s *scene) { s.spec.Process.Capabilities.Inheritable = []string{"CAP_KILL"} }, func(s *scene) { s.spec.Process.Capabilities.Ambient = []string{"CAP_KILL"} }},
		{"B07", "ambient", func(s *scene) { s.spec.Process.Capabilities.Ambient = []string{"CAP_KILL"}; s.floor.Capabilities = nil }, func(s *scene) { s.floor.Capabilities = []string{"CAP_KILL"} }},
		{"B08", "beyond", func(s *scene) {
			s.spec.Process.Capabilities.Bounding = []string{"CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN"}
		}, func(s *scene) { s.floor.Capabilities = []string{"CAP_SYS_ADMIN"} }},
		{"B08", "restricted has none", func(s *scene) { s.floor = ForLevel(Restricted) }, func(s *scene) { s.floor = ForLevel(Baseline) }},
		{"B08", "unknown", all(privileged, func(s *scene) {
			s.spec.Process.Capabilities.Bounding = []string{"CAP_CHOWN", "CAP_KILL", "CAP_EVERYTHING"}
		}), func(s *scene) { s.spec.Process.Capabilities.Bounding[2] = "CAP_BPF" }},
		{"B08", "held outside", func(s *scene) { s.spec.Process.Capabilities.Effective = []string{"CAP_FOWNER"} }, func(s *scene) { s.spec.Process.Capabilities.Effective = []string{"CAP_KILL"} }},
		{"B09", "device", func(s *scene) { s.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "c", Major: 9}} }, allow(func(f *Floor) *Answer { return &f.Devices })},
		{"B10", "no denial first", func(s *scene) { s.spec.Linux.Resources.Devices = nil }, func(s *scene) { s.spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Access: "rwm"}} }},
		{"B10", "all allowed", func(s *scene) { s.spec.Linux.Resources.Devices[0].Allow = true }, privileged},
		{"B10", "denies some", func(s *scene) { s.spec.Linux.Resources.Devices[0].Access = "m" }, func(s *scene) { s.spec.Linux.Resources.Devices[0].Access = "rwm" }},
		{"B10", "unnamed device", func(s *scene) {
			s.floor.Devices = Allow
			s.spec.Linux.Resources.Devices = append(s.spec.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(9)), Minor: ptr(int64(0))})
		}, func(s *scene) { s.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "c", Major: 9}} }},
		{"B11", "unmasked", func(s *scene) { s.spec.Linux.MaskedPaths = maskedPaths[1:] }, allow(func(f *Floor) *Answer { return &f.UnmaskedPaths })},
		{"B12", "writable", func(s *scene) { s.spec.Linux.ReadonlyPaths = readOnlyPaths[1:] }, privileged},
		{"B13", "node's network", all(drop("network"), allow(func(f *Floor) *Answer { return &f.HostNetwork })), func(s *scene) { s.facts.Pod.HostNetwork = true }},
		{"B13", "node's network, floor", all(drop("network"), func(s *scene) { s.facts.Pod.HostNetwork = true }), allow(func(f *Floor) *Answer { return &f.HostNetwork })},
		{"B13", "node's PIDs", all(drop("pid"), func(s *scene) { s.facts.Pod.HostPID = true }), allow(func(f *Floor) *Answer { return &f.HostPID })},
		{"B13", "node's IPC", all(drop("ipc"), func(s *scene) { s.facts.Pod.HostIPC = true }), allow(func(f *Floor) *Answer { return &f.HostIPC })},
		{"B13", "node's names", all(drop("uts"), func(s *scene) { s.facts.Pod.HostNetwork = true }), allow(func(f *Floor) *Answer { return &f.HostNetwork })},
		{"B13", "node's users", func(s *scene) { s.facts.Pod.HostUsers = false }, func(s *scene) {
			s.spec.Linux.Namespaces = append(s.spec.Linux.Namespaces, specs.LinuxNamespace{Type: "user", Path: "/run/u"})
		}},
		{"B13", "node's mounts", drop("mount"), func(s *scene) {
			s.spec.Linux.Namespaces = append(s.spec.Linux.Namespaces, specs.LinuxNamespace{Type: "mount"})
		}},
		{"B13", "through /proc", func(s *scene) { s.spec.Linux.Namespaces[3].Path = "/proc/1/ns/net" }, func(s *scene) { s.spec.Linux.Namespaces[3].Path = "/var/run/netns/q" }},
		{"B13", "joins mounts", func(s *scene) { s.spec.Linux.Namespaces[0].Path = "/run/x" }, func(s *scene) { s.spec.Linux.Namespaces[0].Path = "" }},
		{"B13", "time", func(s *scene) {
			s.spec.Linux.Namespaces = append(s.spec.Linux.Namespaces, specs.LinuxNamespace{Type: "time"})
		}, drop("time")},
		{"B14", "root", func(s *scene) { s.spec.Process.User.UID = 0; s.floor.RootUser = Override }, func(s *scene) {
			s.spec.Linux.Namespaces = append(s.spec.Linux.Namespaces, specs.LinuxNamespace{Type: "user", Path: "/run/u"})
		}},
		{"B15", "user range", func(s *scene) { s.spec.Process.User.UID = 1 << 31 }, func(s *scene) { s.spec.Process.User.UID = 1<<31 - 1 }},
		{"B15", "primary group", func(s *scene) { s.spec.Process.User.AdditionalGids = []uint32{5} }, func(s *scene) { s.spec.Process.User.GID = 5 }},
		{"B16", "cwd in proc", func(s *scene) { s.spec.Process.Cwd = "/proc/self/fd/7" }, func(s *scene) { s.spec.Process.Cwd = "/process" }},
		{"B16", "cwd relative", func(s *scene) { s.spec.Process.Cwd = "x" }, func(s *scene) { s.spec.Process.Cwd = "/x" }},
		{"B17", "host source", func(s *scene) { s.spec.Mounts[4].Source = "/etc" }, func(s *scene) { s.spec.Mounts[4].Source = "mounts/0" }},
		{"B17", "unresolved", func(s *scene) { s.spec.Mounts[4].Source = "mounts/1" }, func(s *scene) { s.spec.Mounts[4].Source = "mounts/0" }},
		{"B17", "another spelling", func(s *scene) { s.spec.Mounts[4].Source = "mounts/00" }, func(s *scene) { s.spec.Mounts[4].Source = "mounts/0" }},
		{"B17", "moved", func(s *scene) { s.facts.Mounts[0].Destination = "/etc" }, func(s *scene) { s.facts.Mounts[0].Destination = "/data" }},
		{"B17", "writable", func(s *scene) { s.spec.Mounts[4].Options = []string{"rbind", "rw"} }, func(s *scene) { s.facts.Mounts[0].ReadOnly = false }},
		{"B17", "no bind", func(s *scene) { s.spec.Mounts[4].Options = []string{"ro"} }, func(s *scene) { s.spec.Mounts[4].Options = []string{"bind", "ro"} }},
		{"B17", "strange option", func(s *scene) { s.spec.Mounts[4].Options = []string{"rbind", "ro", "tmpcopyup"} }, func(s *scene) { s.spec.Mounts[4].Options[2] = "nodev" }},
		{"B17", "shared", mount("/m", "rbind", "rshared"), allow(func(f *Floor) *Answer { return &f.BidirMounts })},
		{"B17", "over proc", mount("/proc/sys", "rbind"), privileged},
		{"B17", "over sys", mount("/sys/kernel", "rbind"), privileged},
		{"B17", "up", mount("/a/../b", "rbind"), func(s *scene) { s.spec.Mounts[5].Destination, s.facts.Mounts[1].Destination = "/b", "/b" }},
		{"B17", "twice", mount("/data", "rbind"), func(s *scene) { s.spec.Mounts[5].Destination, s.facts.Mounts[1].Destination = "/b", "/b" }},
		{"B17", "hides", func(s *scene) {
			s.spec.Mounts[0], s.spec.Mounts[1] = s.spec.Mounts[1], s.spec.Mounts[0]
			mount("/dev/x", "rbind")(s)
			slices.Reverse(s.spec.Mounts)
		}, func(s *scene) { slices.Reverse(s.spec.Mounts) }},
		{"B17", "writable sysfs", func(s *scene) { s.spec.Mounts[2].Options = []string{"nosuid", "noexec", "nodev", "rw"} }, privileged},
		{"B17", "writable cgroup", func(s *scene) { s.spec.Mounts[3].Options = []string{"nosuid", "noexec", "nodev", "rw"} }, privileged},
		{"B17", "other file system", func(s *scene) { s.spec.Mounts[1].Type, s.spec.Mounts[1].Source = "overlay", "overlay" }, func(s *scene) { s.spec.Mounts[1].Type, s.spec.Mounts[1].Source = "tmpfs", "tmpfs" }},
		{"B17", "proc elsewhere", func(s *scene) { s.spec.Mounts[0].Destination = "/p" }, func(s *scene) { s.spec.Mounts[0].Destination = "/proc" }},
		{"B17", "bound proc", func(s *scene) { s.spec.Mounts[0].Options = append(s.spec.Mounts[0].Options, "rbind") }, func(s *scene) { s.spec.Mounts[0].Options = s.spec.Mounts[0].Options[:3] }},
		{"B17", "mapped", func(s *scene) {
			s.spec.Mounts[4].UIDMappings, s.facts.Pod.UIDs = []specs.LinuxIDMapping{{HostID: 7, Size: 1}}, []IDMapping{{0, 7, 1}}
		}, func(s *scene) {
			s.spec.Linux.Namespaces = append(s.spec.Linux.Namespaces, specs.LinuxNamespace{Type: "user", Path: "/run/u"})
		}},
		{"B17", "mapped otherwise", func(s *scene) {
			s.spec.Linux.Namespaces = append(s.spec.Linux.Namespaces, specs.LinuxNamespace{Type: "user", Path: "/run/u"})
			s.spec.Mounts[4].UIDMappings, s.facts.Pod.UIDs = []specs.LinuxIDMapping{{Size: 1}}, []IDMapping{{0, 7, 1}}
		}, func(s *scene) { s.spec.Mounts[4].UIDMappings[0].HostID = 7 }},
		{"B17", "mapped groups otherwise", func(s *scene) {
			s.spec.Linux.Namespaces = append(s.spec.Linux.Namespaces, specs.LinuxNamespace{Type: "user", Path: "/run/u"})
			s.spec.Mounts[4].GIDMappings, s.facts.Pod.GIDs = []specs.LinuxIDMapping{{Size: 1}}, []IDMapping{{0, 7, 1}}
		}, func(s *scene) { s.spec.Mounts[4].GIDMappings[0].HostID = 7 }},
		{"B17", "image with setuid programs", func(s *scene) {
			mount("/vol", "rbind", "ro", "nodev")(s)
			s.facts.Mounts[1].Kind = "image"
		}, func(s *scene) { s.spec.Mounts[5].Options = append(s.spec.Mounts[5].Options, "nosuid") }},
		{"B17", "the node's sysfs writable", sysfs("rw"), func(s *scene) { s.spec.Mounts[0].Options[5] = "ro" }},
		{"B18", "the node's sysfs in its own network", func(s *scene) { sysfs("ro")(s); s.facts.Pod.HostNetwork = false }, func(s *scene) { s.facts.Pod.HostNetwork = true }},
		{"B18", "the node's sysfs without a user namespace", func(s *scene) { sysfs("ro")(s); s.facts.Pod.HostUsers = true }, func(s *scene) { s.facts.Pod.HostUsers = false }},
		{"B18", "the node's sysfs elsewhere", func(s *scene) { sysfs("ro")(s); s.facts.Mounts[0].Source = "/proc" }, func(s *scene) { s.facts.Mounts[0].Source = "/sys" }},
		{"B18", "host path", func(s *scene) { s.facts.Mounts[0].Source = "/opt/data" }, func(s *scene) { s.floor.HostPaths = []string{"/opt"} }},
		{"B18", "sibling of a host path", func(s *scene) { s.facts.Mounts[0].Source, s.floor.HostPaths = "/opt2", []string{"/opt"} }, func(s *scene) { s.facts.Mounts[0].Source = "/opt/2" }},
		{"B18", "beneath an exact path", func(s *scene) { s.facts.Mounts[0].Source, s.floor.HostPaths = "/opt/x", []string{"=/opt"} }, func(s *scene) { s.facts.Mounts[0].Source = "/opt" }},
		{"B18", "another pod's volume", func(s *scene) { s.facts.Mounts[0].Source = "/var/lib/kubelet/pods/u2/volumes/x" }, func(s *scene) { s.facts.PodUID = "u2" }},
		{"B18", "kubelet elsewhere", func(s *scene) { s.facts.Mounts[0].Source = "/srv/kubelet/pods/u1/volumes/x" }, func(s *scene) { s.facts.KubeletDir = "/srv/kubelet" }},
		{"B18", "UID that leads up", func(s *scene) { s.facts.PodUID, s.facts.Mounts[0].Source = "..", "/var/lib/kubelet/pods/../volumes" }, func(s *scene) { s.facts.PodUID, s.facts.Mounts[0].Source = "u1", "/var/lib/kubelet/pods/u1/volumes" }},
		{"B18", "posing as ours", source("file", "/etc/shadow", "/x"), func(s *scene) {
			s.spec.Mounts[5].Destination, s.facts.Mounts[1].Destination = "/etc/hosts", "/etc/hosts"
		}},
		{"B18", "unknown kind", source("", "/x", "/x"), func(s *scene) { s.facts.Mounts[1].Kind = "host" }},
		{"B18", "unresolved source", source("host", "/x", "x"), func(s *scene) { s.facts.Mounts[1].Source = "/x" }},
		{"B19", "our state", source("host", "/x", "/srv/state/x"), func(s *scene) { s.facts.Mounts[1].Source = "/srv/stated" }},
		{"B19", "our socket", source("host", "/x", "/var/run/sallyport/sallyport.sock"), func(s *scene) { s.facts.Mounts[1].Source = "/run/else" }},
		{"B19", "our state by name", all(source("host", "/x", "/srv/state"), func(s *scene) { s.floor.Privileged = Allow; s.floor.HostPaths = []string{"=/srv/state", "/"} }), func(s *scene) { s.facts.ControlPaths = nil }},
		{"B19", "ancestor", source("host", "/x", "/run"), func(s *scene) { s.floor.Privileged = Allow; s.floor.HostPaths = []string{"=/run"} }},
		{"B19", "ancestor by name, not privileged", all(source("host", "/x", "/run"), func(s *scene) { s.floor.HostPaths = []string{"=/run"} }), allow(func(f *Floor) *Answer { return &f.Privileged })},
		{"B19", "root", source("host", "/x", "/"), func(s *scene) { s.floor.Privileged = Allow; s.floor.HostPaths = []string{"=/"} }},
		{"B19", "containerd's socket", source("host", "/x", "/run/containerd/containerd.sock"), func(s *scene) { s.facts.Mounts[1].Source = "/run/containers.sock" }},
		{"B19", "docker's socket", source("host", "/x", "/var/run/docker.sock"), func(s *scene) { s.floor.Privileged = Allow; s.floor.HostPaths = []string{"=/var/run/docker.sock"} }},
		{"B19", "keys of a kubelet elsewhere", func(s *scene) {
			s.facts.KubeletDir = "/srv/kubelet"
			source("host", "/x", "/srv/kubelet/pki")(s)
		}, func(s *scene) { s.facts.KubeletDir = "" }},
		{"B19", "kubelet's keys", source("host", "/x", "/var/lib/kubelet/pki"), func(s *scene) { s.facts.Mounts[1].Source = "/var/lib/kubelet/plugins" }},
		{"B20", "sysctl", func(s *scene) { s.spec.Linux.Sysctl = map[string]string{"kernel.core_pattern": "|/x"} }, func(s *scene) { s.spec.Linux.Sysctl = nil }},
		{"B21", "no process limit", func(s *scene) { s.spec.Linux.Resources.Pids = nil }, func(s *scene) { s.spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(1))} }},
		{"B21", "unlimited processes", func(s *scene) { s.spec.Linux.Resources.Pids.Limit = ptr(int64(-1)) }, func(s *scene) { s.spec.Linux.Resources.Pids.Limit = ptr(int64(1)) }},
		{"B21", "unified", func(s *scene) { s.spec.Linux.Resources.Unified = map[string]string{"memory.max": "max"} }, func(s *scene) { s.spec.Linux.Resources.Unified = map[string]string{"memory.high": "1"} }},
		{"B21", "no OOM killer", func(s *scene) { s.spec.Linux.Resources.Memory = &specs.LinuxMemory{DisableOOMKiller: ptr(true)} }, func(s *scene) { s.spec.Linux.Resources.Memory.DisableOOMKiller = ptr(false) }},
		{"B21", "real time", func(s *scene) { s.spec.Linux.Resources.CPU = &specs.LinuxCPU{RealtimeRuntime: ptr(int64(1))} }, func(s *scene) { s.spec.Linux.Resources.CPU = &specs.LinuxCPU{Shares: ptr(uint64(2))} }},
		{"B21", "rdma", func(s *scene) { s.spec.Linux.Resources.Rdma = map[string]specs.LinuxRdma{"x": {}} }, func(s *scene) { s.spec.Linux.Resources.Rdma = nil }},
		{"B22", "no cgroup", func(s *scene) { s.spec.Linux.CgroupsPath = "" }, func(s *scene) { s.spec.Linux.CgroupsPath = "/kubepods/sallyport-c1" }},
		{"B22", "another's cgroup", func(s *scene) { s.spec.Linux.CgroupsPath = "/sallyport/sallyport-c2" }, func(s *scene) { s.facts.ID = "c2" }},
		{"B22", "systemd form", func(s *scene) { s.spec.Linux.CgroupsPath = "/a.slice:x:/sallyport-c1" }, func(s *scene) { s.spec.Linux.CgroupsPath = "/a.slice/sallyport-c1" }},
		{"B23", "score", func(s *scene) { s.spec.Process.OOMScoreAdj = ptr(-1001) }, func(s *scene) { s.spec.Process.OOMScoreAdj = ptr(-1000) }},
		{"B24", "soft above hard", func(s *scene) { s.spec.Process.Rlimits[0].Soft = 21 }, func(s *scene) { s.spec.Process.Rlimits[0].Soft = 20 }},
		{"B24", "unknown", func(s *scene) { s.spec.Process.Rlimits[0].Type = "RLIMIT_X" }, func(s *scene) { s.spec.Process.Rlimits[0].Type = "RLIMIT_CORE" }},
		{"B02", "umask", func(s *scene) { m := uint32(0o1000); s.spec.Process.User.Umask = &m }, func(s *scene) { m := uint32(0o77); s.spec.Process.User.Umask = &m }},
		{"B25", "systemd property", func(s *scene) { s.spec.Annotations["org.systemd.property.ExecStart"] = "x" }, func(s *scene) { delete(s.spec.Annotations, "org.systemd.property.ExecStart") }},
		{"B25", "control characters", func(s *scene) { s.spec.Annotations["sallyport/pod"] = "a\nb" }, func(s *scene) { s.spec.Annotations["sallyport/pod"] = "a" }},
		{"B26", "no program", func(s *scene) { s.spec.Process.Args = nil }, func(s *scene) { s.spec.Process.Args = []string{"x"} }},
		{"B26", "zero byte", func(s *scene) { s.spec.Process.Args = []string{"x\x00"} }, func(s *scene) { s.spec.Process.Args = []string{"x"} }},
		{"B26", "no name", func(s *scene) { s.spec.Process.Env = []string{"X"} }, func(s *scene) { s.spec.Process.Env = []string{"X="} }},
		{"B26", "newline in HOME", func(s *scene) { s.spec.Process.Env = []string{"HOME=/\nroot::0:0::/:/bin/sh"} }, func(s *scene) { s.spec.Process.Env = []string{"HOUSE=/\n"} }},
		{"B26", "too much", func(s *scene) { s.spec.Process.Env = []string{"X=" + strings.Repeat("x", maxArguments)} }, func(s *scene) { s.spec.Process.Env = []string{"X=" + strings.Repeat("x", maxArguments/2)} }},
		{"B27", "AppArmor", func(s *scene) { s.spec.Process.ApparmorProfile = "unconfined" }, allow(func(f *Floor) *Answer { return &f.AppArmor })},
		{"B27", "SELinux", func(s *scene) { s.spec.Process.SelinuxLabel = "system_u:system_r:spc_t:s0" }, func(s *scene) { s.spec.Process.SelinuxLabel = "system_u:system_r:container_t:s0:c1,c2" }},
	}
	if found := standing().check(t); len(found) > 0 {
		t.Fatalf("Check(standing) = %v, want none", found)
	}
	covered := map[string]bool{"B28": true} // TestPodInit
	for _, c := range cases {
		t.Run(c.id+" "+c.name, func(t *testing.T) {
			s := standing()
			c.change(s)
			if got := ids(s.check(t)); !slices.Contains(got, c.id) {
				t.Errorf("Check() = %v, want %s", got, c.id)
			}
			c.twin(s)
			if got := s.check(t); slices.Contains(ids(got), c.id) {
				t.Errorf("Check(twin) = %v, want no %s", got, c.id)
			}
		})
		covered[c.id] = true
	}
	for _, c := range checks {
		if !covered[c.id] {
			t.Errorf("check %s %s has no case", c.id, c.name)
		}
	}
}

// TestPrivilegedNeedsTheFloor: being asked for is not being granted.
func TestPrivilegedNeedsTheFloor(t *testing.T) {
	s := standing()
	s.facts.Privileged, s.spec.Linux.Resources.Devices[0].Allow = true, true
	if got := ids(s.check(t)); !slices.Contains(got, "B10") {
		t.Errorf("Check() = %v, want B10", got)
	}
	s.floor.Privileged = Allow
	if got := s.check(t); len(got) > 0 {
		t.Errorf("Check(twin) = %v, want none", got)
	}
}

// TestVolumesNeedAPod: without a pod's UID nothing is the kubelet's own.
func TestVolumesNeedAPod(t *testing.T) {
	s := standing()
	s.facts.PodUID, s.facts.Mounts[0].Source = "", "/var/lib/kubelet/pods/volumes"
	s.facts.KubeletDir = ""
	if got := ids(s.check(t)); !slices.Contains(got, "B18") {
		t.Errorf("Check() = %v, want B18", got)
	}
}

// sysfs makes the node's /sys the first mount of a pod with a user namespace on the node's network.
func sysfs(mode string) func(*scene) {
	return func(s *scene) {
		s.facts.Pod.HostNetwork, s.facts.Pod.HostUsers, s.floor.HostNetwork = true, false, Allow
		s.spec.Linux.Namespaces = append(s.spec.Linux.Namespaces, specs.LinuxNamespace{Type: "user", Path: "/run/u"})
		s.spec.Mounts = slices.DeleteFunc(s.spec.Mounts, func(m specs.Mount) bool { return m.Type == "sysfs" })
		i := slices.IndexFunc(s.spec.Mounts, func(m specs.Mount) bool { return m.Source == "mounts/0" })
		m := s.spec.Mounts[i]
		m.Destination, m.Options = "/sys", []string{"rbind", "rprivate", "nosuid", "nodev", "noexec", mode}
		s.spec.Mounts = append([]specs.Mount{m}, slices.Delete(s.spec.Mounts, i, i+1)...)
		s.facts.Mounts[0] = Mount{Destination: "/sys", Source: "/sys", Kind: "sys"}
	}
}

// hook makes the spec one with an admitted hook.
func hook(s *scene) {
	s.spec.Hooks = &specs.Hooks{Prestart: []specs.Hook{{Path: "/opt/hook"}}} //nolint:staticcheck // deprecated and still run
	s.facts.Hooks, s.floor.Hooks = []Hook{{"/opt/hook", "sha256:1"}}, []Hook{{"/opt/hook", "sha256:1"}}
}

// cdiNode makes the spec one with a device node of an admitted CDI device.
func cdiNode(s *scene) {
	const name = "acme.example/gpu=0"
	s.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/gpu", Type: "c", Major: 200, Minor: 1}}
	s.facts.CDI, s.facts.Devices = []string{name}, []Device{{name, "/dev/gpu", "c", 200, 1}}
	s.floor.CDI = []string{name}
}
