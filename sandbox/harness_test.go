package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/enforce"
	"sallyport/enforce/enforcetest"
	"sallyport/image"
	"sallyport/image/ref"
	"sallyport/policy"
	"sallyport/policy/baseline"
	"sallyport/sandbox/network"
	"sallyport/sandbox/spec"
	"sallyport/test/inittest"
	"sallyport/test/ownnet"
	"sallyport/test/roottest"
)

func TestMain(m *testing.M) { ownnet.Main(m) }

// node is everything real but the image store: runc, conmon, CNI, gate, audit log. Root filesystems are
// overlays over one busybox tree.
type node struct {
	*Pods
	tb     testing.TB
	opt    Options
	gate   *enforce.Gate
	images *trees
	cgroup string
	audit  string
}

var nodes int

func newNode(tb testing.TB, change ...func(*Options)) *node {
	tb.Helper()
	roottest.Need(tb)
	nodes++
	name := fmt.Sprintf("sbxt%d-%d", os.Getpid()%10000, nodes)
	n := &node{tb: tb, cgroup: "/sallyport-" + name}
	floor := baseline.ForLevel(baseline.Baseline)
	floor.HostPaths = []string{"/"}
	floor.HostNetwork, floor.HostPID, floor.HostIPC = baseline.Allow, baseline.Allow, baseline.Allow
	floor.BidirMounts = baseline.Allow
	n.gate, n.audit = enforcetest.With(tb, enforce.Policies{Node: enforcetest.AnyImage(tb, floor)})
	dir := tb.TempDir()
	must(tb, os.Chmod(dir, 0o700))
	n.images = &trees{dir: filepath.Join(dir, "images")}
	n.images.make(tb)
	n.opt = Options{
		Root: filepath.Join(dir, "run"), State: filepath.Join(dir, "state"), NetNS: filepath.Join(dir, "netns"),
		Gate: n.gate, Images: n.images, Network: newCNI(tb, dir, name),
		Runtimes: map[string]string{"": roottest.Binary(tb, "runc")},
		Conmon:   roottest.Binary(tb, "conmon"), Init: inittest.Build(tb),
		Log: slog.New(slog.NewTextHandler(tb.Output(), nil)),
	}
	must(tb, os.Mkdir(n.opt.NetNS, 0o700))
	for _, f := range change {
		f(&n.opt)
	}
	n.start()
	tb.Cleanup(n.end)
	return n
}

// start is a daemon's start; after Close it is a restart.
func (n *node) start() {
	n.tb.Helper()
	p, err := New(n.opt)
	must(n.tb, err)
	must(n.tb, p.Restore(n.tb.Context()))
	n.Pods = p
}

func (n *node) end() {
	ctx := context.Background()
	n.mu.Lock()
	var pods []*Pod
	for _, p := range n.pods {
		pods = append(pods, p)
	}
	n.mu.Unlock()
	for _, p := range pods {
		if err := p.Remove(ctx); err != nil {
			n.tb.Errorf("clean up: %v", err)
		}
	}
	n.Close()
	n.leftovers()
	for _, dir := range []string{n.opt.Root, n.opt.NetNS} {
		unix.Unmount(dir, unix.MNT_DETACH)
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*" + n.cgroup)
	for _, g := range append(groups, "/sys/fs/cgroup"+n.cgroup) {
		os.Remove(g)
	}
}

// leftovers fails the test for anything that pods and containers left behind.
func (n *node) leftovers() {
	for _, dir := range []string{"keys", "pods", "containers", "exits", "exec"} {
		entries, _ := os.ReadDir(filepath.Join(n.opt.Root, dir))
		for _, e := range entries {
			n.tb.Errorf("left behind: %s", filepath.Join(dir, e.Name()))
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if strings.HasPrefix(f[4], n.opt.Root+"/") || strings.HasPrefix(f[4], n.opt.NetNS+"/") || strings.HasPrefix(f[4], n.images.dir+"/") {
			n.tb.Errorf("left mounted: %s", f[4])
			unix.Unmount(f[4], unix.MNT_DETACH)
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*" + n.cgroup + "/*/cgroup.procs")
	for _, g := range groups {
		n.tb.Errorf("left behind: %s", g)
	}
}

func newCNI(tb testing.TB, dir, name string) *network.CNI {
	tb.Helper()
	conf := filepath.Join(dir, "cni")
	must(tb, os.Mkdir(conf, 0o700))
	bridge := "sp" + strings.ReplaceAll(name, "-", "")
	bridge = bridge[:min(15, len(bridge))]
	text := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"%s","plugins":[{"type":"bridge","bridge":"%s","isGateway":true,"ipMasq":false,
	 "ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.%d.%d.0/24"}]]}},
	 {"type":"portmap","capabilities":{"portMappings":true},"snat":false}]}`, name, bridge, filepath.Join(dir, "leases"), 100+nodes%100, os.Getpid()%250)
	must(tb, os.WriteFile(filepath.Join(conf, "10.conflist"), []byte(text), 0o600))
	boot, err := BootID()
	must(tb, err)
	c, err := network.New(network.Options{ConfDir: conf, BinDirs: []string{roottest.CNIBin()}, CacheDir: filepath.Join(dir, "cache"), BootID: boot})
	must(tb, err)
	tb.Cleanup(func() { exec.Command("ip", "link", "del", bridge).Run() })
	return c
}

// trees gives overlays over one busybox tree.
type trees struct {
	dir  string
	mu   sync.Mutex
	held map[string]bool
}

func (t *trees) make(tb testing.TB) {
	tb.Helper()
	t.held = map[string]bool{}
	for _, d := range []string{"base/bin", "base/etc", "base/tmp", "base/proc", "base/dev", "base/sys"} {
		must(tb, os.MkdirAll(filepath.Join(t.dir, d), 0o755))
	}
	data, err := os.ReadFile(roottest.Binary(tb, "busybox"))
	must(tb, err)
	must(tb, os.WriteFile(filepath.Join(t.dir, "base/bin/busybox"), data, 0o755))
	for _, name := range []string{"sh", "cat", "grep", "id", "ls", "sleep", "touch", "mount", "env", "hostname", "head", "dd", "true", "false", "kill", "ps", "setsid", "nc", "readlink", "yes", "ip"} {
		must(tb, os.Symlink("busybox", filepath.Join(t.dir, "base/bin", name)))
	}
}

func (t *trees) Mount(_ context.Context, g enforce.Grant) (image.Rootfs, error) {
	if !g.Valid() || g.Verb() != policy.VerbRun {
		return image.Rootfs{}, enforce.ErrForged
	}
	at := filepath.Join(t.dir, g.Subject())
	for _, d := range []string{"upper", "work", "root"} {
		if err := os.MkdirAll(filepath.Join(at, d), 0o755); err != nil {
			return image.Rootfs{}, err
		}
	}
	opts := fmt.Sprintf("lowerdir=%s/base,upperdir=%s/upper,workdir=%s/work", t.dir, at, at)
	if err := unix.Mount("overlay", filepath.Join(at, "root"), "overlay", 0, opts); err != nil {
		return image.Rootfs{}, err
	}
	t.mu.Lock()
	t.held[g.Subject()] = true
	t.mu.Unlock()
	return image.Rootfs{Path: filepath.Join(at, "root")}, nil
}

// MountVolume gives the base tree itself.
func (t *trees) MountVolume(_ context.Context, g enforce.Grant, mount int) (image.Rootfs, error) {
	if !slices.ContainsFunc(g.Volumes(), func(v enforce.VolumeImage) bool { return v.Mount == mount }) {
		return image.Rootfs{}, enforce.ErrForged
	}
	return image.Rootfs{Path: filepath.Join(t.dir, "base")}, nil
}

func (t *trees) Unmount(id string) error {
	err := unix.Unmount(filepath.Join(t.dir, id, "root"), unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func (t *trees) Release(id string) error {
	t.mu.Lock()
	delete(t.held, id)
	t.mu.Unlock()
	return os.RemoveAll(filepath.Join(t.dir, id))
}

func hostFacts() spec.Host {
	h := spec.Host{CgroupVersion: 1, Seccomp: true, RecursiveRO: true, RlimitMax: map[string]uint64{}}
	for _, c := range []string{"cpu", "cpuset", "memory", "pids", "devices", "freezer"} {
		if isDir(filepath.Join(cgroupRoot, c)) {
			h.Controllers = append(h.Controllers, c)
		}
	}
	if data, err := os.ReadFile(filepath.Join(cgroupRoot, "cgroup.controllers")); err == nil {
		h.CgroupVersion, h.Controllers = 2, strings.Fields(string(data))
	}
	for i, name := range capNames {
		if v, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(i), 0, 0, 0); err == nil && v == 1 {
			h.Bounding = append(h.Bounding, name)
		}
	}
	return h
}

func podConfig(name string) spec.PodConfig {
	return spec.PodConfig{Namespace: "shop", Name: name, UID: "uid-" + name, Hostname: name,
		Security: spec.PodSecurity{Namespaces: spec.NamespaceOptions{Network: spec.NamespacePod, PID: spec.NamespaceContainer, IPC: spec.NamespacePod,
			User: spec.UserNamespace{Mode: spec.NamespaceNode}}}}
}

func policyPod(cfg spec.PodConfig) policy.Pod {
	o := cfg.Security.Namespaces
	return policy.Pod{Namespace: cfg.Namespace, Name: cfg.Name, UID: cfg.UID, HostNetwork: o.Network == spec.NamespaceNode,
		HostPID: o.PID == spec.NamespaceNode, HostIPC: o.IPC == spec.NamespaceNode, SharedPID: o.PID == spec.NamespacePod}
}

// admitPod reserves a pod and asks the gate.
func (n *node) admitPod(cfg spec.PodConfig) (*PodReservation, enforce.PodAdmission, error) {
	n.tb.Helper()
	ctx := n.tb.Context()
	if cfg.CgroupParent == "" {
		cfg.CgroupParent = n.cgroup
	}
	r, err := n.Reserve(ctx, cfg)
	if err != nil {
		return nil, enforce.PodAdmission{}, err
	}
	sealed, err := r.Seal()
	must(n.tb, err)
	req := enforce.PodRequest{Pod: policyPod(cfg), PodID: r.ID(), Config: sealed}
	if r.Namespaces().PID != "" {
		out, err := spec.BuildInit(spec.PodInput{Pod: cfg, PodID: r.ID(), Namespaces: r.Namespaces(), Floor: n.gate.Floor("shop"), Host: hostFacts()})
		must(n.tb, err)
		req.Spec, req.InitHash = string(out.JSON), "sha256:test"
	}
	adm, err := n.gate.AdmitPod(ctx, req)
	must(n.tb, err)
	return r, adm, nil
}

func (n *node) pod(cfg spec.PodConfig) *Pod {
	n.tb.Helper()
	_, adm, err := n.admitPod(cfg)
	must(n.tb, err)
	p, err := n.Run(n.tb.Context(), adm)
	must(n.tb, err)
	p.Publish()
	return p
}

func script(name, text string) spec.ContainerConfig {
	return spec.ContainerConfig{Name: name, Image: spec.ImageRef{Image: "busybox"}, Command: []string{"/bin/sh", "-c", text},
		Security: spec.ContainerSecurity{Namespaces: spec.NamespaceOptions{PID: spec.NamespaceContainer}}}
}

var manifest = fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},"layers":[]}`, ref.DigestOf([]byte("{}")))

func busyboxImage() policy.Image {
	name, err := ref.Parse("registry.example/busybox:1")
	if err != nil {
		panic(err)
	}
	d := ref.DigestOf([]byte(manifest))
	return policy.Image{Name: name, Top: d, Instance: d, ID: ref.DigestOf([]byte("{}")), OS: "linux", Arch: "amd64"}
}

func evidence() policy.Evidence {
	return policy.Evidence{TopManifest: []byte(manifest), InstanceManifest: []byte(manifest), Complete: true, Fetched: time.Now()}
}

// request is what the front door would ask the gate for r.
func (n *node) request(r *Reservation) enforce.RunRequest {
	n.tb.Helper()
	paths, err := r.Namespaces()
	must(n.tb, err)
	out, err := spec.Build(spec.Input{Pod: r.pod.cfg, PodID: r.pod.id, Container: r.cfg, ID: r.id, Mounts: r.Mounts(),
		Namespaces: paths, Floor: n.gate.Floor("shop"), Host: hostFacts(), Image: spec.ImageConfig{}})
	must(n.tb, err)
	if len(out.Refusals) > 0 {
		n.tb.Fatalf("Build() refuses: %v", out.Refusals)
	}
	sealed, err := r.Seal(spec.ImageConfig{}, out)
	must(n.tb, err)
	return enforce.RunRequest{Pod: policyPod(r.pod.cfg), PodID: r.pod.id, Image: busyboxImage(), Evidence: evidence(),
		Container: policy.Container{Name: r.cfg.Name, ID: r.id}, Spec: string(out.JSON), Config: sealed, Resolved: r.Resolved()}
}

func (n *node) create(p *Pod, cfg spec.ContainerConfig) (*Container, error) {
	n.tb.Helper()
	r, err := p.Reserve(n.tb.Context(), cfg)
	if err != nil {
		return nil, err
	}
	defer r.Cancel()
	adm, err := n.gate.AdmitRun(n.tb.Context(), n.request(r))
	must(n.tb, err)
	c, err := p.Create(n.tb.Context(), adm)
	if err == nil {
		c.Publish()
	}
	return c, err
}

// run creates and starts a container.
func (n *node) run(p *Pod, cfg spec.ContainerConfig) *Container {
	n.tb.Helper()
	c, err := n.create(p, cfg)
	must(n.tb, err)
	must(n.tb, c.Start(n.tb.Context()))
	return c
}

// again is a fresh admission for a container that exists.
func (n *node) again(c *Container) enforce.RunAdmission {
	n.tb.Helper()
	data, err := c.Spec()
	must(n.tb, err)
	adm, err := n.gate.AdmitRun(n.tb.Context(), enforce.RunRequest{Pod: policyPod(c.pod.cfg), PodID: c.pod.id, Image: c.Image(), Evidence: evidence(),
		Container: policy.Container{Name: c.cfg.Name, ID: c.id}, Spec: string(data), Config: c.SealedText(), Resolved: c.Resolved()})
	must(n.tb, err)
	return adm
}

func (n *node) exec(c *Container, timeout time.Duration, args ...string) (ExecResult, error) {
	n.tb.Helper()
	data, err := c.Spec()
	must(n.tb, err)
	process, err := spec.BuildExec(spec.ExecInput{Spec: data, Args: args})
	must(n.tb, err)
	adm, err := n.gate.AdmitExec(n.tb.Context(), enforce.ExecRequest{Pod: policyPod(c.pod.cfg), PodID: c.pod.id,
		Container: policy.Container{Name: c.cfg.Name, ID: c.id}, Exec: policy.Exec{Argv: args, Probe: true}, Process: string(process), Spec: string(data)})
	must(n.tb, err)
	ctx, cancel := context.WithTimeout(n.tb.Context(), 20*time.Second) // a broken timeout fails the test, and the clean-up runs
	defer cancel()
	return c.ExecSync(ctx, adm, timeout)
}

func (n *node) update(c *Container, resources any) error {
	n.tb.Helper()
	data, err := json.Marshal(resources)
	must(n.tb, err)
	adm, err := n.gate.AdmitUpdate(n.tb.Context(), enforce.UpdateRequest{Pod: policyPod(c.pod.cfg), Container: policy.Container{Name: c.cfg.Name, ID: c.id}, Resources: data})
	must(n.tb, err)
	return c.Update(n.tb.Context(), adm)
}

func waitExit(tb testing.TB, c *Container) ContainerStatus {
	tb.Helper()
	select {
	case <-c.exited:
	case <-time.After(20 * time.Second):
		tb.Fatalf("container %s in state %s does not exit", c.id, c.Status().State)
	}
	return c.Status()
}

func logged(tb testing.TB, c *Container) string {
	tb.Helper()
	data, err := os.ReadFile(c.LogPath())
	must(tb, err)
	var out []string
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(line, " ", 4)
		if len(f) == 4 {
			out = append(out, f[3])
		}
	}
	return strings.Join(out, "")
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func fds(tb testing.TB) int {
	tb.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(tb, err)
	return len(slices.Collect(slices.Values(entries)))
}

func dns(server string) *spec.DNS { return &spec.DNS{Servers: []string{server}} }
