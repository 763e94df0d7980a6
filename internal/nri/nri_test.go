package nri

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"github.com/opencontainers/runtime-spec/specs-go"

	"sallyport/sandbox/spec"
)

// answers is a real plugin, built with the NRI project's stub, that does what its functions say.
type answers struct {
	mu     sync.Mutex
	heard  []string
	synced []string // container IDs
	create func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error)
	sync   func()
	agree  func() error
}

func (a *answers) hear(what string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heard = append(a.heard, what)
}

func (a *answers) all() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.heard)
}

func (a *answers) Synchronize(_ context.Context, _ []*api.PodSandbox, ctrs []*api.Container) ([]*api.ContainerUpdate, error) {
	if a.sync != nil {
		a.sync()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range ctrs {
		a.synced = append(a.synced, c.GetId())
	}
	return nil, nil
}

func (a *answers) CreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	a.hear("create " + c.GetId())
	if a.create != nil {
		return a.create(c)
	}
	return nil, nil, nil
}

func (a *answers) RemoveContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	a.hear("remove " + c.GetId())
	return nil
}

func (a *answers) RunPodSandbox(_ context.Context, p *api.PodSandbox) error {
	a.hear("run " + p.GetId())
	return nil
}

// judge is a plugin that also validates.
type judge struct{ answers }

func (j *judge) ValidateContainerAdjustment(context.Context, *api.ValidateContainerAdjustmentRequest) error {
	return j.agree()
}

// field is a hub that runs, and what was asked of its runtime.
type field struct {
	*Hub
	t       *testing.T
	dir     string
	mu      sync.Mutex
	changes []Change
	evicted []string
}

func run(t *testing.T, change func(*Options)) *field {
	t.Helper()
	dir, err := os.MkdirTemp("", "nri") // short enough for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	o := Options{Socket: filepath.Join(dir, "d", "nri.sock"), Allowed: []string{"10-good*"}, Version: "1.2.3", Register: 2 * time.Second,
		Answer: 300 * time.Millisecond, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if change != nil {
		change(&o)
	}
	h, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	f := &field{Hub: h, t: t, dir: dir}
	l, err := h.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx, l, Runtime{State: f.state, Change: f.change, Evict: f.evict}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run() = %v", err)
		}
	})
	return f
}

func (f *field) state() ([]*Pod, []*Container) {
	return []*Pod{{Id: "p"}}, []*Container{{Id: "old"}}
}

func (f *field) change(_ context.Context, _ string, changes []Change) (failed []Change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range changes {
		if f.changes = append(f.changes, c); len(c.Refused) > 0 {
			failed = append(failed, c)
		}
	}
	return failed
}

func (f *field) evict(_ context.Context, _, id, _ string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.evicted = append(f.evicted, id)
}

// connect starts a plugin; the error is what the hub said to it.
func (f *field) connect(name, idx string, p any) (stub.Stub, error) {
	f.t.Helper()
	s, err := stub.New(p, stub.WithPluginName(name), stub.WithPluginIdx(idx), stub.WithSocketPath(f.o.Socket), stub.WithOnClose(func() {}))
	if err != nil {
		f.t.Fatal(err)
	}
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { ended <- s.Run(ctx) }()
	f.t.Cleanup(cancel)
	for range 200 {
		select {
		case err := <-ended:
			return s, errors.Join(errors.New("the plugin ended"), err)
		case <-time.After(10 * time.Millisecond):
			if slices.Contains(f.ready(), idx+"-"+name) {
				return s, nil
			}
		}
	}
	return s, errors.New("it is not among the plugins")
}

func (f *field) ready() (names []string) {
	for _, p := range f.all() {
		select {
		case <-p.ready:
			names = append(names, p.full)
		default:
		}
	}
	return names
}

var pod = &Pod{Id: "p", Name: "web", Namespace: "ns"}

func (f *field) ask(id string) (Answer, error) {
	defer f.Made(id)
	return f.Create(f.t.Context(), pod, &Container{Id: id, Name: "main", Env: []string{"A=1"}, Linux: &api.LinuxContainer{}})
}

// The list decides who is a plugin; the socket is root's alone.
func TestOnlyNamedPlugins(t *testing.T) {
	f := run(t, nil)
	for path, want := range map[string]os.FileMode{f.o.Socket: 0o600, filepath.Dir(f.o.Socket): 0o700} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != want {
			t.Errorf("mode of %s = %v, %v, want %v", path, st.Mode(), err, want)
		}
	}
	bad := &answers{}
	for _, n := range [][2]string{{"evil", "10"}, {"good", "11"}} {
		if _, err := f.connect(n[0], n[1], bad); err == nil {
			t.Errorf("plugin %s-%s is connected, want it refused", n[1], n[0])
		}
	}
	if _, err := f.ask("c"); err != nil || len(bad.all())+len(bad.synced) > 0 {
		t.Errorf("a refused plugin heard %v %v", bad.all(), bad.synced)
	}
	good := &answers{}
	if _, err := f.connect("good", "10", good); err != nil {
		t.Fatalf("connect twin = %v", err)
	}
	if _, err := f.ask("c"); err != nil || !slices.Equal(good.all(), []string{"create c"}) || !slices.Equal(good.synced, []string{"old"}) {
		t.Errorf("the twin heard %v, knew %v, %v", good.all(), good.synced, err)
	}
	none, err := New(Options{Socket: filepath.Join(f.dir, "none.sock"), Register: 1, Answer: 1, Log: f.o.Log})
	if err != nil {
		t.Fatal(err)
	}
	if l, err := none.Listen(); l != nil || err != nil {
		t.Errorf("Listen() with an empty list = %v, %v, want no socket", l, err)
	}
}

// One that says nothing, or floods, is given up and keeps nobody else from registering.
func TestSilentConnections(t *testing.T) {
	f := run(t, func(o *Options) { o.Register = 500 * time.Millisecond })
	for range 2 * maxPending {
		c, err := net.Dial("unix", f.o.Socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	time.Sleep(700 * time.Millisecond)
	if _, err := f.connect("good", "10", &answers{}); err != nil {
		t.Errorf("connect beside silent ones = %v", err)
	}
}

// Wishes come out in our terms; what cannot be had is refused by name.
func TestAnswers(t *testing.T) {
	f := run(t, nil)
	p := &answers{}
	if _, err := f.connect("good", "10", p); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		wish func(*api.ContainerAdjustment)
		want string // refusal; "": none
	}{
		"variable": {func(a *api.ContainerAdjustment) { a.AddEnv("B", "2") }, ""},
		"mount": {func(a *api.ContainerAdjustment) {
			a.AddMount(&api.Mount{Destination: "/m", Source: "/srv", Type: "bind", Options: []string{"ro"}})
		}, ""},
		"tmpfs": {func(a *api.ContainerAdjustment) { a.AddMount(&api.Mount{Destination: "/m", Type: "tmpfs"}) }, "only bind mounts"},
		"mount option": {func(a *api.ContainerAdjustment) {
			a.AddMount(&api.Mount{Destination: "/m", Source: "/srv", Type: "bind", Options: []string{"tmpcopyup"}})
		}, "tmpcopyup"},
		"annotation": {func(a *api.ContainerAdjustment) { a.AddAnnotation("org.systemd.property.ExecStart", "x") }, "annotation"},
		"cgroup":     {func(a *api.ContainerAdjustment) { a.SetLinuxCgroupsPath("/x") }, "cgroup path"},
		"pids":       {func(a *api.ContainerAdjustment) { a.SetLinuxPidLimits(5) }, ""},
		"real time":  {func(a *api.ContainerAdjustment) { a.SetLinuxCPURealtimeRuntime(5) }, "real time"},
		"block I/O":  {func(a *api.ContainerAdjustment) { a.SetLinuxBlockIOClass("fast") }, "block I/O"},
		"OOM killer": {func(a *api.ContainerAdjustment) { a.SetLinuxMemoryDisableOomKiller() }, "OOM killer"},
		"rlimit":     {func(a *api.ContainerAdjustment) { a.AddRlimit("RLIMIT_NOFILE", 20, 10) }, ""},
		"FIFO":       {func(a *api.ContainerAdjustment) { a.AddDevice(&api.LinuxDevice{Path: "/dev/x", Type: "p"}) }, "type"},
	} {
		p.create = func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
			a := &api.ContainerAdjustment{}
			c.wish(a)
			return a, nil, nil
		}
		got, err := f.ask("c")
		switch refused := strings.Join(got.Refused, "; "); {
		case err != nil:
			t.Errorf("%s: Create() = %v", name, err)
		case c.want == "" && (refused != "" || got.Edits.Empty()), c.want != "" && !strings.Contains(refused, c.want):
			t.Errorf("%s: Create() = %+v, refused %q, want %q", name, got.Edits, refused, c.want)
		}
	}
}

// The validator is on: hooks, seccomp, namespaces and sysctls are refused, whoever asks, unless permitted
// (namespaces and sysctls never are).
func TestValidator(t *testing.T) {
	wishes := map[string]func(*api.ContainerAdjustment){
		"hooks": func(a *api.ContainerAdjustment) { a.AddHooks(&api.Hooks{Poststop: []*api.Hook{{Path: "/bin/true"}}}) },
		"seccomp": func(a *api.ContainerAdjustment) {
			a.SetLinuxSeccompPolicy(&api.LinuxSeccomp{DefaultAction: "SCMP_ACT_ERRNO"})
		},
		"namespace": func(a *api.ContainerAdjustment) {
			a.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "network", Path: "/proc/1/ns/net"})
		},
		"sysctl": func(a *api.ContainerAdjustment) { a.SetLinuxSysctl("net.ipv4.ip_forward", "1") },
	}
	for _, permit := range []bool{false, true} {
		f := run(t, func(o *Options) {
			if permit {
				o.Permit = []string{"hooks", "seccomp"}
			}
		})
		p := &answers{}
		if _, err := f.connect("good", "10", p); err != nil {
			t.Fatal(err)
		}
		for name, wish := range wishes {
			p.create = func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
				a := &api.ContainerAdjustment{}
				wish(a)
				return a, nil, nil
			}
			got, err := f.ask("c")
			if may := permit && (name == "hooks" || name == "seccomp"); may != (err == nil) {
				t.Errorf("permit %v: Create() with %s = %+v, %v", permit, name, got, err)
			} else if err != nil && !strings.Contains(err.Error(), "validation error") {
				t.Errorf("Create() with %s = %v, want the validator's words", name, err)
			}
		}
	}
}

// A validating plugin's no is a no; one that does not answer has not agreed.
func TestValidatingPlugin(t *testing.T) {
	f := run(t, nil)
	j := &judge{}
	j.agree = func() error { return errors.New("not on my node") }
	if _, err := f.connect("good", "10", j); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ask("c"); err == nil || !strings.Contains(err.Error(), "not on my node") {
		t.Errorf("Create() = %v, want its words", err)
	}
	j.agree = func() error { return nil }
	if _, err := f.ask("c"); err != nil {
		t.Errorf("Create() of the twin = %v", err)
	}
	j.agree = func() error { time.Sleep(2 * time.Second); return nil }
	if _, err := f.ask("c"); err == nil {
		t.Error("Create() while the validator hangs = nil, want an error")
	}
}

// A plugin that hangs ends at its deadline and holds up no other container; the request goes on without
// it, and fails where it is required: by the configuration or by the pod.
func TestHungPlugin(t *testing.T) {
	for name, c := range map[string]struct {
		required []string
		pod      *Pod
		fails    bool
	}{
		"optional":          {nil, pod, false},
		"required":          {[]string{"good"}, pod, true},
		"required by pod":   {nil, &Pod{Id: "p", Annotations: map[string]string{"required-plugins.noderesource.dev": "- good\n"}}, true},
		"required by other": {nil, &Pod{Id: "p", Annotations: map[string]string{"required-plugins.noderesource.dev/container.x": "- good\n"}}, false},
		"nonsense by pod":   {nil, &Pod{Id: "p", Annotations: map[string]string{"required-plugins.noderesource.dev": "{"}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := run(t, func(o *Options) { o.Required = c.required })
			p := &answers{}
			if _, err := f.connect("good", "10", p); err != nil {
				t.Fatal(err)
			}
			p.create = func(ctr *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
				if ctr.GetId() == "slow" {
					time.Sleep(2 * time.Second)
				}
				return nil, nil, nil
			}
			began, slow := time.Now(), make(chan error, 1)
			go func() {
				_, err := f.Create(t.Context(), c.pod, &Container{Id: "slow", Name: "main"})
				slow <- err
			}()
			time.Sleep(50 * time.Millisecond)
			if _, err := f.Create(t.Context(), pod, &Container{Id: "quick", Name: "main"}); err != nil || time.Since(began) > 250*time.Millisecond {
				t.Errorf("Create() beside it = %v after %v, want at once", err, time.Since(began))
			}
			if err := <-slow; (err != nil) != c.fails || time.Since(began) > time.Second {
				t.Errorf("Create() = %v after %v, want it to fail: %v", err, time.Since(began), c.fails)
			}
			if got := f.Plugins(); len(got) > 0 {
				t.Errorf("plugins = %v, want it dropped", got)
			}
			if _, err := f.Create(t.Context(), c.pod, &Container{Id: "next", Name: "main"}); (err != nil) != c.fails {
				t.Errorf("Create() without it = %v, want it to fail: %v", err, c.fails)
			}
		})
	}
}

// A plugin that is required and went away between create and start holds up the start like the create; one
// that is there and did not ask to be told of starts does not.
func TestStartNeedsRequired(t *testing.T) {
	byPod := &Pod{Id: "p", Annotations: map[string]string{"required-plugins.noderesource.dev": "- good\n"}}
	for name, c := range map[string]struct {
		required []string
		pod      *Pod
		fails    bool
	}{
		"optional":        {nil, pod, false},
		"required":        {[]string{"good"}, pod, true},
		"required by pod": {nil, byPod, true},
	} {
		f := run(t, func(o *Options) { o.Required = c.required })
		if _, err := f.connect("good", "10", &answers{}); err != nil {
			t.Fatal(err)
		}
		ctr := &Container{Id: "c", Name: "main"}
		if err := f.Start(t.Context(), c.pod, ctr); err != nil {
			t.Errorf("%s: Start() beside the plugin = %v", name, err)
		}
		f.dropAll()
		if err := f.Start(t.Context(), c.pod, ctr); (err != nil) != c.fails || err != nil && !strings.Contains(err.Error(), `plugin "good", which is required, is not there`) {
			t.Errorf("%s: Start() without it = %v, want it to fail: %t", name, err, c.fails)
		}
	}
}

// A container that is being created while a plugin connects is in the state that it is told; one whose
// creation begins meanwhile waits for it and is told as usual.
func TestConnectDuringCreate(t *testing.T) {
	f := run(t, nil)
	first := &answers{}
	if _, err := f.connect("good", "10", first); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Create(t.Context(), pod, &Container{Id: "before", Name: "main"}); err != nil {
		t.Fatal(err)
	}
	defer f.Made("before")
	reached, release := make(chan bool), make(chan bool)
	second := &answers{sync: func() { close(reached); <-release }}
	done := make(chan error, 1)
	go func() { _, err := f.connect("good-too", "10", second); done <- err }()
	<-reached
	created := make(chan error, 1)
	go func() { _, err := f.ask("during"); created <- err }()
	time.Sleep(50 * time.Millisecond)
	close(release)
	if err := errors.Join(<-done, <-created); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(second.synced, "before") || !slices.Contains(second.all(), "create during") {
		t.Errorf("it was told the state %v and then %v, want before in the one and during in the other", second.synced, second.all())
	}
}

// Unasked changes reach the runtime, and a plugin is told which were not made.
func TestUnasked(t *testing.T) {
	f := run(t, nil)
	s, err := f.connect("good", "10", &answers{})
	if err != nil {
		t.Fatal(err)
	}
	good, bad := &api.ContainerUpdate{ContainerId: "old"}, &api.ContainerUpdate{ContainerId: "other"}
	good.SetLinuxMemoryLimit(1 << 20)
	bad.SetLinuxBlockIOClass("fast")
	failed, err := s.UpdateContainers([]*api.ContainerUpdate{good, bad})
	if err != nil || len(failed) != 1 || failed[0].GetContainerId() != "other" {
		t.Errorf("UpdateContainers() = %v, %v, want the second to fail", failed, err)
	}
	if len(f.changes) != 2 || f.changes[0].Resources.Memory != 1<<20 || len(f.changes[1].Refused) != 1 {
		t.Errorf("changes = %+v", f.changes)
	}
}

// TestLaunch: a program in the directory runs if the list names it, and nobody but root could have
// written it.
func TestLaunch(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		mode os.FileMode
		runs bool
	}{"named": {"10-good", 0o755, true}, "not named": {"10-other", 0o755, false}, "others write": {"10-good", 0o777, false}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			os.Chmod(dir, 0o755)
			mark := filepath.Join(dir, "ran")
			program := filepath.Join(dir, c.file)
			if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"$NRI_PLUGIN_IDX $NRI_PLUGIN_NAME $NRI_PLUGIN_SOCKET\" > "+mark+".tmp; mv "+mark+".tmp "+mark+"; sleep 5\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			os.Chmod(program, c.mode)
			run(t, func(o *Options) { o.Plugins = dir })
			var got []byte
			for range 50 {
				if got, _ = os.ReadFile(mark); got != nil {
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
			if want := "10 good 3\n"; (got != nil) != c.runs || c.runs && string(got) != want {
				t.Errorf("it wrote %q, want it to run: %v", got, c.runs)
			}
		})
	}
}

// Edits of an answer survive the way to a spec, and a spec built of them is what was asked.
func TestEditsReachSpec(t *testing.T) {
	a := &api.ContainerAdjustment{}
	a.AddEnv("B", "2")
	a.RemoveEnv("A")
	a.SetArgs([]string{"/bin/x", "y"})
	a.SetLinuxMemoryLimit(1 << 20)
	out := spec.Output{JSON: []byte(`{"ociVersion":"1.3.0","process":{"user":{"uid":0,"gid":0},"args":["z"],"env":["A=1","AB=3"],"cwd":"/"},"linux":{"resources":{}}}`)}
	got, err := out.With(Read(a).Edits, spec.Host{Controllers: []string{"memory"}})
	if err != nil {
		t.Fatal(err)
	}
	p, r := got.Spec.Process, got.Spec.Linux.Resources
	if !slices.Equal(p.Env, []string{"AB=3", "B=2"}) || !slices.Equal(p.Args, []string{"/bin/x", "y"}) || *r.Memory.Limit != 1<<20 {
		t.Errorf("With() = %+v %+v", p, r)
	}
	if len(got.Weakenings) == 0 {
		t.Error("With() names no edit among the weakenings, want each")
	}
	if hooks := Read(&api.ContainerAdjustment{Hooks: &api.Hooks{Poststop: []*api.Hook{{Path: "/h"}}}}).Edits.Hooks; len(hooks.Poststop) != 1 || !slices.EqualFunc(hooks.Poststop, []specs.Hook{{Path: "/h"}}, func(a, b specs.Hook) bool { return a.Path == b.Path }) {
		t.Errorf("hooks = %+v", hooks)
	}
}
