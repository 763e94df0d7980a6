package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"

	"golang.org/x/sys/unix"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/enforce"
	"sallyport/image"
	"sallyport/sandbox"
	"sallyport/sandbox/spec"
)

// maxProfile is the largest localhost seccomp profile that is read, in bytes (the moby default is 20 KB).
const maxProfile = 1 << 20

// CreateContainer makes a container that the gate admits: what the image is (Lookup), how it would run
// (spec.Build), whether it may (AdmitRun), and then exactly that (Create). A retry joins; the same name
// with another request removes what nobody claimed.
func (s *Server) CreateContainer(ctx context.Context, req *v1.CreateContainerRequest) (*v1.CreateContainerResponse, error) {
	pod, err := s.findPod(req.GetPodSandboxId())
	if err != nil {
		return nil, toStatus(err)
	}
	if err := samePod(pod.Config(), req.GetSandboxConfig()); err != nil {
		return nil, toStatus(err)
	}
	cfg, err := ContainerConfig(req.GetConfig(), pod.Config())
	if err != nil {
		return nil, toStatus(fmt.Errorf("create container: %w", err))
	}
	if err := s.handler(pod.Config().Handler).Annotations.Container(pod.Config(), &cfg); err != nil {
		return nil, toStatus(fmt.Errorf("create container: %w: %w", errInvalid, err))
	}
	ctr, err := s.creates.do(ctx, digestOf(pod.ID(), cfg.Name), digestOf(cfg), func(ctx context.Context) (*sandbox.Container, error) {
		return s.create(ctx, pod, cfg)
	})
	if err != nil {
		return nil, toStatus(err)
	}
	ctr.Publish()
	s.o.NRI.Made(ctr.ID())
	return &v1.CreateContainerResponse{ContainerId: ctr.ID()}, nil
}

// samePod refuses a create that says it is for another pod or namespace than the sandbox was judged
// for: the namespace decides which policy applies.
func samePod(have spec.PodConfig, c *v1.PodSandboxConfig) error {
	md := c.GetMetadata()
	switch {
	case md.GetNamespace() == "":
		return fmt.Errorf("create container: %w: sandbox_config.metadata.namespace is empty", errInvalid)
	case md.GetNamespace() != have.Namespace:
		return fmt.Errorf("create container: %w: sandbox_config names namespace %q, the pod is in %q", errInvalid, md.GetNamespace(), have.Namespace)
	case md.GetName() != have.Name || md.GetUid() != have.UID:
		return fmt.Errorf("create container: %w: sandbox_config names pod %q (%s), the sandbox is of %q (%s)", errInvalid, md.GetName(), md.GetUid(), have.Name, have.UID)
	}
	return nil
}

func (s *Server) create(ctx context.Context, pod *sandbox.Pod, cfg spec.ContainerConfig) (ctr *sandbox.Container, err error) {
	give, err := s.turns.take(ctx)
	if err != nil {
		return nil, fmt.Errorf("create container %q: %w", cfg.Name, err)
	}
	defer give()
	found, err := s.o.Images.Lookup(cfg.Image.Image, cfg.Image.UserSpecified)
	if err != nil {
		return nil, fmt.Errorf("create container %q: %w", cfg.Name, err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("create container %q: %w: no verified image", cfg.Name, image.ErrNotFound)
	}
	res, err := pod.Reserve(ctx, cfg)
	if errors.Is(err, sandbox.ErrExists) {
		return existingContainer(pod, cfg, err)
	}
	if err != nil {
		return nil, fmt.Errorf("create container %q: %w", cfg.Name, err)
	}
	defer res.Cancel()
	in, err := s.integrate(ctx, res, cfg, found)
	if err != nil {
		err = fmt.Errorf("create container %q: %w", cfg.Name, err)
	} else {
		ctr, err = s.createAdmitted(ctx, res, cfg, found, in)
	}
	if err != nil {
		s.abandoned(ctx, pod, &in)
		return nil, err
	}
	s.created(ctx, ctr, in)
	return ctr, nil
}

// createAdmitted asks the gate about the final spec and makes what it admits.
func (s *Server) createAdmitted(ctx context.Context, res *sandbox.Reservation, cfg spec.ContainerConfig, found []image.Candidate, in integration) (*sandbox.Container, error) {
	for again := 0; ; again++ {
		adm, err := s.admitRun(ctx, res, cfg, found, in)
		if err == nil {
			err = s.changeOthers(ctx, in)
		}
		if err != nil {
			return nil, fmt.Errorf("create container %q: %w", cfg.Name, err)
		}
		in.changes = nil
		ctr, err := res.Pod().Create(ctx, adm)
		if errors.Is(err, enforce.ErrExpired) && again == 0 {
			continue // the policy changed between the two; judge by the new one
		}
		return ctr, err
	}
}

// admitRun has the gate judge the container with every candidate that the image could mean; the last
// admission is as good as any, since all must pass.
func (s *Server) admitRun(ctx context.Context, res *sandbox.Reservation, cfg spec.ContainerConfig, found []image.Candidate, in integration) (adm enforce.RunAdmission, err error) {
	for _, c := range found {
		req, err := s.runRequest(ctx, res, cfg, c, in)
		if err != nil {
			return enforce.RunAdmission{}, err
		}
		if adm, err = s.o.Gate.AdmitRun(ctx, req); err != nil {
			s.markStale(req, err)
			return enforce.RunAdmission{}, err
		}
	}
	return adm, nil
}

// runRequest builds the final spec for one candidate and seals it with what is judged beside it.
func (s *Server) runRequest(ctx context.Context, res *sandbox.Reservation, cfg spec.ContainerConfig, c image.Candidate, in integration) (enforce.RunRequest, error) {
	pod := res.Pod().Config()
	out, err := s.buildSpec(ctx, res, cfg, c)
	if err != nil {
		return enforce.RunRequest{}, err
	}
	req := enforce.RunRequest{Pod: podFacts(pod), PodID: res.Pod().ID(), Image: c.Image, Evidence: c.Evidence, Resolved: res.Resolved(), Refusals: hits(out.Refusals)}
	if out, err = in.apply(out, s.handler(pod.Handler).Host, &req); err != nil {
		return enforce.RunRequest{}, err
	}
	req.Spec, req.Container = string(out.JSON), containerFacts(cfg, res.ID(), out.Weakenings)
	if req.Config, err = res.Seal(imageConfig(c.Config), out); err != nil {
		return enforce.RunRequest{}, err
	}
	if req.Volumes, err = s.volumes(ctx, cfg.Mounts, req.Resolved, pod.Namespace); err != nil {
		return enforce.RunRequest{}, err
	}
	if !c.UsableIn(pod.Namespace) {
		req.Refusals = append(req.Refusals, noAccess(c, pod.Namespace))
	}
	changed, err := s.wholeBytes(ctx, c.Image)
	if err != nil {
		return enforce.RunRequest{}, err
	}
	req.Refusals = append(req.Refusals, changed...)
	return req, nil
}

// buildSpec is the spec of a container as its pod asks for it.
func (s *Server) buildSpec(ctx context.Context, res *sandbox.Reservation, cfg spec.ContainerConfig, c image.Candidate) (out spec.Output, err error) {
	pod := res.Pod().Config()
	h := s.handler(pod.Handler)
	host := h.Host
	paths, err := res.Namespaces()
	if err != nil {
		return out, err
	}
	passwd, group, err := s.o.Images.UserFiles(ctx, c.Image.Instance, c.Image.ID)
	if err != nil {
		return out, err
	}
	if host.DevicesByPath, err = s.askedDevices(cfg.Devices); err != nil {
		return out, err
	}
	return spec.Build(spec.Input{
		Pod: pod, PodID: res.Pod().ID(), Container: cfg, ID: res.ID(), Image: imageConfig(c.Config), Passwd: passwd, Group: group,
		Mounts: res.Mounts(), Namespaces: paths, Labels: labels(host, res.Pod().ID()), SeccompProfile: localProfile(cfg.Security.Seccomp),
		Floor: s.o.Gate.Floor(pod.Namespace), Host: host, Defaults: h.Defaults,
	})
}

// markStale makes the kubelet pull an image again whose stored evidence was not enough: it pulls only
// what is absent, and a pull fetches evidence anew.
func (s *Server) markStale(req enforce.RunRequest, err error) {
	for _, name := range stale(req, err) {
		if !name.IsZero() {
			s.o.Images.MarkStale(name)
		}
	}
}

// existingContainer answers a repeated request: the container that is there, if it was asked for in
// the same words.
func existingContainer(pod *sandbox.Pod, cfg spec.ContainerConfig, cause error) (*sandbox.Container, error) {
	for _, c := range pod.Containers() {
		if have := c.Config(); have.Name == cfg.Name && have.Attempt == cfg.Attempt && sameJSON(have, cfg) {
			return c, nil
		}
	}
	return nil, cause
}

// undoContainer removes a container whose ID no call returned.
func (s *Server) undoContainer(c *sandbox.Container) {
	ctx, cancel := context.WithTimeout(context.Background(), s.o.CreateTimeout)
	defer cancel()
	if err := c.Remove(ctx); err != nil {
		s.o.Log.Warn("remove unclaimed container", "id", c.ID(), "err", err)
		return
	}
	s.forget(c)
}

func (s *Server) askedDevices(asked []spec.Device) (found []spec.HostDevice, err error) {
	for _, d := range asked {
		dev, err := s.o.Device(d.Source)
		if err != nil {
			return nil, fmt.Errorf("device %q: %w", d.Source, err)
		}
		found = append(found, dev)
	}
	return found, nil
}

// localProfile reads a localhost seccomp profile; nil, which spec.Build refuses by name, if it cannot
// be read whole.
func localProfile(p spec.Profile) []byte {
	if p.Kind != spec.Localhost {
		return nil
	}
	f, err := os.OpenFile(p.Ref, os.O_RDONLY+unix.O_NONBLOCK, 0) // a pipe must not keep us waiting
	if err != nil {
		return nil
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(f, maxProfile+1))
	if err != nil || len(data) > maxProfile {
		return nil
	}
	return data
}

func imageConfig(c image.Config) spec.ImageConfig {
	return spec.ImageConfig{User: c.User, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, WorkingDir: c.WorkingDir,
		Volumes: c.Volumes, StopSignal: c.StopSignal, Labels: c.Labels}
}

func containerFacts(cfg spec.ContainerConfig, id string, weakenings []string) enforce.Container {
	return enforce.Container{Name: cfg.Name, ID: id, Attempt: cfg.Attempt, Labels: maps.Clone(cfg.Labels),
		Annotations: maps.Clone(cfg.Annotations), Privileged: cfg.Security.Privileged, Weakenings: weakenings}
}
