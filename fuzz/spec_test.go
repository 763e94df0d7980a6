package fuzz

import (
	"encoding/json"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"sallyport/policy/baseline"
	"sallyport/sandbox/spec"
)

// askedNothing is a container in a pod that asks nothing, in a namespace at level restricted.
func askedNothing() spec.Input {
	return spec.Input{
		Pod:        spec.PodConfig{Namespace: "n", Name: "p", UID: "u", Hostname: "p"},
		PodID:      "p1",
		ID:         "c1",
		Container:  spec.ContainerConfig{Name: "c"},
		Image:      spec.ImageConfig{Entrypoint: []string{"/x"}, User: "1000"},
		Mounts:     []spec.ResolvedMount{{Destination: "/etc/hosts", Source: "/run/x/hosts", Kind: "file"}},
		Namespaces: spec.Namespaces{Network: "/var/run/netns/p1", IPC: "/run/x/ipc", UTS: "/run/x/uts"},
		Floor:      baseline.ForLevel(baseline.Restricted),
		Host:       spec.Host{CgroupVersion: 1, Controllers: []string{"pids", "memory", "cpu"}, Bounding: baseline.Capabilities(), Seccomp: true},
	}
}

func specFacts(in spec.Input) baseline.Facts {
	f := baseline.Facts{ID: in.ID, PodUID: in.Pod.UID, Pod: baseline.PodFacts{HostUsers: true}}
	for _, m := range in.Mounts {
		f.Mounts = append(f.Mounts, baseline.Mount{Destination: m.Destination, Source: m.Source, Kind: m.Kind, ReadOnly: m.ReadOnly})
	}
	return f
}

// neutral is a spec without what an image may decide: command, environment, directory and user.
func neutral(t *testing.T, s *specs.Spec) string {
	t.Helper()
	c, p := *s, *s.Process
	p.Args, p.Env, p.Cwd, p.User = nil, nil, "", specs.User{}
	c.Process = &p
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// FuzzImageNeverWeakensSpec: whatever an image's config and account files say, the spec differs from
// that of a harmless image in command, environment, directory and user alone, the judge finds nothing,
// and user 0 is a refusal (CVE-2026-53488, CVE-2024-40635, CVE-2024-21626, CVE-2022-4318).
func FuzzImageNeverWeakensSpec(f *testing.F) {
	for _, image := range []string{
		`{"entrypoint":["/x"],"user":"app:tty","env":["HOME=/\nroot::0:0::/:","PATH=/x"],"workingDir":"/proc/self/fd/7"}`,
		`{"cmd":["sh"],"user":"4294967296","labels":{"org.systemd.property.ExecStart":"x"},"volumes":["/proc","../.."],"stopSignal":"SIGKILL;x"}`,
		`{"entrypoint":["x"],"user":"0x0"}`, `{"entrypoint":["x"],"user":"00:00"}`, `{"entrypoint":["x"],"user":"-1"}`, `{"entrypoint":["x"],"user":"1000:0","workingDir":"x/../../proc"}`,
	} {
		f.Add([]byte(image), []byte("root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/ho\rme:/\n0x0:x:0:0::/:\n"), []byte("tty:x:5:app\nneg:x:-1:app\n"))
	}
	plain, err := spec.Build(askedNothing())
	if err != nil || len(plain.Refusals) > 0 {
		f.Fatal(plain.Refusals, err)
	}
	f.Fuzz(func(t *testing.T, image, passwd, group []byte) {
		in := askedNothing()
		in.Image = spec.ImageConfig{}
		if json.Unmarshal(image, &in.Image) != nil {
			return
		}
		in.Passwd, in.Group = passwd, group
		out, err := spec.Build(in)
		if err != nil {
			return
		}
		if got, want := neutral(t, out.Spec), neutral(t, plain.Spec); got != want {
			t.Fatalf("image %q changed the spec:\n%s\n%s", image, got, want)
		}
		if out.Spec.Process.User.UID == 0 && len(out.Refusals) == 0 {
			t.Fatalf("image %q runs as user 0", image)
		}
		if found := baseline.Check(out.JSON, specFacts(in), in.Floor); len(found) > 0 && len(out.Refusals) == 0 {
			t.Fatalf("image %q: the judge finds %v", image, found)
		}
		for _, e := range out.Spec.Process.Env {
			if strings.HasPrefix(e, "HOME=") && strings.ContainsAny(e, "\n\r\x00\x7f") {
				t.Fatalf("HOME is %q", e)
			}
		}
	})
}

// FuzzUser: a user made of digits is exactly that number or refused, IDs stay below 2^31, and the
// primary group is among the groups.
func FuzzUser(f *testing.F) {
	for _, user := range []string{"", "0", "00", "+0", "-1", "0x0", "app", "app:tty", "2147483647", "2147483648", "4294967296:4294967296", ":", "1:", ":5"} {
		f.Add(user, []byte("app:x:1000:1001::/:\n1000:x:0:0::/:\nroot:x:0:0"), []byte("tty:x:5:app,root\n"))
	}
	f.Fuzz(func(t *testing.T, user string, passwd, group []byte) {
		in := askedNothing()
		in.Floor.RootUser = baseline.Allow
		in.Image.User, in.Passwd, in.Group = user, passwd, group
		out, err := spec.Build(in)
		if err != nil {
			return
		}
		u := out.Spec.Process.User
		for _, id := range append([]uint32{u.UID, u.GID}, u.AdditionalGids...) {
			if id > math.MaxInt32 {
				t.Fatalf("user %q has ID %d", user, id)
			}
		}
		if !slices.Contains(u.AdditionalGids, u.GID) {
			t.Fatalf("user %q: group %d is not among %v", user, u.GID, u.AdditionalGids)
		}
		name, _, _ := strings.Cut(user, ":")
		if n, err := strconv.ParseUint(name, 10, 64); err == nil && name[0] != '+' && uint64(u.UID) != n {
			t.Fatalf("user %q became %d", user, u.UID)
		}
	})
}

var (
	plainSysctl = regexp.MustCompile(`\A(net\.[A-Za-z0-9_./-]+|kernel\.(shm|msg)[A-Za-z0-9_./-]*|kernel\.sem|fs\.mqueue\.[A-Za-z0-9_./-]+)\z`)
	plainValue  = regexp.MustCompile(`\A[A-Za-z0-9 \t.,:_/-]*\z`)
)

// FuzzSysctl: what the widest floor admits is a namespaced name without a way out of /proc/sys and a
// value on one line (CVE-2022-0811), and nothing of a namespace that is the node's (CVE-2022-0532).
func FuzzSysctl(f *testing.F) {
	for _, s := range [][2]string{
		{"net.ipv4.ip_forward", "1"}, {"kernel.shm_rmid_forced", "1+kernel.core_pattern=|/x"}, {"kernel.core_pattern", "|/x"},
		{"net/../kernel/core_pattern", "x"}, {"net.ipv4.conf.eth0/1.rp_filter", "1"}, {"net.x", "1\nkernel.core_pattern=x"}, {"kernel/shmmax", "1"},
	} {
		f.Add(s[0], s[1])
	}
	floor := baseline.ForLevel(baseline.Privileged)
	f.Fuzz(func(t *testing.T, name, value string) {
		facts := baseline.PodFacts{HostUsers: true, Sysctls: map[string]string{name: value}}
		if len(baseline.CheckPod(facts, floor)) > 0 {
			return
		}
		dotted, ok := baseline.Dotted(name)
		if !ok || !plainSysctl.MatchString(dotted) || !plainValue.MatchString(value) {
			t.Fatalf("sysctl %q=%q is admitted", name, value)
		}
		if path := "/" + strings.NewReplacer(".", "/", "/", ".").Replace(dotted) + "/"; strings.Contains(path, "/../") || strings.Contains(path, "//") {
			t.Fatalf("sysctl %q leads to %q", name, path)
		}
		facts.HostNetwork, facts.HostIPC = true, true
		if len(baseline.CheckPod(facts, floor)) == 0 {
			t.Fatalf("sysctl %q is admitted in the node's namespaces", name)
		}
	})
}

// FuzzFinalSpec: bytes in which the judge finds nothing are one canonical OCI spec that keeps the
// hardening, however they were made.
func FuzzFinalSpec(f *testing.F) {
	in := askedNothing()
	out, err := spec.Build(in)
	if err != nil {
		f.Fatal(err)
	}
	// Few system calls, so that the fuzzer has little to minimise.
	out.Spec.Linux.Seccomp.Syscalls = []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow}}
	if out.JSON, err = json.Marshal(out.Spec); err != nil {
		f.Fatal(err)
	}
	f.Add(out.JSON)
	for _, change := range [][2]string{
		{`"noNewPrivileges":true,`, ``}, {`"rootfs"`, `"/"`}, {`"capabilities":{`, `"capabilities":{"bounding":["CAP_SYS_ADMIN"]`},
		{`"process":`, `"hooks":{"prestart":[{"path":"/x"}]},"process":`}, {`"mounts/0"`, `"/etc"`}, {`"cwd":"/"`, `"cwd":"/proc/self"`},
		{`{"type":"mount"}`, `{"type":"mount","path":"/proc/1/ns/mnt"}`},
	} {
		f.Add([]byte(strings.Replace(string(out.JSON), change[0], change[1], 1)))
	}
	facts, floor := specFacts(in), in.Floor
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(baseline.Check(data, facts, floor)) > 0 {
			return
		}
		var s specs.Spec
		if err := json.Unmarshal(data, &s); err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(s)
		if err != nil || string(again) != string(data) {
			t.Fatalf("admitted bytes are not canonical: %v", err)
		}
		p := s.Process
		if !p.NoNewPrivileges || p.User.UID == 0 || s.Hooks != nil || s.Root.Path != "rootfs" || s.Linux.Seccomp == nil || len(s.Linux.Devices) > 0 ||
			strings.HasPrefix(p.Cwd, "/proc/") || len(p.Capabilities.Bounding) > 1 || len(s.Linux.Namespaces) < 5 || len(s.Linux.MaskedPaths) == 0 {
			t.Fatalf("admitted: %s", data)
		}
		for _, m := range s.Mounts {
			if m.Type == "bind" && m.Source != "mounts/0" {
				t.Fatalf("admitted a mount of %q", m.Source)
			}
		}
	})
}

// FuzzHardening: hardening.yaml is a floor whose meet with the tightest level is no looser than that
// level, or an error on one line.
func FuzzHardening(f *testing.F) {
	for _, s := range []string{
		"level: baseline\nseccomp: allow\n", "level: privileged\ncapabilities: [ALL]\nhostPaths: [/, =/run]\nsysctls: [net.*]\n",
		"level: baseline\nlevel: privileged\n", "level: &a baseline\nseccomp: *a\n", "level: restricted\nhostPaths: ['/a/../b']\n", "{", "---\n---\n",
	} {
		f.Add([]byte(s))
	}
	tight := baseline.ForLevel(baseline.Restricted)
	f.Fuzz(func(t *testing.T, data []byte) {
		floor, err := baseline.ParseFloor(data)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Fatalf("error on more than one line: %q", err)
			}
			return
		}
		m := baseline.Meet(floor, tight)
		if m.Seccomp > tight.Seccomp || m.Privileged > tight.Privileged || m.HostNetwork > tight.HostNetwork || m.RootUser > tight.RootUser ||
			len(m.HostPaths) > 0 || m.AdmitsCapability("CAP_SYS_ADMIN") || m.AdmitsSysctl("kernel.core_pattern") || floor.AdmitsSysctl("kernel.core_pattern") {
			t.Fatalf("floor %+v met with restricted is %+v", floor, m)
		}
	})
}

// FuzzAnnotations: whatever a pod's annotations say, they lift no limit (CVE-2023-6476), reach no OCI
// runtime (CVE-2024-3154) and say nothing where a handler allows none.
func FuzzAnnotations(f *testing.F) {
	for _, s := range [][2]string{
		{"unified-cgroup.crio.io/c", "memory.high=900;memory.oom.group=1"}, {"io.kubernetes.cri-o.UnifiedCgroup.c", "memory.max=max;cgroup.procs=1"},
		{"devices.crio.io", "/dev/fuse:/dev/x:rwm,/dev/kvm"}, {"io.kubernetes.cri-o.ShmSize", "64Mi"}, {"umask.crio.io", "0777"},
		{"org.systemd.property.ExecStart", "/bin/sh"}, {"run.oci.hooks.stdout", "/x"}, {"org.opencontainers.image.stopSignal", "9"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		for _, rules := range []spec.Annotations{{}, {Allowed: spec.AnnotationNames()}} {
			in := askedNothing()
			in.Host.CgroupVersion = 2
			in.Pod.Annotations = map[string]string{name: value}
			in.Container.Resources.Unified = map[string]string{"memory.high": "1000"}
			if rules.Pod(&in.Pod) != nil || rules.Container(in.Pod, &in.Container) != nil {
				continue
			}
			if in.Pod.ShmSize < 0 || in.Pod.ShmSize > 64<<30 {
				t.Fatalf("%q=%q: shm of %d bytes", name, value, in.Pod.ShmSize)
			}
			if c := in.Container; rules.Allowed == nil && (in.Pod.ShmSize != 0 || len(c.Devices) > 0 || c.Umask != nil || c.StopSignal != "" || len(c.Resources.Unified) != 1) {
				t.Fatalf("%q=%q has an effect where none is allowed", name, value)
			}
			in.Container.Devices = nil // the floor's
			out, err := spec.Build(in)
			if err != nil {
				continue
			}
			for key := range out.Spec.Annotations {
				if !strings.HasPrefix(key, "sallyport/") {
					t.Fatalf("%q=%q: the spec has annotation %q", name, value, key)
				}
			}
			high, err := strconv.Atoi(out.Spec.Linux.Resources.Unified["memory.high"])
			if err != nil || high > 1000 {
				t.Fatalf("%q=%q: memory.high %q", name, value, out.Spec.Linux.Resources.Unified["memory.high"])
			}
			for key := range out.Spec.Linux.Resources.Unified {
				if key != "memory.high" && key != "memory.oom.group" {
					t.Fatalf("%q=%q sets %q", name, value, key)
				}
			}
			if found := baseline.Check(out.JSON, specFacts(in), in.Floor); len(found) > 0 && len(out.Refusals) == 0 {
				t.Fatalf("%q=%q: %v", name, value, found)
			}
		}
	})
}
