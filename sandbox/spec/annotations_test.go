package spec

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

// all takes every annotation that there is.
var all = Annotations{Allowed: AnnotationNames()}

// TestAnnotationsDeniedByDefault: what a handler does not allow has no effect, and is named in the record.
func TestAnnotationsDeniedByDefault(t *testing.T) {
	said := map[string]string{"devices.crio.io": "/dev/fuse", "io.kubernetes.cri-o.ShmSize": "1Gi", "app": "web", "cpu-quota.crio.io": "disable",
		"unified-cgroup.crio.io/app": "memory.high=1", "org.systemd.property.ExecStart": "x", "run.oci.hooks": "x", "dev.gvisor.flag.network": "host"}
	for _, tt := range []struct {
		rules   Annotations
		devices int
		shm     int64
		ignored int
	}{
		{Annotations{}, 0, 0, 7},
		{Annotations{Allowed: []string{"devices.crio.io"}}, 1, 0, 6},
		{Annotations{Allowed: []string{"io.kubernetes.cri-o.Devices", "shm-size.crio.io"}}, 1, 1 << 30, 5},
		{all, 1, 1 << 30, 4}, // never: cpu-quota, systemd, crun, gVisor
	} {
		pod, c := PodConfig{Annotations: said}, ContainerConfig{Name: "app"}
		if err := tt.rules.Pod(&pod); err != nil {
			t.Fatal(err)
		}
		if err := tt.rules.Container(pod, &c); err != nil {
			t.Fatal(err)
		}
		if len(c.Devices) != tt.devices || pod.ShmSize != tt.shm || len(c.Ignored) != tt.ignored {
			t.Errorf("%q: devices %v, shm %d, ignored %q, want %d, %d, %d", tt.rules.Allowed, c.Devices, pod.ShmSize, c.Ignored, tt.devices, tt.shm, tt.ignored)
		}
	}
	in := usual()
	in.Container.Ignored = []string{"cpu-quota.crio.io"}
	out, err := Build(in)
	if err != nil || !slices.ContainsFunc(out.Weakenings, func(w string) bool { return strings.Contains(w, "cpu-quota.crio.io") }) {
		t.Errorf("Build() = %q, %v, want the annotation without effect named", out.Weakenings, err)
	}
}

// TestAnnotationsReachNoRuntime: whatever a pod writes, the spec's own annotations are ours
// (CVE-2024-3154, CVE-2026-53488).
func TestAnnotationsReachNoRuntime(t *testing.T) {
	in := usual()
	in.Pod.Annotations = map[string]string{"org.systemd.property.ExecStart": "x", "io.kubernetes.cri.container-type": "sandbox", "umask.crio.io": "0077"}
	if err := all.Container(in.Pod, &in.Container); err != nil {
		t.Fatal(err)
	}
	out, err := Build(in)
	if err != nil {
		t.Fatal(err)
	}
	for key := range out.Spec.Annotations {
		if !strings.HasPrefix(key, "sallyport/") {
			t.Errorf("the spec has annotation %q", key)
		}
	}
	if u := out.Spec.Process.User.Umask; u == nil || *u != 0o077 {
		t.Errorf("umask = %v, want 0077", u)
	}
}

// TestAnnotationsLiftNoLimit: an annotation sets a limit lower or not at all (CVE-2023-6476).
func TestAnnotationsLiftNoLimit(t *testing.T) {
	for _, tt := range []struct{ kubelet, value, want string }{
		{"", "memory.high=1000", "1000"},
		{"500", "memory.high=1000", "500"},
		{"max", "memory.high=1000", "1000"},
		{"5000", "memory.high=1000;memory.oom.group=1", "1000"},
		{"500", "memory.high=max", "error"},
		{"500", "memory.high=-1", "error"},
		{"500", "memory.oom.group=0", "error"},
		{"500", "memory.max=max", "error"},
		{"500", "memory.min=100", "error"},
		{"500", "pids.max=max", "error"},
		{"500", "cpu.max=max 100000", "error"},
		{"500", "", "error"},
		{"500", strings.Repeat("memory.high=1;", 100), "error"},
	} {
		c := ContainerConfig{Name: "app"}
		if tt.kubelet != "" {
			c.Resources.Unified = map[string]string{"memory.high": tt.kubelet}
		}
		err := all.Container(PodConfig{Annotations: map[string]string{"io.kubernetes.cri-o.UnifiedCgroup.app": tt.value}}, &c)
		got := c.Resources.Unified["memory.high"]
		if err != nil {
			got = "error"
		}
		if got != tt.want {
			t.Errorf("memory.high %q with %q = %q (%v), want %q", tt.kubelet, tt.value, got, err, tt.want)
		}
	}
}

func TestAnnotationDevices(t *testing.T) {
	for value, want := range map[string][]Device{
		"/dev/fuse":                       {{Source: "/dev/fuse", Destination: "/dev/fuse", Access: "rwm"}},
		"/dev/fuse:/dev/f:r,/dev/kvm:rw":  {{Source: "/dev/fuse", Destination: "/dev/f", Access: "r"}, {Source: "/dev/kvm", Destination: "/dev/kvm", Access: "rw"}},
		"":                                nil,
		"/etc/shadow":                     nil,
		"/dev/../etc/shadow":              nil,
		"dev/fuse":                        nil,
		"/dev/fuse:/a:r:w":                nil,
		"/dev/fuse:":                      {{Source: "/dev/fuse", Destination: "/dev/fuse"}}, // no access: Build refuses it
		strings.Repeat("/dev/fuse,", 100): nil,
	} {
		var c ContainerConfig
		err := all.Container(PodConfig{Annotations: map[string]string{"devices.crio.io": value}}, &c)
		if (err != nil) != (want == nil) || err == nil && !reflect.DeepEqual(c.Devices, want) {
			t.Errorf("%.40q = %+v, %v, want %+v", value, c.Devices, err, want)
		}
	}
}

func TestAnnotationSizes(t *testing.T) {
	for value, want := range map[string]int64{
		"65536": 65536, "64k": 64 << 10, "64Mi": 64 << 20, "1GiB": 1 << 30, "64G": 64 << 30,
		"": 0, "0": 0, "-1": 0, "65G": 0, "64Mi,uid=0": 0, "1e9": 0, "64 Mi": 0, "999999999999999g": 0, "64T": 0, "64M\n": 0,
	} {
		pod := PodConfig{Annotations: map[string]string{"shm-size.crio.io": value}}
		if err := all.Pod(&pod); (err != nil) != (want == 0) || pod.ShmSize != want {
			t.Errorf("%q = %d, %v, want %d", value, pod.ShmSize, err, want)
		}
	}
}

func TestAnnotationOthers(t *testing.T) {
	for _, tt := range []struct {
		name, value string
		ok          bool
	}{
		{"umask.crio.io", "0077", true}, {"umask.crio.io", "1000", false}, {"umask.crio.io", "8", false}, {"io.kubernetes.cri-o.umask", "", false},
		{"org.opencontainers.image.stopSignal", "SIGINT", true}, {"org.opencontainers.image.stopSignal", "SIG INT", false},
	} {
		var c ContainerConfig
		if err := all.Container(PodConfig{Annotations: map[string]string{tt.name: tt.value}}, &c); (err == nil) != tt.ok {
			t.Errorf("%s=%q: %v, want ok %t", tt.name, tt.value, err, tt.ok)
		}
	}
	c := ContainerConfig{StopSignal: "SIGHUP"}
	if err := all.Container(PodConfig{Annotations: map[string]string{"org.opencontainers.image.stopSignal": "SIGINT"}}, &c); err != nil || c.StopSignal != "SIGHUP" {
		t.Errorf("stop signal = %q, %v, want what CRI says", c.StopSignal, err)
	}
}

// TestAnnotationDefaults: the handler's default serves a pod that says nothing, or that may not say it.
func TestAnnotationDefaults(t *testing.T) {
	r := Annotations{Defaults: map[string]string{"umask.crio.io": "0077"}}
	for _, tt := range []struct {
		rules Annotations
		said  string
		want  uint32
	}{{r, "", 0o077}, {r, "0000", 0o077}, {Annotations{Allowed: []string{"umask.crio.io"}, Defaults: r.Defaults}, "0027", 0o027}} {
		pod, c := PodConfig{}, ContainerConfig{}
		if tt.said != "" {
			pod.Annotations = map[string]string{"umask.crio.io": tt.said}
		}
		if err := tt.rules.Container(pod, &c); err != nil || c.Umask == nil || *c.Umask != tt.want {
			t.Errorf("said %q: umask %v, %v, want %o", tt.said, c.Umask, err, tt.want)
		}
	}
}

// TestAnnotationRules: a handler can name only what has an effect; anything else is refused at start, with
// the reason where it is known.
func TestAnnotationRules(t *testing.T) {
	for name, want := range map[string]string{
		"devices.crio.io": "", "io.kubernetes.cri-o.Devices": "", "unified-cgroup.crio.io": "",
		"cpu-quota.crio.io": "lifts no limit", "io.kubernetes.cri-o.userns-mode": "hostUsers", "org.systemd.property.": "CVE-2024-3154",
		"io.containers.trace-syscall": "hook", "seccomp-profile.kubernetes.cri-o.io/app": "Localhost", "run.oci.": "order", "colour": "unknown", "": "unknown",
	} {
		err := Annotations{Allowed: []string{name}}.Check()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("Check(%q) = %v, want %q", name, err, want)
		}
	}
	if err := (Annotations{Defaults: map[string]string{"umask.crio.io": "9"}}).Check(); err == nil {
		t.Error("Check() of a default that cannot be read = nil")
	}
}
