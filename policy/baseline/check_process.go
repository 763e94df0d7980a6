package baseline

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxID is the largest user or group ID: beyond it IDs turn negative in some programs
// (CVE-2024-40635).
const maxID = math.MaxInt32

func noNewPrivileges(v *view) []string {
	waived := v.privileged || v.floor.NoNewPrivileges == Allow
	return found(!v.process.NoNewPrivileges && !waived, "process.noNewPrivileges is false; the floor wants it true")
}

// perilous are syscalls that no process may make without one of the capabilities beside them; a
// profile that allows one, even on conditions, is no default of ours.
var perilous = map[string][]string{
	"add_key":           nil,
	"bpf":               {"CAP_BPF", "CAP_SYS_ADMIN"},
	"delete_module":     {"CAP_SYS_MODULE"},
	"finit_module":      {"CAP_SYS_MODULE"},
	"init_module":       {"CAP_SYS_MODULE"},
	"io_uring_setup":    nil,
	"iopl":              {"CAP_SYS_RAWIO"},
	"kexec_file_load":   {"CAP_SYS_BOOT"},
	"kexec_load":        {"CAP_SYS_BOOT"},
	"keyctl":            nil,
	"mount":             {"CAP_SYS_ADMIN"},
	"move_mount":        {"CAP_SYS_ADMIN"},
	"open_by_handle_at": {"CAP_DAC_READ_SEARCH"},
	"open_tree":         {"CAP_SYS_ADMIN"},
	"perf_event_open":   {"CAP_PERFMON", "CAP_SYS_ADMIN"},
	"pivot_root":        {"CAP_SYS_ADMIN"},
	"reboot":            {"CAP_SYS_BOOT"},
	"request_key":       nil,
	"setns":             {"CAP_SYS_ADMIN"},
	"swapon":            {"CAP_SYS_ADMIN"},
	"umount2":           {"CAP_SYS_ADMIN"},
	"unshare":           {"CAP_SYS_ADMIN"},
	"userfaultfd":       {"CAP_SYS_PTRACE"},
}

// seccompProfile: the floor's Allow is for profiles of a pod's own and for none at all, except for a
// pod's first process, which always has one.
func seccompProfile(v *view) (out []string) {
	if v.floor.Seccomp == Allow && !v.PodInit {
		return nil
	}
	s := v.linux.Seccomp
	if s == nil {
		return []string{"linux.seccomp is missing"}
	}
	switch s.DefaultAction {
	case specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap:
	default:
		out = append(out, fmt.Sprintf("linux.seccomp.defaultAction is %q; it must deny", s.DefaultAction))
	}
	if len(s.Architectures) == 0 {
		out = append(out, "linux.seccomp.architectures is empty")
	}
	if s.ListenerPath != "" || s.ListenerMetadata != "" {
		out = append(out, "linux.seccomp has a listener")
	}
	if slices.Contains(s.Flags, specs.LinuxSeccompFlagSpecAllow) {
		out = append(out, "linux.seccomp.flags waives the speculation barrier")
	}
	for _, sc := range s.Syscalls {
		if sc.Action != specs.ActAllow && sc.Action != specs.ActLog && sc.Action != specs.ActTrace && sc.Action != specs.ActNotify {
			continue
		}
		for _, name := range sc.Names {
			caps, peril := perilous[name]
			granted := func(c string) bool { return contains(v.process.Capabilities.Bounding, c) }
			if peril && !slices.ContainsFunc(caps, granted) {
				out = append(out, fmt.Sprintf("linux.seccomp lets %s pass without its capability", name))
			}
		}
	}
	return out
}

// inherited: capabilities that survive execve of an ordinary program exist only where they were asked
// for as ambient ones and the floor admits each (CVE-2022-27652).
func inherited(v *view) (out []string) {
	c := v.process.Capabilities
	for _, name := range c.Ambient {
		if !v.privileged && !v.floor.AdmitsCapability(name) {
			out = append(out, fmt.Sprintf("%s is ambient, which the floor does not admit", name))
		}
	}
	for _, name := range c.Inheritable {
		if !contains(c.Ambient, name) {
			out = append(out, fmt.Sprintf("%s is inheritable", name))
		}
	}
	return out
}

func bounded(v *view) (out []string) {
	c := v.process.Capabilities
	usual := v.floor.DefaultCapabilities()
	for _, name := range c.Bounding {
		switch {
		case !contains(capabilities, name):
			out = append(out, fmt.Sprintf("%q is no capability", name))
		case !v.privileged && !contains(usual, name) && !v.floor.AdmitsCapability(name):
			out = append(out, fmt.Sprintf("%s is beyond the default set and the floor does not admit it", name))
		}
	}
	for _, set := range [][]string{c.Effective, c.Permitted, c.Inheritable, c.Ambient} {
		for _, name := range set {
			if !contains(c.Bounding, name) {
				out = append(out, fmt.Sprintf("%s is held but not in the bounding set", name))
			}
		}
	}
	return out
}

// rootUser: user 0 in a user namespace of the pod's own is nobody on the node.
func rootUser(v *view) []string {
	if v.PodInit {
		return nil // holds no capabilities, and its root filesystem is read-only: podInit
	}
	mapped := slices.ContainsFunc(v.linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace })
	return found(v.process.User.UID == 0 && !mapped && v.floor.RootUser != Allow && !v.privileged,
		"the process runs as user 0; set runAsUser, or a user namespace (hostUsers: false)")
}

func userRange(v *view) (out []string) {
	u := v.process.User
	for _, id := range append([]uint32{u.UID, u.GID}, u.AdditionalGids...) {
		out = append(out, found(id > maxID, "ID %d is above %d", id, maxID)...)
	}
	return append(out, found(!contains(u.AdditionalGids, u.GID), "the primary group %d is not among the groups", u.GID)...)
}

// workingDirectory: a directory under /proc can lead out of the container while it is being set up
// (CVE-2024-21626).
func workingDirectory(v *view) []string {
	cwd := v.process.Cwd
	return found(!path.IsAbs(cwd) || path.Clean(cwd) != cwd || Beneath(cwd, "/proc"), "process.cwd is %q", cwd)
}

func oomScore(v *view) []string {
	s := v.process.OOMScoreAdj
	return found(s == nil || *s < -1000 || *s > 1000, "process.oomScoreAdj is missing or not between -1000 and 1000")
}

var rlimitTypes = []string{
	"RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_LOCKS", "RLIMIT_MEMLOCK", "RLIMIT_MSGQUEUE",
	"RLIMIT_NICE", "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_RSS", "RLIMIT_RTPRIO", "RLIMIT_RTTIME", "RLIMIT_SIGPENDING", "RLIMIT_STACK",
}

func rlimits(v *view) (out []string) {
	seen := map[string]bool{}
	for _, r := range v.process.Rlimits {
		out = append(out, found(!contains(rlimitTypes, r.Type) || seen[r.Type] || r.Soft > r.Hard,
			"%q is unknown, given twice, or has its soft limit above its hard one", r.Type)...)
		seen[r.Type] = true
	}
	return out
}

// maxArguments bounds arguments and environment together, in bytes (execve: a quarter of an 8 MiB
// stack).
const maxArguments = 2 << 20

func arguments(v *view) (out []string) {
	total := 0
	for _, s := range slices.Concat(v.process.Args, v.process.Env) {
		total += len(s) + 1
		out = append(out, found(strings.ContainsRune(s, 0), "an argument or variable holds a zero byte")...)
	}
	out = append(out, found(total > maxArguments, "arguments and environment take more than %d bytes", maxArguments)...)
	out = append(out, found(len(v.process.Args) == 0 || v.process.Args[0] == "", "process.args names no program")...)
	for _, e := range v.process.Env {
		name, value, ok := strings.Cut(e, "=")
		out = append(out, found(!ok || name == "", "environment entry %.40q has no name", e)...)
		// HOME reaches /etc/passwd in some runtimes (CVE-2022-4318).
		out = append(out, found(name == "HOME" && strings.ContainsFunc(value, isControl), "HOME holds control characters")...)
	}
	return out
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }

// confinedTypes are the SELinux types of the Pod Security Standards, baseline.
var confinedTypes = []string{"container_t", "container_init_t", "container_kvm_t", "container_engine_t"}

func labels(v *view) (out []string) {
	if a := v.process.ApparmorProfile; a == "unconfined" && v.floor.AppArmor != Allow && !v.privileged {
		out = append(out, "process.apparmorProfile is unconfined")
	}
	if l := v.process.SelinuxLabel; l != "" && v.floor.SELinux != Allow && !v.privileged {
		parts := strings.SplitN(l, ":", 4)
		if len(parts) < 4 || !contains(confinedTypes, parts[2]) {
			out = append(out, fmt.Sprintf("process.selinuxLabel %q has none of the types %s", l, strings.Join(confinedTypes, ", ")))
		}
	}
	return out
}

// podInit: the first process of a pod has nothing at all, whatever the floor admits.
func podInit(v *view) (out []string) {
	if !v.PodInit {
		return nil
	}
	c := v.process.Capabilities
	out = append(out, found(len(c.Bounding)+len(c.Effective)+len(c.Permitted)+len(c.Inheritable)+len(c.Ambient) > 0, "it holds capabilities")...)
	out = append(out, found(!v.process.NoNewPrivileges, "process.noNewPrivileges is false")...)
	out = append(out, found(!v.spec.Root.Readonly, "its root filesystem is writable")...)
	out = append(out, found(!slices.Equal(v.process.Args, []string{"/sallyport-init", "pause"}), "process.args is %q", v.process.Args)...)
	return append(out, found(len(v.Mounts) > 0, "it has mounts from the host")...)
}
