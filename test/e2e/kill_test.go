package e2e

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/audit"
	"sallyport/test/node"
	"sallyport/test/sigkit"
)

// patience is how long a call may be cut off again and again; a slow node is killed before it has done much.
const patience = 3 * time.Minute

// kills is how often TestKilledAnywhere kills the daemon. CI has time for a few; -kills 500 -timeout 60m
// is for a change of what is written when.
var kills = flag.Int("kills", 15, "how often the daemon is killed under load")

// The daemon is killed at random moments while four clients make, use and remove pods and one pulls and
// removes an image. Whatever call was cut off is repeated after the restart and succeeds; in the end nothing
// is left, what ran before runs on, untouched, and the audit log verifies.
func TestKilledAnywhere(t *testing.T) {
	w := start(t, nil, "")
	w.ctx = context.WithoutCancel(w.ctx) // as long as it takes
	image := w.push("open/app", v1.Config{})
	_, stays, pod := w.running(image, "stays", "/bin/sleep", "100000")
	imageID := w.pulled(image, pod)
	other := w.host + "/open/comes-and-goes:v1"
	img, err := sigkit.Image(sigkit.ImageOptions{Pad: 1 << 20})
	if err == nil {
		_, err = sigkit.Push(other, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.images = true
	before, was := w.state(stays), w.traces()
	reapOrphans(t)

	mine := *w.Node
	clients := &world{Node: &mine, ctx: w.ctx, t: t} // their connection finds the next daemon by itself
	over := make(chan struct{})
	var lives, cut atomic.Int64
	// again makes a call until it is answered; it may be cut off by a kill any number of times.
	again := func(what string, call func() error) bool {
		for tries, begin := 0, time.Now(); ; tries++ {
			err := call()
			code := status.Code(err)
			switch {
			case err == nil:
				return true
			case (code == codes.Unavailable || code == codes.Canceled) && time.Since(begin) < patience:
				cut.Add(1)
				time.Sleep(20 * time.Millisecond)
			default:
				t.Errorf("%s, tried %d times: %v", what, tries+1, err)
				return false
			}
		}
	}
	var wg sync.WaitGroup
	for client := range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-over:
					return
				default:
				}
				if !clients.briefLife(again, fmt.Sprintf("killed-%d-%d", client, n), image, imageID, n) {
					return
				}
				lives.Add(1)
			}
		})
	}
	wg.Go(func() {
		for {
			select {
			case <-over:
				return
			default:
			}
			var id string
			if !again("pull", func() (err error) { id, err = clients.Pull(w.ctx, other, pod); return err }) ||
				!again("remove image", func() error {
					_, err := clients.Images.RemoveImage(w.ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: id}})
					return err
				}) {
				return
			}
		}
	})
	for i := range *kills {
		time.Sleep(time.Duration(rand.IntN(700)) * time.Millisecond)
		w.kill()
		if err := w.StartDaemon(w.ctx); err != nil {
			t.Errorf("start after kill %d: %v", i+1, err)
			break
		}
		if t.Failed() {
			break
		}
	}
	close(over)
	wg.Wait()
	t.Logf("%d kills, %d calls cut off, %d lives of pods to their end", *kills, cut.Load(), lives.Load())
	if after := w.state(stays); !proto.Equal(before, after) {
		t.Errorf("what ran before is now %v, was %v", after, before)
	}
	w.noTraces(was)
	if err := w.StopDaemon(); err != nil {
		t.Error(err)
	}
	if r, err := audit.Verify(w.Path("root/audit")); err != nil {
		t.Errorf("audit log after %d kills: %v, %v", *kills, r, err)
	}
	if err := w.StartDaemon(w.ctx); err != nil {
		t.Fatal(err)
	}
}

// briefLife makes, uses and removes a pod with a container as a kubelet does, which repeats what was cut
// off. It reports whether every call succeeded in the end.
func (w *world) briefLife(again func(string, func() error) bool, name, image, imageID string, n int) bool {
	cfg := w.Pod("default", name)
	c := node.Container("main", image, imageID, "/bin/sleep", "100000")
	if n%3 == 0 {
		cfg.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
		c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	}
	var podID, id string
	ok := again("run pod "+name, func() (err error) { podID, err = w.RunPod(w.ctx, cfg); return err }) &&
		again("create in "+name, func() (err error) { id, err = w.Create(w.ctx, podID, cfg, c); return err }) &&
		again("start in "+name, func() error {
			err := w.Start(w.ctx, id)
			if status.Code(err) == codes.FailedPrecondition { // an earlier try has started it
				if r, serr := w.Runtime.ContainerStatus(w.ctx, &cri.ContainerStatusRequest{ContainerId: id}); serr == nil && r.Status.State == cri.ContainerState_CONTAINER_RUNNING {
					return nil
				} else if serr != nil {
					return serr
				}
			}
			return err
		}) &&
		again("list "+name, func() error {
			list, err := w.Runtime.ListContainers(w.ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: podID}})
			if err == nil && (len(list.Containers) != 1 || list.Containers[0].Id != id) {
				err = fmt.Errorf("containers of %s: %v, want %s alone", name, list.Containers, id)
			}
			return err
		})
	if !ok {
		return false
	}
	if n%2 == 0 {
		ok = again("stop in "+name, func() error {
			_, err := w.Runtime.StopContainer(w.ctx, &cri.StopContainerRequest{ContainerId: id})
			return err
		}) && again("remove container of "+name, func() error {
			_, err := w.Runtime.RemoveContainer(w.ctx, &cri.RemoveContainerRequest{ContainerId: id})
			return err
		})
	}
	return ok && again("remove pod "+name, func() error { return w.RemovePod(w.ctx, podID) })
}
