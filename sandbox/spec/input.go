package spec

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"sallyport/policy/baseline"
	"sallyport/seccomp"
)

// ImageConfig is what an image says of how it wants to run (OCI image-spec, config). All of it is
// hostile text: it can never weaken a spec.
type ImageConfig struct {
	User       string            `json:"user,omitempty"`
	Env        []string          `json:"env,omitempty"`
	Entrypoint []string          `json:"entrypoint,omitempty"`
	Cmd        []string          `json:"cmd,omitempty"`
	WorkingDir string            `json:"workingDir,omitempty"`
	Volumes    []string          `json:"volumes,omitempty"`
	StopSignal string            `json:"stopSignal,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
}

// Host is what the daemon found out about the node once, at start. The zero Host grants nothing: no
// controller, no capability, no seccomp (which Build then refuses).
type Host struct {
	CgroupVersion  int               `json:"cgroupVersion"`           // 1 (also hybrid) or 2
	Controllers    []string          `json:"controllers"`             // cpu, cpuset, memory, pids, hugetlb, ...
	Swap           bool              `json:"swap"`                    // the memory controller accounts swap
	HugepageSizes  []string          `json:"hugepageSizes"`           // 2MB, 1GB
	Bounding       []string          `json:"bounding"`                // the daemon's capability bounding set, CAP_X
	Seccomp        bool              `json:"seccomp"`                 // kernel and OCI runtime can filter
	SELinux        bool              `json:"selinux"`                 // enabled
	AppArmor       bool              `json:"appArmor"`                // enabled
	RecursiveRO    bool              `json:"recursiveRO"`             // OCI runtime and kernel know rro mounts
	SpecVersion    string            `json:"specVersion,omitempty"`   // newest runtime-spec that the OCI runtime reads; "": the newest that we know
	OwnKernel      bool              `json:"ownKernel,omitempty"`     // the OCI runtime gives each container a kernel of its own (gVisor)
	RlimitMax      map[string]uint64 `json:"rlimitMax"`               // RLIMIT_X to the hard limit that the daemon may set; absent: any
	OOMScoreAdjMin int               `json:"oomScoreAdjMin"`          // the lowest value that the daemon may write; -1000 with CAP_SYS_RESOURCE
	Devices        []HostDevice      `json:"devices,omitempty"`       // what a privileged container gets
	DevicesByPath  []HostDevice      `json:"devicesByPath,omitempty"` // devices that this container asked for, as stat saw them
}

// HostDevice is a device node of the host, as stat saw it.
type HostDevice struct {
	Path  string `json:"path"` // on the host, resolved
	Type  string `json:"type"` // c or b
	Major int64  `json:"major"`
	Minor int64  `json:"minor"`
	Mode  uint32 `json:"mode"` // permission bits
	UID   uint32 `json:"uid"`
	GID   uint32 `json:"gid"`
}

// Rlimit is a default resource limit.
type Rlimit struct {
	Type string `json:"type"` // RLIMIT_NOFILE and so on
	Soft uint64 `json:"soft"`
	Hard uint64 `json:"hard"`
}

// Defaults come from the daemon's configuration.
type Defaults struct {
	CgroupParent    string          `json:"cgroupParent"`    // "" is /sallyport
	PidsLimit       int64           `json:"pidsLimit"`       // processes of one container; 0 or less is 4096, nobody gets no limit
	Rlimits         []Rlimit        `json:"rlimits"`         // clamped to Host.RlimitMax
	AppArmorProfile string          `json:"appArmorProfile"` // name of the loaded default profile; needed where Host.AppArmor
	Seccomp         seccomp.Profile `json:"-"`               // the handler's default; zero: seccomp.Default
}

// ResolvedMount is a mount whose source was opened: Source is the path read back from the descriptor.
// The Nth of Input.Mounts is mounts/N in the runtime bundle. Kinds: host, file (ours: resolv.conf,
// hostname, hosts), shm, sys (the node's /sys, for a pod with a user namespace on the node's network), image. A host or image mount at the destination of a file or shm mount of
// ours takes its place.
type ResolvedMount struct {
	Destination       string      `json:"destination"`
	Source            string      `json:"source"`
	Kind              string      `json:"kind"`
	ReadOnly          bool        `json:"readOnly"`
	RecursiveReadOnly bool        `json:"recursiveReadOnly"`
	Propagation       Propagation `json:"propagation"`
	Options           []string    `json:"options,omitempty"` // further ones asked for, of MountOptions
	UIDs              []IDMapping `json:"uids,omitempty"`
	GIDs              []IDMapping `json:"gids,omitempty"`
}

// Namespaces are paths of pinned namespaces. Which are needed follows from the pod's and container's
// NamespaceOptions; a needed one that is empty is an error.
type Namespaces struct {
	Network string `json:"network,omitempty"` // /var/run/netns/<id>
	IPC     string `json:"ipc,omitempty"`
	UTS     string `json:"uts,omitempty"`
	User    string `json:"user,omitempty"`
	PID     string `json:"pid,omitempty"` // of the pod's first process, or of the target container
}

// Labels are the SELinux labels computed for this pod; needed where Host.SELinux.
type Labels struct {
	Process string `json:"process,omitempty"`
	Mount   string `json:"mount,omitempty"`
}

// Input is everything that Build reads.
type Input struct {
	Pod            PodConfig
	PodID          string
	Container      ContainerConfig
	ID             string // container ID
	Image          ImageConfig
	Passwd, Group  []byte // /etc/passwd and /etc/group of the image; nil if it has none
	Mounts         []ResolvedMount
	Namespaces     Namespaces
	Labels         Labels
	SeccompProfile []byte // the file of a Localhost seccomp profile; nil if it could not be read
	Floor          baseline.Floor
	Host           Host
	Defaults       Defaults
}

// PodInput is everything that BuildInit reads.
type PodInput struct {
	Pod        PodConfig
	PodID      string
	Namespaces Namespaces // Network, IPC, UTS, User as for a container; PID is not read: it is made here
	Labels     Labels
	Floor      baseline.Floor
	Host       Host
	Defaults   Defaults
}

// Refusal says which knob was asked for and why it is refused. It goes into the denial; policy rule
// name is "floor-" + Knob.
type Refusal struct {
	Knob string `json:"knob"`
	Msg  string `json:"msg"`
}

// Output is a built spec. If Refusals is not empty the spec is still complete and as tight as it can
// be, so that the denial can be recorded with what was asked, but it must not run.
type Output struct {
	Spec       *specs.Spec
	JSON       []byte    // the exact bytes of config.json
	Weakenings []string  // "knob: what became of the request", sorted
	Refusals   []Refusal // in the order found
}
