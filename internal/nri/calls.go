package nri

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/adaptation/builtin"
	"github.com/containerd/nri/pkg/api"
	annotation "github.com/containerd/nri/pkg/plugin"
	validator "github.com/containerd/nri/plugins/default-validator/builtin"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
)

// ask makes one call to one plugin that subscribed to the event. The error of a plugin that answered is
// the plugin's; one that did not answer is let go, and its absence is an error only where it is required
// or asked for that itself.
func (h *Hub) ask(ctx context.Context, p *plugin, event api.Event, must bool, f func(context.Context) error) error {
	if !p.events.IsSet(event) {
		return nil
	}
	err := p.call(ctx, f)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil: // whoever asked has left
		return fmt.Errorf("ask NRI plugin %s for %s: %w", p.full, event.PrettyName(), err)
	case !gone(err):
		return fmt.Errorf("NRI plugin %s refuses %s: %w", p.full, event.PrettyName(), err)
	case must:
		// Not wrapped: the library reads an error of a lost connection as leave to go on without.
		return fmt.Errorf("NRI plugin %s, which is required, did not answer %s: %v", p.full, event.PrettyName(), err) //nolint:errorlint // see above
	}
	h.o.Log.Warn("go on without NRI plugin", "plugin", p.full, "event", event.PrettyName(), "err", err)
	return nil
}

// tell asks all plugins in their order and stops at the first error.
func (h *Hub) tell(ctx context.Context, event api.Event, must func(*plugin) bool, f func(context.Context, api.PluginService) error) error {
	if h == nil {
		return nil
	}
	for _, p := range h.all() {
		if err := h.ask(ctx, p, event, must(p), func(ctx context.Context) error { return f(ctx, p.svc) }); err != nil {
			return err
		}
	}
	return nil
}

// required are the names of plugins without which no container of this name may be made in the pod: the
// configuration's, and those that the pod asks for itself (required-plugins.noderesource.dev).
func (h *Hub) required(pod *Pod, container string) []string {
	out := slices.Clone(h.o.Required)
	if text, ok := annotation.GetEffectiveAnnotation(pod, annotation.RequiredPluginsAnnotation, container); ok {
		var more []string
		if err := yaml.Unmarshal([]byte(text), &more); err != nil {
			more = []string{"(unreadable annotation)"} // the validator says what is wrong with it
		}
		out = append(out, more...)
	}
	return out
}

func (h *Hub) must(pod *Pod, container string) func(*plugin) bool {
	names := h.required(pod, container)
	return func(p *plugin) bool {
		_, base, err := api.ParsePluginName(p.full)
		return err == nil && slices.Contains(names, base)
	}
}

// RunPod tells that a pod was made, before anybody sees it. An error means that it must not be. Made
// must follow.
func (h *Hub) RunPod(ctx context.Context, pod *Pod) error {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	h.raising[pod.GetId()] = pod
	h.mu.Unlock()
	return h.tell(ctx, api.Event_RUN_POD_SANDBOX, h.must(pod, ""), func(ctx context.Context, s api.PluginService) error {
		_, err := s.RunPodSandbox(ctx, &api.RunPodSandboxRequest{Pod: pod})
		return err
	})
}

// UpdatePod tells that a pod's resources change, and then that they have.
func (h *Hub) UpdatePod(ctx context.Context, pod *Pod, overhead, sum *Resources) error {
	if h == nil {
		return nil
	}
	must := h.must(pod, "")
	err := h.tell(ctx, api.Event_UPDATE_POD_SANDBOX, must, func(ctx context.Context, s api.PluginService) error {
		_, err := s.UpdatePodSandbox(ctx, &api.UpdatePodSandboxRequest{Pod: pod, OverheadLinuxResources: overhead, LinuxResources: sum})
		return err
	})
	if err != nil {
		return err
	}
	return h.tell(ctx, api.Event_POST_UPDATE_POD_SANDBOX, never, func(ctx context.Context, s api.PluginService) error {
		_, err := s.PostUpdatePodSandbox(ctx, &api.PostUpdatePodSandboxRequest{Pod: pod})
		return err
	})
}

func never(*plugin) bool { return false }

// lacks names a plugin that is required for a container of this name in the pod and is not there; "" for
// none.
func (h *Hub) lacks(pod *Pod, container string) string {
	there := h.all()
	for _, name := range h.required(pod, container) {
		if !slices.ContainsFunc(there, func(p *plugin) bool {
			_, base, err := api.ParsePluginName(p.full)
			return err == nil && base == name
		}) {
			return name
		}
	}
	return ""
}

// StopPod tells that a pod's containers have ended and its network goes.
func (h *Hub) StopPod(ctx context.Context, pod *Pod) error {
	return h.tell(ctx, api.Event_STOP_POD_SANDBOX, never, func(ctx context.Context, s api.PluginService) error {
		_, err := s.StopPodSandbox(ctx, &api.StopPodSandboxRequest{Pod: pod})
		return err
	})
}

// RemovePod tells that a pod is gone.
func (h *Hub) RemovePod(ctx context.Context, pod *Pod) error {
	return h.tell(ctx, api.Event_REMOVE_POD_SANDBOX, never, func(ctx context.Context, s api.PluginService) error {
		_, err := s.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{Pod: pod})
		return err
	})
}

// PostCreate tells that a container was made.
func (h *Hub) PostCreate(ctx context.Context, pod *Pod, c *Container) error {
	return h.tell(ctx, api.Event_POST_CREATE_CONTAINER, never, func(ctx context.Context, s api.PluginService) error {
		_, err := s.PostCreateContainer(ctx, &api.PostCreateContainerRequest{Pod: pod, Container: c})
		return err
	})
}

// Start asks whether a container may start. Without a plugin that is required it may not, as it would not
// be created.
func (h *Hub) Start(ctx context.Context, pod *Pod, c *Container) error {
	if h == nil {
		return nil
	}
	if name := h.lacks(pod, c.GetName()); name != "" {
		return fmt.Errorf("start container %s: NRI plugin %.80q, which is required, is not there", c.GetId(), name)
	}
	return h.tell(ctx, api.Event_START_CONTAINER, h.must(pod, c.GetName()), func(ctx context.Context, s api.PluginService) error {
		_, err := s.StartContainer(ctx, &api.StartContainerRequest{Pod: pod, Container: c})
		return err
	})
}

// PostStart tells that a container runs.
func (h *Hub) PostStart(ctx context.Context, pod *Pod, c *Container) error {
	return h.tell(ctx, api.Event_POST_START_CONTAINER, never, func(ctx context.Context, s api.PluginService) error {
		_, err := s.PostStartContainer(ctx, &api.PostStartContainerRequest{Pod: pod, Container: c})
		return err
	})
}

// PostUpdate tells that a container's limits have changed.
func (h *Hub) PostUpdate(ctx context.Context, pod *Pod, c *Container) error {
	return h.tell(ctx, api.Event_POST_UPDATE_CONTAINER, never, func(ctx context.Context, s api.PluginService) error {
		_, err := s.PostUpdateContainer(ctx, &api.PostUpdateContainerRequest{Pod: pod, Container: c})
		return err
	})
}

// Remove tells that a container is gone, or came to nothing after plugins were asked about it.
func (h *Hub) Remove(ctx context.Context, pod *Pod, c *Container) error {
	return h.tell(ctx, api.Event_REMOVE_CONTAINER, never, func(ctx context.Context, s api.PluginService) error {
		_, err := s.RemoveContainer(ctx, &api.RemoveContainerRequest{Pod: pod, Container: c})
		return err
	})
}

// round is one request that all plugins are asked about, and what they want besides its answer.
type round struct {
	hub  *Hub
	ctx  context.Context // of whoever asks; the library's own has a deadline for all plugins alike
	must func(*plugin) bool

	mu    sync.Mutex // guards evict
	evict []Eviction
}

// Create asks what should be different in a container that is about to be made. An error is a refusal.
// Made must follow.
func (h *Hub) Create(ctx context.Context, pod *Pod, c *Container) (out Answer, err error) {
	defer caught(&err)
	h.mu.Lock()
	h.making[c.GetId()] = c
	h.mu.Unlock()
	r := &round{hub: h, ctx: ctx, must: h.must(pod, c.GetName())}
	a, err := r.adaptation()
	if err != nil {
		return Answer{}, err
	}
	rpl, err := a.CreateContainer(ctx, &api.CreateContainerRequest{Pod: pod, Container: proto.Clone(c).(*Container)})
	if err != nil {
		return Answer{}, err
	}
	out = Read(rpl.GetAdjust())
	out.Changes, out.Evict = changesOf(rpl.GetUpdate()), r.evict
	return out, nil
}

// Made ends what Create or RunPod began: the container or pod is among the runtime's now, or came to
// nothing.
func (h *Hub) Made(id string) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.making, id)
	delete(h.raising, id)
}

// Update asks what a change of limits should be.
func (h *Hub) Update(ctx context.Context, pod *Pod, c *Container, want *Resources) (out Answer, err error) {
	defer caught(&err)
	r := &round{hub: h, ctx: ctx, must: h.must(pod, c.GetName())}
	a, err := r.adaptation()
	if err != nil {
		return Answer{}, err
	}
	rpl, err := a.UpdateContainer(ctx, &api.UpdateContainerRequest{Pod: pod, Container: c, LinuxResources: want})
	if err != nil {
		return Answer{}, err
	}
	return Answer{Changes: changesOf(rpl.GetUpdate()), Evict: r.evict}, nil
}

// Stop tells that a container has ended; plugins may give others what it leaves.
func (h *Hub) Stop(ctx context.Context, pod *Pod, c *Container) (out Answer, err error) {
	if h == nil || len(h.all()) == 0 {
		return Answer{}, nil
	}
	defer caught(&err)
	r := &round{hub: h, ctx: ctx, must: never}
	a, err := r.adaptation()
	if err != nil {
		return Answer{}, err
	}
	rpl, err := a.StopContainer(ctx, &api.StopContainerRequest{Pod: pod, Container: c})
	if err != nil {
		return Answer{}, err
	}
	return Answer{Changes: changesOf(rpl.GetUpdate())}, nil
}

// caught turns a panic over what a plugin sent into an error.
func caught(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("read the answer of an NRI plugin: panic: %v", r)
	}
}

// adaptation is the library's merging of answers for this one request: a plugin of it for each of ours.
func (r *round) adaptation() (*adaptation.Adaptation, error) {
	var plugins []*builtin.BuiltinPlugin
	for _, p := range r.hub.all() {
		idx, base, err := api.ParsePluginName(p.full)
		if err != nil {
			return nil, err
		}
		b := &builtin.BuiltinPlugin{Index: idx, Base: base, Handlers: r.handlers(p)}
		plugins = append(plugins, b)
	}
	permit := func(what string) bool { return slices.Contains(r.hub.o.Permit, what) }
	none := func(context.Context, adaptation.SyncCB) error { return nil }
	noUpdates := func(context.Context, []*api.ContainerUpdate) ([]*api.ContainerUpdate, error) {
		return nil, errors.New("no plugin is connected here")
	}
	a, err := adaptation.New("sallyport", r.hub.o.Version, none, noUpdates,
		adaptation.WithDisabledExternalConnections(), adaptation.WithPluginPath(""), adaptation.WithBuiltinPlugins(plugins...),
		adaptation.WithDefaultValidator(&validator.DefaultValidatorConfig{
			Enable: true, RejectOCIHookAdjustment: !permit("hooks"), RejectRuntimeDefaultSeccompAdjustment: !permit("seccomp"),
			RejectUnconfinedSeccompAdjustment: !permit("seccomp"), RejectCustomSeccompAdjustment: !permit("seccomp"),
			RejectNamespaceAdjustment: true, RejectSysctlAdjustment: true, RequiredPlugins: r.hub.o.Required,
		}))
	if err == nil {
		err = a.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("ask NRI plugins: %w", err)
	}
	return a, nil
}

// handlers are the calls to one plugin, for the events that it subscribed to.
func (r *round) handlers(p *plugin) (h builtin.BuiltinHandlers) {
	if p.events.IsSet(api.Event_CREATE_CONTAINER) {
		h.CreateContainer = func(_ context.Context, req *api.CreateContainerRequest) (rpl *api.CreateContainerResponse, err error) {
			err = r.hub.ask(r.ctx, p, api.Event_CREATE_CONTAINER, r.must(p), func(ctx context.Context) (err error) {
				rpl, err = p.svc.CreateContainer(ctx, req)
				return err
			})
			r.wants(p, rpl.GetEvict())
			return rpl, err
		}
	}
	if p.events.IsSet(api.Event_UPDATE_CONTAINER) {
		h.UpdateContainer = func(_ context.Context, req *api.UpdateContainerRequest) (rpl *api.UpdateContainerResponse, err error) {
			err = r.hub.ask(r.ctx, p, api.Event_UPDATE_CONTAINER, r.must(p), func(ctx context.Context) (err error) {
				rpl, err = p.svc.UpdateContainer(ctx, req)
				return err
			})
			r.wants(p, rpl.GetEvict())
			return rpl, err
		}
	}
	if p.events.IsSet(api.Event_STOP_CONTAINER) {
		h.StopContainer = func(_ context.Context, req *api.StopContainerRequest) (rpl *api.StopContainerResponse, err error) {
			err = r.hub.ask(r.ctx, p, api.Event_STOP_CONTAINER, false, func(ctx context.Context) (err error) {
				rpl, err = p.svc.StopContainer(ctx, req)
				return err
			})
			return rpl, err
		}
	}
	if p.events.IsSet(api.Event_VALIDATE_CONTAINER_ADJUSTMENT) {
		h.ValidateContainerAdjustment = func(_ context.Context, req *api.ValidateContainerAdjustmentRequest) error {
			// A validator that does not answer has not agreed, required or not.
			return r.hub.ask(r.ctx, p, api.Event_VALIDATE_CONTAINER_ADJUSTMENT, true, func(ctx context.Context) error {
				rpl, err := p.svc.ValidateContainerAdjustment(ctx, req)
				if err != nil {
					return err
				}
				return rpl.ValidationResult(p.full)
			})
		}
	}
	return h
}

func (r *round) wants(p *plugin, evict []*api.ContainerEviction) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range evict {
		r.evict = append(r.evict, Eviction{Plugin: p.full, ID: e.GetContainerId(), Reason: e.GetReason()})
	}
}
