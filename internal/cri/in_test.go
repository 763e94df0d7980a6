package cri

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/sandbox/spec"
)

func fullPod() *v1.PodSandboxConfig {
	return &v1.PodSandboxConfig{
		Metadata: &v1.PodSandboxMetadata{Namespace: "ns", Name: "pod", Uid: "u", Attempt: 3}, Hostname: "h", LogDirectory: "/var/log/pods/x",
		DnsConfig:    &v1.DNSConfig{Servers: []string{"10.0.0.10"}, Searches: []string{"svc"}, Options: []string{"ndots:5"}},
		PortMappings: []*v1.PortMapping{{Protocol: v1.Protocol_UDP, ContainerPort: 53, HostPort: 5353, HostIp: "127.0.0.1"}},
		Labels:       map[string]string{"l": "1"}, Annotations: map[string]string{"a": "1"},
		Linux: &v1.LinuxPodSandboxConfig{
			CgroupParent: "/kubepods/x", Sysctls: map[string]string{"net.ipv4.ip_forward": "0"},
			SecurityContext: &v1.LinuxSandboxSecurityContext{
				NamespaceOptions: &v1.NamespaceOption{Network: v1.NamespaceMode_NODE, Pid: v1.NamespaceMode_CONTAINER, Ipc: v1.NamespaceMode_POD,
					UsernsOptions: &v1.UserNamespace{Mode: v1.NamespaceMode_POD, Uids: []*v1.IDMapping{{HostId: 100000, ContainerId: 0, Length: 65536}}}},
				RunAsUser: &v1.Int64Value{Value: 7}, SupplementalGroups: []int64{5}, SupplementalGroupsPolicy: v1.SupplementalGroupsPolicy_Strict,
				Seccomp: &v1.SecurityProfile{ProfileType: v1.SecurityProfile_Unconfined}},
		},
	}
}

func TestPodConfig(t *testing.T) {
	got, err := PodConfig(fullPod(), "runc")
	if err != nil {
		t.Fatal(err)
	}
	uid := int64(7)
	want := spec.PodConfig{
		Namespace: "ns", Name: "pod", UID: "u", Attempt: 3, Hostname: "h", LogDirectory: "/var/log/pods/x", Handler: "runc", CgroupParent: "/kubepods/x",
		DNS:          &spec.DNS{Servers: []string{"10.0.0.10"}, Searches: []string{"svc"}, Options: []string{"ndots:5"}},
		PortMappings: []spec.PortMapping{{Protocol: "udp", ContainerPort: 53, HostPort: 5353, HostIP: "127.0.0.1"}},
		Labels:       map[string]string{"l": "1"}, Annotations: map[string]string{"a": "1"}, Sysctls: map[string]string{"net.ipv4.ip_forward": "0"},
		Security: spec.PodSecurity{
			Namespaces: spec.NamespaceOptions{Network: spec.NamespaceNode, PID: spec.NamespaceContainer, IPC: spec.NamespacePod,
				User: spec.UserNamespace{Mode: spec.NamespacePod, UIDs: []spec.IDMapping{{Host: 100000, Length: 65536}}}},
			RunAsUser: &uid, SupplementalGroups: []int64{5}, StrictGroups: true,
			Seccomp: spec.Profile{Kind: spec.Unconfined}, AppArmor: spec.Profile{Kind: spec.RuntimeDefault},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("PodConfig() = %+v, want %+v", got, want)
	}
}

func TestPodConfigRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*v1.PodSandboxConfig)
	}{
		{"no metadata", func(c *v1.PodSandboxConfig) { c.Metadata = nil }},
		{"no namespace", func(c *v1.PodSandboxConfig) { c.Metadata.Namespace = "" }},
		{"no name", func(c *v1.PodSandboxConfig) { c.Metadata.Name = "" }},
		{"no uid", func(c *v1.PodSandboxConfig) { c.Metadata.Uid = "" }},
		{"NUL", func(c *v1.PodSandboxConfig) { c.LogDirectory = "/var/\x00" }},
		{"long", func(c *v1.PodSandboxConfig) { c.Hostname = strings.Repeat("h", maxText+1) }},
		{"user namespace of a container", func(c *v1.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions.Mode = v1.NamespaceMode_CONTAINER
		}},
		{"user namespace of another", func(c *v1.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions.Mode = v1.NamespaceMode_TARGET
		}},
		{"group without user", func(c *v1.PodSandboxConfig) {
			c.Linux.SecurityContext.RunAsUser, c.Linux.SecurityContext.RunAsGroup = nil, &v1.Int64Value{Value: 1}
		}},
	} {
		c := fullPod()
		tt.change(c)
		if _, err := PodConfig(c, ""); !errors.Is(err, errInvalid) {
			t.Errorf("%s: PodConfig() = %v, want errInvalid", tt.name, err)
		}
	}
	if _, err := PodConfig(nil, ""); !errors.Is(err, errInvalid) {
		t.Errorf("PodConfig(nil) = %v, want errInvalid", err)
	}
}

func fullContainer() *v1.ContainerConfig {
	return &v1.ContainerConfig{
		Metadata: &v1.ContainerMetadata{Name: "c", Attempt: 2}, Image: &v1.ImageSpec{Image: "sha256:x", UserSpecifiedImage: "r.example/app:v1"},
		Command: []string{"/bin/x"}, Args: []string{"a"}, WorkingDir: "/w", Envs: []*v1.KeyValue{{Key: "K", Value: []byte{0xff}}},
		Mounts:  []*v1.Mount{{ContainerPath: "/m", HostPath: "/h", Readonly: true, RecursiveReadOnly: true}},
		Devices: []*v1.Device{{ContainerPath: "/dev/x", HostPath: "/dev/y", Permissions: "rw"}}, LogPath: "c/2.log", Tty: true,
		StopSignal: v1.Signal_SIGNAL_SIGRTMINPLUS3,
		Linux: &v1.LinuxContainerConfig{
			Resources: &v1.LinuxContainerResources{CpuQuota: 50000, HugepageLimits: []*v1.HugepageLimit{{PageSize: "2MB", Limit: 4}}},
			SecurityContext: &v1.LinuxContainerSecurityContext{
				Capabilities:     &v1.Capability{AddCapabilities: []string{"NET_ADMIN"}, DropCapabilities: []string{"ALL"}},
				NamespaceOptions: &v1.NamespaceOption{Pid: v1.NamespaceMode_TARGET, TargetId: "t"}, RunAsUser: &v1.Int64Value{Value: 0},
				NoNewPrivs: true, ReadonlyRootfs: true, MaskedPaths: []string{"/proc/x"},
				Seccomp: &v1.SecurityProfile{ProfileType: v1.SecurityProfile_Localhost, LocalhostRef: "/p.json"}, ApparmorProfile: "localhost/mine"},
		},
	}
}

func TestContainerConfig(t *testing.T) {
	got, err := ContainerConfig(fullContainer(), spec.PodConfig{})
	if err != nil {
		t.Fatal(err)
	}
	uid := int64(0)
	want := spec.ContainerConfig{
		Name: "c", Attempt: 2, Image: spec.ImageRef{Image: "sha256:x", UserSpecified: "r.example/app:v1"}, Command: []string{"/bin/x"}, Args: []string{"a"},
		WorkingDir: "/w", Env: []spec.EnvVar{{Name: "K", Value: []byte{0xff}}}, LogPath: "c/2.log", TTY: true, StopSignal: "SIGRTMIN+3",
		Mounts:    []spec.Mount{{Destination: "/m", Source: "/h", ReadOnly: true, RecursiveReadOnly: true, Propagation: spec.PropagationPrivate}},
		Devices:   []spec.Device{{Destination: "/dev/x", Source: "/dev/y", Access: "rw"}},
		Resources: spec.Resources{CPUQuota: 50000, Hugepages: []spec.HugepageLimit{{PageSize: "2MB", Limit: 4}}},
		Security: spec.ContainerSecurity{
			Capabilities: spec.Capabilities{Add: []string{"NET_ADMIN"}, Drop: []string{"ALL"}},
			Namespaces:   spec.NamespaceOptions{Network: spec.NamespacePod, PID: spec.NamespaceTarget, IPC: spec.NamespacePod, Target: "t"},
			RunAsUser:    &uid, NoNewPrivs: true, ReadOnlyRootfs: true, MaskedPaths: []string{"/proc/x"},
			Seccomp: spec.Profile{Kind: spec.Localhost, Ref: "/p.json"}, AppArmor: spec.Profile{Kind: spec.Localhost, Ref: "mine"},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("ContainerConfig() = %+v, want %+v", got, want)
	}
}

func TestContainerConfigRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*v1.ContainerConfig)
	}{
		{"no metadata", func(c *v1.ContainerConfig) { c.Metadata = nil }},
		{"no image", func(c *v1.ContainerConfig) { c.Image = nil }},
		{"empty name of a variable", func(c *v1.ContainerConfig) { c.Envs[0].Key = "" }},
		{"equals sign in a variable's name", func(c *v1.ContainerConfig) { c.Envs[0].Key = "A=B" }},
		{"mount of nothing", func(c *v1.ContainerConfig) { c.Mounts[0].HostPath = "" }},
		{"mount of two things", func(c *v1.ContainerConfig) { c.Mounts[0].Image = &v1.ImageSpec{Image: "x"} }},
		{"mount to nowhere", func(c *v1.ContainerConfig) { c.Mounts[0].ContainerPath = "" }},
		{"recursive without read-only", func(c *v1.ContainerConfig) { c.Mounts[0].Readonly = false }},
		{"recursive and shared", func(c *v1.ContainerConfig) {
			c.Mounts[0].Propagation = v1.MountPropagation_PROPAGATION_BIDIRECTIONAL
		}},
		{"unknown propagation", func(c *v1.ContainerConfig) { c.Mounts[0].Propagation = 9 }},
		{"two users", func(c *v1.ContainerConfig) { c.Linux.SecurityContext.RunAsUsername = "root" }},
		{"group without user", func(c *v1.ContainerConfig) {
			c.Linux.SecurityContext.RunAsUser, c.Linux.SecurityContext.RunAsGroup = nil, &v1.Int64Value{Value: 1}
		}},
		{"privileged in a plain pod", func(c *v1.ContainerConfig) { c.Linux.SecurityContext.Privileged = true }},
		{"stdin once without stdin", func(c *v1.ContainerConfig) { c.StdinOnce = true }},
		{"NUL", func(c *v1.ContainerConfig) { c.LogPath = "\x00" }},
	} {
		c := fullContainer()
		tt.change(c)
		if _, err := ContainerConfig(c, spec.PodConfig{}); !errors.Is(err, errInvalid) {
			t.Errorf("%s: ContainerConfig() = %v, want errInvalid", tt.name, err)
		}
	}
	c := fullContainer()
	c.Linux.SecurityContext.Privileged = true
	if _, err := ContainerConfig(c, spec.PodConfig{Security: spec.PodSecurity{Privileged: true}}); err != nil {
		t.Errorf("privileged in a privileged pod: ContainerConfig() = %v, want nil", err)
	}
}

// The user namespace is the pod's whatever the container says, and unmasking is asked for only there.
func TestContainerTakesUserNamespaceOfPod(t *testing.T) {
	c := fullContainer()
	c.Linux.SecurityContext.MaskedPaths = nil
	plain, err := ContainerConfig(c, spec.PodConfig{})
	if err != nil || plain.Security.Unmasked || plain.Security.Namespaces.User.Mode != "" {
		t.Errorf("in a plain pod: %+v, %v, want no request to unmask", plain.Security, err)
	}
	pod := spec.PodConfig{Security: spec.PodSecurity{Namespaces: spec.NamespaceOptions{User: spec.UserNamespace{Mode: spec.NamespacePod}}}}
	own, err := ContainerConfig(c, pod)
	if err != nil || !own.Security.Unmasked || own.Security.Namespaces.User.Mode != spec.NamespacePod {
		t.Errorf("in a pod with a user namespace: %+v, %v, want a request to unmask", own.Security, err)
	}
}

func TestProfiles(t *testing.T) {
	for _, tt := range []struct {
		p    *v1.SecurityProfile
		old  string
		want spec.Profile
	}{
		{nil, "", spec.Profile{Kind: spec.RuntimeDefault}},
		{nil, "runtime/default", spec.Profile{Kind: spec.RuntimeDefault}},
		{nil, "nonsense", spec.Profile{Kind: spec.RuntimeDefault}},
		{nil, "unconfined", spec.Profile{Kind: spec.Unconfined}},
		{nil, "localhost//a.json", spec.Profile{Kind: spec.Localhost, Ref: "/a.json"}},
		{&v1.SecurityProfile{}, "unconfined", spec.Profile{Kind: spec.RuntimeDefault}},
		{&v1.SecurityProfile{ProfileType: 99}, "", spec.Profile{Kind: spec.RuntimeDefault}},
	} {
		if got := profile(tt.p, tt.old); got != tt.want {
			t.Errorf("profile(%v, %q) = %v, want %v", tt.p, tt.old, got, tt.want)
		}
	}
}

// TestSeccompThatNobodySet: api.proto calls it identical with unconfined, so it is a request to weaken,
// which the floor answers; it must not look like a request for the default where the floor allows it.
func TestSeccompThatNobodySet(t *testing.T) {
	for _, tt := range []struct {
		name    string
		profile *v1.SecurityProfile
		old     string
		want    spec.Profile
	}{
		{"nothing", nil, "", spec.Profile{Kind: spec.Unconfined}},
		{"empty message", &v1.SecurityProfile{}, "", spec.Profile{Kind: spec.RuntimeDefault}},
		{"old string", nil, "runtime/default", spec.Profile{Kind: spec.RuntimeDefault}},
	} {
		if got := seccompIn(tt.profile, tt.old); got != tt.want {
			t.Errorf("%s: seccompIn() = %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestUserNamespaceNeedsHandler: a pod that asks for what no handler has is refused before anything is
// made; a handler that has it lets it pass.
func TestUserNamespaceNeedsHandler(t *testing.T) {
	cfg := spec.PodConfig{Security: spec.PodSecurity{Namespaces: spec.NamespaceOptions{User: spec.UserNamespace{Mode: spec.NamespacePod}}}}
	s := &Server{o: Options{Default: "runc", Handlers: []Handler{{Name: "runc"}}}}
	if err := s.userNamespace(cfg); !errors.Is(err, errInvalid) {
		t.Errorf("userNamespace() = %v, want errInvalid", err)
	}
	s.o.Handlers[0].UserNamespaces = true
	if err := s.userNamespace(cfg); err != nil {
		t.Errorf("userNamespace() of a handler that has them = %v, want nil", err)
	}
	s.o.Handlers[0].UserNamespaces = false
	cfg.Security.Namespaces.User.Mode = spec.NamespaceNode
	if err := s.userNamespace(cfg); err != nil {
		t.Errorf("userNamespace() of the node's = %v, want nil", err)
	}
}

func TestSignalsRoundTrip(t *testing.T) {
	for value := range v1.Signal_name {
		sig := v1.Signal(value)
		if got := signalValue(signalName(sig)); got != sig {
			t.Errorf("signalValue(signalName(%s)) = %s", sig, got)
		}
	}
	if signalName(v1.Signal(999)) != "" || signalValue("SIGNONSENSE") != v1.Signal_SIGNAL_RUNTIME_DEFAULT {
		t.Error("an unknown signal is not the runtime's default")
	}
}

func TestCredentials(t *testing.T) {
	for _, tt := range []struct {
		auth       *v1.AuthConfig
		user, pass string
		bad        bool
	}{
		{nil, "", "", false},
		{&v1.AuthConfig{Username: "u", Password: "p"}, "u", "p", false},
		{&v1.AuthConfig{Auth: "dTpwOng="}, "u", "p:x", false},
		{&v1.AuthConfig{Username: "u", Password: "p", Auth: "!"}, "u", "p", false},
		{&v1.AuthConfig{Auth: "!"}, "", "", true},
		{&v1.AuthConfig{Auth: "dXA="}, "", "", true},
	} {
		got, err := credentials(tt.auth)
		if (err != nil) != tt.bad || got.Username != tt.user || got.Password != tt.pass {
			t.Errorf("credentials(%v) = %v, %v", tt.auth, got, err)
		}
	}
}

func TestSamePod(t *testing.T) {
	have := spec.PodConfig{Namespace: "ns", Name: "pod", UID: "u"}
	for _, tt := range []struct {
		md  *v1.PodSandboxMetadata
		bad bool
	}{
		{&v1.PodSandboxMetadata{Namespace: "ns", Name: "pod", Uid: "u"}, false},
		{nil, true},
		{&v1.PodSandboxMetadata{Name: "pod", Uid: "u"}, true},
		{&v1.PodSandboxMetadata{Namespace: "other", Name: "pod", Uid: "u"}, true},
		{&v1.PodSandboxMetadata{Namespace: "ns", Name: "other", Uid: "u"}, true},
		{&v1.PodSandboxMetadata{Namespace: "ns", Name: "pod", Uid: "other"}, true},
	} {
		if err := samePod(have, &v1.PodSandboxConfig{Metadata: tt.md}); (err != nil) != tt.bad {
			t.Errorf("samePod(%v) = %v", tt.md, err)
		}
	}
}

func TestSelects(t *testing.T) {
	labels := map[string]string{"a": "1", "empty": ""}
	for _, tt := range []struct {
		sel  map[string]string
		want bool
	}{{nil, true}, {map[string]string{"a": "1"}, true}, {map[string]string{"a": "2"}, false}, {map[string]string{"b": ""}, false}, {map[string]string{"empty": ""}, true}} {
		if got := selects(tt.sel, labels); got != tt.want {
			t.Errorf("selects(%v) = %t, want %t", tt.sel, got, tt.want)
		}
	}
}

func TestMCS(t *testing.T) {
	seen := map[string]bool{}
	for i := range 200 {
		level := mcs(strings.Repeat("x", i))
		if level != mcs(strings.Repeat("x", i)) {
			t.Fatal("mcs() is not a function of the ID")
		}
		seen[level] = true
		var a, b int
		if n, _ := sscan(level, &a, &b); n != 2 || a >= b || b >= categories {
			t.Errorf("mcs() = %q, want two ordered categories", level)
		}
	}
	if len(seen) < 190 {
		t.Errorf("%d levels of 200 IDs", len(seen))
	}
}

func sscan(level string, a, b *int) (int, error) { return fmt.Sscanf(level, "s0:c%d,c%d", a, b) }

type named string

func (n named) ID() string { return string(n) }

// TestUnique: what starts one ID finds it; what starts two is refused, so that no command meant for one
// reaches another.
func TestUnique(t *testing.T) {
	whole := strings.Repeat("ab", 32)
	all := []named{named(whole), named("cd01" + whole[4:]), named("cd02" + whole[4:]), named(whole + "0")}
	none := errors.New("none")
	for _, tt := range []struct {
		id   string
		want named
		err  error
	}{
		{"cd01", all[1], nil},
		{"cd02ab", all[2], nil},
		{"cd0", "", none},  // too short
		{"cd03", "", none}, // nobody's
		{"", "", none},
		{whole, "", none}, // whole: Pods knows it or not
		{whole[:63], "", errInvalid},
	} {
		if got, err := unique(tt.id, all, none); got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("unique(%q) = %q, %v, want %q, %v", tt.id, got, err, tt.want, tt.err)
		}
	}
}
