package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/test/node"
)

// traces is everything outside the daemon's memory that pods leave on a node, by name.
func (w *world) traces() (out []string) {
	add := func(kind string, names []string) {
		for _, n := range names {
			out = append(out, kind+" "+n)
		}
	}
	glob := func(pattern string) []string {
		found, _ := filepath.Glob(pattern)
		return found
	}
	state := "/run/" + filepath.Base(scratch)
	add("netns", glob("/run/netns/*"))
	add("key", glob(state+"/sandbox/keys/*"))
	add("pod", glob(state+"/sandbox/pods/*"))
	add("bundle", glob(state+"/sandbox/containers/*"))
	add("exit file", glob(state+"/sandbox/exits/*"))
	add("runtime state", glob(state+"/sandbox/runtime/*/*"))
	add("lease", glob(w.Path("cni/leases/sallyport-test/10.*")))
	add("CNI record", glob(w.Path("root/cni/*/results/*")))
	add("port", glob("/sys/class/net/veth*"))
	add("container layer", glob(w.Path("root/image/containers/*")))
	if w.images {
		add("image record", glob(w.Path("root/image/images/*")))
		add("image layer", glob(w.Path("root/image/storage/overlay/[0-9a-f]*")))
	}
	add("temporary file", glob(w.Path("root/image/tmp/*")))
	for _, dir := range []string{state, w.Path("root")} {
		filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() && (d.Name() == "merged" || d.Name() == "diff" || d.Name() == "rootfs") {
				return filepath.SkipDir
			}
			if err == nil && strings.HasPrefix(d.Name(), ".tmp-") {
				out = append(out, "temporary file "+path)
			}
			return nil
		})
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		at := strings.Fields(line)[4]
		if strings.HasPrefix(at, state+"/sandbox/") || strings.HasPrefix(at, w.Path("root")+"/") && strings.Contains(at, "merged") || strings.HasPrefix(at, "/run/netns/") {
			out = append(out, "mount "+at)
		}
	}
	for _, root := range append(glob("/sys/fs/cgroup/*"+node.CgroupParent(scratch)), "/sys/fs/cgroup"+node.CgroupParent(scratch)) {
		filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && strings.HasPrefix(d.Name(), "sallyport-") && path != root {
				out = append(out, "cgroup "+path)
			}
			return nil
		})
	}
	for _, comm := range glob("/proc/[0-9]*/comm") {
		b, _ := os.ReadFile(comm)
		stat, _ := os.ReadFile(filepath.Join(filepath.Dir(comm), "stat"))
		if name := strings.TrimSpace(string(b)); (name == "conmon" || name == "sleep" || name == "sallyport-init" || strings.HasPrefix(name, "runc")) && !strings.Contains(string(stat), ") Z ") {
			out = append(out, "process "+filepath.Dir(comm)) // without its name: the runtime's part becomes the command
		}
	}
	slices.Sort(out)
	return out
}

// kill ends the daemon as a power cut would, but for the kernel.
func (w *world) kill() {
	w.t.Helper()
	w.Daemon.Process.Kill()
	w.Daemon.Wait()
}

// clearBut removes all pods but one.
func (w *world) clearBut(name string) {
	w.t.Helper()
	list, err := w.Runtime.ListPodSandbox(w.ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range list.Items {
		if p.Metadata.Name == name {
			continue
		}
		if err := w.RemovePod(w.ctx, p.Id); err != nil {
			w.t.Error(err)
		}
	}
}

// reapOrphans does what an init does, which these tests have none of: the kernel ends a PID namespace
// only when all its dead are reaped.
func reapOrphans(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			stats, _ := filepath.Glob("/proc/[0-9]*/stat")
			for _, path := range stats {
				b, _ := os.ReadFile(path)
				_, rest, _ := strings.Cut(string(b), ") ")
				var pid int
				fmt.Sscan(string(b), &pid)
				if strings.HasPrefix(rest, "Z 1 ") && os.Getpid() == 1 && !strings.Contains(string(b), "(sallyportd)") {
					unix.Wait4(pid, nil, unix.WNOHANG, nil)
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
	}()
}

// noTraces waits until the node looks as it did.
func (w *world) noTraces(was []string) {
	w.t.Helper()
	var left []string
	for range 100 {
		left = nil
		for _, s := range w.traces() {
			if !slices.Contains(was, s) {
				left = append(left, s)
			}
		}
		if len(left) == 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
}

// However often and impatiently one container is asked for, there is one, with one ID.
func TestTwoHundredCreates(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{})
	imageID := w.pulled(image, nil)
	was := w.traces()
	podID, pod := w.pod("default", "many")
	var mu sync.Mutex
	ids := map[string]int{}
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			ctx, cancel := w.ctx, context.CancelFunc(func() {})
			impatient := rand.IntN(2) == 0
			if impatient {
				ctx, cancel = context.WithTimeout(w.ctx, time.Duration(rand.IntN(80))*time.Millisecond)
			}
			defer cancel()
			id, err := w.Create(ctx, podID, pod, node.Container("main", image, imageID, "/bin/sleep", "100000"))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				ids[id]++
			case status.Code(err) != codes.DeadlineExceeded || !impatient:
				t.Errorf("CreateContainer() = %v", err)
			}
		})
	}
	wg.Wait()
	if len(ids) != 1 {
		t.Errorf("IDs = %v, want one", ids)
	}
	list, err := w.Runtime.ListContainers(w.ctx, &cri.ListContainersRequest{})
	if err != nil || len(list.Containers) != 1 || ids[list.Containers[0].Id] == 0 {
		t.Errorf("ListContainers() = %v, %v, want the one", list, err)
	}
	if err := w.RemovePod(w.ctx, podID); err != nil {
		t.Error(err)
	}
	w.noTraces(was)
}

// A stop right after the start is over by the grace period, whether or not PID 1 had a handler yet.
func TestStopRightAfterStart(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{})
	podID, pod := w.pod("default", "stops")
	imageID := w.pulled(image, pod)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 5)
	for i := range 50 {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			c := node.Container(fmt.Sprintf("stop-%d", i), image, imageID, "/bin/sh", "-c", "trap 'exit 9' TERM; while true; do sleep 0.05; done")
			id, err := w.Create(w.ctx, podID, pod, c)
			if err == nil {
				err = w.Start(w.ctx, id)
			}
			begin := time.Now()
			if err == nil {
				_, err = w.Runtime.StopContainer(w.ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: 1})
			}
			took := time.Since(begin)
			if err != nil || took > 6*time.Second {
				t.Errorf("container %d: %v, stopped after %s", i, err, took)
				return
			}
			r, err := w.Runtime.ContainerStatus(w.ctx, &cri.ContainerStatusRequest{ContainerId: id})
			if err != nil || r.Status.State != cri.ContainerState_CONTAINER_EXITED || r.Status.ExitCode == 0 {
				t.Errorf("container %d: %v, %v", i, r, err)
			}
		})
	}
	wg.Wait()
}

// A daemon that has run out of descriptors fails calls, and nothing else: with descriptors again it
// goes on, nothing is left of what failed, and what ran is untouched.
func TestOutOfDescriptors(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{})
	_, stays, pod := w.running(image, "stays", "/bin/sleep", "100000")
	imageID := w.pulled(image, pod)
	before, was := w.state(stays), w.traces()
	var whole unix.Rlimit
	pid := w.Daemon.Process.Pid
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &whole); err != nil {
		t.Fatal(err)
	}
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	failed := 0
	for spare := range 14 {
		low := unix.Rlimit{Cur: uint64(len(open) + spare*2), Max: whole.Max}
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &low, nil); err != nil {
			t.Fatal(err)
		}
		cfg := w.Pod("default", fmt.Sprintf("starved-%d", spare))
		c := node.Container("main", image, imageID, "/bin/sleep", "100000")
		podID, err := w.RunPod(w.ctx, cfg)
		if err == nil {
			var id string
			if id, err = w.Create(w.ctx, podID, cfg, c); err == nil {
				err = w.Start(w.ctx, id)
			}
		}
		if err != nil {
			failed++
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error of more than a line: %q", err)
			}
		}
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &whole, nil); err != nil {
			t.Fatal(err)
		}
		if podID == "" {
			if podID, err = w.RunPod(w.ctx, cfg); err != nil {
				t.Fatalf("with %d spare descriptors, then all: the retry: %v", spare*2, err)
			}
		}
		if err := w.RemovePod(w.ctx, podID); err != nil {
			t.Errorf("with %d spare descriptors, then all: remove: %v", spare*2, err)
		}
	}
	if failed == 0 {
		t.Error("no call failed; the test starved nothing")
	}
	if after := w.state(stays); !proto.Equal(before, after) {
		t.Errorf("what ran before is now %v, was %v", after, before)
	}
	w.noTraces(was)
}
