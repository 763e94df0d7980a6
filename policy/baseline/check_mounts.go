package baseline

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// standard are the file systems that every container gets: type, place, and options that must be there.
// Those of the last column may be missing from a privileged container.
var standard = map[string]struct {
	destination string
	options     []string
	waivable    string
}{
	"proc":   {"/proc", []string{"nosuid", "noexec", "nodev"}, ""},
	"tmpfs":  {"/dev", []string{"nosuid", "noexec"}, ""},
	"devpts": {"/dev/pts", []string{"nosuid", "noexec"}, ""},
	"mqueue": {"/dev/mqueue", []string{"nosuid", "noexec", "nodev"}, ""},
	"sysfs":  {"/sys", []string{"nosuid", "noexec", "nodev"}, "ro"},
	"cgroup": {"/sys/fs/cgroup", []string{"nosuid", "noexec", "nodev"}, "ro"},
}

// bindOptions are the only options of a bind mount: everything else could be a word that some runtime
// understands (tmpcopyup, idmap, dest links).
var bindOptions = []string{
	"bind", "rbind", "ro", "rw", "rro", "nosuid", "nodev", "noexec", "private", "rprivate", "slave", "rslave", "shared", "rshared",
}

func mounts(v *view) (out []string) {
	seen := map[string]bool{}
	for i, m := range v.spec.Mounts {
		at := fmt.Sprintf("mount %d at %q: ", i, m.Destination)
		say := func(when bool, format string, args ...any) {
			out = append(out, found(when, at+format, args...)...)
		}
		say(!path.IsAbs(m.Destination) || path.Clean(m.Destination) != m.Destination || m.Destination == "/", "the destination is not a clean absolute path")
		say(seen[m.Destination], "the destination is used twice")
		seen[m.Destination] = true
		for _, earlier := range v.spec.Mounts[:i] {
			say(earlier.Destination != m.Destination && Beneath(earlier.Destination, m.Destination), "it hides the mount at %q", earlier.Destination)
		}
		if s, ok := standard[m.Type]; ok {
			say(m.Destination != s.destination, "a %s belongs at %s", m.Type, s.destination)
			say(m.Source != m.Type, "the source is %q", m.Source)
			for _, o := range s.options {
				say(!contains(m.Options, o), "it lacks the option %s", o)
			}
			say(s.waivable != "" && !contains(m.Options, s.waivable) && !v.privileged, "it lacks the option %s", s.waivable)
			say(contains(m.Options, "bind") || contains(m.Options, "rbind"), "it is a bind mount")
			say(m.UIDMappings != nil || m.GIDMappings != nil, "it has ID mappings")
			continue
		}
		say(m.Type != "bind", "the type is %q", m.Type)
		out = append(out, bound(v, m, at)...)
	}
	return out
}

// bound checks a bind mount of the spec against the fact that it stands for.
func bound(v *view, m specs.Mount, at string) (out []string) {
	say := func(when bool, format string, args ...any) {
		out = append(out, found(when, at+format, args...)...)
	}
	digits, ok := strings.CutPrefix(m.Source, "mounts/")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || strconv.Itoa(n) != digits || n < 0 || n >= len(v.Mounts) {
		return append(out, at+fmt.Sprintf("the source is %q; a bind mount has a fixed name in the bundle, mounts/N", m.Source))
	}
	f := v.Mounts[n]
	say(f.Destination != m.Destination, "the resolved mount %d belongs at %q", n, f.Destination)
	ro := contains(m.Options, "ro") || contains(m.Options, "rro")
	say((f.ReadOnly || f.Kind == "image") && !ro, "it must be read-only")
	say(!contains(m.Options, "bind") && !contains(m.Options, "rbind"), "it lacks the option rbind")
	for _, o := range m.Options {
		say(!contains(bindOptions, o), "the option %q is not known", o)
	}
	shared := contains(m.Options, "shared") || contains(m.Options, "rshared") || f.Propagation == "shared"
	say(shared && v.floor.BidirMounts != Allow && !v.privileged, "it propagates to the host")
	mapped := slices.ContainsFunc(v.linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace })
	ids := m.UIDMappings != nil || m.GIDMappings != nil
	say(ids && !mapped, "it has ID mappings without a user namespace")
	say(ids && (!sameMap(m.UIDMappings, v.Pod.UIDs) || !sameMap(m.GIDMappings, v.Pod.GIDs)), "its ID mappings are not those of the pod's user namespace")
	if f.Kind == "image" {
		for _, o := range []string{"nosuid", "nodev"} {
			say(!contains(m.Options, o), "it lacks the option %s", o)
		}
	}
	if f.Kind == "sys" {
		for _, o := range []string{"ro", "nosuid", "nodev", "noexec"} {
			say(!contains(m.Options, o), "it lacks the option %s", o)
		}
		return out
	}
	if !v.privileged {
		say(Beneath(m.Destination, "/proc") || Beneath(m.Destination, "/sys"), "nothing is mounted over /proc or /sys")
		say(contains([]string{"/dev", "/dev/pts", "/dev/mqueue"}, m.Destination), "the container's own %s is not replaced", m.Destination)
	}
	return out
}

// sameMap reports whether a mount shows IDs as the pod's user namespace does.
func sameMap(got []specs.LinuxIDMapping, want []IDMapping) bool {
	return slices.EqualFunc(got, want, func(g specs.LinuxIDMapping, w IDMapping) bool {
		return g.ContainerID == w.Container && g.HostID == w.Host && g.Size == w.Length
	})
}

// ownFiles are where our own files may be mounted. Their sources are ours, and so are beneath control
// paths.
var ownFiles = map[string][]string{
	"file": {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"},
	"shm":  {"/dev/shm"},
}

// sources: what is mounted from the host lies where the floor admits it, or among what the kubelet made
// for this very pod (its volumes, its hosts file, its termination logs).
func sources(v *view) (out []string) {
	for i, m := range v.Mounts {
		say := func(when bool, format string, args ...any) {
			out = append(out, found(when, fmt.Sprintf("mount %d at %q: ", i, m.Destination)+format, args...)...)
		}
		say(!clean(m.Source), "the source %q is not a resolved path", m.Source)
		switch m.Kind {
		case "file", "shm":
			say(!contains(ownFiles[m.Kind], m.Destination), "a %s of ours does not belong there", m.Kind)
		case "image":
		case "sys": // a user namespace that does not own its network namespace cannot mount a sysfs
			say(m.Destination != "/sys" || m.Source != "/sys" || !v.Pod.HostNetwork || v.Pod.HostUsers,
				"the node's sysfs is for /sys of a pod with a user namespace on the node's network")
		case "host":
			hint := ""
			if v.PodUID != "" && strings.Contains(m.Source, "/pods/"+v.PodUID+"/") {
				hint = fmt.Sprintf("; the kubelet's directory is %s here: if its --root-dir is another, set runtime.kubelet_dir", v.kubeletDir())
			}
			say(!v.admitsSource(m.Source), "the floor does not admit host path %q%s", m.Source, hint)
		default:
			say(true, "the kind %q is unknown", m.Kind)
		}
	}
	return out
}

func clean(p string) bool { return path.IsAbs(p) && path.Clean(p) == p && !strings.ContainsRune(p, 0) }

func (v *view) admitsSource(source string) bool {
	for _, p := range v.floor.HostPaths {
		if bare, exact := strings.CutPrefix(p, "="); exact && source == bare || !exact && Beneath(source, p) {
			return true
		}
	}
	return v.kubelets(source)
}

// kubelets reports whether the kubelet made source for this pod. The pod's UID is the API server's, so
// no pod can name another's.
func (v *view) kubelets(source string) bool {
	if v.PodUID == "" || strings.ContainsRune(v.PodUID, '/') {
		return false
	}
	pod := v.kubeletDir() + "/pods/" + v.PodUID
	for _, sub := range []string{"containers", "etc-hosts", "volumes", "volume-subpaths"} {
		if Beneath(source, pod+"/"+sub) {
			return true
		}
	}
	return false
}

func (v *view) kubeletDir() string {
	if v.KubeletDir == "" {
		return "/var/lib/kubelet"
	}
	return v.KubeletDir
}

// foreignControl are the sockets and state of other runtimes, what edits containers from outside (NRI and
// CDI), and what makes a node a member of its cluster. A control plane's own pods need some of them: each as a named exception.
var foreignControl = []string{
	"/etc/cdi", "/etc/containerd", "/etc/crio", "/etc/kubernetes", "/etc/nri", "/run/cdi", "/run/containerd", "/run/cri-dockerd.sock", "/run/crio", "/run/docker",
	"/run/docker.sock", "/run/nri", "/run/podman", "/var/lib/containerd", "/var/lib/containers", "/var/lib/docker", "/var/lib/etcd",
	"/var/lib/kubelet/config.yaml", "/var/lib/kubelet/pki", // wherever else the kubelet's own are, too
}

// ownControl are where our own socket, state, policy, store and configuration are unless the
// configuration says otherwise (Facts.ControlPaths).
var ownControl = []string{"/etc/sallyport", "/run/sallyport", "/var/lib/sallyport"}

// control: whoever can speak to a runtime's socket, or write its state, policy or store, is root on the
// node (and a read-only mount of a socket can still be connected to). Ours are never mountable; those
// of others, and a directory that holds a control path, such as / or /run, only as a named exception.
func control(v *view) (out []string) {
	ours := slices.Clone(ownControl)
	for _, p := range v.ControlPaths {
		ours = append(ours, canonicalRun(p))
	}
	for i, m := range v.Mounts {
		if m.Kind == "file" || m.Kind == "shm" || m.Kind == "sys" || m.Kind == "image" {
			continue // ours to give; where they may appear is sources' matter
		}
		source, excepted := canonicalRun(m.Source), v.excepted(m.Source)
		for _, p := range slices.Concat(ours, foreignControl, []string{v.kubeletDir() + "/config.yaml", v.kubeletDir() + "/pki"}) {
			switch {
			case contains(ours, p) && Beneath(source, p):
				out = append(out, fmt.Sprintf("mount %d at %q: %q is or lies in %q, which is ours and never mountable", i, m.Destination, m.Source, p))
			case !excepted && (Beneath(source, p) || Beneath(p, source)):
				out = append(out, fmt.Sprintf("mount %d at %q: %q meets %q, which controls the node; only =%s in the floor's hostPaths, with privileged: allow, admits it", i, m.Destination, m.Source, p, m.Source))
			default:
				continue
			}
			break
		}
	}
	return out
}

func (v *view) excepted(source string) bool {
	return v.floor.Privileged == Allow && contains(v.floor.HostPaths, "="+source)
}

// canonicalRun reads /var/run as /run, which it links to.
func canonicalRun(p string) string {
	if Beneath(p, "/var/run") {
		return strings.TrimPrefix(p, "/var")
	}
	return p
}
