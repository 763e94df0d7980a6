package spec

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"sallyport/policy/baseline"
)

func at(s *specs.Spec, dest string) specs.Mount {
	for _, m := range s.Mounts {
		if m.Destination == dest {
			return m
		}
	}
	return specs.Mount{}
}

func TestMounts(t *testing.T) {
	out := build(t, func(in *Input) {
		in.Floor.HostPaths = []string{"/opt"}
		in.Container.Security.ReadOnlyRootfs = true
		in.Mounts = append(in.Mounts,
			ResolvedMount{Destination: "/data/sub", Source: "/opt/b", Kind: "host", ReadOnly: true, RecursiveReadOnly: true},
			ResolvedMount{Destination: "/data", Source: "/opt/a", Kind: "host", Propagation: PropagationSlave},
			ResolvedMount{Destination: "/dev/shm", Source: "/opt/shm", Kind: "host"},
			ResolvedMount{Destination: "/model", Source: "/var/lib/sallyport/x", Kind: "image"},
		)
	})
	for dest, want := range map[string]string{
		"/data":                "mounts/5 rbind rslave nodev rw",
		"/data/sub":            "mounts/4 rbind rprivate nodev rro",
		"/dev/shm":             "mounts/6 rbind rprivate nodev rw", // the pod's own, in place of ours
		"/etc/resolv.conf":     "mounts/1 rbind rprivate nosuid nodev noexec ro",
		"/etc/hosts":           "mounts/0 rbind rprivate nodev rw",
		"/dev/termination-log": "mounts/3 rbind rprivate nodev rw",
		"/model":               "mounts/7 rbind rprivate nosuid nodev ro",
	} {
		m := at(out.Spec, dest)
		if got := m.Source + " " + strings.Join(m.Options, " "); got != want {
			t.Errorf("mount at %s = %q, want %q", dest, got, want)
		}
	}
	if got := out.Spec.Linux.RootfsPropagation; got != "rslave" {
		t.Errorf("rootfsPropagation = %q, want rslave", got)
	}
	order := func(dest string) int {
		return slices.IndexFunc(out.Spec.Mounts, func(m specs.Mount) bool { return m.Destination == dest })
	}
	if order("/data") > order("/data/sub") || order("/dev") > order("/dev/shm") {
		t.Errorf("a mount comes before the one that it lies in: %v", out.Spec.Mounts)
	}
}

func TestMountsThatAreRefused(t *testing.T) {
	for name, m := range map[string]ResolvedMount{
		"up":             {Destination: "/a/../etc", Kind: "host"},
		"root":           {Destination: "/", Kind: "host"},
		"empty":          {Destination: "", Kind: "host"},
		"zero byte":      {Destination: "/a\x00", Kind: "host"},
		"twice":          {Destination: "/etc/hosts/", Kind: "host"},
		"unknown kind":   {Destination: "/a", Kind: "tmpfs"},
		"propagation":    {Destination: "/a", Kind: "host", Propagation: "loud"},
		"rro, writable":  {Destination: "/a", Kind: "host", RecursiveReadOnly: true},
		"mapped, no map": {Destination: "/a", Kind: "host", UIDs: []IDMapping{{0, 0, 1}}},
	} {
		in := usual()
		in.Mounts = append(in.Mounts, m)
		if _, err := Build(in); err == nil {
			t.Errorf("%s: Build() succeeded, want an error", name)
		}
	}
	in := usual()
	in.Host.RecursiveRO = false
	in.Mounts[0].ReadOnly, in.Mounts[0].RecursiveReadOnly = true, true
	if _, err := Build(in); err == nil {
		t.Error("Build() with rro where the node cannot succeeded")
	}
	for _, dest := range []string{"/proc/sys", "/sys/fs/cgroup", "/sys", "/proc", "/dev", "/dev/pts", "/dev/mqueue"} {
		in := usual()
		in.Floor = baseline.ForLevel(baseline.Privileged)
		in.Mounts = append(in.Mounts, ResolvedMount{Destination: dest, Source: "/opt", Kind: "host"})
		out, err := Build(in)
		if err != nil || !slices.ContainsFunc(out.Refusals, func(r Refusal) bool { return r.Knob == "mounts" }) {
			t.Errorf("mount over %s: refusals %v, %v, want one", dest, out.Refusals, err)
		}
		in.Pod.Security.Privileged, in.Container.Security.Privileged = true, true
		if out, err = Build(in); err != nil || len(out.Refusals) > 0 {
			t.Errorf("mount over %s by a privileged container: %v, %v, want it granted", dest, out.Refusals, err)
		}
	}
}

func TestNamespacesThatAreMissing(t *testing.T) {
	for name, change := range map[string]func(*Input){
		"network not pinned": func(in *Input) { in.Namespaces.Network = "" },
		"IPC not pinned":     func(in *Input) { in.Namespaces.IPC = "" },
		"names not pinned":   func(in *Input) { in.Namespaces.UTS = "" },
		"users not pinned":   func(in *Input) { in.Pod.Security.Namespaces.User.Mode = NamespacePod },
		"PIDs not pinned":    func(in *Input) { in.Container.Security.Namespaces.PID = NamespacePod },
		"target not pinned":  func(in *Input) { in.Container.Security.Namespaces.PID = NamespaceTarget },
		"node's PIDs, alone": func(in *Input) { in.Container.Security.Namespaces.PID = NamespaceNode },
		"unknown mode":       func(in *Input) { in.Container.Security.Namespaces.PID = "other" },
		"users and host IPC": func(in *Input) {
			in.Pod.Security.Namespaces.User.Mode, in.Namespaces.User, in.Pod.Security.Namespaces.IPC = NamespacePod, "/u", NamespaceNode
		},
		"other IDs": func(in *Input) {
			in.Pod.Security.Namespaces.User, in.Namespaces.User = UserNamespace{NamespacePod, []IDMapping{{0, 7, 1}}, []IDMapping{{0, 7, 1}}}, "/u"
			in.Mounts = append(in.Mounts, ResolvedMount{Destination: "/m", Source: "/m", Kind: "host", UIDs: []IDMapping{{0, 7, 2}}, GIDs: []IDMapping{{0, 7, 1}}})
		},
		"seccomp not there":  func(in *Input) { in.Host.Seccomp = false },
		"SELinux, no labels": func(in *Input) { in.Host.SELinux = true },
		"AppArmor not there": func(in *Input) { in.Container.Security.AppArmor = Profile{Localhost, "x"} },
		"profile not there":  func(in *Input) { in.Container.Security.Seccomp = Profile{Localhost, "x"} },
		"profile of no kind": func(in *Input) { in.Container.Security.Seccomp.Kind = "Loose" },
		"device not there": func(in *Input) {
			in.Floor.Devices = baseline.Allow
			in.Container.Devices = []Device{{"/dev/x", "/dev/x", "rw"}}
		},
		"capability misspelt": func(in *Input) { in.Container.Security.Capabilities.Add = []string{"FLY"} },
		"masked path":         func(in *Input) { in.Container.Security.MaskedPaths = []string{"x"} },
		"annotation value":    func(in *Input) { in.Pod.Name = "a\nb" },
	} {
		in := usual()
		change(&in)
		if _, err := Build(in); err == nil {
			t.Errorf("%s: Build() succeeded, want an error", name)
		}
	}
	out := build(t, func(in *Input) {
		in.Container.Security.Namespaces.PID, in.Namespaces.PID = NamespacePod, "/run/sallyport/pods/p1/ns/pid"
	})
	if !slices.Contains(out.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: "pid", Path: "/run/sallyport/pods/p1/ns/pid"}) {
		t.Errorf("namespaces = %v, want the pod's PIDs joined", out.Spec.Linux.Namespaces)
	}
}

func TestLimits(t *testing.T) {
	out := build(t, nil)
	r := out.Spec.Linux.Resources
	if *r.CPU.Shares != 2 || *r.CPU.Quota != 50000 || *r.CPU.Period != 100000 || *r.Memory.Limit != 64<<20 || *r.Memory.Swap != 64<<20 || *r.Pids.Limit != maxPids {
		t.Errorf("resources = %+v", r)
	}
	if r.HugepageLimits != nil {
		t.Errorf("hugepage limits of 0 without a controller = %v, want none", r.HugepageLimits)
	}
	if got := out.Spec.Linux.CgroupsPath; got != "/sallyport/sallyport-c1" {
		t.Errorf("cgroupsPath = %q", got)
	}
	for name, c := range map[string]struct {
		change func(*Input)
		want   string
	}{
		"hugepages without controller": {func(in *Input) { in.Container.Resources.Hugepages[0].Limit = 1 }, "hugetlb"},
		"no pids controller":           {func(in *Input) { in.Host.Controllers = []string{"cpu", "memory"} }, "pids"},
		"no memory controller":         {func(in *Input) { in.Host.Controllers = []string{"cpu", "pids"} }, "memory"},
		"no cpu controller":            {func(in *Input) { in.Host.Controllers = []string{"memory", "pids"} }, "cpu"},
		"no cpuset controller": {func(in *Input) {
			in.Host.Controllers = []string{"cpu", "memory", "pids"}
			in.Container.Resources.CPUs = "0"
		}, "cpuset"},
		"cpuset text":             {func(in *Input) { in.Container.Resources.CPUs = "0;x" }, "cpuset"},
		"negative memory":         {func(in *Input) { in.Container.Resources.Memory = -1 }, "negative"},
		"negative quota":          {func(in *Input) { in.Container.Resources.CPUQuota = -2 }, "negative"},
		"swap below memory":       {func(in *Input) { in.Container.Resources.MemorySwap = 1 }, "below"},
		"swap without accounting": {func(in *Input) { in.Host.Swap = false; in.Container.Resources.MemorySwap = 1 << 40 }, "swap"},
		"page size":               {func(in *Input) { in.Container.Resources.Hugepages[0].PageSize = "../2MB" }, "malformed"},
		"unified on v1":           {func(in *Input) { in.Container.Resources.Unified = map[string]string{"memory.high": "1"} }, "v1"},
		"unified, other file (CVE-2023-6476)": {func(in *Input) {
			in.Host.CgroupVersion, in.Container.Resources.Unified = 2, map[string]string{"memory.max": "max"}
		}, "not admitted"},
		"unified, text": {func(in *Input) {
			in.Host.CgroupVersion, in.Container.Resources.Unified = 2, map[string]string{"memory.high": "1\n2"}
		}, "malformed"},
		"systemd parent":     {func(in *Input) { in.Pod.CgroupParent = "kubepods.slice" }, "cgroup parent"},
		"parent with colons": {func(in *Input) { in.Pod.CgroupParent = "/a:b:c" }, "cgroup parent"},
		"parent leads up":    {func(in *Input) { in.Pod.CgroupParent = "/a/../.." }, "cgroup parent"},
		"ID":                 {func(in *Input) { in.ID = "a/b" }, "ID"},
	} {
		in := usual()
		c.change(&in)
		if _, err := Build(in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Build() = %v, want an error with %q", name, err, c.want)
		}
	}
}

// TestClamps: the node of the threat model lacks CAP_SYS_RESOURCE, so limits are cut to what can be set
// and the decision says so.
func TestClamps(t *testing.T) {
	out := build(t, func(in *Input) {
		in.Container.Resources.OOMScoreAdj = -997
		in.Defaults.Rlimits = []Rlimit{{"RLIMIT_NOFILE", 8192, 1 << 20}, {"RLIMIT_CORE", 0, 0}}
		in.Container.Resources.Unified, in.Host.CgroupVersion = map[string]string{"memory.high": "max"}, 2
	})
	p := out.Spec.Process
	if *p.OOMScoreAdj != 0 || !slices.Contains(out.Weakenings, "oomScoreAdj: -997 raised to 0, the lowest that the daemon may set") {
		t.Errorf("oomScoreAdj = %d, weakenings %v", *p.OOMScoreAdj, out.Weakenings)
	}
	if want := []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 4096, Hard: 4096}, {Type: "RLIMIT_CORE"}}; !slices.Equal(p.Rlimits, want) {
		t.Errorf("rlimits = %v, want %v", p.Rlimits, want)
	}
}

func TestBuildResources(t *testing.T) {
	data, err := BuildResources(Resources{CPUQuota: -1, Memory: 1 << 20}, host())
	if want := `{"memory":{"limit":1048576,"swap":1048576},"cpu":{"quota":-1}}`; err != nil || string(data) != want {
		t.Errorf("BuildResources() = %s, %v, want %s", data, err, want)
	}
	if _, err := BuildResources(Resources{Memory: -1}, host()); err == nil {
		t.Error("BuildResources() of a negative limit succeeded")
	}
}

func TestConfigSurvivesJSON(t *testing.T) {
	in := usual()
	in.Container.Env = []EnvVar{{"RAW", []byte("\xff\x00")}}
	data, err := json.Marshal(in.Container)
	if err != nil {
		t.Fatal(err)
	}
	var back ContainerConfig
	if err := json.Unmarshal(data, &back); err != nil || string(back.Env[0].Value) != "\xff\x00" {
		t.Errorf("env after JSON = %q, %v", back.Env, err)
	}
}

// TestMountOptions: what a request adds is there once, and nothing that loosens can be added.
func TestMountOptions(t *testing.T) {
	mounted := func(kind string, options ...string) (specs.Mount, error) {
		in := usual()
		in.Mounts = append(in.Mounts, ResolvedMount{Destination: "/m", Source: "/m", Kind: kind, Options: options})
		out, err := Build(in)
		if err != nil {
			return specs.Mount{}, err
		}
		i := slices.IndexFunc(out.Spec.Mounts, func(m specs.Mount) bool { return m.Destination == "/m" })
		return out.Spec.Mounts[i], nil
	}
	for _, kind := range []string{"host", "image"} {
		m, err := mounted(kind, "noexec", "nosuid", "nodev")
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range MountOptions {
			n := 0
			for _, have := range m.Options {
				if have == o {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%s: options = %q, want %s once", kind, m.Options, o)
			}
		}
	}
	for _, bad := range []string{"dev", "suid", "exec", "rw", "rshared", "idmap", "noexec,dev", ""} {
		if m, err := mounted("host", bad); err == nil {
			t.Errorf("option %q: mounted with %q, want an error", bad, m.Options)
		}
	}
}

// TestNodeSysfs: a pod with a user namespace on the node's network has the node's sysfs in place of its
// own, read-only.
func TestNodeSysfs(t *testing.T) {
	in := usual()
	in.Floor.HostNetwork = baseline.Allow
	ids := []IDMapping{{0, 65536, 65536}}
	in.Pod.Security.Namespaces.Network, in.Pod.Security.Namespaces.User = NamespaceNode, UserNamespace{NamespacePod, ids, ids}
	in.Namespaces.User = "/run/sallyport/pods/p1/ns/user"
	in.Mounts = append(in.Mounts, ResolvedMount{Destination: "/sys", Source: "/sys", Kind: "sys"})
	out, err := Build(in)
	if err != nil || len(out.Refusals) > 0 {
		t.Fatalf("Build() = %v, %v", out.Refusals, err)
	}
	var at []specs.Mount
	for _, m := range out.Spec.Mounts {
		if m.Destination == "/sys" {
			at = append(at, m)
		}
	}
	if len(at) != 1 || at[0].Type != "bind" || !slices.Contains(at[0].Options, "ro") {
		t.Errorf("mounts at /sys = %v, want the node's, read-only", at)
	}
	if found := baseline.Check(out.JSON, facts(in), in.Floor); len(found) > 0 {
		t.Errorf("Check() = %v, want none", found)
	}
}
