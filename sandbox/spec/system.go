package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// The paths that a container cannot see, and those that it cannot write: runc's example, moby's
// (oci/defaults.go) and the kubelet's (pkg/securitycontext) lists together, and what later advisories
// added (powercap: CVE-2020-8694 and GHSA-jq35-85cj-fj4p; interrupts: moby 27.1). On cgroup v1, /sys/fs/cgroup itself is a
// tmpfs that runc leaves writable.
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
	readOnlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/sys/fs/cgroup"}
)

// namespaces: those of the pod are joined by their pinned files, the rest is new. The pod decides over
// network, IPC and user namespace; a container's own words on these are not read (cri-api v1: they are
// the pod's), on its PID namespace they are.
func (b *builder) namespaces() error {
	pod, at := b.in.Pod.Security.Namespaces, b.in.Namespaces
	if b.in.Host.OwnKernel {
		if err := b.apart(); err != nil {
			return err
		}
	}
	ns := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	join := func(kind specs.LinuxNamespaceType, file string) error {
		if file == "" {
			return fmt.Errorf("the pod's %s namespace is not pinned", kind)
		}
		ns = append(ns, specs.LinuxNamespace{Type: kind, Path: file})
		return nil
	}
	var errs []error
	if !b.privileged {
		ns = append(ns, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	if pod.Network != NamespaceNode {
		errs = append(errs, join(specs.NetworkNamespace, at.Network), join(specs.UTSNamespace, at.UTS))
	} else if !b.must("hostNetwork", b.in.Floor.HostNetwork, "the node's network") {
		ns = append(ns, specs.LinuxNamespace{Type: specs.NetworkNamespace}, specs.LinuxNamespace{Type: specs.UTSNamespace})
	}
	if pod.IPC != NamespaceNode {
		errs = append(errs, join(specs.IPCNamespace, at.IPC))
	} else if !b.must("hostIPC", b.in.Floor.HostIPC, "the node's IPC namespace") {
		ns = append(ns, specs.LinuxNamespace{Type: specs.IPCNamespace})
	}
	if pod.User.Mode == NamespacePod {
		b.userNS = true
		errs = append(errs, join(specs.UserNamespace, at.User))
		if pod.IPC == NamespaceNode || pod.PID == NamespaceNode || b.in.Container.Security.Privileged {
			errs = append(errs, errors.New("a pod with a user namespace cannot have the node's PIDs or IPC or privileged containers"))
		}
	} else {
		b.must("hostUsers", b.in.Floor.HostUsers, "the node's user namespace")
	}
	switch mode := b.in.Container.Security.Namespaces.PID; mode {
	case "", NamespaceContainer:
		ns = append(ns, specs.LinuxNamespace{Type: specs.PIDNamespace})
	case NamespacePod, NamespaceTarget:
		errs = append(errs, join(specs.PIDNamespace, at.PID))
	case NamespaceNode:
		if pod.PID != NamespaceNode {
			errs = append(errs, errors.New("it asks for the node's PIDs in a pod that does not"))
		}
		if !b.must("hostPID", b.in.Floor.HostPID, "the node's PIDs") {
			ns = append(ns, specs.LinuxNamespace{Type: specs.PIDNamespace})
		}
	default:
		errs = append(errs, fmt.Errorf("PID namespace mode %q is unknown", mode))
	}
	b.spec.Linux.Namespaces = ns
	return errors.Join(errs...)
}

// apart: a container on a kernel of its own shares no processes and no user namespace with anything, and
// knows its name only from the spec.
func (b *builder) apart() error {
	pod := b.in.Pod.Security.Namespaces
	switch mode := b.in.Container.Security.Namespaces.PID; {
	case mode != "" && mode != NamespaceContainer || pod.PID == NamespacePod || pod.PID == NamespaceNode:
		return fmt.Errorf("processes are to be shared, and runtime handler %q gives each container a kernel of its own", b.in.Pod.Handler)
	case pod.User.Mode == NamespacePod:
		return fmt.Errorf("a user namespace is asked for, and runtime handler %q has none", b.in.Pod.Handler)
	}
	b.spec.Hostname = b.in.Pod.Hostname
	return nil
}

// mounts: the file systems that every container gets, then the pod's. Parents come before what is
// mounted inside them.
func (b *builder) mounts() error {
	sys := []string{"nosuid", "noexec", "nodev", "ro"}
	if b.privileged {
		sys = []string{"nosuid", "noexec", "nodev", "rw"}
	}
	list := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: sys},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: append(slices.Clone(sys), "relatime")},
	}
	if slices.ContainsFunc(b.in.Mounts, func(m ResolvedMount) bool { return m.Kind == "sys" }) {
		list = slices.DeleteFunc(list, func(m specs.Mount) bool { return m.Type == "sysfs" })
	}
	taken := map[string]bool{}
	for _, m := range b.in.Mounts {
		if m.Kind == "host" || m.Kind == "image" {
			dest := path.Join("/", m.Destination)
			if taken[dest] {
				return fmt.Errorf("two mounts at %q", dest)
			}
			taken[dest] = true
		}
	}
	for n, m := range b.in.Mounts {
		dest, err := destination(m.Destination)
		if err != nil {
			return err
		}
		if ours := m.Kind == "file" || m.Kind == "shm"; ours && taken[dest] {
			continue // the pod brings its own
		}
		if m.Kind != "sys" {
			if list, err = b.place(list, dest); err != nil {
				return err
			}
		}
		options, err := b.options(m)
		if err != nil {
			return fmt.Errorf("mount at %q: %w", dest, err)
		}
		list = append(list, specs.Mount{
			Destination: dest, Type: "bind", Source: fmt.Sprintf("mounts/%d", n), Options: options,
			UIDMappings: mappings(m.UIDs), GIDMappings: mappings(m.GIDs),
		})
	}
	slices.SortStableFunc(list, func(x, y specs.Mount) int { return depth(x.Destination) - depth(y.Destination) })
	b.spec.Mounts = list
	return nil
}

func depth(p string) int { return strings.Count(p, "/") }

// destination is clean and absolute; a relative one is taken from the root, as runtimes do.
func destination(p string) (string, error) {
	if err := text(p); err != nil || p == "" || slices.Contains(strings.Split(p, "/"), "..") {
		return "", fmt.Errorf("mount destination %q is empty, leads up, or holds a zero byte", p)
	}
	if p = path.Join("/", p); p == "/" {
		return "", errors.New("a mount over the root filesystem is asked for")
	}
	return p, nil
}

// place decides about destinations that belong to the container's own file systems: only a privileged
// container mounts there, and then in place of ours. Refused requests stay in the spec, where the
// judge names them again.
func (b *builder) place(list []specs.Mount, dest string) ([]specs.Mount, error) {
	own := func(m specs.Mount) bool { return m.Destination == dest }
	inside := dest == "/proc" || dest == "/sys" || strings.HasPrefix(dest, "/proc/") || strings.HasPrefix(dest, "/sys/")
	if (inside || slices.ContainsFunc(list, own)) && !b.privileged {
		b.refuse("mounts", "a mount at %q is asked for, which only a privileged container may have", dest)
	}
	return slices.DeleteFunc(list, own), nil
}

// options of a bind mount. nodev: the device cgroup allows the standard devices wherever their nodes
// lie, and a volume has no need of any.
func (b *builder) options(m ResolvedMount) ([]string, error) {
	options := []string{"rbind"}
	switch m.Propagation {
	case "", PropagationPrivate:
		options = append(options, "rprivate")
	case PropagationSlave:
		options = append(options, "rslave")
		b.propagate("rslave")
	case PropagationShared:
		if b.privileged || b.ask("bidirectionalMounts", b.in.Floor.BidirMounts, "mount propagation to the host") {
			options = append(options, "rshared")
			b.propagate("rshared")
		} else {
			options = append(options, "rslave")
			b.propagate("rslave")
		}
	default:
		return nil, fmt.Errorf("propagation %q is unknown", m.Propagation)
	}
	readOnly := m.ReadOnly
	switch m.Kind {
	case "host":
		if !b.privileged {
			options = append(options, "nodev")
		}
	case "image":
		readOnly = true // whatever was asked: an image volume is never written
		options = append(options, "nosuid", "nodev")
	case "file":
		readOnly = readOnly || b.spec.Root.Readonly
		options = append(options, "nosuid", "nodev", "noexec")
	case "shm":
		options = append(options, "nosuid", "nodev", "noexec")
	case "sys":
		readOnly = true
		options = append(options, "nosuid", "nodev", "noexec")
	default:
		return nil, fmt.Errorf("kind %q is unknown", m.Kind)
	}
	switch {
	case m.RecursiveReadOnly && !readOnly:
		return nil, errors.New("recursively read-only is asked for a mount that is writable")
	case m.RecursiveReadOnly && !b.in.Host.RecursiveRO:
		return nil, ErrRecursiveReadOnly
	case m.RecursiveReadOnly:
		options = append(options, "rro")
	case readOnly:
		options = append(options, "ro")
	default:
		options = append(options, "rw")
	}
	for _, o := range m.Options {
		if !slices.Contains(MountOptions, o) {
			return nil, fmt.Errorf("option %.40q cannot be asked for; only %q can", o, MountOptions)
		}
		if !slices.Contains(options, o) {
			options = append(options, o)
		}
	}
	user := b.in.Pod.Security.Namespaces.User
	switch {
	case len(m.UIDs)+len(m.GIDs) == 0:
	case !b.userNS:
		return nil, errors.New("ID mappings are asked for without a user namespace")
	case !slices.Equal(m.UIDs, user.UIDs) || !slices.Equal(m.GIDs, user.GIDs):
		return nil, errors.New("the ID mappings are not those of the pod's user namespace")
	}
	return options, nil
}

// ErrRecursiveReadOnly says that a recursively read-only mount was asked for where there can be none.
var ErrRecursiveReadOnly = errors.New("the kernel or the OCI runtime cannot mount recursively read-only")

// MountOptions are those that a request may add to a bind mount (cri-api v1, Mount.mount_options). Each
// only takes away.
var MountOptions = []string{"nodev", "noexec", "nosuid"}

// propagate opens the root mount as far as one of the mounts needs it; otherwise nothing propagates.
func (b *builder) propagate(mode string) {
	if b.spec.Linux.RootfsPropagation != "rshared" {
		b.spec.Linux.RootfsPropagation = mode
	}
}

func mappings(in []IDMapping) (out []specs.LinuxIDMapping) {
	for _, m := range in {
		out = append(out, specs.LinuxIDMapping{ContainerID: m.Container, HostID: m.Host, Size: m.Length})
	}
	return out
}

// paths hides and protects parts of /proc and /sys. A request may add to both lists; taking from them
// is procMount Unmasked.
func (b *builder) paths() error {
	s := b.in.Container.Security
	if b.privileged || s.Unmasked && b.ask("unmaskedPaths", b.in.Floor.UnmaskedPaths, "procMount Unmasked") {
		return nil
	}
	for _, p := range slices.Concat(s.MaskedPaths, s.ReadOnlyPaths) {
		if !path.IsAbs(p) || path.Clean(p) != p || text(p) != nil {
			return fmt.Errorf("masked or read-only path %q is not clean and absolute", p)
		}
	}
	b.spec.Linux.MaskedPaths = union(maskedPaths, s.MaskedPaths)
	b.spec.Linux.ReadonlyPaths = union(readOnlyPaths, s.ReadOnlyPaths)
	return nil
}

func union(a, b []string) []string {
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}

// devices: the cgroup begins by denying all; the runtime adds the standard devices. A privileged
// container has all of the node's.
func (b *builder) devices() error {
	b.spec.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	if b.privileged {
		b.spec.Linux.Resources.Devices[0].Allow = true
		for _, d := range b.in.Host.Devices {
			b.spec.Linux.Devices = append(b.spec.Linux.Devices, d.oci(d.Path))
		}
	}
	asked := b.in.Container.Devices
	if len(asked) == 0 || !b.privileged && !b.must("devices", b.in.Floor.Devices, fmt.Sprintf("%d host devices", len(asked))) {
		return nil
	}
	for _, a := range asked {
		i := slices.IndexFunc(b.in.Host.DevicesByPath, func(d HostDevice) bool { return d.Path == a.Source })
		dest, err := destination(a.Destination)
		if err != nil || i < 0 || a.Access == "" || strings.Trim(a.Access, "rwm") != "" {
			return fmt.Errorf("device %q: there is none, or the destination %q or the access %q is malformed", a.Source, a.Destination, a.Access)
		}
		d := b.in.Host.DevicesByPath[i]
		b.spec.Linux.Devices = slices.DeleteFunc(b.spec.Linux.Devices, func(x specs.LinuxDevice) bool { return x.Path == dest })
		b.spec.Linux.Devices = append(b.spec.Linux.Devices, d.oci(dest))
		b.spec.Linux.Resources.Devices = append(b.spec.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
			Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: a.Access,
		})
	}
	return nil
}

func (d HostDevice) oci(at string) specs.LinuxDevice {
	mode := fs.FileMode(d.Mode & 0o777)
	return specs.LinuxDevice{Path: at, Type: d.Type, Major: d.Major, Minor: d.Minor, FileMode: &mode, UID: &d.UID, GID: &d.GID}
}
