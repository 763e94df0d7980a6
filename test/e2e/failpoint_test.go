package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/audit"
	"sallyport/internal/failpoint"
	"sallyport/test/node"
	"sallyport/test/sigkit"
)

// armedEnv is what a daemon built with the tag failpoint reads (internal/failpoint).
const armedEnv = "SALLYPORT_FAILPOINT"

// mortal builds the daemon that dies at failpoints and makes it the one that nodes start from now on.
// The returned function arms points: the daemon dies at the first, the next one at the second.
func mortal(t *testing.T) (arm func(points ...string), armed func() []string) {
	t.Helper()
	bin := filepath.Join(os.Getenv(binEnv), "mortal")
	if _, err := os.Stat(filepath.Join(bin, "sallyportd")); err != nil {
		build := exec.Command("go", "build", "-tags", "containers_image_openpgp exclude_graphdriver_btrfs nri_no_wasm failpoint",
			"-o", filepath.Join(bin, "sallyportd"), "sallyport/cmd/sallyportd")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build the daemon with failpoints: %v: %s", err, out)
		}
		if err := os.Link(filepath.Join(os.Getenv(binEnv), "sallyport-init"), filepath.Join(bin, "sallyport-init")); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "armed")
	t.Setenv(binEnv, bin)
	t.Setenv(armedEnv, file)
	arm = func(points ...string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(strings.Join(points, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	armed = func() []string {
		b, _ := os.ReadFile(file)
		return strings.FieldsFunc(string(b), func(r rune) bool { return r == '\n' })
	}
	return arm, armed
}

// death waits for the daemon to have died by its own SIGKILL, and reports whether it did.
func (w *world) death(wait time.Duration) bool {
	for end := time.Now().Add(wait); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		var st syscall.WaitStatus
		if pid, _ := syscall.Wait4(w.Daemon.Process.Pid, &st, syscall.WNOHANG, nil); pid == w.Daemon.Process.Pid {
			return st.Signaled() && st.Signal() == syscall.SIGKILL
		}
	}
	return false
}

// revive starts the daemon; while points are armed it may die once more for each.
func (w *world) revive(armed func() []string) error {
	var err error
	for range len(armed()) + 1 {
		left := len(armed())
		if err = w.StartDaemon(w.ctx); err == nil || len(armed()) == left {
			return err
		}
	}
	return err
}

// life is a pod's whole life, from the pull of its image to the removal of that image, call by call.
type life struct {
	*world
	pod       *cri.PodSandboxConfig
	container *cri.ContainerConfig
	image     string
	imageID   string
	podID, id string
	armed     func() []string
	deaths    int
	grace     int64 // of the stop, in seconds
}

// calls are the steps of a life, each to be repeated as it is when the daemon died in it.
func (l *life) calls() []func() error {
	return []func() error{
		func() (err error) { l.imageID, err = l.Pull(l.ctx, l.image, l.pod); return err },
		func() (err error) { l.podID, err = l.RunPod(l.ctx, l.pod); return err },
		func() (err error) {
			l.container.Image.Image = l.imageID
			l.id, err = l.Create(l.ctx, l.podID, l.pod, l.container)
			return err
		},
		func() error {
			err := l.Start(l.ctx, l.id)
			if status.Code(err) == codes.FailedPrecondition && l.deaths > 0 && l.state(l.id).State == cri.ContainerState_CONTAINER_RUNNING {
				return nil // it had started; the kubelet sees it in the list
			}
			return err
		},
		func() error {
			r, err := l.Runtime.ExecSync(l.ctx, &cri.ExecSyncRequest{ContainerId: l.id, Cmd: []string{"/bin/true"}, Timeout: 10})
			if err == nil && r.ExitCode != 0 {
				err = fmt.Errorf("exec: %v", r)
			}
			return err
		},
		func() error {
			_, err := l.Runtime.StopContainer(l.ctx, &cri.StopContainerRequest{ContainerId: l.id, Timeout: l.grace})
			return err
		},
		func() error {
			_, err := l.Runtime.RemoveContainer(l.ctx, &cri.RemoveContainerRequest{ContainerId: l.id})
			return err
		},
		func() error {
			_, err := l.Runtime.StopPodSandbox(l.ctx, &cri.StopPodSandboxRequest{PodSandboxId: l.podID})
			return err
		},
		func() error {
			_, err := l.Runtime.RemovePodSandbox(l.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: l.podID})
			return err
		},
		func() error {
			_, err := l.Images.RemoveImage(l.ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: l.imageID}})
			return err
		},
	}
}

// live makes every call of a life, and again each in which the daemon died.
func (l *life) live() error {
	for i, call := range l.calls() {
		for {
			err := call()
			if err == nil {
				break
			}
			if code := status.Code(err); code != codes.Unavailable && code != codes.Canceled || !l.death(2*time.Second) {
				return fmt.Errorf("call %d after %d deaths: %w", i, l.deaths, err)
			}
			l.deaths++
			if err := l.revive(l.armed); err != nil {
				return fmt.Errorf("restart after call %d: %w", i, err)
			}
		}
	}
	return nil
}

// The daemon dies at every failpoint, once in the course of a pod's life. It is started again, the
// call that was cut off is repeated, and the life goes on to its end: nothing is left of it, what ran
// before runs on, and the audit log verifies.
func TestKilledAtEveryPoint(t *testing.T) {
	arm, armed := mortal(t)
	w := start(t, nil, "")
	w.ctx = context.WithoutCancel(w.ctx) // longer than other tests
	reapOrphans(t)
	base := w.push("open/app", v1.Config{})
	_, stays, _ := w.running(base, "stays", "/bin/sleep", "100000")
	img, err := sigkit.Image(sigkit.ImageOptions{Pad: 1000})
	if err != nil {
		t.Fatal(err)
	}
	app := w.host + "/open/mortal:v1"
	if _, err := sigkit.Push(app, img); err != nil {
		t.Fatal(err)
	}
	data := w.Path("data")
	if err := os.MkdirAll(data, 0o755); err != nil {
		t.Fatal(err)
	}
	w.images = true
	before, was := w.state(stays), w.traces()

	killed := func(points ...string) (reached bool) {
		t.Helper()
		arm(points...)
		l := w.life(strings.ReplaceAll(strings.Join(points, "-"), " ", "-"), app, base, data)
		l.armed, l.grace = armed, 1
		if points[0] == "container-killed" {
			l.grace = 0
		}
		if points[0] == "boot-noted" {
			if err := w.StopDaemon(); err != nil {
				t.Fatal(err)
			}
			if err := w.revive(armed); err != nil {
				t.Fatalf("%q: start: %v", points, err)
			}
		}
		if err := l.live(); err != nil {
			t.Fatalf("%q: %v", points, err)
		}
		left := armed()
		if arm(); len(left) > 0 && strings.Contains(points[0], " ") {
			return false // a life passes it less often
		}
		if len(left) > 0 {
			t.Errorf("%q: %q was not reached", points, left)
		} else if w.death(200 * time.Millisecond) { // after the last call's answer
			if err := w.revive(armed); err != nil {
				t.Fatalf("%q: restart: %v", points, err)
			}
		}
		if after := w.state(stays); !proto.Equal(before, after) {
			t.Errorf("%q: what ran before is now %v, was %v", points, after, before)
		}
		w.noTraces(was)
		if t.Failed() {
			t.Fatalf("%q: stopped here; the rest would only repeat it", points)
		}
		return true
	}
	for _, point := range failpoint.Points {
		if !slices.Contains(startPoints, point) {
			killed(point)
		}
		for n := 2; slices.Contains(manyTimes, point) && killed(fmt.Sprint(point, " ", n)); n++ {
		}
	}
	for _, twice := range killedTwice {
		killed(twice[0], twice[1])
	}
	if err := w.StopDaemon(); err != nil {
		t.Error(err)
	}
	if r, err := audit.Verify(w.Path("root/audit")); err != nil {
		t.Errorf("audit log: %v, %v", r, err)
	}
	if err := w.StartDaemon(w.ctx); err != nil {
		t.Fatal(err)
	}
}

// manyTimes are points that a life passes often, and dies at each time.
var manyTimes = []string{"file-written", "pin-file", "pin-mounted", "mount-bound", "pin-unmounted"}

// killedTwice are deaths while a life is under way, and then while the next daemon takes back what was
// half-made.
var killedTwice = [][2]string{
	{"container-created", "runtime-deleted"}, {"container-created", "layer-unmounted"}, {"container-created", "layer-removed"},
	{"container-created", "container-unmounted"}, {"container-created", "bundle-removed"}, {"container-created", "record-removed"},
	{"monitor-told", "bundle-removed"},
	{"init-started", "init-deleted"}, {"init-started", "init-removed"}, {"init-started", "network-deleted"},
	{"init-started", "network-forgotten"}, {"init-started", "pin-unmounted"}, {"init-started", "namespaces-unpinned"},
	{"init-started", "pod-files-removed"}, {"init-started", "pod-directory-removed"}, {"init-started", "key-freed"},
}

// startPoints are those that a node passes only once, when everything is new: TestKilledAtFirstStart.
var startPoints = []string{"audit-segment", "policy-kept", "policy-marked"}

// A node whose first daemons died while they made its audit log, its boot ID and the marks of its policy
// starts like any other, and an older policy does not come back.
func TestKilledAtFirstStart(t *testing.T) {
	arm, armed := mortal(t)
	s := startSigned(t)
	app := s.push("open/app", v1.Config{})
	if err := s.StopDaemon(); err != nil {
		t.Fatal(err)
	}
	state := "/run/" + filepath.Base(scratch)
	for _, mounted := range []string{s.Path("root/image/containers"), s.Path("root/image/storage/overlay"), state + "/sandbox"} {
		if err := unix.Unmount(mounted, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{s.Path("root"), state} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	points := []string{"audit-segment", "file-written", "policy-kept", "policy-marked", "boot-noted"}
	s.install(s.trust(), s.nodePolicy(2, s.ops), s.pay(2, s.team))
	arm(points...)
	if err := s.revive(armed); err != nil {
		t.Fatal(err)
	}
	if left := armed(); len(left) > 0 {
		t.Errorf("%q was not reached", left)
	}
	if _, err := s.Pull(s.ctx, app, s.Pod("default", "x")); err != nil {
		t.Errorf("PullImage() = %v", err)
	}
	s.install(s.trust(), s.nodePolicy(3, s.ops), s.pay(2, s.team))
	for _, point := range []string{"policy-kept", "policy-marked"} {
		arm(point)
		if err := s.Daemon.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if !s.death(5 * time.Second) {
			t.Fatalf("%s was not reached", point)
		}
		if err := s.revive(armed); err != nil {
			t.Fatal(err)
		}
		s.install(s.trust(), s.nodePolicy(4, s.ops), s.pay(2, s.team))
	}
	s.install(s.trust(), s.nodePolicy(3, s.ops), s.pay(2, s.team))
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	if c := s.condition("PolicyEnforced"); c.Status || !strings.Contains(c.Message, "older than 4") {
		t.Errorf("PolicyEnforced = %v, want the older policy refused", c)
	}
	if err := s.StopDaemon(); err != nil {
		t.Error(err)
	}
	if r, err := audit.Verify(s.Path("root/audit")); err != nil {
		t.Errorf("audit log: %v, %v", r, err)
	}
	if err := s.StartDaemon(s.ctx); err != nil {
		t.Fatal(err)
	}
}

// life is a life that passes every failpoint of a pod: with a first process of its own, a volume and an
// image volume.
func (w *world) life(name, image, volume, data string) *life {
	pod := w.Pod("default", name)
	c := node.Container("main", image, "", "/bin/sleep", "100000")
	for _, o := range []*cri.NamespaceOption{pod.Linux.SecurityContext.NamespaceOptions, c.Linux.SecurityContext.NamespaceOptions} {
		o.Pid = cri.NamespaceMode_POD
	}
	c.Mounts = []*cri.Mount{{ContainerPath: "/data", HostPath: data}, {ContainerPath: "/vol", Image: &cri.ImageSpec{Image: volume}, Readonly: true}}
	return &life{world: w, pod: pod, container: c, image: image}
}
