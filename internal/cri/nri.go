package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/enforce"
	"sallyport/internal/nri"
	"sallyport/sandbox"
	"sallyport/sandbox/spec"
)

// evictGrace is how long a container that a plugin evicts has to end (a pod's default).
const evictGrace = 30 * time.Second

// ServePlugins has NRI plugins hear of what ends and goes from now on; it returns what they act on. It
// comes before the first request.
func (s *Server) ServePlugins() nri.Runtime {
	s.o.Pods.Observe(sandbox.Observer{PodStopping: s.podStopping, PodGone: s.podGone, ContainerGone: s.containerGone})
	return nri.Runtime{State: s.state, Change: s.changeFor, Evict: s.evict}
}

// state is every pod and container that a client knows of.
func (s *Server) state() (pods []*nri.Pod, ctrs []*nri.Container) {
	for _, p := range s.o.Pods.List() {
		pods = append(pods, podToNRI(p))
	}
	for _, c := range s.o.Pods.Containers() {
		ctrs = append(ctrs, containerToNRI(c))
	}
	return pods, ctrs
}

// changeFor makes changes that a plugin asks for, each as far as the gate admits it, and returns those
// that were not made.
func (s *Server) changeFor(ctx context.Context, plugin string, changes []nri.Change) (failed []nri.Change) {
	for _, ch := range changes {
		if err := s.changeOne(ctx, ch); err != nil {
			s.o.Log.Warn("change for NRI plugin", "plugin", plugin, "id", ch.ID, "err", err)
			failed = append(failed, ch)
		}
	}
	return failed
}

func (s *Server) changeOne(ctx context.Context, ch nri.Change) error {
	c, err := s.o.Pods.Container(ch.ID)
	if err != nil {
		return err
	}
	return s.changeLimits(ctx, c, ch.Resources, refusalsOf(ch))
}

func refusalsOf(ch nri.Change) (out []enforce.Hit) {
	for _, r := range ch.Refused {
		out = append(out, enforce.Hit{Layer: "gate", Rule: "nri", Msg: "an NRI plugin asks for what containers cannot have: " + r})
	}
	return out
}

// changeOthers makes the changes to other containers that plugins asked for beside an answer. One that
// cannot be made is an error, unless the plugin says that it may fail.
func (s *Server) changeOthers(ctx context.Context, in integration) error {
	for _, ch := range in.changes {
		if err := s.changeOne(ctx, ch); err != nil && !ch.IgnoreFailure {
			return fmt.Errorf("change for NRI plugins: %w", err)
		}
	}
	for _, e := range in.evict {
		s.evict(ctx, e.Plugin, e.ID, e.Reason)
	}
	return nil
}

// evict stops a container that a plugin wants gone; the kubelet then sees it end. It goes on after the
// plugin's call.
func (s *Server) evict(ctx context.Context, plugin, id, reason string) {
	c, err := s.o.Pods.Container(id)
	if err != nil {
		s.o.Log.Warn("evict for NRI plugin", "plugin", plugin, "id", id, "err", err)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.o.CreateTimeout)
	go func() {
		defer cancel()
		s.o.Log.Info("evict for NRI plugin", "plugin", plugin, "id", id, "reason", reason)
		if err := c.Stop(ctx, evictGrace); err != nil {
			s.o.Log.Warn("evict for NRI plugin", "plugin", plugin, "id", id, "err", err)
		}
	}()
}

// tellRun tells plugins of a pod that nobody else knows of yet. If one refuses it, nothing is left of it.
func (s *Server) tellRun(ctx context.Context, pod *sandbox.Pod) error {
	err := s.o.NRI.RunPod(ctx, podToNRI(pod))
	if err == nil {
		return nil
	}
	s.undoPod(pod)
	return fmt.Errorf("run pod %s/%s: %w", pod.Config().Namespace, pod.Config().Name, err)
}

func (s *Server) tellPodUpdate(ctx context.Context, pod *sandbox.Pod, req *v1.UpdatePodSandboxResourcesRequest) error {
	describe := func(r *v1.LinuxContainerResources) *nri.Resources {
		if r == nil {
			return nil
		}
		return nri.ResourcesOf(resources(r))
	}
	return s.o.NRI.UpdatePod(ctx, podToNRI(pod), describe(req.GetOverhead()), describe(req.GetResources()))
}

// created tells plugins that a container was made.
func (s *Server) created(ctx context.Context, c *sandbox.Container, in integration) {
	if in.asked != nil {
		s.warn(c, "creation", s.o.NRI.PostCreate(ctx, podToNRI(c.Pod()), containerToNRI(c)))
	}
}

// askStart asks plugins whether a created container may start.
func (s *Server) askStart(ctx context.Context, c *sandbox.Container) error {
	if c.Status().State != sandbox.Created || !s.o.NRI.Active(podToNRI(c.Pod()), c.Config().Name) {
		return nil
	}
	return s.o.NRI.Start(ctx, podToNRI(c.Pod()), containerToNRI(c))
}

func (s *Server) started(ctx context.Context, c *sandbox.Container) {
	if s.plugged() {
		s.warn(c, "start", s.o.NRI.PostStart(ctx, podToNRI(c.Pod()), containerToNRI(c)))
	}
}

// askUpdate asks plugins what a change of limits should be; they may change r.
func (s *Server) askUpdate(ctx context.Context, c *sandbox.Container, r *spec.Resources) (others integration, refused []enforce.Hit, err error) {
	if !s.plugged() {
		return others, nil, nil
	}
	answer, err := s.o.NRI.Update(ctx, podToNRI(c.Pod()), containerToNRI(c), nri.ResourcesOf(*r))
	if err != nil {
		return others, nil, fmt.Errorf("update container %s: %w", c.ID(), err)
	}
	others.evict = answer.Evict
	for _, ch := range answer.Changes {
		if ch.ID == c.ID() {
			ch.Resources.OOMScoreAdj = r.OOMScoreAdj
			*r, refused = ch.Resources, refusalsOf(ch)
			continue
		}
		others.changes = append(others.changes, ch)
	}
	return others, refused, nil
}

func (s *Server) updated(ctx context.Context, c *sandbox.Container) {
	if s.plugged() {
		s.warn(c, "update", s.o.NRI.PostUpdate(ctx, podToNRI(c.Pod()), containerToNRI(c)))
	}
}

// tellStopped tells plugins once that a container has ended. Whoever comes second waits for the first, so
// that what is told next comes after it.
func (s *Server) tellStopped(ctx context.Context, c *sandbox.Container) {
	if s.o.NRI == nil {
		return
	}
	once, _ := s.stops.LoadOrStore(c.ID(), new(sync.Once))
	once.(*sync.Once).Do(func() {
		answer, err := s.o.NRI.Stop(ctx, podToNRI(c.Pod()), containerToNRI(c))
		if err == nil {
			err = s.changeOthers(ctx, integration{changes: answer.Changes})
		}
		s.warn(c, "end", err)
	})
}

func (s *Server) podStopping(ctx context.Context, pod *sandbox.Pod) {
	if s.o.NRI == nil {
		return
	}
	for _, c := range pod.Containers() {
		s.tellStopped(ctx, c)
	}
	if err := s.o.NRI.StopPod(ctx, podToNRI(pod)); err != nil {
		s.o.Log.Warn("tell NRI plugins of a pod's end", "id", pod.ID(), "err", err)
	}
}

func (s *Server) podGone(ctx context.Context, pod *sandbox.Pod) {
	if s.o.NRI == nil {
		return
	}
	s.o.NRI.Made(pod.ID())
	if err := s.o.NRI.RemovePod(ctx, podToNRI(pod)); err != nil {
		s.o.Log.Warn("tell NRI plugins of a pod's removal", "id", pod.ID(), "err", err)
	}
}

func (s *Server) containerGone(ctx context.Context, c *sandbox.Container) {
	if s.o.NRI == nil {
		return
	}
	s.tellStopped(ctx, c)
	s.o.NRI.Made(c.ID())
	s.warn(c, "removal", s.o.NRI.Remove(ctx, podToNRI(c.Pod()), containerToNRI(c)))
	s.stops.Delete(c.ID())
}

// WatchEnds tells plugins of containers that end by themselves, until ctx ends. A reader that was too
// slow begins anew; what it missed is told when the container is removed.
func (s *Server) WatchEnds(ctx context.Context) error {
	for ctx.Err() == nil {
		sub, err := s.o.Pods.Subscribe()
		if err != nil {
			return err
		}
		for err == nil {
			var ev sandbox.Event
			if ev, err = sub.Next(ctx); err == nil && ev.Kind == sandbox.EventStopped && ev.Container != nil {
				go s.tellStopped(context.WithoutCancel(ctx), ev.Container)
			}
		}
		sub.Close()
		if !errors.Is(err, sandbox.ErrSlow) {
			return nil
		}
	}
	return nil
}

func (s *Server) plugged() bool { return s.o.NRI != nil && len(s.o.NRI.Plugins()) > 0 }

func (s *Server) warn(c *sandbox.Container, what string, err error) {
	if err != nil {
		s.o.Log.Warn("tell NRI plugins of a container's "+what, "id", c.ID(), "err", err)
	}
}

func podToNRI(p *sandbox.Pod) *nri.Pod {
	st := p.Status()
	return nri.PodOf(p.ID(), p.Config(), st.IPs, st.InitPid)
}

func imageToNRI(img enforce.Image) *nri.Image {
	return &nri.Image{Name: img.Name.String(), Digest: img.Top.String(), ConfigDigest: img.ID.String()}
}

// containerToNRI describes a container that exists; of one that was removed, what is remembered.
func containerToNRI(c *sandbox.Container) *nri.Container {
	st := c.Status()
	d := &nri.Description{ID: c.ID(), PodID: c.Pod().ID(), Config: c.Config(), Mounts: c.Sealed().Mounts, Image: imageToNRI(c.Image()),
		State: nriStates[st.State], Pid: st.Pid, Created: st.Created, Started: st.Started, Finished: st.Finished, ExitCode: st.ExitCode, Reason: st.Reason}
	if text, err := c.Spec(); err == nil {
		d.Spec = &specs.Spec{}
		if json.Unmarshal(text, d.Spec) != nil {
			d.Spec = nil
		}
		if d.Spec != nil && len(st.Resources) > 0 && d.Spec.Linux != nil {
			_ = json.Unmarshal(st.Resources, d.Spec.Linux.Resources) // our own bytes
		}
	}
	return nri.ContainerOf(d)
}

var nriStates = map[sandbox.State]nri.State{sandbox.Created: nri.Created, sandbox.Running: nri.Running, sandbox.Exited: nri.Stopped}
