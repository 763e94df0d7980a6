package spec

// PodConfig is a pod as it was asked for (cri-api v1, PodSandboxConfig), without protobuf. It is
// remembered in records and sealed into admissions as JSON. It is a value: do not change the maps and
// lists of one that was handed out.
type PodConfig struct {
	Namespace    string            `json:"namespace"`
	Name         string            `json:"name"`
	UID          string            `json:"uid"`
	Attempt      uint32            `json:"attempt"`
	Hostname     string            `json:"hostname,omitempty"`
	LogDirectory string            `json:"logDirectory,omitempty"` // on the host
	DNS          *DNS              `json:"dns,omitempty"`          // nil: the node's resolv.conf
	PortMappings []PortMapping     `json:"portMappings,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Handler      string            `json:"handler,omitempty"`      // CRI runtime handler; "" is the default one
	ShmSize      int64             `json:"shmSize,omitempty"`      // of /dev/shm, in bytes; 0 is 64 MiB
	CgroupParent string            `json:"cgroupParent,omitempty"` // cgroupfs path; "" is Defaults.CgroupParent
	Sysctls      map[string]string `json:"sysctls,omitempty"`
	Overhead     Resources         `json:"overhead"`
	Resources    Resources         `json:"resources"`
	Security     PodSecurity       `json:"security"`
}

// PodSecurity is a pod's security context (cri-api v1, LinuxSandboxSecurityContext).
type PodSecurity struct {
	Namespaces         NamespaceOptions `json:"namespaces"`
	SELinux            *SELinux         `json:"selinux,omitempty"` // nil: computed by us
	RunAsUser          *int64           `json:"runAsUser,omitempty"`
	RunAsGroup         *int64           `json:"runAsGroup,omitempty"`
	ReadOnlyRootfs     bool             `json:"readOnlyRootfs,omitempty"`
	SupplementalGroups []int64          `json:"supplementalGroups,omitempty"`
	StrictGroups       bool             `json:"strictGroups,omitempty"` // policy Strict; false is Merge
	Privileged         bool             `json:"privileged,omitempty"`   // may hold privileged containers
	Seccomp            Profile          `json:"seccomp"`
	AppArmor           Profile          `json:"appArmor"`
}

// NamespaceMode says whose namespace is used. The zero value is that of the pod, and for the PID
// namespace that of the container; for the user namespace it is none (the node's).
type NamespaceMode string

// The namespace modes (cri-api v1, NamespaceMode).
const (
	NamespacePod       NamespaceMode = "pod"
	NamespaceContainer NamespaceMode = "container"
	NamespaceNode      NamespaceMode = "node"   // the host's: a request to weaken
	NamespaceTarget    NamespaceMode = "target" // of the container named in NamespaceOptions.Target
)

// NamespaceOptions are the namespaces asked for.
type NamespaceOptions struct {
	Network NamespaceMode `json:"network,omitempty"` // pod or node
	PID     NamespaceMode `json:"pid,omitempty"`     // pod, container, node or target
	IPC     NamespaceMode `json:"ipc,omitempty"`     // pod or node
	Target  string        `json:"target,omitempty"`  // container ID, for target
	User    UserNamespace `json:"user"`
}

// UserNamespace is the user namespace asked for: pod with mappings, or node.
type UserNamespace struct {
	Mode NamespaceMode `json:"mode,omitempty"`
	UIDs []IDMapping   `json:"uids,omitempty"`
	GIDs []IDMapping   `json:"gids,omitempty"`
}

// IDMapping maps Length IDs from Container inside to Host outside.
type IDMapping struct {
	Container uint32 `json:"container"`
	Host      uint32 `json:"host"`
	Length    uint32 `json:"length"`
}

// DNS is the content asked for the pod's resolv.conf.
type DNS struct {
	Servers  []string `json:"servers,omitempty"`
	Searches []string `json:"searches,omitempty"`
	Options  []string `json:"options,omitempty"`
}

// PortMapping publishes a container's port on the host.
type PortMapping struct {
	Protocol      string `json:"protocol"` // tcp, udp or sctp
	ContainerPort int32  `json:"containerPort"`
	HostPort      int32  `json:"hostPort,omitempty"` // 0: not published
	HostIP        string `json:"hostIP,omitempty"`   // "": all addresses
}

// SELinux is a label, in parts; an empty part is taken from the default label.
type SELinux struct {
	User  string `json:"user,omitempty"`
	Role  string `json:"role,omitempty"`
	Type  string `json:"type,omitempty"`
	Level string `json:"level,omitempty"`
}

// ProfileKind names a kind of seccomp or AppArmor profile. The zero value is read as RuntimeDefault.
type ProfileKind string

// The kinds (cri-api v1, SecurityProfile).
const (
	RuntimeDefault ProfileKind = "RuntimeDefault"
	Unconfined     ProfileKind = "Unconfined"
	Localhost      ProfileKind = "Localhost"
)

// Profile is a request for a seccomp or AppArmor profile.
type Profile struct {
	Kind ProfileKind `json:"kind,omitempty"`
	Ref  string      `json:"ref,omitempty"` // Localhost: file path (seccomp) or profile name (AppArmor)
}

// Resources are cgroup limits (cri-api v1, LinuxContainerResources). 0 and "" mean: not asked.
type Resources struct {
	CPUPeriod   int64             `json:"cpuPeriod,omitempty"` // microseconds
	CPUQuota    int64             `json:"cpuQuota,omitempty"`  // microseconds; -1 is none
	CPUShares   int64             `json:"cpuShares,omitempty"` // cgroup v1 scale, 2 to 262144
	Memory      int64             `json:"memory,omitempty"`    // bytes
	MemorySwap  int64             `json:"memorySwap,omitempty"`
	OOMScoreAdj int64             `json:"oomScoreAdj,omitempty"`
	CPUs        string            `json:"cpus,omitempty"` // list such as 0-2,7
	Mems        string            `json:"mems,omitempty"`
	Hugepages   []HugepageLimit   `json:"hugepages,omitempty"`
	Unified     map[string]string `json:"unified,omitempty"` // cgroup v2 files
}

// HugepageLimit limits one page size, written as in the name of its cgroup file: 2MB, 1GB.
type HugepageLimit struct {
	PageSize string `json:"pageSize"`
	Limit    uint64 `json:"limit"` // bytes
}
