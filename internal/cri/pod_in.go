package cri

import (
	"fmt"
	"strings"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/sandbox/spec"
)

// maxText bounds one name, path or label of a request, in bytes. Names in Kubernetes end at 253, paths
// at 4096 (PATH_MAX); more is a mistake or an attack, and would be copied into records.
const maxText = 4096

// PodConfig translates a pod's configuration. What is missing or cannot be meant is an errInvalid that
// names the field.
func PodConfig(c *v1.PodSandboxConfig, handler string) (spec.PodConfig, error) {
	md := c.GetMetadata()
	sec := c.GetLinux().GetSecurityContext()
	out := spec.PodConfig{
		Namespace:    md.GetNamespace(),
		Name:         md.GetName(),
		UID:          md.GetUid(),
		Attempt:      md.GetAttempt(),
		Hostname:     c.GetHostname(),
		LogDirectory: c.GetLogDirectory(),
		Labels:       c.GetLabels(),
		Annotations:  c.GetAnnotations(),
		Handler:      handler,
		CgroupParent: c.GetLinux().GetCgroupParent(),
		Sysctls:      c.GetLinux().GetSysctls(),
		Overhead:     resources(c.GetLinux().GetOverhead()),
		Resources:    resources(c.GetLinux().GetResources()),
		Security: spec.PodSecurity{
			Namespaces:         namespaces(sec.GetNamespaceOptions()),
			SELinux:            selinuxIn(sec.GetSelinuxOptions()),
			RunAsUser:          number(sec.GetRunAsUser()),
			RunAsGroup:         number(sec.GetRunAsGroup()),
			ReadOnlyRootfs:     sec.GetReadonlyRootfs(),
			SupplementalGroups: sec.GetSupplementalGroups(),
			StrictGroups:       sec.GetSupplementalGroupsPolicy() == v1.SupplementalGroupsPolicy_Strict,
			Privileged:         sec.GetPrivileged(),
			Seccomp:            seccompIn(sec.GetSeccomp(), sec.GetSeccompProfilePath()), //nolint:staticcheck // still sent
			AppArmor:           profile(sec.GetApparmor(), ""),
		},
	}
	if d := c.GetDnsConfig(); d != nil {
		out.DNS = &spec.DNS{Servers: d.GetServers(), Searches: d.GetSearches(), Options: d.GetOptions()}
	}
	for _, p := range c.GetPortMappings() {
		out.PortMappings = append(out.PortMappings, spec.PortMapping{Protocol: strings.ToLower(p.GetProtocol().String()),
			ContainerPort: p.GetContainerPort(), HostPort: p.GetHostPort(), HostIP: p.GetHostIp()})
	}
	for _, f := range []struct{ name, value string }{
		{"config.metadata.namespace", out.Namespace}, {"config.metadata.name", out.Name}, {"config.metadata.uid", out.UID},
	} {
		if f.value == "" {
			return spec.PodConfig{}, fmt.Errorf("%w: %s is empty", errInvalid, f.name)
		}
	}
	if m := out.Security.Namespaces.User.Mode; m != "" && m != spec.NamespaceNode && m != spec.NamespacePod {
		return spec.PodConfig{}, fmt.Errorf("%w: userns_options.mode is %s; a pod's user namespace is its own (POD) or the node's (NODE)", errInvalid, m)
	}
	if out.Security.RunAsGroup != nil && out.Security.RunAsUser == nil {
		return spec.PodConfig{}, fmt.Errorf("%w: config.linux.security_context.run_as_group is set without run_as_user", errInvalid)
	}
	return out, bounded("config", out.Namespace, out.Name, out.UID, out.Hostname, out.LogDirectory, out.Handler, out.CgroupParent)
}

// resources translates limits; nil means that none was asked for.
func resources(r *v1.LinuxContainerResources) spec.Resources {
	out := spec.Resources{
		CPUPeriod:   r.GetCpuPeriod(),
		CPUQuota:    r.GetCpuQuota(),
		CPUShares:   r.GetCpuShares(),
		Memory:      r.GetMemoryLimitInBytes(),
		MemorySwap:  r.GetMemorySwapLimitInBytes(),
		OOMScoreAdj: r.GetOomScoreAdj(),
		CPUs:        r.GetCpusetCpus(),
		Mems:        r.GetCpusetMems(),
		Unified:     r.GetUnified(),
	}
	for _, h := range r.GetHugepageLimits() {
		out.Hugepages = append(out.Hugepages, spec.HugepageLimit{PageSize: h.GetPageSize(), Limit: h.GetLimit()})
	}
	return out
}

var namespaceModes = map[v1.NamespaceMode]spec.NamespaceMode{
	v1.NamespaceMode_POD:       spec.NamespacePod,
	v1.NamespaceMode_CONTAINER: spec.NamespaceContainer,
	v1.NamespaceMode_NODE:      spec.NamespaceNode,
	v1.NamespaceMode_TARGET:    spec.NamespaceTarget,
}

// namespaces translates the wanted namespaces. CRI's default is the pod's, also where the message is
// missing (api.proto, NamespaceOption). A missing user namespace is none, as all runtimes read it.
func namespaces(n *v1.NamespaceOption) spec.NamespaceOptions {
	out := spec.NamespaceOptions{
		Network: namespaceModes[n.GetNetwork()],
		PID:     namespaceModes[n.GetPid()],
		IPC:     namespaceModes[n.GetIpc()],
		Target:  n.GetTargetId(),
	}
	if u := n.GetUsernsOptions(); u != nil {
		out.User = spec.UserNamespace{Mode: namespaceModes[u.GetMode()], UIDs: mappings(u.GetUids()), GIDs: mappings(u.GetGids())}
	}
	return out
}

func mappings(in []*v1.IDMapping) (out []spec.IDMapping) {
	for _, m := range in {
		out = append(out, spec.IDMapping{Container: m.GetContainerId(), Host: m.GetHostId(), Length: m.GetLength()})
	}
	return out
}

func selinuxIn(o *v1.SELinuxOption) *spec.SELinux {
	if o == nil || (o.GetUser() == "" && o.GetRole() == "" && o.GetType() == "" && o.GetLevel() == "") {
		return nil
	}
	return &spec.SELinux{User: o.GetUser(), Role: o.GetRole(), Type: o.GetType(), Level: o.GetLevel()}
}

func number(v *v1.Int64Value) *int64 {
	if v == nil {
		return nil
	}
	n := v.GetValue()
	return &n
}

// profile translates a security profile; old is the deprecated string, read only where p is nil. A
// profile that nobody asked for is the runtime's default, and an unknown one too: the tighter reading.
func profile(p *v1.SecurityProfile, old string) spec.Profile {
	if p != nil {
		switch p.GetProfileType() {
		case v1.SecurityProfile_Unconfined:
			return spec.Profile{Kind: spec.Unconfined}
		case v1.SecurityProfile_Localhost:
			return spec.Profile{Kind: spec.Localhost, Ref: p.GetLocalhostRef()}
		}
		return spec.Profile{Kind: spec.RuntimeDefault}
	}
	switch {
	case old == "unconfined":
		return spec.Profile{Kind: spec.Unconfined}
	case strings.HasPrefix(old, "localhost/"):
		return spec.Profile{Kind: spec.Localhost, Ref: strings.TrimPrefix(old, "localhost/")}
	}
	return spec.Profile{Kind: spec.RuntimeDefault}
}

// seccompIn is profile for seccomp, where one that nobody set is Unconfined (api.proto,
// seccomp_profile_path: "", which is identical with unconfined): a request that the floor answers, as it
// does where the kubelet writes it out.
func seccompIn(p *v1.SecurityProfile, old string) spec.Profile {
	if p == nil && old == "" {
		return spec.Profile{Kind: spec.Unconfined}
	}
	return profile(p, old)
}

// bounded refuses text that is too long or holds a NUL, which no path or name can.
func bounded(what string, texts ...string) error {
	for _, s := range texts {
		if len(s) > maxText {
			return fmt.Errorf("%w: %s: a text of %d bytes, at most %d", errInvalid, what, len(s), maxText)
		}
		if strings.ContainsRune(s, 0) {
			return fmt.Errorf("%w: %s: %.100q holds a NUL", errInvalid, what, s)
		}
	}
	return nil
}
