package cri

import (
	"encoding/json"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/sandbox"
	"sallyport/sandbox/spec"
)

func (s *Server) containerStatusOut(c *sandbox.Container) *v1.ContainerStatus {
	cfg, st, id := c.Config(), c.Status(), c.Image().ID.String()
	out := &v1.ContainerStatus{
		Id: c.ID(), Metadata: containerMetadata(cfg), State: containerState(st.State), CreatedAt: st.Created.UnixNano(),
		ExitCode: int32(st.ExitCode), Reason: st.Reason, Message: st.Message, Image: imageSpecOut(c), ImageRef: id, ImageId: id,
		Labels: cfg.Labels, Annotations: cfg.Annotations, LogPath: logPath(c), Resources: resourcesOut(st.Resources),
		User: s.userOut(c), StopSignal: signalValue(c.Sealed().StopSignal),
	}
	if !st.Started.IsZero() {
		out.StartedAt = st.Started.UnixNano()
	}
	if st.State == sandbox.Exited {
		out.FinishedAt = st.Finished.UnixNano()
	}
	for _, m := range cfg.Mounts {
		out.Mounts = append(out.Mounts, mountOut(m))
	}
	for _, v := range c.Volumes() { // KEP-5365: which image it is that is mounted
		for _, m := range out.Mounts {
			if m.Image != nil && m.ContainerPath == c.Resolved()[v.Mount].Destination {
				m.Image.ImageRef = v.Image.ID.String()
			}
		}
	}
	return out
}

func containerMetadata(cfg spec.ContainerConfig) *v1.ContainerMetadata {
	return &v1.ContainerMetadata{Name: cfg.Name, Attempt: cfg.Attempt}
}

func containerState(st sandbox.State) v1.ContainerState {
	switch st {
	case sandbox.Created:
		return v1.ContainerState_CONTAINER_CREATED
	case sandbox.Running:
		return v1.ContainerState_CONTAINER_RUNNING
	case sandbox.Exited:
		return v1.ContainerState_CONTAINER_EXITED
	}
	return v1.ContainerState_CONTAINER_UNKNOWN
}

// imageSpecOut is the image as its user named it; where nobody did, the name that was judged.
func imageSpecOut(c *sandbox.Container) *v1.ImageSpec {
	asked := c.Config().Image
	name := asked.UserSpecified
	if name == "" {
		name = c.Image().Name.String()
	}
	return &v1.ImageSpec{Image: name, UserSpecifiedImage: asked.UserSpecified, RuntimeHandler: asked.Handler}
}

func logPath(c *sandbox.Container) string {
	if p := c.LogPath(); p != "" {
		return p
	}
	if dir := c.Pod().Config().LogDirectory; dir != "" && c.Config().LogPath != "" {
		return filepath.Join(dir, c.Config().LogPath)
	}
	return ""
}

func mountOut(m spec.Mount) *v1.Mount {
	out := &v1.Mount{ContainerPath: m.Destination, HostPath: m.Source, Readonly: m.ReadOnly, RecursiveReadOnly: m.RecursiveReadOnly,
		SelinuxRelabel: m.Relabel, UidMappings: mappingsOut(m.UIDs), GidMappings: mappingsOut(m.GIDs), ImageSubPath: m.ImageSubPath, MountOptions: m.Options}
	for prop, name := range propagations {
		if name == m.Propagation {
			out.Propagation = prop
		}
	}
	if m.Image != nil {
		out.Image = &v1.ImageSpec{Image: m.Image.Image, UserSpecifiedImage: m.Image.UserSpecified}
	}
	return out
}

// resourcesOut reads the limits in force; text is OCI LinuxResources. The OOM score is no cgroup limit
// and not part of it.
func resourcesOut(text json.RawMessage) *v1.ContainerResources {
	var r specs.LinuxResources
	if len(text) == 0 || json.Unmarshal(text, &r) != nil {
		return nil
	}
	out := &v1.LinuxContainerResources{Unified: r.Unified}
	if c := r.CPU; c != nil {
		out.CpuPeriod, out.CpuQuota = int64(value(c.Period)), value(c.Quota)
		out.CpuShares, out.CpusetCpus, out.CpusetMems = int64(value(c.Shares)), c.Cpus, c.Mems
	}
	if m := r.Memory; m != nil {
		out.MemoryLimitInBytes, out.MemorySwapLimitInBytes = value(m.Limit), value(m.Swap)
	}
	for _, h := range r.HugepageLimits {
		out.HugepageLimits = append(out.HugepageLimits, &v1.HugepageLimit{PageSize: h.Pagesize, Limit: h.Limit})
	}
	return &v1.ContainerResources{Linux: out}
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// userOut is the user of the container's first process. The judged spec is read once per container.
func (s *Server) userOut(c *sandbox.Container) *v1.ContainerUser {
	if u, ok := s.users.Load(c.ID()); ok {
		return u.(*v1.ContainerUser)
	}
	text, err := c.Spec()
	if err != nil {
		return nil
	}
	var sp struct {
		Process struct{ User specs.User }
	}
	if json.Unmarshal(text, &sp) != nil {
		return nil
	}
	u := sp.Process.User
	out := &v1.LinuxContainerUser{Uid: int64(u.UID), Gid: int64(u.GID)}
	for _, g := range u.AdditionalGids {
		out.SupplementalGroups = append(out.SupplementalGroups, int64(g))
	}
	user := &v1.ContainerUser{Linux: out}
	s.users.Store(c.ID(), user)
	return user
}
