package cri

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"time"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/enforce"
	"sallyport/sandbox"
	"sallyport/sandbox/spec"
)

// RunPodSandbox makes a pod that the gate admits. A retry of a call that timed out joins the work, and
// one for a pod that is there already, with the same configuration, gets its ID.
func (s *Server) RunPodSandbox(ctx context.Context, req *v1.RunPodSandboxRequest) (*v1.RunPodSandboxResponse, error) {
	cfg, err := PodConfig(req.GetConfig(), req.GetRuntimeHandler())
	if err != nil {
		return nil, toStatus(fmt.Errorf("run pod: %w", err))
	}
	if err := s.userNamespace(cfg); err != nil {
		return nil, toStatus(fmt.Errorf("run pod: %w", err))
	}
	h := s.handler(cfg.Handler)
	if err := h.Annotations.Pod(&cfg); err != nil {
		return nil, toStatus(fmt.Errorf("run pod: %w: %w", errInvalid, err))
	}
	if err := h.shares(cfg); err != nil {
		return nil, toStatus(fmt.Errorf("run pod: %w", err))
	}
	key := digestOf(cfg.Namespace, cfg.Name, cfg.UID, cfg.Attempt)
	pod, err := s.pods.do(ctx, key, digestOf(cfg), func(ctx context.Context) (*sandbox.Pod, error) { return s.runPod(ctx, cfg) })
	if err != nil {
		return nil, toStatus(err)
	}
	pod.Publish()
	s.o.NRI.Made(pod.ID())
	return &v1.RunPodSandboxResponse{PodSandboxId: pod.ID()}, nil
}

// userNamespace refuses a pod with a user namespace of its own where its handler cannot give it one:
// without ID-mapped layers its containers would see the image's files as nobody's.
func (s *Server) userNamespace(cfg spec.PodConfig) error {
	if cfg.Security.Namespaces.User.Mode != spec.NamespacePod {
		return nil
	}
	name := cmp.Or(cfg.Handler, s.o.Default)
	if s.handler(name).UserNamespaces {
		return nil
	}
	return fmt.Errorf("%w: a user namespace is asked for (hostUsers: false), and runtime handler %q has none", errInvalid, name)
}

func (s *Server) runPod(ctx context.Context, cfg spec.PodConfig) (*sandbox.Pod, error) {
	give, err := s.turns.take(ctx)
	if err != nil {
		return nil, fmt.Errorf("run pod %s/%s: %w", cfg.Namespace, cfg.Name, err)
	}
	defer give()
	res, err := s.o.Pods.Reserve(ctx, cfg)
	if errors.Is(err, sandbox.ErrExists) {
		return s.existingPod(cfg, err)
	}
	if err != nil {
		return nil, err
	}
	defer res.Cancel()
	for again := 0; ; again++ {
		req, err := s.podRequest(cfg, res)
		if err != nil {
			return nil, err
		}
		adm, err := s.o.Gate.AdmitPod(ctx, req)
		if err != nil {
			return nil, err
		}
		pod, err := s.o.Pods.Run(ctx, adm)
		if errors.Is(err, enforce.ErrExpired) && again == 0 {
			continue // the policy changed between the two; judge by the new one
		}
		if err != nil {
			return nil, err
		}
		return pod, s.tellRun(ctx, pod)
	}
}

// podRequest is what the gate judges: the configuration and, where the pod has a first process, its spec.
func (s *Server) podRequest(cfg spec.PodConfig, res *sandbox.PodReservation) (enforce.PodRequest, error) {
	sealed, err := res.Seal()
	if err != nil {
		return enforce.PodRequest{}, err
	}
	req := enforce.PodRequest{Pod: podFacts(cfg), PodID: res.ID(), Config: sealed}
	if cfg.Security.Namespaces.PID != spec.NamespacePod {
		return req, nil
	}
	h := s.handler(cfg.Handler)
	out, err := spec.BuildInit(spec.PodInput{Pod: cfg, PodID: res.ID(), Namespaces: res.Namespaces(), Labels: labels(h.Host, res.ID()),
		Floor: s.o.Gate.Floor(cfg.Namespace), Host: h.Host, Defaults: h.Defaults})
	if err != nil {
		return enforce.PodRequest{}, err
	}
	req.Spec, req.InitHash, req.Refusals = string(out.JSON), s.o.InitHash, hits(out.Refusals)
	return req, nil
}

// existingPod answers a repeated request: the pod that is there, if it was asked for in the same words.
func (s *Server) existingPod(cfg spec.PodConfig, cause error) (*sandbox.Pod, error) {
	for _, pod := range s.o.Pods.List() {
		have := pod.Config()
		if have.Namespace == cfg.Namespace && have.Name == cfg.Name && have.UID == cfg.UID && have.Attempt == cfg.Attempt {
			if sameJSON(have, cfg) && pod.Status().State == sandbox.Ready {
				return pod, nil
			}
			break
		}
	}
	return nil, cause
}

// undoPod removes a pod whose ID no call returned.
func (s *Server) undoPod(pod *sandbox.Pod) {
	ctx, cancel := context.WithTimeout(context.Background(), s.o.CreateTimeout)
	defer cancel()
	if err := pod.Remove(ctx); err != nil {
		s.o.Log.Warn("remove unclaimed pod", "id", pod.ID(), "err", err)
	}
}

// StopPodSandbox ends a pod's containers and gives its network back; an unknown pod is stopped.
func (s *Server) StopPodSandbox(ctx context.Context, req *v1.StopPodSandboxRequest) (*v1.StopPodSandboxResponse, error) {
	pod, err := s.findPod(req.GetPodSandboxId())
	if err == nil {
		err = pod.Stop(ctx)
	}
	if err != nil && !isNotFound(err) {
		return nil, toStatus(err)
	}
	return &v1.StopPodSandboxResponse{}, nil
}

// RemovePodSandbox removes a pod with its containers; an unknown pod is removed.
func (s *Server) RemovePodSandbox(ctx context.Context, req *v1.RemovePodSandboxRequest) (*v1.RemovePodSandboxResponse, error) {
	pod, err := s.findPod(req.GetPodSandboxId())
	if err == nil {
		ids := pod.Containers()
		if err = pod.Remove(ctx); err == nil {
			for _, c := range ids {
				s.forget(c)
			}
		}
	}
	if err != nil && !isNotFound(err) {
		return nil, toStatus(err)
	}
	return &v1.RemovePodSandboxResponse{}, nil
}

// PodSandboxStatus describes one pod.
func (s *Server) PodSandboxStatus(_ context.Context, req *v1.PodSandboxStatusRequest) (*v1.PodSandboxStatusResponse, error) {
	pod, err := s.findPod(req.GetPodSandboxId())
	if err != nil {
		return nil, toStatus(err)
	}
	resp := &v1.PodSandboxStatusResponse{Status: podStatusOut(pod), Timestamp: time.Now().UnixNano()}
	for _, c := range s.o.Pods.Containers() {
		if c.Pod() == pod {
			resp.ContainersStatuses = append(resp.ContainersStatuses, s.containerStatusOut(c))
		}
	}
	if req.GetVerbose() {
		info, err := json.Marshal(map[string]any{"namespaces": pod.Namespaces(), "initPid": pod.Status().InitPid, "config": pod.Config()})
		if err != nil {
			return nil, toStatus(fmt.Errorf("describe pod %s: %w", pod.ID(), err))
		}
		resp.Info = map[string]string{"info": string(info)}
	}
	return resp, nil
}

// ListPodSandbox lists the pods that pass the filter, the youngest first.
func (s *Server) ListPodSandbox(_ context.Context, req *v1.ListPodSandboxRequest) (*v1.ListPodSandboxResponse, error) {
	items, err := s.listPods(req.GetFilter())
	return fill(&v1.ListPodSandboxResponse{}, items), err
}

func (s *Server) listPods(f *v1.PodSandboxFilter) ([]*shownItem, error) {
	all := s.o.Pods.List()
	items := make([]*shownItem, 0, len(all))
	for _, pod := range all {
		cfg, st := pod.Config(), pod.Status()
		if !matchID(f.GetId(), pod.ID()) || f.GetState() != nil && f.GetState().GetState() != podState(st.State) || !selects(f.GetLabelSelector(), cfg.Labels) {
			continue
		}
		item, err := s.shownPods.item(pod.ID(), st.State, st.Created.UnixNano(), func() proto.Message {
			return &v1.PodSandbox{Id: pod.ID(), Metadata: podMetadata(cfg), State: podState(st.State),
				CreatedAt: st.Created.UnixNano(), Labels: cfg.Labels, Annotations: cfg.Annotations, RuntimeHandler: cfg.Handler}
		})
		if err != nil {
			return nil, toStatus(fmt.Errorf("list pod %s: %w", pod.ID(), err))
		}
		items = append(items, item)
	}
	s.shownPods.tidy(len(all))
	youngest(items)
	return items, nil
}

// findPod finds a pod that a client may know, by its ID or what unique says of it.
func (s *Server) findPod(id string) (*sandbox.Pod, error) {
	if id == "" {
		return nil, fmt.Errorf("%w: pod_sandbox_id is empty", errInvalid)
	}
	pod, err := s.o.Pods.Pod(id)
	if isNotFound(err) || !pod.Published() {
		return unique(id, s.o.Pods.List(), fmt.Errorf("find pod %q: %w", id, sandbox.ErrNotFound))
	}
	return pod, err
}

func podFacts(cfg spec.PodConfig) enforce.Pod {
	ns := cfg.Security.Namespaces
	return enforce.Pod{
		Namespace: cfg.Namespace, Name: cfg.Name, UID: cfg.UID, Attempt: cfg.Attempt, Handler: cfg.Handler,
		HostNetwork: ns.Network == spec.NamespaceNode, HostPID: ns.PID == spec.NamespaceNode, HostIPC: ns.IPC == spec.NamespaceNode,
		UserNamespace: ns.User.Mode == spec.NamespacePod, UIDs: mappingFacts(ns.User.UIDs), GIDs: mappingFacts(ns.User.GIDs), SharedPID: ns.PID == spec.NamespacePod, Privileged: cfg.Security.Privileged,
		Sysctls: maps.Clone(cfg.Sysctls), Labels: maps.Clone(cfg.Labels), Annotations: maps.Clone(cfg.Annotations),
	}
}

func mappingFacts(in []spec.IDMapping) (out []enforce.IDMapping) {
	for _, m := range in {
		out = append(out, enforce.IDMapping(m))
	}
	return out
}

func podStatusOut(pod *sandbox.Pod) *v1.PodSandboxStatus {
	cfg, st := pod.Config(), pod.Status()
	out := &v1.PodSandboxStatus{Id: pod.ID(), Metadata: podMetadata(cfg), State: podState(st.State), CreatedAt: st.Created.UnixNano(),
		Labels: cfg.Labels, Annotations: cfg.Annotations, RuntimeHandler: cfg.Handler, Network: &v1.PodSandboxNetworkStatus{},
		Linux: &v1.LinuxPodSandboxStatus{Namespaces: &v1.Namespace{Options: namespacesOut(cfg.Security.Namespaces)}}}
	for i, ip := range st.IPs {
		if i == 0 {
			out.Network.Ip = ip.String()
		} else {
			out.Network.AdditionalIps = append(out.Network.AdditionalIps, &v1.PodIP{Ip: ip.String()})
		}
	}
	return out
}

func podMetadata(cfg spec.PodConfig) *v1.PodSandboxMetadata {
	return &v1.PodSandboxMetadata{Name: cfg.Name, Uid: cfg.UID, Namespace: cfg.Namespace, Attempt: cfg.Attempt}
}

// podState: only a ready pod is ready; one that is being made or undone is not.
func podState(st sandbox.State) v1.PodSandboxState {
	if st == sandbox.Ready {
		return v1.PodSandboxState_SANDBOX_READY
	}
	return v1.PodSandboxState_SANDBOX_NOTREADY
}

func namespacesOut(n spec.NamespaceOptions) *v1.NamespaceOption {
	out := &v1.NamespaceOption{Network: modeOut(n.Network), Pid: modeOut(n.PID), Ipc: modeOut(n.IPC), TargetId: n.Target}
	if n.User.Mode != "" {
		out.UsernsOptions = &v1.UserNamespace{Mode: modeOut(n.User.Mode), Uids: mappingsOut(n.User.UIDs), Gids: mappingsOut(n.User.GIDs)}
	}
	return out
}

func modeOut(m spec.NamespaceMode) v1.NamespaceMode {
	for mode, name := range namespaceModes {
		if name == m {
			return mode
		}
	}
	return v1.NamespaceMode_POD
}

func mappingsOut(in []spec.IDMapping) (out []*v1.IDMapping) {
	for _, m := range in {
		out = append(out, &v1.IDMapping{ContainerId: m.Container, HostId: m.Host, Length: m.Length})
	}
	return out
}

// sameJSON compares configurations by their sealed form, in which nil and empty are one.
func sameJSON(a, b any) bool { return reflect.DeepEqual(a, b) || digestOf(a) == digestOf(b) }
