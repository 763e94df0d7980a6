package image

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"sallyport/enforce"
	"sallyport/enforce/enforcetest"
	"sallyport/policy"
	"sallyport/policy/baseline"
)

// newGate is a real gate that admits any image, and standing's spec.
func newGate(t testing.TB) *enforce.Gate {
	const a = baseline.Allow
	return enforcetest.Gate(t, baseline.Floor{Level: baseline.Privileged, Seccomp: a, NoNewPrivileges: a, Privileged: a,
		HostNetwork: a, HostPID: a, HostIPC: a, HostUsers: a, RootUser: a, Devices: a, UnmaskedPaths: a, AppArmor: a, SELinux: a,
		BidirMounts: a, Capabilities: []string{"ALL"}, HostPaths: []string{"/"}, Sysctls: []string{"*"}})
}

// standing is a spec that newGate admits for a container.
func standing(t testing.TB, id string) string {
	t.Helper()
	pids, adj := int64(100), 0
	b, err := json.Marshal(specs.Spec{
		Version: "1.3.0", Root: &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: []string{"/bin/app"}, Env: []string{"PATH=/bin"}, Cwd: "/", NoNewPrivileges: true, OOMScoreAdj: &adj,
			User: specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{1000}}, Capabilities: &specs.LinuxCapabilities{}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/sallyport/sallyport-" + id,
			Namespaces: []specs.LinuxNamespace{{Type: "mount"}, {Type: "pid"}, {Type: "cgroup"}, {Type: "network", Path: "/var/run/netns/p"},
				{Type: "ipc", Path: "/run/sallyport/p/ipc"}, {Type: "uts", Path: "/run/sallyport/p/uts"}},
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}, Pids: &specs.LinuxPids{Limit: &pids}},
			Seccomp: &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64},
				Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow}}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// run is a redeemed admission to run a container from a candidate.
func (e *env) run(c Candidate, id string) enforce.Grant {
	e.t.Helper()
	adm, err := e.gate.AdmitRun(context.Background(), enforce.RunRequest{Image: c.Image, Evidence: c.Evidence,
		Container: policy.Container{Name: "c", ID: id}, Spec: standing(e.t, id), Config: "{}",
		Pod: enforce.Pod{Namespace: "team", Name: "p", UID: "u"}, PodID: "p1"})
	if err != nil {
		e.t.Fatal(err)
	}
	g, err := e.gate.Redeem(adm)
	if err != nil {
		e.t.Fatal(err)
	}
	return g
}

// lookup is the one record of an image under a name.
func (e *env) lookup(id, name string) Candidate {
	e.t.Helper()
	c, err := e.Lookup(id, name)
	if err != nil || len(c) != 1 {
		e.t.Fatalf("Lookup(%s, %s) = %d candidates, %v; want one", id, name, len(c), err)
	}
	return c[0]
}
