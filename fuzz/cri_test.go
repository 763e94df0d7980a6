package fuzz

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/internal/config"
	"sallyport/internal/cri"
	"sallyport/sandbox/spec"
)

// FuzzConfig: whatever a configuration file says, an error is one line that names the file, and what is
// read and passes the checks has separate directories and a known policy source.
func FuzzConfig(f *testing.F) {
	packaged, err := os.ReadFile(filepath.Join("..", "packaging", "sallyport.toml"))
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{string(packaged), strings.ReplaceAll(string(packaged), "\n# ", "\n"), "root = \"/x\"\n[log]\nlevle = 1\n",
		"[runtime.handlers.\"a b\"]\n", "a.b.c = 1", "[[cri]]", "[timeout]\npull = \"-1s\"", "root = \"/a\nb\"", "[network]\nbin_dirs = [\"\"]"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c := config.Default()
		if err := config.Decode("/etc/file.toml", data, &c); err != nil {
			if !strings.Contains(err.Error(), "/etc/file.toml") || strings.Contains(err.Error(), "\n") {
				t.Fatalf("Decode(%q) = %q, want one line that names the file", data, err)
			}
			return
		}
		if len(config.Check(c)) > 0 {
			return
		}
		for _, p := range []string{c.Root, c.State, c.CRI.Socket, c.Policy.Dir} {
			if !filepath.IsAbs(p) || filepath.Clean(p) != p || p == "/" {
				t.Fatalf("Check() passes path %q", p)
			}
		}
		if c.Policy.Source != "local-unsigned" || strings.HasPrefix(c.State+"/", c.Root+"/") || strings.HasPrefix(c.Root+"/", c.State+"/") {
			t.Fatalf("Check() passes %+v", c)
		}
	})
}

// FuzzCreateContainer: whatever a client sends, the translation refuses by name or gives a configuration
// that is remembered as it is, and a spec that comes of it without a refusal at level restricted is
// hardened in all that the request could ask for.
func FuzzCreateContainer(f *testing.F) {
	for _, req := range []*v1.CreateContainerRequest{
		{},
		{Config: &v1.ContainerConfig{Metadata: &v1.ContainerMetadata{Name: "c"}, Image: &v1.ImageSpec{Image: "x"}, Command: []string{"/x"},
			Linux: &v1.LinuxContainerConfig{SecurityContext: &v1.LinuxContainerSecurityContext{RunAsUser: &v1.Int64Value{Value: 1000},
				NamespaceOptions: &v1.NamespaceOption{Pid: v1.NamespaceMode_CONTAINER}}}}},
		{Config: &v1.ContainerConfig{Metadata: &v1.ContainerMetadata{Name: "c"}, Image: &v1.ImageSpec{Image: "x"}, Command: []string{"/x"},
			Envs: []*v1.KeyValue{{Key: "HOME", Value: []byte("/\nroot::0:0")}}, Annotations: map[string]string{"org.systemd.property.ExecStart": "x"},
			Mounts:  []*v1.Mount{{ContainerPath: "/proc/../etc", HostPath: "/", Propagation: 2}},
			Devices: []*v1.Device{{ContainerPath: "/dev/x", HostPath: "/dev/mem", Permissions: "rwm"}},
			Linux: &v1.LinuxContainerConfig{Resources: &v1.LinuxContainerResources{OomScoreAdj: -1000, CpuShares: 1 << 40},
				SecurityContext: &v1.LinuxContainerSecurityContext{Privileged: true, RunAsUser: &v1.Int64Value{Value: 1 << 32},
					Capabilities:     &v1.Capability{AddCapabilities: []string{"ALL"}, AddAmbientCapabilities: []string{"SYS_ADMIN"}},
					NamespaceOptions: &v1.NamespaceOption{Network: 2, Pid: 2, Ipc: 2}}}}},
	} {
		b, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var req v1.CreateContainerRequest
		if proto.Unmarshal(data, &req) != nil {
			return
		}
		if _, err := cri.PodConfig(req.GetSandboxConfig(), ""); err != nil {
			oneLine(t, err)
		}
		in := askedNothing()
		cfg, err := cri.ContainerConfig(req.GetConfig(), in.Pod)
		if err != nil {
			return
		}
		var back spec.ContainerConfig
		if b, err := json.Marshal(cfg); err != nil || json.Unmarshal(b, &back) != nil {
			t.Fatalf("the configuration cannot be remembered: %v", err)
		}
		a, _ := json.Marshal(cfg)
		b, _ := json.Marshal(back)
		if !reflect.DeepEqual(a, b) {
			t.Fatalf("remembered %s, asked %s", b, a)
		}
		in.Container, in.Image = cfg, spec.ImageConfig{Entrypoint: []string{"/x"}}
		out, err := spec.Build(in)
		if err != nil || len(out.Refusals) > 0 {
			return
		}
		hardened(t, out.Spec)
	})
}

// hardened is what no request may take away at level restricted.
func hardened(t *testing.T, s *specs.Spec) {
	t.Helper()
	p := s.Process
	switch {
	case !p.NoNewPrivileges:
		t.Fatal("no_new_privs is off")
	case s.Linux.Seccomp == nil:
		t.Fatal("no seccomp profile")
	case p.User.UID == 0:
		t.Fatal("runs as root")
	case len(p.Capabilities.Inheritable)+len(p.Capabilities.Ambient) > 0:
		t.Fatalf("capabilities %+v", p.Capabilities)
	case len(s.Linux.Devices) > 0 || s.Hooks != nil:
		t.Fatal("devices or hooks")
	}
	have := map[specs.LinuxNamespaceType]bool{}
	for _, n := range s.Linux.Namespaces {
		have[n.Type] = true
	}
	for _, kind := range []specs.LinuxNamespaceType{specs.MountNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.PIDNamespace} {
		if !have[kind] {
			t.Fatalf("no %s namespace of its own", kind)
		}
	}
}
