package baseline

// kubernetesSafe are the sysctls that a pod may set at level baseline: the safe list of the Pod
// Security Standards and of the kubelet (kubernetes.io, "Using sysctls", v1.32).
var kubernetesSafe = []string{
	"kernel.shm_rmid_forced",
	"net.ipv4.ip_local_port_range",
	"net.ipv4.ip_local_reserved_ports",
	"net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ping_group_range",
	"net.ipv4.tcp_fin_timeout",
	"net.ipv4.tcp_keepalive_intvl",
	"net.ipv4.tcp_keepalive_probes",
	"net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_rmem",
	"net.ipv4.tcp_syncookies",
	"net.ipv4.tcp_wmem",
}

// namespaced are the sysctls that belong to a pod's own network or IPC namespace; no floor admits
// others, since they are the node's (CVE-2022-0811, CVE-2022-0532).
var namespaced = []string{"fs.mqueue.*", "kernel.msg*", "kernel.sem", "kernel.shm*", "net.*"}

// defaultCapabilities are what a container gets that asks nothing: CRI-O's default set (its
// crio.conf(5), default_capabilities), which is Docker's without AUDIT_WRITE, MKNOD, NET_RAW, SETFCAP
// and SYS_CHROOT. At level restricted it is empty, as the Pod Security Standards want it.
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE",
	"CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID",
}

// DefaultCapabilities are the capabilities of a container that asks nothing, sorted. The slice is the
// caller's.
func (f Floor) DefaultCapabilities() []string {
	if f.Level == Restricted {
		return nil
	}
	return append([]string(nil), defaultCapabilities...)
}

// ForLevel is the floor of a level. An unknown level gets the zero Floor, the tightest.
func ForLevel(l Level) Floor {
	switch l {
	case Restricted:
		return Floor{
			Level:           Restricted,
			Seccomp:         Override,
			NoNewPrivileges: Override,
			HostUsers:       Allow,
			UnmaskedPaths:   Override,
			AppArmor:        Override,
			SELinux:         Override,
			LayerBytes:      FirstUse,
			Capabilities:    []string{"CAP_NET_BIND_SERVICE"},
			Sysctls:         append([]string(nil), kubernetesSafe...),
		}
	case Baseline:
		return Floor{
			Level:           Baseline,
			Seccomp:         Override,
			NoNewPrivileges: Allow, // setuid programs are ordinary
			HostUsers:       Allow,
			RootUser:        Allow,
			UnmaskedPaths:   Override,
			AppArmor:        Override,
			SELinux:         Override,
			LayerBytes:      FirstUse,
			Capabilities: []string{ // Pod Security Standards, baseline
				"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
				"CAP_NET_BIND_SERVICE", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
			},
			Sysctls: append([]string(nil), kubernetesSafe...),
		}
	case Privileged:
		return Floor{
			Level:           Privileged,
			Seccomp:         Override, // the kubelet sends Unconfined for a pod that asked nothing
			NoNewPrivileges: Allow,
			Privileged:      Allow,
			HostNetwork:     Allow,
			HostPID:         Allow,
			HostIPC:         Allow,
			HostUsers:       Allow,
			RootUser:        Allow,
			Devices:         Allow,
			UnmaskedPaths:   Allow,
			AppArmor:        Allow,
			SELinux:         Allow,
			BidirMounts:     Allow,
			LayerBytes:      FirstUse,
			Capabilities:    []string{"ALL"},
			HostPaths:       []string{"/"},
			Sysctls:         append([]string(nil), namespaced...),
			CDI:             []string{"*"}, // devices are allowed here whatever names them; hooks never are
		}
	}
	return Floor{}
}
