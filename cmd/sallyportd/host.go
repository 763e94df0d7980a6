package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"

	"sallyport/sandbox"
	"sallyport/sandbox/spec"
)

// hostFacts finds out once what the node can do and what this daemon may grant on it. facts are those
// of the default OCI runtime. What cannot be read counts as absent: the zero Host grants nothing.
func hostFacts(facts sandbox.RuntimeFacts) (spec.Host, error) {
	bounding, err := capabilities()
	if err != nil {
		return spec.Host{}, fmt.Errorf("look at host: %w", err)
	}
	h := spec.Host{
		Bounding:    bounding,
		Seccomp:     facts.Seccomp && kernelSeccomp(),
		SELinux:     selinux.GetEnabled() && facts.SELinux,
		RecursiveRO: facts.RRO,
		Devices:     devices("/dev"),
	}
	h.CgroupVersion, h.Controllers = cgroups()
	h.Swap = swapAccounting(h.CgroupVersion)
	if slices.Contains(h.Controllers, "hugetlb") {
		h.HugepageSizes = hugepages("/sys/kernel/mm/hugepages")
	}
	if !slices.Contains(bounding, "CAP_SYS_RESOURCE") {
		h.RlimitMax = rlimits()
		h.OOMScoreAdjMin = ownOOMScore()
	} else {
		h.OOMScoreAdjMin = -1000
	}
	return h, nil
}

// capabilityNames are the capabilities by number (capabilities(7), linux/capability.h).
var capabilityNames = []string{"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
	"SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE",
	"SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN",
	"SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE"}

// capabilities are those that the daemon can hand down: in its bounding and its permitted set.
func capabilities() ([]string, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, err
	}
	set := ^uint64(0)
	for _, field := range []string{"CapBnd:", "CapPrm:"} {
		_, rest, ok := strings.Cut(string(status), field)
		line, _, _ := strings.Cut(rest, "\n")
		v, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
		if !ok || err != nil {
			return nil, fmt.Errorf("/proc/self/status has no %s", field)
		}
		set &= v
	}
	var names []string
	for i, name := range capabilityNames {
		if set&(1<<i) != 0 {
			names = append(names, "CAP_"+name)
		}
	}
	return names, nil
}

// appArmor reports whether AppArmor can be used: the kernel and the runtime have it and the default
// profile is named and loaded. A named profile that is not loaded is an error: nobody is to believe
// that it confines.
func appArmor(profile string, runtime bool) (bool, error) {
	enabled := runtime && fileSays("/sys/module/apparmor/parameters/enabled", "Y")
	if profile == "" {
		return false, nil
	}
	if !enabled {
		return false, fmt.Errorf("runtime.apparmor_profile: %q is set, and the kernel or the OCI runtime has no AppArmor; leave it empty", profile)
	}
	loaded, err := os.ReadFile("/sys/kernel/security/apparmor/profiles")
	if err != nil || !slices.ContainsFunc(strings.Split(string(loaded), "\n"), func(l string) bool { return strings.HasPrefix(l, profile+" (") }) {
		return false, fmt.Errorf("runtime.apparmor_profile: %q is not loaded; run apparmor_parser", profile)
	}
	return true, nil
}

func kernelSeccomp() bool {
	b, err := os.ReadFile("/proc/sys/kernel/seccomp/actions_avail")
	return err == nil && bytes.Contains(b, []byte("errno"))
}

func fileSays(path, want string) bool {
	b, err := os.ReadFile(path)
	return err == nil && strings.TrimSpace(string(b)) == want
}

// cgroups finds the version, 1 also for hybrid hosts, and the controllers that can be used there.
func cgroups() (version int, controllers []string) {
	var st unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		b, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		return 2, strings.Fields(string(b))
	}
	b, _ := os.ReadFile("/proc/self/mountinfo")
	return 1, v1Controllers(string(b))
}

// v1Controllers reads them from the super options of each cgroup mount (proc_pid_mountinfo(5)).
func v1Controllers(mountinfo string) (found []string) {
	all := []string{"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "net_cls", "net_prio", "perf_event", "pids", "rdma"}
	for line := range strings.SplitSeq(mountinfo, "\n") {
		_, rest, ok := strings.Cut(line, " - cgroup ")
		fields := strings.Fields(rest)
		if !ok || len(fields) == 0 {
			continue
		}
		for opt := range strings.SplitSeq(fields[len(fields)-1], ",") {
			if slices.Contains(all, opt) && !slices.Contains(found, opt) {
				found = append(found, opt)
			}
		}
	}
	slices.Sort(found)
	return found
}

func swapAccounting(version int) bool {
	if version == 2 {
		m, _ := filepath.Glob("/sys/fs/cgroup/*/memory.swap.max")
		return len(m) > 0
	}
	_, err := os.Stat("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
	return err == nil
}

// hugepages names the sizes as the cgroup files do: hugepages-2048kB is 2MB.
func hugepages(dir string) (sizes []string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		kb, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"), 10, 64)
		switch {
		case err != nil:
		case kb >= 1<<20 && kb%(1<<20) == 0:
			sizes = append(sizes, fmt.Sprintf("%dGB", kb>>20))
		case kb >= 1<<10 && kb%(1<<10) == 0:
			sizes = append(sizes, fmt.Sprintf("%dMB", kb>>10))
		default:
			sizes = append(sizes, fmt.Sprintf("%dKB", kb))
		}
	}
	return sizes
}

// resourceNames are the limits that a spec may set (getrlimit(2)).
var resourceNames = map[string]int{"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU,
	"RLIMIT_DATA": unix.RLIMIT_DATA, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS,
	"RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE,
	"RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO, "RLIMIT_RTTIME": unix.RLIMIT_RTTIME, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_STACK": unix.RLIMIT_STACK}

// rlimits are the hard limits of the daemon, which it cannot raise for a child.
func rlimits() map[string]uint64 {
	m := map[string]uint64{}
	for name, which := range resourceNames {
		var l unix.Rlimit
		if unix.Getrlimit(which, &l) == nil {
			m[name] = l.Max
		}
	}
	return m
}

// ownOOMScore is the lowest value that a child surely may be given: without CAP_SYS_RESOURCE nobody
// goes below what an ancestor with it has set, which is at most our own.
func ownOOMScore() int {
	b, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return n
}

// notDevices are parts of /dev that every container makes for itself.
var notDevices = []string{"pts", "shm", "fd", "mqueue", "hugepages", "console", ".lxc", ".lxd-mounts", ".udev"}

// devices lists the device nodes that a privileged container gets.
func devices(root string) (found []spec.HostDevice) {
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // a node that vanished or cannot be read is not handed out
		}
		if filepath.Dir(path) == root && slices.Contains(notDevices, d.Name()) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if dev, err := statDevice(path); err == nil {
			found = append(found, dev)
		}
		return nil
	})
	return found
}

// statDevice describes a device node; symbolic links are not followed.
func statDevice(path string) (spec.HostDevice, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return spec.HostDevice{}, err
	}
	kind := map[uint32]string{unix.S_IFCHR: "c", unix.S_IFBLK: "b"}[st.Mode&unix.S_IFMT]
	if kind == "" {
		return spec.HostDevice{}, fmt.Errorf("%s is no device", path)
	}
	return spec.HostDevice{Path: path, Type: kind, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid}, nil
}
