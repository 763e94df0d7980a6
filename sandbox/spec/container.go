package spec

// ContainerConfig is a container as it was asked for (cri-api v1, ContainerConfig), without protobuf.
// It is remembered in records and sealed into admissions as JSON. It is a value: do not change the
// maps and lists of one that was handed out.
type ContainerConfig struct {
	Name        string            `json:"name"`
	Attempt     uint32            `json:"attempt"`
	Image       ImageRef          `json:"image"`
	Command     []string          `json:"command,omitempty"` // replaces the image's entrypoint
	Args        []string          `json:"args,omitempty"`    // replaces the image's cmd
	WorkingDir  string            `json:"workingDir,omitempty"`
	Env         []EnvVar          `json:"env,omitempty"`
	Mounts      []Mount           `json:"mounts,omitempty"`
	Devices     []Device          `json:"devices,omitempty"`
	CDI         []string          `json:"cdi,omitempty"` // fully qualified CDI device names
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	LogPath     string            `json:"logPath,omitempty"` // beneath the pod's LogDirectory
	Stdin       bool              `json:"stdin,omitempty"`
	StdinOnce   bool              `json:"stdinOnce,omitempty"`
	TTY         bool              `json:"tty,omitempty"`
	StopSignal  string            `json:"stopSignal,omitempty"` // SIGTERM and so on; "": the image's, or else SIGTERM
	Umask       *uint32           `json:"umask,omitempty"`      // nil: the runtime's, 0022
	Ignored     []string          `json:"ignored,omitempty"`    // known annotations of the pod that have no effect
	Resources   Resources         `json:"resources"`
	Security    ContainerSecurity `json:"security"`
}

// ImageRef says which image was asked for.
type ImageRef struct {
	Image         string `json:"image"`                   // as sent in CreateContainer: the image ID, or a name
	UserSpecified string `json:"userSpecified,omitempty"` // the name in the pod's spec; "" from old clients
	Handler       string `json:"handler,omitempty"`
}

// EnvVar is a variable of the environment. Values are bytes (cri-api v1, KeyValue).
type EnvVar struct {
	Name  string `json:"name"`
	Value []byte `json:"value"`
}

// Propagation is a mount's propagation. The zero value is private.
type Propagation string

// The propagations (cri-api v1, MountPropagation).
const (
	PropagationPrivate Propagation = "private"
	PropagationSlave   Propagation = "slave"  // host to container
	PropagationShared  Propagation = "shared" // both ways: a request to weaken
)

// Mount is a mount asked for. Exactly one of Source and Image is set.
type Mount struct {
	Destination       string      `json:"destination"`
	Source            string      `json:"source,omitempty"` // on the host, as asked
	ReadOnly          bool        `json:"readOnly,omitempty"`
	RecursiveReadOnly bool        `json:"recursiveReadOnly,omitempty"`
	Relabel           bool        `json:"relabel,omitempty"` // SELinux
	Propagation       Propagation `json:"propagation,omitempty"`
	UIDs              []IDMapping `json:"uids,omitempty"`
	GIDs              []IDMapping `json:"gids,omitempty"`
	Image             *ImageRef   `json:"image,omitempty"` // image volume
	ImageSubPath      string      `json:"imageSubPath,omitempty"`
	Options           []string    `json:"options,omitempty"`
}

// Device is a host device asked for.
type Device struct {
	Destination string `json:"destination"`
	Source      string `json:"source"`
	Access      string `json:"access"` // of r, w, m
}

// Capabilities are the capabilities asked for beyond, or taken from, the default set. Names are
// written with or without CAP_, in any case; ALL is every one.
type Capabilities struct {
	Add        []string `json:"add,omitempty"`
	Drop       []string `json:"drop,omitempty"`
	AddAmbient []string `json:"addAmbient,omitempty"`
}

// ContainerSecurity is a container's security context (cri-api v1, LinuxContainerSecurityContext).
type ContainerSecurity struct {
	Capabilities       Capabilities     `json:"capabilities"`
	Privileged         bool             `json:"privileged,omitempty"`
	Namespaces         NamespaceOptions `json:"namespaces"`
	SELinux            *SELinux         `json:"selinux,omitempty"` // nil: computed by us
	RunAsUser          *int64           `json:"runAsUser,omitempty"`
	RunAsUsername      string           `json:"runAsUsername,omitempty"`
	RunAsGroup         *int64           `json:"runAsGroup,omitempty"`
	ReadOnlyRootfs     bool             `json:"readOnlyRootfs,omitempty"`
	SupplementalGroups []int64          `json:"supplementalGroups,omitempty"`
	StrictGroups       bool             `json:"strictGroups,omitempty"` // policy Strict; false is Merge
	NoNewPrivs         bool             `json:"noNewPrivs,omitempty"`
	MaskedPaths        []string         `json:"maskedPaths,omitempty"`   // see Unmasked
	ReadOnlyPaths      []string         `json:"readOnlyPaths,omitempty"` // likewise
	Unmasked           bool             `json:"unmasked,omitempty"`      // both lists were sent empty on purpose (procMount: Unmasked)
	Seccomp            Profile          `json:"seccomp"`
	AppArmor           Profile          `json:"appArmor"`
}
