package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/net/multiplex"
	"github.com/containerd/nri/pkg/stub"
	"github.com/containerd/ttrpc"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/test/node"
)

// integrator is a real NRI plugin.
type integrator struct {
	mu     sync.Mutex
	heard  []string
	adjust func(*api.Container, *api.ContainerAdjustment) error
}

func (p *integrator) hear(what, id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard = append(p.heard, what+" "+id)
}

func (p *integrator) told() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.heard)
}

func (p *integrator) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.hear("RunPod", pod.GetId())
	return nil
}

func (p *integrator) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.hear("StopPod", pod.GetId())
	return nil
}

func (p *integrator) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.hear("RemovePod", pod.GetId())
	return nil
}

func (p *integrator) UpdatePodSandbox(_ context.Context, pod *api.PodSandbox, _, _ *api.LinuxResources) error {
	p.hear("UpdatePod", pod.GetId())
	return nil
}

func (p *integrator) PostUpdatePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.hear("PostUpdatePod", pod.GetId())
	return nil
}

func (p *integrator) CreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	p.hear("Create", c.GetId())
	a := &api.ContainerAdjustment{}
	if p.adjust != nil {
		if err := p.adjust(c, a); err != nil {
			return nil, nil, err
		}
	}
	return a, nil, nil
}

func (p *integrator) PostCreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.hear("PostCreate", c.GetId())
	return nil
}

func (p *integrator) StartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.hear("Start", c.GetId())
	return nil
}

func (p *integrator) PostStartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.hear("PostStart", c.GetId())
	return nil
}

func (p *integrator) UpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container, r *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	p.hear("Update", c.GetId())
	u := &api.ContainerUpdate{ContainerId: c.GetId()}
	u.SetLinuxCPUShares(r.GetCpu().GetShares().GetValue() + 1)
	return []*api.ContainerUpdate{u}, nil
}

func (p *integrator) PostUpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.hear("PostUpdate", c.GetId())
	return nil
}

func (p *integrator) StopContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	p.hear("Stop", c.GetId())
	return nil, nil
}

func (p *integrator) RemoveContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.hear("Remove", c.GetId())
	return nil
}

// plugged is a node with plugin 10-test connected, and its stub.
func plugged(t *testing.T, policy map[string]string, config string) (*world, *integrator, stub.Stub) {
	t.Helper()
	w := start(t, policy, fmt.Sprintf("[nri]\nplugins = [\"10-test\"]\nsocket = %q\nplugin_dir = \"\"\n%s", filepath.Join(scratch, "nri.sock"), config))
	p := &integrator{}
	s, err := stub.New(p, stub.WithPluginName("test"), stub.WithPluginIdx("10"), stub.WithSocketPath(w.Path("nri.sock")), stub.WithOnClose(func() {}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	t.Cleanup(cancel)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	for range 100 {
		select {
		case err := <-ended:
			t.Fatalf("the plugin ended: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
		if data, _ := os.ReadFile(w.Path("daemon.log")); strings.Contains(string(data), "NRI plugin is connected") {
			return w, p, s
		}
	}
	t.Fatal("the plugin is not connected")
	return nil, nil, nil
}

// create makes a container that sleeps; the error is the daemon's.
func (w *world) create(podID string, pod *cri.PodSandboxConfig, image, name string, change func(*cri.ContainerConfig)) (string, error) {
	c := node.Container(name, image, w.pulled(image, pod), "/bin/sleep", "1000")
	if change != nil {
		change(c)
	}
	return w.Create(w.ctx, podID, pod, c)
}

// TestPluginLife: every event, in the order of a life; a failed create is told as a removal.
func TestPluginLife(t *testing.T) {
	w, p, s := plugged(t, nil, "")
	app := w.push("open/app", v1.Config{})
	podID, pod := w.pod("default", "life")
	id, err := w.create(podID, pod, app, "main", nil)
	if err == nil {
		err = w.Start(w.ctx, id)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Runtime.UpdateContainerResources(w.ctx, &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: &cri.LinuxContainerResources{CpuShares: 500}}); err != nil {
		t.Fatal(err)
	}
	if got := w.state(id).Resources.GetLinux().GetCpuShares(); got != 501 {
		t.Errorf("shares = %d, want 501: the plugin adds one", got)
	}
	if _, err := w.Runtime.UpdatePodSandboxResources(w.ctx, &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: podID, Resources: &cri.LinuxContainerResources{CpuShares: 600}}); err != nil {
		t.Fatal(err)
	}
	memory := &api.ContainerUpdate{ContainerId: id}
	memory.SetLinuxMemoryLimit(64 << 20)
	worse := &api.ContainerUpdate{ContainerId: id}
	worse.SetLinuxBlockIOClass("x")
	failed, err := s.UpdateContainers([]*api.ContainerUpdate{memory, worse})
	if err != nil || len(failed) != 1 || w.state(id).Resources.GetLinux().GetMemoryLimitInBytes() != 64<<20 {
		t.Errorf("UpdateContainers() = %v, %v; memory %d", failed, err, w.state(id).Resources.GetLinux().GetMemoryLimitInBytes())
	}
	p.adjust = func(*api.Container, *api.ContainerAdjustment) error { return errors.New("not today") }
	if _, err := w.create(podID, pod, app, "second", nil); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), `denied by rule "nri"`) || !strings.Contains(err.Error(), "not today") {
		t.Errorf("CreateContainer() = %v, want the plugin's no, by rule nri", err)
	}
	if err := w.RemovePod(w.ctx, podID); err != nil {
		t.Fatal(err)
	}
	var other string
	var got []string
	for _, e := range p.told() {
		e = strings.ReplaceAll(strings.ReplaceAll(e, podID, "pod"), id, "main")
		if what, of, _ := strings.Cut(e, " "); of != "pod" && of != "main" {
			other = of
			e = what + " second"
		}
		got = append(got, e)
	}
	want := []string{"RunPod pod", "Create main", "PostCreate main", "Start main", "PostStart main", "Update main", "PostUpdate main", "UpdatePod pod", "PostUpdatePod pod",
		"Create second", "Remove second", "Stop main", "StopPod pod", "Remove main", "RemovePod pod"}
	if !slices.Equal(got, want) {
		t.Errorf("the plugin heard\n%q, want\n%q (second is %s)", got, want, other)
	}
}

// bare is a plugin without the stub, which cannot ask for evictions.
type bare struct{ api.PluginService }

func (bare) Configure(context.Context, *api.ConfigureRequest) (*api.ConfigureResponse, error) {
	return &api.ConfigureResponse{Events: int32(*new(api.EventMask).Set(api.Event_RUN_POD_SANDBOX))}, nil
}

func (bare) Synchronize(context.Context, *api.SynchronizeRequest) (*api.SynchronizeResponse, error) {
	return &api.SynchronizeResponse{}, nil
}

func (bare) RunPodSandbox(context.Context, *api.RunPodSandboxRequest) (*api.RunPodSandboxResponse, error) {
	return &api.RunPodSandboxResponse{}, nil
}

// TestEviction: a container that a plugin wants gone ends; its neighbour does not.
func TestEviction(t *testing.T) {
	w, _, _ := plugged(t, nil, "")
	conn, err := net.Dial("unix", w.Path("nri.sock"))
	if err != nil {
		t.Fatal(err)
	}
	mux := multiplex.Multiplex(conn)
	defer mux.Close()
	calls, err := mux.Open(multiplex.RuntimeServiceConn)
	if err != nil {
		t.Fatal(err)
	}
	l, err := mux.Listen(multiplex.PluginServiceConn)
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	api.RegisterPluginService(server, bare{})
	go func() { _ = server.Serve(w.ctx, l) }()
	client := ttrpc.NewClient(calls)
	defer client.Close()
	daemon := api.NewRuntimeClient(client)
	if _, err := daemon.RegisterPlugin(w.ctx, &api.RegisterPluginRequest{PluginName: "test", PluginIdx: "10"}); err != nil {
		t.Fatal(err)
	}
	app := w.push("open/app", v1.Config{})
	_, kept, _ := w.running(app, "kept", "/bin/sleep", "1000")
	_, gone, _ := w.running(app, "evicted", "/bin/sleep", "1000")
	if _, err := daemon.UpdateContainers(w.ctx, &api.UpdateContainersRequest{Evict: []*api.ContainerEviction{{ContainerId: gone, Reason: "test"}}}); err != nil {
		t.Fatal(err)
	}
	for i := 0; w.state(gone).State != cri.ContainerState_CONTAINER_EXITED; i++ {
		if i == 400 {
			t.Fatal("the container runs 40 s after its eviction")
		}
		time.Sleep(100 * time.Millisecond)
	}
	if got := w.state(kept).State; got != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the neighbour is %v, want it to run", got)
	}
}

// TestPluginChangesAreJudged: what a plugin wants is judged as the pod's own wish would be; the image
// comes first.
func TestPluginChangesAreJudged(t *testing.T) {
	w, p, _ := plugged(t, nil, "permit = [\"hooks\", \"seccomp\"]\n")
	app := w.push("open/app", v1.Config{})
	podID, pod := w.pod("default", "judged")
	inside := t.TempDir()
	allowed, err := os.MkdirTemp("/var/tmp", "sallyport-nri-") // the floor admits /var/tmp
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(allowed) })
	bind := func(from string) func(*api.Container, *api.ContainerAdjustment) error {
		return func(_ *api.Container, a *api.ContainerAdjustment) error {
			a.AddMount(&api.Mount{Destination: "/vol", Source: from, Type: "bind", Options: []string{"rbind", "ro"}})
			return nil
		}
	}
	for i, c := range []struct {
		name string
		ask  func(*api.Container, *api.ContainerAdjustment) error
		rule string // "": it runs
	}{
		{"variable", func(_ *api.Container, a *api.ContainerAdjustment) error { a.AddEnv("FROM", "plugin"); return nil }, ""},
		{"admitted path", bind(allowed), ""},
		{"other path", bind(inside), "B18 mount sources"},
		{"our state", bind(w.Path("root")), "B19 control paths"},
		{"its own socket", bind(w.Path("nri.sock")), "B19 control paths"},
		{"device", func(_ *api.Container, a *api.ContainerAdjustment) error {
			a.AddDevice(&api.LinuxDevice{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11})
			return nil
		}, "B09 devices"},
		{"hook", func(_ *api.Container, a *api.ContainerAdjustment) error {
			a.AddHooks(&api.Hooks{CreateRuntime: []*api.Hook{{Path: "/usr/bin/true"}}})
			return nil
		}, "B03 hooks by rule"},
		{"open seccomp", func(_ *api.Container, a *api.ContainerAdjustment) error {
			a.SetLinuxSeccompPolicy(&api.LinuxSeccomp{DefaultAction: "SCMP_ACT_ALLOW"})
			return nil
		}, "B06 seccomp profile"},
		{"annotation", func(_ *api.Container, a *api.ContainerAdjustment) error {
			a.AddAnnotation("org.systemd.property.ExecStart", "x")
			return nil
		}, "nri"},
		{"namespace", func(_ *api.Container, a *api.ContainerAdjustment) error {
			a.RemoveNamespace(&api.LinuxNamespace{Type: "network"})
			return nil
		}, "nri"},
	} {
		p.adjust = c.ask
		id, err := w.create(podID, pod, app, fmt.Sprintf("c%d", i), nil)
		switch {
		case c.rule == "" && err == nil:
			err = w.Start(w.ctx, id)
			fallthrough
		case c.rule == "":
			if err != nil {
				t.Errorf("%s: %v, want it to run", c.name, err)
			}
		case status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), fmt.Sprintf("denied by rule %q", c.rule)):
			t.Errorf("%s: CreateContainer() = %v, want it denied by rule %s", c.name, err, c.rule)
		}
	}
	// An image that no rule admits: no plugin hears of the container.
	strictID, strict := w.pod("strict", "judged")
	strict.Metadata.Namespace = "strict"
	before := len(p.told())
	c := node.Container("main", app, w.pulled(app, pod), "/bin/sleep", "1000")
	if _, err := w.Create(w.ctx, strictID, strict, c); status.Code(err) != codes.PermissionDenied {
		t.Errorf("CreateContainer() in strict = %v, want it denied", err)
	}
	if got := p.told()[before:]; len(got) > 0 {
		t.Errorf("the plugin heard %q of a container whose image is not admitted", got)
	}
}

// TestHookByRule: a hook runs if a rule names its path and its bytes, and only then; the same for one
// that a CDI device brings.
func TestHookByRule(t *testing.T) {
	dir := hostDir(t)
	mark := filepath.Join(dir, "ran")
	hook := filepath.Join(dir, "hook")
	text := "#!/bin/sh\necho ran > " + mark + "\n"
	if err := os.WriteFile(hook, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "acme.json"), fmt.Appendf(nil, `{"cdiVersion": "1.0.0", "kind": "acme.example/x", "devices": [
  {"name": "hook", "containerEdits": {"hooks": [{"hookName": "createRuntime", "path": %q}]}},
  {"name": "node", "containerEdits": {"env": ["ACME=1"], "deviceNodes": [{"path": "/dev/acme", "hostPath": "/dev/null"}]}}]}`, hook), 0o644); err != nil {
		t.Fatal(err)
	}
	rule := func(digest string) map[string]string {
		return map[string]string{"node/hardening.yaml": fmt.Sprintf("level: baseline\ncdi: [\"acme.example/x=*\"]\nhooks:\n- path: %s\n  digest: sha256:%s\n", hook, digest)}
	}
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
	w := start(t, rule(strings.Repeat("0", 64)), fmt.Sprintf("[cdi]\nspec_dirs = [%q]\n", dir))
	app := w.push("open/app", v1.Config{})
	podID, pod := w.pod("default", "hooks")
	want := func(what, rule string, change func(*cri.ContainerConfig)) string {
		t.Helper()
		id, err := w.create(podID, pod, app, strings.ReplaceAll(what, " ", "-"), change)
		if (rule == "") != (err == nil) || rule != "" && !strings.Contains(err.Error(), fmt.Sprintf("denied by rule %q", rule)) {
			t.Errorf("%s: CreateContainer() = %v, want rule %q", what, err, rule)
		}
		_, ran := os.Stat(mark)
		os.Remove(mark)
		if (ran == nil) != (what == "named bytes" || what == "by annotation") {
			t.Errorf("%s: the hook ran: %v", what, ran == nil)
		}
		return id
	}
	device := func(name string) func(*cri.ContainerConfig) {
		return func(c *cri.ContainerConfig) { c.CDIDevices = []*cri.CDIDevice{{Name: "acme.example/x=" + name}} }
	}
	want("other bytes", "B03 hooks by rule", device("hook"))
	set := func(policy map[string]string) {
		t.Helper()
		all := w.policy()
		for name, text := range policy {
			all[name] = text
		}
		if err := errors.Join(w.SetPolicy(all), w.Reload()); err != nil {
			t.Fatal(err)
		}
	}
	set(rule(sum))
	want("named bytes", "", device("hook"))
	want("by annotation", "", func(c *cri.ContainerConfig) {
		c.Annotations = map[string]string{"cdi.k8s.io/acme": "acme.example/x=hook"}
	})
	os.Chmod(hook, 0o777)
	want("others can write", "hooks", device("hook"))
	os.Chmod(hook, 0o755)
	want("unknown device", "cdi", device("none"))
	id := want("device node", "", device("node"))
	if err := w.Start(w.ctx, id); err != nil {
		t.Fatal(err)
	}
	r, err := w.Runtime.ExecSync(w.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/sh", "-c", "echo $ACME; echo x > /dev/acme && echo written"}, Timeout: 10})
	if err != nil || string(r.Stdout) != "1\nwritten\n" {
		t.Errorf("the device: %s %s, %v", r.GetStdout(), r.GetStderr(), err)
	}
	set(map[string]string{"node/hardening.yaml": "level: baseline\n"})
	want("device without a rule", "B09 devices", device("node"))
}

// hostDir is a directory that only root could have written to, from the root down.
func hostDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/root", "sallyport-hooks-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
