package spec

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"sallyport/policy/baseline"
)

// host is a node as the threat model describes the usual test host: cgroup v1, no hugetlb, no
// CAP_SYS_RESOURCE.
func host() Host {
	bounding := slices.DeleteFunc(baseline.Capabilities(), func(c string) bool { return c == "CAP_SYS_RESOURCE" })
	return Host{
		CgroupVersion: 1, Controllers: []string{"cpu", "cpuset", "memory", "pids", "devices", "freezer"}, Swap: true,
		Bounding: bounding, Seccomp: true, RecursiveRO: true, RlimitMax: map[string]uint64{"RLIMIT_NOFILE": 4096},
	}
}

// usual is what the kubelet sends for a pod that asks nothing.
func usual() Input {
	unset := ContainerSecurity{
		Namespaces:  NamespaceOptions{Network: NamespacePod, PID: NamespaceContainer, IPC: NamespacePod, User: UserNamespace{Mode: NamespaceNode}},
		Seccomp:     Profile{Kind: Unconfined},
		MaskedPaths: []string{"/proc/kcore"},
	}
	return Input{
		Pod:   PodConfig{Namespace: "shop", Name: "web", UID: "0e7c", Hostname: "web", Security: PodSecurity{Namespaces: unset.Namespaces}},
		PodID: "p1",
		Container: ContainerConfig{
			Name: "app", Command: []string{"/bin/app"}, Args: []string{"-v"},
			Env:       []EnvVar{{"COLOUR", []byte("blue")}},
			Security:  unset,
			Resources: Resources{CPUShares: 2, CPUPeriod: 100000, CPUQuota: 50000, Memory: 64 << 20, OOMScoreAdj: 1000, Hugepages: []HugepageLimit{{"2MB", 0}, {"1GB", 0}}},
		},
		ID:     "c1",
		Image:  ImageConfig{Env: []string{"LANG=C"}, Cmd: []string{"ignored"}},
		Passwd: []byte("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"),
		Group:  []byte("root:x:0:\napp:x:1000:\naudio:x:29:app,other\n"),
		Mounts: []ResolvedMount{
			{Destination: "/etc/hosts", Source: "/var/lib/kubelet/pods/0e7c/etc-hosts", Kind: "host"},
			{Destination: "/etc/resolv.conf", Source: "/run/sallyport/pods/p1/resolv.conf", Kind: "file", ReadOnly: true},
			{Destination: "/dev/shm", Source: "/run/sallyport/pods/p1/shm", Kind: "shm"},
			{Destination: "/dev/termination-log", Source: "/var/lib/kubelet/pods/0e7c/containers/app/1", Kind: "host"},
		},
		Namespaces: Namespaces{Network: "/var/run/netns/p1", IPC: "/run/sallyport/pods/p1/ns/ipc", UTS: "/run/sallyport/pods/p1/ns/uts"},
		Floor:      baseline.ForLevel(baseline.Baseline),
		Host:       host(),
	}
}

func idMap(in []IDMapping) (out []baseline.IDMapping) {
	for _, m := range in {
		out = append(out, baseline.IDMapping(m))
	}
	return out
}

// facts are what the gate would tell the judge of in.
func facts(in Input) baseline.Facts {
	pod := in.Pod.Security
	f := baseline.Facts{
		ID: in.ID, PodUID: in.Pod.UID, Privileged: in.Container.Security.Privileged, ControlPaths: []string{"/run/sallyport"},
		Pod: baseline.PodFacts{
			HostNetwork: pod.Namespaces.Network == NamespaceNode, HostPID: pod.Namespaces.PID == NamespaceNode,
			HostIPC: pod.Namespaces.IPC == NamespaceNode, HostUsers: pod.Namespaces.User.Mode != NamespacePod, Privileged: pod.Privileged,
			UIDs: idMap(pod.Namespaces.User.UIDs), GIDs: idMap(pod.Namespaces.User.GIDs),
		},
	}
	for _, m := range in.Mounts {
		f.Mounts = append(f.Mounts, baseline.Mount{Destination: m.Destination, Source: m.Source, Kind: m.Kind, ReadOnly: m.ReadOnly, Propagation: string(m.Propagation)})
	}
	return f
}

func build(t *testing.T, change func(*Input)) Output {
	t.Helper()
	in := usual()
	if change != nil {
		change(&in)
	}
	out, err := Build(in)
	if err != nil {
		t.Fatalf("Build() = %v", err)
	}
	if found := baseline.Check(out.JSON, facts(in), in.Floor); len(found) > 0 && len(out.Refusals) == 0 {
		t.Errorf("Check() of what Build() made without a refusal = %v, want none", found)
	}
	return out
}

func TestUsualPodStandsOnEveryFloor(t *testing.T) {
	for _, level := range []baseline.Level{baseline.Restricted, baseline.Baseline, baseline.Privileged} {
		out := build(t, func(in *Input) {
			in.Floor, in.Image.User = baseline.ForLevel(level), "app"
		})
		if len(out.Refusals) > 0 {
			t.Errorf("level %d: Refusals = %v, want none", level, out.Refusals)
		}
		if out.Spec.Linux.Seccomp == nil {
			t.Errorf("level %d: no seccomp profile", level)
		}
		if again := build(t, func(in *Input) { in.Floor, in.Image.User = baseline.ForLevel(level), "app" }); string(again.JSON) != string(out.JSON) {
			t.Errorf("level %d: two builds differ", level)
		}
		t.Log(out.Weakenings)
	}
}

func TestInitStandsOnTheTightestFloor(t *testing.T) {
	in := usual()
	p := PodInput{Pod: in.Pod, PodID: "p1", Namespaces: in.Namespaces, Floor: baseline.ForLevel(baseline.Restricted), Host: in.Host}
	out, err := BuildInit(p)
	if err != nil {
		t.Fatal(err)
	}
	f := baseline.Facts{ID: "p1", PodInit: true, Pod: baseline.PodFacts{HostUsers: true}}
	if found := baseline.Check(out.JSON, f, p.Floor); len(found) > 0 || len(out.Refusals) > 0 {
		t.Errorf("Check() = %v, refusals %v, want none", found, out.Refusals)
	}
}

func TestExecIsTheContainersOwnProcess(t *testing.T) {
	out := build(t, nil)
	for _, terminal := range []bool{false, true} {
		process, err := BuildExec(ExecInput{Spec: out.JSON, Args: []string{"id"}, Terminal: terminal})
		if err != nil {
			t.Fatal(err)
		}
		if found := baseline.CheckExec(process, out.JSON); len(found) > 0 {
			t.Errorf("CheckExec() = %v, want none", found)
		}
		var p specs.Process
		if err := json.Unmarshal(process, &p); err != nil || len(p.Capabilities.Inheritable)+len(p.Capabilities.Ambient) > 0 {
			t.Errorf("exec holds inheritable or ambient capabilities: %v", p.Capabilities)
		}
	}
}
