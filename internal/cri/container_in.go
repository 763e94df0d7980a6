package cri

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/sandbox/spec"
)

// ContainerConfig translates a container's configuration for a pod. What is missing or cannot be meant
// is an errInvalid that names the field.
func ContainerConfig(c *v1.ContainerConfig, pod spec.PodConfig) (spec.ContainerConfig, error) {
	out := spec.ContainerConfig{
		Name:        c.GetMetadata().GetName(),
		Attempt:     c.GetMetadata().GetAttempt(),
		Image:       imageRef(c.GetImage()),
		Command:     c.GetCommand(),
		Args:        c.GetArgs(),
		WorkingDir:  c.GetWorkingDir(),
		Labels:      c.GetLabels(),
		Annotations: c.GetAnnotations(),
		LogPath:     c.GetLogPath(),
		Stdin:       c.GetStdin(),
		StdinOnce:   c.GetStdinOnce(),
		TTY:         c.GetTty(),
		StopSignal:  signalName(c.GetStopSignal()),
		Resources:   resources(c.GetLinux().GetResources()),
		Security:    containerSecurity(c.GetLinux().GetSecurityContext(), pod),
	}
	for _, kv := range c.GetEnvs() {
		if name := kv.GetKey(); name == "" || strings.ContainsAny(name, "=\x00") {
			return spec.ContainerConfig{}, fmt.Errorf("%w: config.envs: name %.100q", errInvalid, name)
		}
		out.Env = append(out.Env, spec.EnvVar{Name: kv.GetKey(), Value: kv.GetValue()})
	}
	for i, m := range c.GetMounts() {
		t, err := mount(m)
		if err != nil {
			return spec.ContainerConfig{}, fmt.Errorf("%w: config.mounts[%d]: %w", errInvalid, i, err)
		}
		out.Mounts = append(out.Mounts, t)
	}
	for _, d := range c.GetDevices() {
		out.Devices = append(out.Devices, spec.Device{Destination: d.GetContainerPath(), Source: d.GetHostPath(), Access: d.GetPermissions()})
	}
	for _, d := range c.GetCDIDevices() {
		out.CDI = append(out.CDI, d.GetName())
	}
	switch sec := out.Security; {
	case out.Name == "":
		return spec.ContainerConfig{}, fmt.Errorf("%w: config.metadata.name is empty", errInvalid)
	case out.Image.Image == "":
		return spec.ContainerConfig{}, fmt.Errorf("%w: config.image.image is empty", errInvalid)
	case sec.RunAsUser != nil && sec.RunAsUsername != "":
		return spec.ContainerConfig{}, fmt.Errorf("%w: both run_as_user and run_as_username are set", errInvalid)
	case sec.RunAsGroup != nil && sec.RunAsUser == nil && sec.RunAsUsername == "":
		return spec.ContainerConfig{}, fmt.Errorf("%w: run_as_group is set without run_as_user or run_as_username", errInvalid)
	case sec.Privileged && !pod.Security.Privileged:
		return spec.ContainerConfig{}, fmt.Errorf("%w: a privileged container in a pod that said it would hold none", errInvalid)
	case out.StdinOnce && !out.Stdin:
		return spec.ContainerConfig{}, fmt.Errorf("%w: stdin_once is set without stdin", errInvalid)
	}
	return out, bounded("config", out.Name, out.Image.Image, out.Image.UserSpecified, out.WorkingDir, out.LogPath)
}

func imageRef(s *v1.ImageSpec) spec.ImageRef {
	return spec.ImageRef{Image: s.GetImage(), UserSpecified: s.GetUserSpecifiedImage(), Handler: s.GetRuntimeHandler()}
}

var propagations = map[v1.MountPropagation]spec.Propagation{
	v1.MountPropagation_PROPAGATION_PRIVATE:           spec.PropagationPrivate,
	v1.MountPropagation_PROPAGATION_HOST_TO_CONTAINER: spec.PropagationSlave,
	v1.MountPropagation_PROPAGATION_BIDIRECTIONAL:     spec.PropagationShared,
}

// mount translates one mount and holds it to the rules of api.proto, Mount.
func mount(m *v1.Mount) (spec.Mount, error) {
	prop, ok := propagations[m.GetPropagation()]
	out := spec.Mount{
		Destination:       m.GetContainerPath(),
		Source:            m.GetHostPath(),
		ReadOnly:          m.GetReadonly(),
		RecursiveReadOnly: m.GetRecursiveReadOnly(),
		Relabel:           m.GetSelinuxRelabel(),
		Propagation:       prop,
		UIDs:              mappings(m.GetUidMappings()),
		GIDs:              mappings(m.GetGidMappings()),
		ImageSubPath:      m.GetImageSubPath(),
		Options:           m.GetMountOptions(),
	}
	if m.GetImage().GetImage() != "" {
		ref := imageRef(m.GetImage())
		out.Image = &ref
	}
	switch {
	case !ok:
		return spec.Mount{}, fmt.Errorf("unknown propagation %d", m.GetPropagation())
	case out.Destination == "":
		return spec.Mount{}, fmt.Errorf("container_path is empty")
	case (out.Source == "") == (out.Image == nil):
		return spec.Mount{}, fmt.Errorf("%q needs either host_path or image", out.Destination)
	case out.Image != nil && !out.ReadOnly:
		return spec.Mount{}, fmt.Errorf("%q: an image volume is read-only", out.Destination)
	case out.Image != nil && prop != spec.PropagationPrivate:
		return spec.Mount{}, fmt.Errorf("%q: an image volume needs private propagation", out.Destination)
	case out.Image == nil && out.ImageSubPath != "":
		return spec.Mount{}, fmt.Errorf("%q: image_sub_path is set without image", out.Destination)
	case slices.ContainsFunc(out.Options, func(o string) bool { return !slices.Contains(spec.MountOptions, o) }):
		return spec.Mount{}, fmt.Errorf("%q: mount_options %.100q: only %q can be asked for", out.Destination, out.Options, spec.MountOptions)
	case out.RecursiveReadOnly && !out.ReadOnly:
		return spec.Mount{}, fmt.Errorf("%q: recursive_read_only needs readonly", out.Destination)
	case out.RecursiveReadOnly && prop != spec.PropagationPrivate:
		return spec.Mount{}, fmt.Errorf("%q: recursive_read_only needs private propagation", out.Destination)
	}
	return out, bounded("path", out.Destination, out.Source, out.ImageSubPath)
}

func containerSecurity(s *v1.LinuxContainerSecurityContext, pod spec.PodConfig) spec.ContainerSecurity {
	out := spec.ContainerSecurity{
		Capabilities: spec.Capabilities{
			Add:        s.GetCapabilities().GetAddCapabilities(),
			Drop:       s.GetCapabilities().GetDropCapabilities(),
			AddAmbient: s.GetCapabilities().GetAddAmbientCapabilities(),
		},
		Privileged:         s.GetPrivileged(),
		Namespaces:         pod.Security.Namespaces,
		SELinux:            selinuxIn(s.GetSelinuxOptions()),
		RunAsUser:          number(s.GetRunAsUser()),
		RunAsUsername:      s.GetRunAsUsername(),
		RunAsGroup:         number(s.GetRunAsGroup()),
		ReadOnlyRootfs:     s.GetReadonlyRootfs(),
		SupplementalGroups: s.GetSupplementalGroups(),
		StrictGroups:       s.GetSupplementalGroupsPolicy() == v1.SupplementalGroupsPolicy_Strict,
		NoNewPrivs:         s.GetNoNewPrivs(),
		MaskedPaths:        s.GetMaskedPaths(),
		ReadOnlyPaths:      s.GetReadonlyPaths(),
		Seccomp:            seccompIn(s.GetSeccomp(), s.GetSeccompProfilePath()), //nolint:staticcheck // still sent
		AppArmor:           profile(s.GetApparmor(), s.GetApparmorProfile()),     //nolint:staticcheck // still sent
	}
	if n := s.GetNamespaceOptions(); n != nil {
		out.Namespaces = namespaces(n)
		// The user namespace is the pod's: a container cannot leave it, and old kubelets repeat it or not.
		out.Namespaces.User = pod.Security.Namespaces.User
	}
	// The wire cannot tell an empty list from none. The kubelet sends both lists for every container
	// but one with procMount Unmasked, which Kubernetes admits only in a user namespace; without one,
	// empty lists come from clients that did not think of it.
	out.Unmasked = len(out.MaskedPaths) == 0 && len(out.ReadOnlyPaths) == 0 && s != nil && !out.Privileged &&
		out.Namespaces.User.Mode == spec.NamespacePod
	return out
}

// signalName is the signal as signal(7) writes it, "" for the runtime's default.
func signalName(s v1.Signal) string {
	name, ok := strings.CutPrefix(s.String(), "SIGNAL_")
	if !ok || s == v1.Signal_SIGNAL_RUNTIME_DEFAULT {
		return ""
	}
	name = strings.Replace(name, "SIGRTMINPLUS", "SIGRTMIN+", 1)
	return strings.Replace(name, "SIGRTMAXMINUS", "SIGRTMAX-", 1)
}

// signalValue is the inverse of signalName; unknown names are the runtime's default.
func signalValue(name string) v1.Signal {
	name = strings.Replace(name, "SIGRTMIN+", "SIGRTMINPLUS", 1)
	name = strings.Replace(name, "SIGRTMAX-", "SIGRTMAXMINUS", 1)
	return v1.Signal(v1.Signal_value["SIGNAL_"+name])
}
