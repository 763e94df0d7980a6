package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/seccomp"
	"sallyport/test/node"
	"sallyport/test/roottest"
)

// once runs a container to its end and returns its log.
func (w *world) once(name, image string, change func(*cri.ContainerConfig), script string) string {
	w.t.Helper()
	podID, pod := w.pod("default", name)
	c := node.Container("main", image, w.pulled(image, pod), "/bin/sh", "-c", script)
	change(c)
	id, err := w.Create(w.ctx, podID, pod, c)
	if err == nil {
		err = w.Start(w.ctx, id)
	}
	if err == nil {
		_, err = w.Wait(w.ctx, id)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	text, err := w.ContainerLog(pod, c)
	if err != nil {
		w.t.Fatal(err)
	}
	return text
}

// TestRecursiveReadOnly: what is mounted below a read-only volume is read-only too where that was asked
// for, and only there.
func TestRecursiveReadOnly(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{})
	dir := w.volume("rro")
	below := filepath.Join(dir, "of-root")
	if err := unix.Mount(below, below, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(below, unix.MNT_DETACH) })
	for name, tt := range map[string]struct {
		recursive bool
		want      string
	}{"rro": {true, "refused\n"}, "ro": {false, "written\n"}} {
		got := w.once(name, image, func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{ContainerPath: "/v", HostPath: dir, Readonly: true, RecursiveReadOnly: tt.recursive}}
		}, "(echo x > /v/of-root) 2> /dev/null && echo written || echo refused")
		if got != tt.want {
			t.Errorf("%s: writing below = %q, want %q", name, got, tt.want)
		}
	}
}

// TestMountOptions: what is asked for is there, on that mount alone.
func TestMountOptions(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{})
	dir := w.volume("options")
	got := w.once("options", image, func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{{ContainerPath: "/a", HostPath: dir, MountOptions: []string{"noexec", "nosuid"}}, {ContainerPath: "/b", HostPath: dir}}
	}, "cp /bin/busybox /a/echo 2> /dev/null || busybox cp /bin/busybox /a/echo; /a/echo no 2> /dev/null || echo refused; /b/echo yes")
	if got != "refused\nyes\n" {
		t.Errorf("programs of the two mounts = %q, want the first refused", got)
	}
}

// TestSupplementalGroups: Merge adds the groups that the image gives the user, Strict does not; the
// status says which the process has, and the kernel agrees.
func TestSupplementalGroups(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{})
	for policy, want := range map[cri.SupplementalGroupsPolicy][]int64{
		cri.SupplementalGroupsPolicy_Merge:  {1000, 2000, 3000},
		cri.SupplementalGroupsPolicy_Strict: {1000, 3000},
	} {
		podID, pod := w.pod("default", strings.ToLower(policy.String()))
		c := node.Container("main", image, w.pulled(image, pod), "/bin/sh", "-c", "grep ^Groups /proc/self/status; sleep 1000")
		c.Linux.SecurityContext.RunAsUser = &cri.Int64Value{Value: 1000}
		c.Linux.SecurityContext.SupplementalGroups = []int64{3000}
		c.Linux.SecurityContext.SupplementalGroupsPolicy = policy
		id, err := w.Create(w.ctx, podID, pod, c)
		if err == nil {
			err = w.Start(w.ctx, id)
		}
		if err != nil {
			t.Fatal(err)
		}
		got := slices.Sorted(slices.Values(w.state(id).User.GetLinux().GetSupplementalGroups()))
		if !slices.Equal(got, want) {
			t.Errorf("%s: groups in status = %v, want %v", policy, got, want)
		}
		wait(t, "the log", func() bool {
			text, _ := w.ContainerLog(pod, c)
			return text == fmt.Sprintf("Groups:\t%s \n", strings.Trim(fmt.Sprint(want), "[]"))
		})
	}
}

// TestEphemeralContainer: it sees the processes of the container that it names, and of no other pod's.
func TestEphemeralContainer(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{})
	podID, target, pod := w.running(image, "target", "/bin/sleep", "1234")
	otherID, other := w.pod("default", "other")
	debug := func(name string) *cri.ContainerConfig {
		c := node.Container(name, image, w.pulled(image, pod), "/bin/ps")
		c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_TARGET
		c.Linux.SecurityContext.NamespaceOptions.TargetId = target
		return c
	}
	c := debug("debug")
	id, err := w.Create(w.ctx, podID, pod, c)
	if err == nil {
		err = w.Start(w.ctx, id)
	}
	if err == nil {
		_, err = w.Wait(w.ctx, id)
	}
	if text, _ := w.ContainerLog(pod, c); err != nil || !strings.Contains(text, "sleep 1234") {
		t.Errorf("ps in the debug container = %q, %v, want the target's process", text, err)
	}
	if _, err := w.Create(w.ctx, otherID, other, debug("foreign")); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("CreateContainer() with a target in another pod = %v, want FailedPrecondition", err)
	}
}

// TestStopSignal: the container's, or else the image's, is shown and sent.
func TestStopSignal(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/stop", v1.Config{StopSignal: "SIGUSR2"})
	for name, tt := range map[string]struct {
		asked, want cri.Signal
		text        string
	}{
		"image":     {cri.Signal_SIGNAL_RUNTIME_DEFAULT, cri.Signal_SIGNAL_SIGUSR2, "USR2\n"},
		"container": {cri.Signal_SIGNAL_SIGUSR1, cri.Signal_SIGNAL_SIGUSR1, "USR1\n"},
	} {
		podID, pod := w.pod("default", name)
		c := node.Container("main", image, w.pulled(image, pod), "/bin/sh", "-c",
			"trap 'echo USR1; exit' USR1; trap 'echo USR2; exit' USR2; echo ready; while :; do sleep 0.05; done")
		c.StopSignal = tt.asked
		id, err := w.Create(w.ctx, podID, pod, c)
		if err == nil {
			err = w.Start(w.ctx, id)
		}
		if err != nil {
			t.Fatal(err)
		}
		wait(t, "the trap", func() bool { text, _ := w.ContainerLog(pod, c); return text == "ready\n" })
		if got := w.state(id).StopSignal; got != tt.want {
			t.Errorf("%s: stop signal in status = %v, want %v", name, got, tt.want)
		}
		began := time.Now()
		if _, err := w.Runtime.StopContainer(w.ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: 20}); err != nil || time.Since(began) > 15*time.Second {
			t.Errorf("StopContainer() = %v after %v", err, time.Since(began))
		}
		if text, _ := w.ContainerLog(pod, c); text != "ready\n"+tt.text {
			t.Errorf("%s: log = %q, want %q at its end", name, text, tt.text)
		}
	}
}

// TestUnifiedNeedsVersion2: cgroup v2 keys are refused by name on a node with cgroup v1.
func TestUnifiedNeedsVersion2(t *testing.T) {
	var st unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		t.Skip("the node has cgroup v2")
	}
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{})
	podID, pod := w.pod("default", "unified")
	c := node.Container("main", image, w.pulled(image, pod), "true")
	c.Linux.Resources.Unified = map[string]string{"memory.high": "1000000"}
	if _, err := w.Create(w.ctx, podID, pod, c); err == nil || !strings.Contains(err.Error(), `"memory.high"`) || !strings.Contains(err.Error(), "cgroup v1") {
		t.Errorf("CreateContainer() = %v, want the key and the reason", err)
	}
	c.Linux.Resources.Unified = nil
	if _, err := w.Create(w.ctx, podID, pod, c); err != nil {
		t.Errorf("CreateContainer() without = %v", err)
	}
}

// TestUnifiedKeys: on cgroup v2, what the kubelet's memory QoS sends is in force, an annotation makes it
// tighter and never looser, swap ends at its limit, and the kernel's pressure figures are told.
func TestUnifiedKeys(t *testing.T) {
	var st unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type != unix.CGROUP2_SUPER_MAGIC {
		t.Skip("the node has cgroup v1; make test-vm runs this")
	}
	w := start(t, nil, fmt.Sprintf("[runtime.handlers.open]\npath = %q\nallowed_annotations = [\"unified-cgroup.crio.io\"]\n", roottest.Binary(t, "runc")))
	image := w.push("open/app", v1.Config{})
	for annotation, want := range map[string]string{"memory.high=20971520": "20971520", "memory.high=94371840": "50331648"} {
		pod := w.Pod("default", "unified")
		pod.Annotations = map[string]string{"unified-cgroup.crio.io/main": annotation + ";memory.oom.group=1"}
		podID := w.withHandler("open", pod)
		c := node.Container("main", image, w.pulled(image, pod), "/bin/sleep", "1000")
		c.Linux.Resources.MemoryLimitInBytes, c.Linux.Resources.MemorySwapLimitInBytes = 64<<20, 64<<20
		c.Linux.Resources.Unified = map[string]string{"memory.high": "50331648", "memory.low": "1048576"}
		id, err := w.Create(w.ctx, podID, pod, c)
		if err == nil {
			err = w.Start(w.ctx, id)
		}
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join("/sys/fs/cgroup", pod.Linux.CgroupParent, "sallyport-"+id)
		for file, want := range map[string]string{"memory.high": want, "memory.low": "1048576", "memory.oom.group": "1", "memory.max": "67108864", "memory.swap.max": "0"} {
			if b, err := os.ReadFile(filepath.Join(dir, file)); err != nil || strings.TrimSpace(string(b)) != want {
				t.Errorf("%s: %s = %q, %v, want %s", annotation, file, b, err, want)
			}
		}
		stats, err := w.Runtime.ContainerStats(w.ctx, &cri.ContainerStatsRequest{ContainerId: id})
		if err != nil || stats.Stats.GetCpu().GetPsi() == nil || stats.Stats.GetMemory().GetPsi() == nil {
			t.Errorf("ContainerStats() = %v, %v, want pressure figures", stats, err)
		}
	}
}

// TestHandlers: a second runtime handler serves pods that name it, Status shows each with its features,
// and an unknown one is refused before anything is made.
func TestHandlers(t *testing.T) {
	runc := roottest.Binary(t, "runc")
	w := start(t, nil, fmt.Sprintf("[runtime.handlers.second]\npath = %q\n", runc))
	image := w.push("open/app", v1.Config{})
	r, err := w.Runtime.Status(w.ctx, &cri.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, h := range r.RuntimeHandlers {
		names = append(names, h.Name)
		if !h.Features.GetRecursiveReadOnlyMounts() || !h.Features.GetUserNamespaces() {
			t.Errorf("features of handler %q = %v", h.Name, h.Features)
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"", "runc", "second"}) {
		t.Errorf("handlers = %q", names)
	}
	pod := w.Pod("default", "second")
	req := &cri.RunPodSandboxRequest{Config: pod, RuntimeHandler: "second"}
	p, err := w.Runtime.RunPodSandbox(w.ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	id, err := w.Create(w.ctx, p.PodSandboxId, pod, node.Container("main", image, w.pulled(image, pod), "/bin/true"))
	if err == nil {
		err = w.Start(w.ctx, id)
	}
	if st, werr := w.Wait(w.ctx, id); err != nil || werr != nil || st.ExitCode != 0 {
		t.Errorf("a container of the second handler = %v, %v, %v", st, err, werr)
	}
	req = &cri.RunPodSandboxRequest{Config: w.Pod("default", "third"), RuntimeHandler: "third"}
	if _, err := w.Runtime.RunPodSandbox(w.ctx, req); err == nil || !strings.Contains(err.Error(), `"third"`) {
		t.Errorf("RunPodSandbox() of an unknown handler = %v, want a refusal that names it", err)
	}
}

// TestHandlerAnnotations: a handler takes the annotations that it allows and no other, its defaults hold
// for pods that say nothing, and its own seccomp profile for containers that bring none.
func TestHandlerAnnotations(t *testing.T) {
	runc := roottest.Binary(t, "runc")
	profile := filepath.Join(t.TempDir(), "profile.json")
	text := strings.Replace(string(seccomp.DefaultJSON()), `"mkdir",`, "", 1)
	if text == string(seccomp.DefaultJSON()) {
		t.Fatal("the default profile does not name mkdir")
	}
	if err := os.WriteFile(profile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w := start(t, nil, fmt.Sprintf("[runtime.handlers.open]\npath = %q\nallowed_annotations = [\"shm-size.crio.io\", \"umask.crio.io\", \"devices.crio.io\"]\n"+
		"[runtime.handlers.own]\npath = %q\nseccomp_profile = %q\ndefault_annotations = {\"umask.crio.io\" = \"0077\"}\n", runc, runc, profile))
	image := w.push("open/app", v1.Config{})
	ask := func(handler, name string, annotations map[string]string) string {
		t.Helper()
		pod := w.Pod("default", name)
		pod.Annotations = annotations
		podID := w.withHandler(handler, pod)
		c := node.Container("main", image, w.pulled(image, pod), "/bin/sh", "-c", "busybox df -k /dev/shm | busybox tail -1; umask; busybox mkdir /tmp/made && echo made")
		id, err := w.Create(w.ctx, podID, pod, c)
		if err == nil {
			err = w.Start(w.ctx, id)
		}
		if err == nil {
			_, err = w.Wait(w.ctx, id)
		}
		if err != nil {
			return err.Error()
		}
		log, err := w.ContainerLog(pod, c)
		if err != nil {
			t.Fatal(err)
		}
		return log
	}
	wants := func(name, got string, want, not string) {
		t.Helper()
		if !strings.Contains(got, want) || not != "" && strings.Contains(got, not) {
			t.Errorf("%s: %q, want %q and not %q", name, got, want, not)
		}
	}
	both := map[string]string{"io.kubernetes.cri-o.ShmSize": "128Mi", "umask.crio.io": "0027"}
	got := ask("open", "allowed", both)
	wants("allowed", got, "131072", "65536")
	wants("allowed", got, "0027\nmade\n", "")
	got = ask("runc", "not-allowed", both)
	wants("not allowed", got, "65536", "131072")
	wants("not allowed", got, "0022\nmade\n", "")
	wants("the handler's own", ask("own", "own", both), "0077\n", "\nmade\n")
	wants("malformed", ask("open", "malformed", map[string]string{"umask.crio.io": "9"}), "umask.crio.io", "made")
	// An annotation asks; the floor answers.
	wants("a device", ask("open", "device", map[string]string{"devices.crio.io": "/dev/null:/dev/other:rw"}), "floor-devices", "made")
}

// TestPinnedImage: the configuration keeps the kubelet from collecting an image.
func TestPinnedImage(t *testing.T) {
	w := prepare(t)
	pinned, loose := w.push("open/pinned", v1.Config{Labels: map[string]string{"a": "1"}}), w.push("open/loose", v1.Config{})
	n, err := node.New(w.ctx, w.options(nil, fmt.Sprintf("[image]\npinned = [%q]\n", pinned)))
	if err != nil {
		t.Fatal(err)
	}
	w.Node = n
	t.Cleanup(func() { n.StopDaemon() })
	for name, want := range map[string]bool{pinned: true, loose: false} {
		id := w.pulled(name, nil)
		r, err := w.Images.ImageStatus(w.ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: id}})
		if err != nil || r.Image.GetPinned() != want {
			t.Errorf("image %s: pinned = %v, %v, want %v", name, r.GetImage().GetPinned(), err, want)
		}
	}
}
