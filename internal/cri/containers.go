package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/enforce"
	"sallyport/sandbox"
	"sallyport/sandbox/spec"
)

// StartContainer lets a created container run. Where the admission has aged or the policy changed since
// the create, or the daemon was restarted, the gate is asked again from stored evidence.
func (s *Server) StartContainer(ctx context.Context, req *v1.StartContainerRequest) (*v1.StartContainerResponse, error) {
	c, err := s.findContainer(req.GetContainerId())
	if err == nil {
		err = s.startBytes(ctx, c)
	}
	if err == nil {
		err = s.askStart(ctx, c)
	}
	if err == nil {
		err = c.Start(ctx)
	}
	if errors.Is(err, sandbox.ErrNeedsAdmission) {
		var adm enforce.RunAdmission
		if adm, err = s.admitStart(ctx, c, nil); err == nil {
			err = c.StartAdmitted(ctx, adm)
		}
	}
	if err != nil {
		return nil, toStatus(err)
	}
	s.started(ctx, c)
	return &v1.StartContainerResponse{}, nil
}

// admitStart asks the gate once more about a container as it was created. refused is what else speaks
// against it.
func (s *Server) admitStart(ctx context.Context, c *sandbox.Container, refused []enforce.Hit) (enforce.RunAdmission, error) {
	req, err := s.Again(c)
	if err != nil {
		return enforce.RunAdmission{}, err
	}
	req.Refusals = append(req.Refusals, refused...)
	return s.o.Gate.AdmitRun(ctx, req)
}

// Again is the request to judge a container that exists once more: the same image, spec and configuration,
// the evidence as stored now. It uses no network.
func (s *Server) Again(c *sandbox.Container) (enforce.RunRequest, error) {
	img, pod := c.Image(), c.Pod()
	fail := func(err error) (enforce.RunRequest, error) {
		return enforce.RunRequest{}, fmt.Errorf("judge container %s again: %w", c.ID(), err)
	}
	found, err := s.o.Images.Lookup(img.ID.String(), img.Name.String())
	if err != nil {
		return fail(err)
	}
	text, err := c.Spec()
	if err != nil {
		return fail(err)
	}
	volumes, err := s.volumesOf(c)
	if err != nil {
		return fail(err)
	}
	for _, f := range found {
		if f.Image.Instance == img.Instance && f.UsableIn(pod.Config().Namespace) {
			req := enforce.RunRequest{
				Pod: podFacts(pod.Config()), PodID: pod.ID(), Container: containerFacts(c.Config(), c.ID(), c.Sealed().Weakenings),
				Image: f.Image, Evidence: f.Evidence, Spec: string(text), Config: c.SealedText(), Resolved: c.Resolved(), Volumes: volumes,
			}
			err := s.judgedAgain(c, text, &req)
			return req, err
		}
	}
	return fail(fmt.Errorf("the store no longer holds %s as it was judged; pull it again", img.Name))
}

// StopContainer ends a container, at the latest after the grace period; an unknown one is stopped.
func (s *Server) StopContainer(ctx context.Context, req *v1.StopContainerRequest) (*v1.StopContainerResponse, error) {
	c, err := s.findContainer(req.GetContainerId())
	if err == nil {
		if err = c.Stop(ctx, seconds(req.GetTimeout())); err == nil {
			s.tellStopped(ctx, c)
		}
	}
	if err != nil && !isNotFound(err) {
		return nil, toStatus(err)
	}
	return &v1.StopContainerResponse{}, nil
}

// RemoveContainer removes a container, stopping it first if need be; an unknown one is removed.
func (s *Server) RemoveContainer(ctx context.Context, req *v1.RemoveContainerRequest) (*v1.RemoveContainerResponse, error) {
	c, err := s.findContainer(req.GetContainerId())
	if err == nil {
		if err = c.Remove(ctx); err == nil {
			s.forget(c)
		}
	}
	if err != nil && !isNotFound(err) {
		return nil, toStatus(err)
	}
	return &v1.RemoveContainerResponse{}, nil
}

// forget drops what is remembered of a container that was removed.
func (s *Server) forget(c *sandbox.Container) {
	s.o.Gate.Forget(c.ID())
	s.o.Stats.Forget(c.CgroupPath())
	s.users.Delete(c.ID())
}

// ListContainers lists the containers that pass the filter, the youngest first.
func (s *Server) ListContainers(_ context.Context, req *v1.ListContainersRequest) (*v1.ListContainersResponse, error) {
	items, err := s.listContainers(req.GetFilter())
	return fill(&v1.ListContainersResponse{}, items), err
}

func (s *Server) listContainers(f *v1.ContainerFilter) ([]*shownItem, error) {
	all := s.o.Pods.Containers()
	items := make([]*shownItem, 0, len(all))
	for _, c := range all {
		cfg, st := c.Config(), c.Status()
		if !matchID(f.GetId(), c.ID()) || !matchID(f.GetPodSandboxId(), c.Pod().ID()) || !selects(f.GetLabelSelector(), cfg.Labels) ||
			f.GetState() != nil && f.GetState().GetState() != containerState(st.State) {
			continue
		}
		item, err := s.shownContainers.item(c.ID(), st.State, st.Created.UnixNano(), func() proto.Message {
			id := c.Image().ID.String()
			return &v1.Container{Id: c.ID(), PodSandboxId: c.Pod().ID(), Metadata: containerMetadata(cfg),
				Image: imageSpecOut(c), ImageRef: id, ImageId: id, State: containerState(st.State), CreatedAt: st.Created.UnixNano(),
				Labels: cfg.Labels, Annotations: cfg.Annotations}
		})
		if err != nil {
			return nil, toStatus(fmt.Errorf("list container %s: %w", c.ID(), err))
		}
		items = append(items, item)
	}
	s.shownContainers.tidy(len(all))
	youngest(items)
	return items, nil
}

// ContainerStatus describes one container.
func (s *Server) ContainerStatus(_ context.Context, req *v1.ContainerStatusRequest) (*v1.ContainerStatusResponse, error) {
	c, err := s.findContainer(req.GetContainerId())
	if err != nil {
		return nil, toStatus(err)
	}
	resp := &v1.ContainerStatusResponse{Status: s.containerStatusOut(c)}
	if req.GetVerbose() {
		text, err := c.Spec()
		if err != nil {
			return nil, toStatus(err)
		}
		info, err := json.Marshal(map[string]any{"sandboxID": c.Pod().ID(), "pid": c.Status().Pid, "audit": c.Audit(), "specHash": c.SpecHash(),
			"weakenings": c.Sealed().Weakenings, "runtimeSpec": json.RawMessage(text)})
		if err != nil {
			return nil, toStatus(fmt.Errorf("describe container %s: %w", c.ID(), err))
		}
		resp.Info = map[string]string{"info": string(info)}
	}
	return resp, nil
}

// UpdateContainerResources changes the limits of a live container as far as the gate admits it.
func (s *Server) UpdateContainerResources(ctx context.Context, req *v1.UpdateContainerResourcesRequest) (*v1.UpdateContainerResourcesResponse, error) {
	c, err := s.findContainer(req.GetContainerId())
	if err == nil && req.GetLinux() == nil {
		err = fmt.Errorf("update container %s: %w: linux is missing", c.ID(), errInvalid)
	}
	if err == nil {
		err = s.update(ctx, c, resources(req.GetLinux()))
	}
	if err != nil {
		return nil, toStatus(err)
	}
	return &v1.UpdateContainerResourcesResponse{}, nil
}

func (s *Server) update(ctx context.Context, c *sandbox.Container, r spec.Resources) error {
	others, refused, err := s.askUpdate(ctx, c, &r)
	if err != nil {
		return err
	}
	if err := s.changeLimits(ctx, c, r, refused); err != nil {
		return err
	}
	s.updated(ctx, c)
	return s.changeOthers(ctx, others)
}

// changeLimits changes the limits of a live container as far as the gate admits it.
func (s *Server) changeLimits(ctx context.Context, c *sandbox.Container, r spec.Resources, refused []enforce.Hit) error {
	want, err := spec.BuildResources(r, s.handler(c.Pod().Config().Handler).Host)
	if err != nil {
		return fmt.Errorf("update container %s: %w", c.ID(), err)
	}
	adm, err := s.o.Gate.AdmitUpdate(ctx, enforce.UpdateRequest{Pod: podFacts(c.Pod().Config()),
		Container: containerFacts(c.Config(), c.ID(), nil), Resources: want, Refusals: refused})
	if err != nil {
		return err
	}
	return c.Update(ctx, adm)
}

// ReopenContainerLog has the monitor write to a new log file.
func (s *Server) ReopenContainerLog(ctx context.Context, req *v1.ReopenContainerLogRequest) (*v1.ReopenContainerLogResponse, error) {
	c, err := s.findContainer(req.GetContainerId())
	if err == nil {
		err = c.ReopenLog(ctx)
	}
	if err != nil {
		return nil, toStatus(err)
	}
	return &v1.ReopenContainerLogResponse{}, nil
}

// ExecSync runs a command in a container and waits for it. The gate judges it first; a refusal is a
// code of its own and never an exit code, which the kubelet would take for a failed probe.
func (s *Server) ExecSync(ctx context.Context, req *v1.ExecSyncRequest) (*v1.ExecSyncResponse, error) {
	c, err := s.findContainer(req.GetContainerId())
	if err != nil {
		return nil, toStatus(err)
	}
	res, err := s.execSync(ctx, c, req.GetCmd(), seconds(req.GetTimeout()))
	if err != nil {
		return nil, toStatus(err)
	}
	stdout, stderr := fit(res.Stdout, res.Stderr)
	return &v1.ExecSyncResponse{Stdout: stdout, Stderr: stderr, ExitCode: int32(res.Code)}, nil
}

// fit cuts the ends off, of the longer first, until both outputs fit one message: 16 MiB of each, as
// the API has it, would be a message that the kubelet's client refuses whole.
func fit(stdout, stderr []byte) (out, errs []byte) {
	const room = maxMessageBytes - 1<<10 // for the message's other fields
	over := len(stdout) + len(stderr) - room
	if over <= 0 {
		return stdout, stderr
	}
	long, short := &stdout, &stderr
	if len(*long) < len(*short) {
		long, short = short, long
	}
	cut := min(over, len(*long)-len(*short))
	*long, over = (*long)[:len(*long)-cut], over-cut
	*long, *short = (*long)[:len(*long)-(over+1)/2], (*short)[:len(*short)-over/2]
	return stdout, stderr
}

func (s *Server) execSync(ctx context.Context, c *sandbox.Container, cmd []string, limit time.Duration) (sandbox.ExecResult, error) {
	if len(cmd) == 0 {
		return sandbox.ExecResult{}, fmt.Errorf("exec in container %s: %w: cmd is empty", c.ID(), errInvalid)
	}
	text, err := c.Spec()
	if err != nil {
		return sandbox.ExecResult{}, err
	}
	process, err := spec.BuildExec(spec.ExecInput{Spec: text, Args: cmd})
	if err != nil {
		return sandbox.ExecResult{}, fmt.Errorf("exec in container %s: %w", c.ID(), err)
	}
	adm, err := s.o.Gate.AdmitExec(ctx, enforce.ExecRequest{Pod: podFacts(c.Pod().Config()), PodID: c.Pod().ID(),
		Container: containerFacts(c.Config(), c.ID(), nil), Exec: enforce.Exec{Argv: cmd, Probe: true}, Process: string(process), Spec: string(text)})
	if err != nil {
		return sandbox.ExecResult{}, err
	}
	return c.ExecSync(ctx, adm, limit)
}

// maxSeconds keeps a duration in seconds from overflowing; nobody waits 10 years.
const maxSeconds = 10 * 365 * 24 * 3600

// seconds is a CRI timeout; a negative one is none.
func seconds(n int64) time.Duration { return time.Duration(min(max(n, 0), maxSeconds)) * time.Second }

// findContainer finds a container that a client may know, by its ID or what unique says of it.
func (s *Server) findContainer(id string) (*sandbox.Container, error) {
	if id == "" {
		return nil, fmt.Errorf("%w: container_id is empty", errInvalid)
	}
	c, err := s.o.Pods.Container(id)
	if isNotFound(err) {
		return unique(id, s.o.Pods.Containers(), err)
	}
	return c, err
}
