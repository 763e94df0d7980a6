package baseline

import (
	"encoding/json"
	"math/rand"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestCanonicalFormOnly(t *testing.T) {
	good, err := json.Marshal(standing().spec)
	if err != nil {
		t.Fatal(err)
	}
	s := standing()
	for name, data := range map[string]string{
		"unknown field":    strings.Replace(string(good), `"process":`, `"extra":1,"process":`, 1),
		"unknown in linux": strings.Replace(string(good), `"cgroupsPath":`, `"newFeature":{},"cgroupsPath":`, 1),
		"field twice":      strings.Replace(string(good), `"root":{`, `"root":{"path":"/"},"root":{`, 1),
		"other case":       strings.Replace(string(good), `"hostname"`, `"Hostname"`, 1) + " ",
		"case of a field":  strings.Replace(string(good), `"root":{"path"`, `"root":{"Path"`, 1),
		"trailing text":    string(good) + "{}",
		"empty":            "",
		"no process":       `{"ociVersion":"1.3.0"}`,
	} {
		if got := ids(Check([]byte(data), s.facts, s.floor)); !slices.Equal(got, []string{"B01"}) {
			t.Errorf("%s: Check() = %v, want B01", name, got)
		}
	}
	if got := Check(good, s.facts, s.floor); len(got) > 0 {
		t.Errorf("Check(twin) = %v, want none", got)
	}
	missing := standing()
	missing.spec.Process.Capabilities = nil
	if got := ids(missing.check(t)); !slices.Equal(got, []string{"B08"}) {
		t.Errorf("Check() without capabilities = %v, want B08", got)
	}
}

// TestZeroFactsAndFloorDeny: what nobody filled in gives nothing.
func TestZeroFactsAndFloorDeny(t *testing.T) {
	data, err := json.Marshal(standing().spec)
	if err != nil {
		t.Fatal(err)
	}
	got := ids(Check(data, Facts{}, Floor{}))
	for _, id := range []string{"B08", "B13", "B17", "B22"} {
		if !slices.Contains(got, id) {
			t.Errorf("Check() with zero facts and floor = %v, want %s among them", got, id)
		}
	}
}

// TestEverySectionIsKnown fails when the OCI types gain a field that neither sections refuses nor a
// check reads: the names below were each looked at.
func TestEverySectionIsKnown(t *testing.T) {
	known := map[reflect.Type]string{
		reflect.TypeFor[specs.Spec](): "Version Process Root Hostname Domainname Mounts Hooks Annotations Linux Solaris Windows VM ZOS FreeBSD",
		reflect.TypeFor[specs.Process](): `Terminal ConsoleSize User Args CommandLine Env Cwd Capabilities Rlimits NoNewPrivileges
			ApparmorProfile OOMScoreAdj Scheduler SelinuxLabel IOPriority ExecCPUAffinity`,
		reflect.TypeFor[specs.User](): "UID GID Umask AdditionalGids Username",
		reflect.TypeFor[specs.Root](): "Path Readonly",
		reflect.TypeFor[specs.Linux](): `UIDMappings GIDMappings Sysctl Resources CgroupsPath Namespaces Devices NetDevices Seccomp
			RootfsPropagation MaskedPaths ReadonlyPaths MountLabel IntelRdt MemoryPolicy Personality TimeOffsets`,
		reflect.TypeFor[specs.Mount]():             "Destination Type Source Options UIDMappings GIDMappings",
		reflect.TypeFor[specs.LinuxResources]():    "Devices Memory CPU Pids BlockIO HugepageLimits Network Rdma Unified",
		reflect.TypeFor[specs.LinuxNamespace]():    "Type Path",
		reflect.TypeFor[specs.LinuxSeccomp]():      "DefaultAction DefaultErrnoRet Architectures Flags ListenerPath ListenerMetadata Syscalls",
		reflect.TypeFor[specs.LinuxCapabilities](): "Bounding Effective Inheritable Permitted Ambient",
	}
	for typ, names := range known {
		for i := range typ.NumField() {
			if name := typ.Field(i).Name; !slices.Contains(strings.Fields(names), name) {
				t.Errorf("%s.%s is read by no check; refuse it in sections or check it", typ, name)
			}
		}
	}
}

func TestPodInit(t *testing.T) {
	standingInit := func() *scene {
		s := standing()
		s.spec.Process.Args, s.spec.Process.User = []string{"/sallyport-init", "pause"}, specs.User{AdditionalGids: []uint32{0}}
		s.spec.Process.Capabilities, s.spec.Root.Readonly = &specs.LinuxCapabilities{}, true
		s.spec.Mounts, s.facts.Mounts, s.facts.PodInit = s.spec.Mounts[:2], nil, true
		s.floor = ForLevel(Privileged)
		return s
	}
	if got := standingInit().check(t); len(got) > 0 {
		t.Fatalf("Check() = %v, want none", got)
	}
	for name, c := range map[string]struct {
		id     string
		change func(*scene)
	}{
		"capability":     {"B28", func(s *scene) { s.spec.Process.Capabilities.Bounding = []string{"CAP_KILL"} }},
		"new privileges": {"B28", func(s *scene) { s.spec.Process.NoNewPrivileges = false }},
		"writable root":  {"B28", func(s *scene) { s.spec.Root.Readonly = false }},
		"other program":  {"B28", func(s *scene) { s.spec.Process.Args = []string{"/bin/sh"} }},
		"mount":          {"B28", mount("/x", "rbind", "ro")},
		"no seccomp":     {"B06", func(s *scene) { s.floor.Seccomp = Allow; s.spec.Linux.Seccomp = nil }},
		"unmasked":       {"B11", func(s *scene) { s.spec.Linux.MaskedPaths = nil }},
		"node's PIDs": {"B13", func(s *scene) {
			s.facts.Pod.HostPID = true
			s.spec.Linux.Namespaces = slices.DeleteFunc(s.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == "pid" })
		}},
		"privileged": {"B10", func(s *scene) { s.facts.Privileged = true; s.spec.Linux.Resources.Devices[0].Allow = true }},
	} {
		s := standingInit()
		c.change(s)
		if got := ids(s.check(t)); !slices.Contains(got, c.id) {
			t.Errorf("%s: Check() = %v, want %s", name, got, c.id)
		}
	}
}

func TestCheckPod(t *testing.T) {
	safe := map[string]string{"net.ipv4.tcp_syncookies": "1"}
	usual := ForLevel(Baseline)
	for _, c := range []struct {
		id, name string
		facts    PodFacts
		floor    Floor
		twin     func(*PodFacts, *Floor)
	}{
		{"P01", "network", PodFacts{HostNetwork: true}, usual, func(_ *PodFacts, f *Floor) { f.HostNetwork = Allow }},
		{"P02", "PIDs", PodFacts{HostPID: true}, usual, func(_ *PodFacts, f *Floor) { f.HostPID = Allow }},
		{"P03", "IPC", PodFacts{HostIPC: true}, usual, func(_ *PodFacts, f *Floor) { f.HostIPC = Allow }},
		{"P04", "users", PodFacts{HostUsers: true}, Floor{}, func(_ *PodFacts, f *Floor) { f.HostUsers = Allow }},
		{"P04", "users overridden", PodFacts{HostUsers: true}, Floor{HostUsers: Override}, func(p *PodFacts, _ *Floor) { p.HostUsers = false }},
		{"P05", "privileged", PodFacts{Privileged: true}, usual, func(_ *PodFacts, f *Floor) { f.Privileged = Override }},
		{"P06", "unsafe", PodFacts{Sysctls: map[string]string{"net.core.somaxconn": "1"}}, usual, func(_ *PodFacts, f *Floor) { f.Sysctls = []string{"net.core.*"} }},
		{"P06", "the node's own", PodFacts{Sysctls: map[string]string{"kernel.core_pattern": "x"}}, Floor{Sysctls: []string{"*"}}, func(p *PodFacts, _ *Floor) { p.Sysctls = map[string]string{"kernel.shmmax": "1"} }},
		{"P06", "newline (CVE-2022-0811)", PodFacts{Sysctls: map[string]string{"kernel.shm_rmid_forced": "1\nkernel.core_pattern=|/x"}}, usual, func(p *PodFacts, _ *Floor) { p.Sysctls["kernel.shm_rmid_forced"] = "1" }},
		{"P06", "plus (CVE-2022-0811)", PodFacts{Sysctls: map[string]string{"kernel.shm_rmid_forced": "1+kernel.core_pattern=|/x"}}, usual, func(p *PodFacts, _ *Floor) { p.Sysctls["kernel.shm_rmid_forced"] = "1" }},
		{"P06", "leads up", PodFacts{Sysctls: map[string]string{"net/../kernel/core_pattern": "x"}}, Floor{Sysctls: []string{"net.*"}}, func(p *PodFacts, _ *Floor) { p.Sysctls = map[string]string{"net/core/x": "1"} }},
		{"P06", "host network (CVE-2022-0532)", PodFacts{HostNetwork: true, Sysctls: safe}, Floor{HostNetwork: Allow, Sysctls: kubernetesSafe}, func(p *PodFacts, _ *Floor) { p.HostNetwork = false }},
		{"P06", "host IPC (CVE-2022-0532)", PodFacts{HostIPC: true, Sysctls: map[string]string{"kernel.shm_rmid_forced": "1"}}, Floor{HostIPC: Allow, Sysctls: kubernetesSafe}, func(p *PodFacts, _ *Floor) { p.HostIPC = false }},
		{"P06", "long", PodFacts{Sysctls: map[string]string{"net.ipv4.tcp_syncookies": strings.Repeat("1", maxSysctl+1)}}, usual, func(p *PodFacts, _ *Floor) { p.Sysctls = safe }},
		{"P07", "no map", PodFacts{GIDs: oneMap()}, usual, func(p *PodFacts, _ *Floor) { p.UIDs = oneMap() }},
		{"P07", "no map of groups", PodFacts{UIDs: oneMap()}, usual, func(p *PodFacts, _ *Floor) { p.GIDs = oneMap() }},
		{"P07", "the node's root", PodFacts{UIDs: []IDMapping{{0, 0, 10}}, GIDs: oneMap()}, usual, func(p *PodFacts, _ *Floor) { p.UIDs[0].Host = 1 }},
		{"P07", "root left out", PodFacts{UIDs: []IDMapping{{1, 1000, 10}}, GIDs: oneMap()}, usual, func(p *PodFacts, _ *Floor) { p.UIDs[0].Container = 0 }},
		{"P07", "nothing mapped", PodFacts{UIDs: []IDMapping{{0, 1000, 0}}, GIDs: oneMap()}, usual, func(p *PodFacts, _ *Floor) { p.UIDs[0].Length = 1 }},
		{"P07", "beyond the last", PodFacts{UIDs: []IDMapping{{0, 1<<32 - 10, 10}}, GIDs: oneMap()}, usual, func(p *PodFacts, _ *Floor) { p.UIDs[0].Length = 9 }},
		{"P07", "twice inside", PodFacts{UIDs: []IDMapping{{0, 1000, 10}, {9, 2000, 10}}, GIDs: oneMap()}, usual, func(p *PodFacts, _ *Floor) { p.UIDs[1].Container = 10 }},
		{"P07", "twice outside", PodFacts{UIDs: []IDMapping{{0, 1000, 10}, {10, 1009, 10}}, GIDs: oneMap()}, usual, func(p *PodFacts, _ *Floor) { p.UIDs[1].Host = 1010 }},
	} {
		if c.id != "P07" {
			c.facts.UIDs, c.facts.GIDs = oneMap(), oneMap()
		}
		if got := ids(CheckPod(c.facts, c.floor)); !slices.Equal(got, []string{c.id}) {
			t.Errorf("%s: CheckPod() = %v, want %s", c.name, got, c.id)
		}
		c.twin(&c.facts, &c.floor)
		if got := CheckPod(c.facts, c.floor); len(got) > 0 {
			t.Errorf("%s: CheckPod(twin) = %v, want none", c.name, got)
		}
	}
}

func oneMap() []IDMapping { return []IDMapping{{0, 65536, 65536}} }

func TestDotted(t *testing.T) {
	for in, want := range map[string]string{
		"net.ipv4.ip_forward": "net.ipv4.ip_forward", "net/ipv4/ip_forward": "net.ipv4.ip_forward",
		"net/ipv4/conf/eth0.1/rp_filter": "net.ipv4.conf.eth0/1.rp_filter",
		"":                               "", "net": "", "net..x": "", "net/../x": "", ".net.x": "", "net.x.": "", "net.x\n": "", "net.x y": "", "net.x//y": "", "net.x=1": "",
	} {
		if got, ok := Dotted(in); got != want || ok != (want != "") {
			t.Errorf("Dotted(%q) = %q, %v, want %q", in, got, ok, want)
		}
	}
}

func TestCheckExec(t *testing.T) {
	s := standing()
	specJSON, err := json.Marshal(s.spec)
	if err != nil {
		t.Fatal(err)
	}
	exec := func(change func(*specs.Process)) []byte {
		var p specs.Process
		data, _ := json.Marshal(s.spec.Process)
		if err := json.Unmarshal(data, &p); err != nil {
			t.Fatal(err)
		}
		p.Args = []string{"ls"}
		change(&p)
		out, _ := json.Marshal(p)
		return out
	}
	for name, c := range map[string]struct {
		want   []string
		change func(*specs.Process)
	}{
		"own":            {nil, func(*specs.Process) {}},
		"terminal":       {nil, func(p *specs.Process) { p.Terminal, p.Env = true, append(p.Env, "TERM=xterm") }},
		"no command":     {[]string{"X02"}, func(p *specs.Process) { p.Args = nil }},
		"zero byte":      {[]string{"X02"}, func(p *specs.Process) { p.Args = []string{"a\x00"} }},
		"TERM alone":     {[]string{"X03"}, func(p *specs.Process) { p.Env = append(p.Env, "TERM=xterm") }},
		"user":           {[]string{"X03"}, func(p *specs.Process) { p.User.UID = 0 }},
		"capability":     {[]string{"X03"}, func(p *specs.Process) { p.Capabilities.Bounding = append(p.Capabilities.Bounding, "CAP_SYS_ADMIN") }},
		"inheritable":    {[]string{"X03"}, func(p *specs.Process) { p.Capabilities.Inheritable = []string{"CAP_KILL"} }},
		"new privileges": {[]string{"X03"}, func(p *specs.Process) { p.NoNewPrivileges = false }},
		"label":          {[]string{"X03"}, func(p *specs.Process) { p.SelinuxLabel = "x" }},
		"environment":    {[]string{"X03"}, func(p *specs.Process) { p.Env = append(p.Env, "LD_PRELOAD=/x") }},
		"directory":      {[]string{"X03"}, func(p *specs.Process) { p.Cwd = "/proc/self/fd/7" }},
	} {
		if got := ids(CheckExec(exec(c.change), specJSON)); !slices.Equal(got, c.want) {
			t.Errorf("%s: CheckExec() = %v, want %v", name, got, c.want)
		}
	}
	for _, bad := range [][2]string{{"{}{}", string(specJSON)}, {string(exec(func(*specs.Process) {})), "{}"}, {`{"user":{"uid":0,"gid":0},"cwd":"","ARGS":["x"]}`, string(specJSON)}} {
		if got := ids(CheckExec([]byte(bad[0]), []byte(bad[1]))); !slices.Equal(got, []string{"X01"}) {
			t.Errorf("CheckExec(%.40q, %.20q) = %v, want X01", bad[0], bad[1], got)
		}
	}
}

func randomFloor(r *rand.Rand) Floor {
	f := Floor{Level: Level(r.Intn(3))}
	v := reflect.ValueOf(&f).Elem()
	for i := range v.NumField() {
		if v.Field(i).Type() == reflect.TypeFor[Answer]() {
			v.Field(i).SetUint(uint64(r.Intn(3)))
		}
	}
	f.LayerBytes = Recheck(r.Intn(2))
	pick := func(from ...string) (out []string) {
		for _, s := range from {
			if r.Intn(3) == 0 {
				out = append(out, s)
			}
		}
		return out
	}
	f.Capabilities = pick("ALL", "CAP_KILL", "CAP_BPF", "CAP_SYS_ADMIN")
	f.HostPaths = pick("/", "/opt", "/opt/a", "/run", "=/run", "=/opt", "=/")
	f.Sysctls = pick("*", "net.*", "net.ipv4.*", "net.ipv4.tcp_syncookies", "kernel.shm*", "kernel.shmmax")
	f.CDI = pick("*", "acme.example/*", "acme.example/gpu=*", "acme.example/gpu=0", "other.example/nic=0")
	for _, h := range []Hook{{"/a", "1"}, {"/a", "2"}, {"/b", "1"}} {
		if r.Intn(3) > 0 {
			f.Hooks = append(f.Hooks, h)
		}
	}
	return f
}

// TestMeetOnlyTightens: what the meet of two floors admits, each of them admits; and the other way
// round for everything but hostPaths, where a prefix and an exception have nothing in common.
func TestMeetOnlyTightens(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	source := func(f Floor, p string) bool {
		v := &view{Facts: Facts{Mounts: []Mount{{Destination: "/x", Source: p, Kind: "host"}}}, floor: f}
		return len(sources(v))+len(control(v)) == 0
	}
	for range 5000 {
		a, b := randomFloor(r), randomFloor(r)
		m := Meet(a, b)
		if !reflect.DeepEqual(m, Meet(b, a)) {
			t.Fatalf("Meet(%v, %v) depends on the order", a, b)
		}
		va, vb, vm := reflect.ValueOf(a), reflect.ValueOf(b), reflect.ValueOf(m)
		for i := range vm.NumField() {
			if vm.Field(i).CanUint() && vm.Field(i).Uint() != min(va.Field(i).Uint(), vb.Field(i).Uint()) {
				t.Fatalf("Meet().%s is not the tighter of both", vm.Type().Field(i).Name)
			}
		}
		for _, c := range []string{"CAP_KILL", "CAP_BPF", "CAP_CHOWN"} {
			if got, want := m.AdmitsCapability(c), a.AdmitsCapability(c) && b.AdmitsCapability(c); got != want {
				t.Fatalf("Meet(%v, %v) admits %s: %v, want %v", a, b, c, got, want)
			}
		}
		for _, s := range []string{"net.ipv4.tcp_syncookies", "net.core.x", "kernel.shmmax", "kernel.core_pattern"} {
			if got, want := m.AdmitsSysctl(s), a.AdmitsSysctl(s) && b.AdmitsSysctl(s); got != want {
				t.Fatalf("Meet(%v, %v) admits %s: %v, want %v", a, b, s, got, want)
			}
		}
		for _, d := range []string{"acme.example/gpu=0", "acme.example/nic=1", "other.example/nic=0", "third.example/x=y"} {
			if got, want := m.AdmitsCDI(d), a.AdmitsCDI(d) && b.AdmitsCDI(d); got != want {
				t.Fatalf("Meet(%v, %v) admits %s: %v, want %v", a, b, d, got, want)
			}
		}
		for _, h := range []Hook{{"/a", "1"}, {"/a", "2"}, {"/b", "1"}, {"/b", "2"}} {
			if got, want := slices.Contains(m.Hooks, h), slices.Contains(a.Hooks, h) && slices.Contains(b.Hooks, h); got != want {
				t.Fatalf("Meet(%v, %v) admits hook %v: %v, want %v", a, b, h, got, want)
			}
		}
		for _, p := range []string{"/", "/opt", "/opt/a/b", "/run", "/run/x", "/optical", "/srv"} {
			if source(m, p) && !(source(a, p) && source(b, p)) {
				t.Fatalf("Meet(%v, %v) admits host path %s, which one of them refuses", a, b, p)
			}
		}
		if again := Meet(m, m); !reflect.DeepEqual(again, m) && !reflect.DeepEqual(Meet(again, again), again) {
			t.Fatalf("Meet(m, m) = %v, want %v", again, m)
		}
	}
	if n := reflect.TypeFor[Floor]().NumField(); n != 20 {
		t.Errorf("Floor has %d fields, want 20: teach Meet the new knob, then this test", n)
	}
}

func TestLevelsAreOrdered(t *testing.T) {
	for _, p := range [][2]Level{{Restricted, Baseline}, {Baseline, Privileged}, {Restricted, Privileged}} {
		a, b := ForLevel(p[0]), ForLevel(p[1])
		slices.Sort(a.Sysctls)
		if got := Meet(a, b); !reflect.DeepEqual(got, a) {
			t.Errorf("Meet(level %d, level %d) = %+v, want the tighter %+v", p[0], p[1], got, a)
		}
	}
	if got := ForLevel(9); !reflect.DeepEqual(got, Floor{}) {
		t.Errorf("ForLevel(unknown) = %v, want the tightest", got)
	}
}

func TestParseFloor(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0a", 32)
	got, err := ParseFloor([]byte("level: baseline\nseccomp: allow\nprivileged: override\ncapabilities: [net_raw]\nhostPaths: [/opt, =/run]\nsysctls: [net.core.*]\ncdi: [acme.example/gpu=*]\nhooks: [{path: /opt/h, digest: '" + digest + "'}]\n"))
	want := ForLevel(Baseline)
	want.Seccomp, want.Privileged, want.Capabilities = Allow, Override, []string{"CAP_NET_RAW"}
	want.CDI, want.Hooks = []string{"acme.example/gpu=*"}, []Hook{{"/opt/h", digest}}
	want.HostPaths, want.Sysctls = []string{"/opt", "=/run"}, []string{"net.core.*"}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("ParseFloor() = %+v, %v, want %+v", got, err, want)
	}
	if got, err := ParseFloor([]byte("level: baseline\nhostPaths: []\ncapabilities: []")); err != nil || len(got.Capabilities) > 0 {
		t.Errorf("ParseFloor(empty lists) = %v, %v, want no capability", got, err)
	}
	for text, field := range map[string]string{
		"":                                                                    "empty",
		"level: loose":                                                        "level",
		"seccomp: allow":                                                      "level",
		"level: baseline\nsecomp: allow":                                      "secomp",
		"level: baseline\nSeccomp: allow":                                     "Seccomp",
		"level: baseline\nlevel: privileged":                                  "level",
		"level: baseline\nseccomp: maybe":                                     "seccomp",
		"level: baseline\nrootUser: override":                                 "rootUser",
		"level: baseline\nhostPID: override":                                  "hostPID",
		"level: baseline\ncapabilities: [FLY]":                                "capabilities",
		"level: baseline\nhostPaths: [opt]":                                   "hostPaths",
		"level: baseline\nhostPaths: [/a/../b]":                               "hostPaths",
		"level: baseline\nsysctls: [vm.swappiness]":                           "sysctls",
		"level: baseline\nsysctls: ['net.x y']":                               "sysctls",
		"level: baseline\ncdi: [gpu]":                                         "cdi",
		"level: baseline\ncdi: ['acme.example/*']":                            "cdi",
		"level: baseline\nhooks: [{path: /h}]":                                "hooks",
		"level: baseline\nhooks: [{path: /h, digest: sha256:0}]":              "hooks",
		"level: baseline\nhooks: [{path: /a/../h, digest: '" + digest + "'}]": "hooks",
		"level: baseline\nhooks: [{path: h, digest: '" + digest + "'}]":       "hooks",
		"level: [": "hardening",
	} {
		if f, err := ParseFloor([]byte(text)); err == nil || !strings.Contains(err.Error(), field) || strings.Contains(err.Error(), "\n") || !reflect.DeepEqual(f, Floor{}) {
			t.Errorf("ParseFloor(%q) = %v, %v, want the zero floor and one line that names %s", text, f, err, field)
		}
	}
}

func TestCheckUpdate(t *testing.T) {
	for data, want := range map[string][]string{
		`{"memory":{"limit":1048576},"cpu":{"shares":2}}`: nil,
		`{}`:                            nil,
		`{"memory":{"limit":1048576}} `: {"U01"},
		`{"Memory":{"limit":1048576}}`:  {"U01"},
		`{"extra":1}`:                   {"U01"},
		`{"devices":[{"allow":true,"access":"rwm"}]}`: {"U02"},
		`{"pids":{"limit":-1}}`:                       {"U02"},
		`{"memory":{"disableOOMKiller":true}}`:        {"U03"},
		`{"unified":{"memory.max":"max"}}`:            {"U03"},
		`{"unified":{"memory.high":"1"}}`:             nil,
		`{"cpu":{"realtimeRuntime":1}}`:               {"U03"},
		`{"rdma":{"x":{}}}`:                           {"U03"},
	} {
		if got := ids(CheckUpdate([]byte(data))); !slices.Equal(got, want) {
			t.Errorf("CheckUpdate(%s) = %v, want %v", data, got, want)
		}
	}
}
