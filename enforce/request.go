package enforce

import (
	"encoding/json"

	"sallyport/audit"
	"sallyport/policy"
	"sallyport/policy/baseline"
)

// Image, Evidence and their parts are the policy room's; named here so that a caller needs one import.
type (
	Image     = policy.Image
	Evidence  = policy.Evidence
	Bundle    = policy.Bundle
	Simple    = policy.Simple
	Pod       = policy.Pod
	IDMapping = policy.IDMapping

	Container = policy.Container
	Exec      = policy.Exec
	Hit       = policy.Hit
	Event     = audit.Event // for Record
	Device    = baseline.Device
	Hook      = baseline.Hook
)

// PullRequest asks to copy exactly Image.Instance into the store.
type PullRequest struct {
	Namespace string // of the pod that wants it; "" is judged by the node policy alone
	Image     Image
	Evidence  Evidence
}

// PodRequest asks to make a pod's namespaces and cgroup.
type PodRequest struct {
	Pod      Pod
	PodID    string
	Config   string       // the pod's configuration, remembered as judged
	InitHash string       // sha256 of sallyport-init where the pod shares a PID namespace
	Spec     string       // OCI spec of the pod's first process; "" where there is none
	Refusals []policy.Hit // requests to weaken that the floor refuses, found while building
}

// RunRequest asks to make one container (app, init, ephemeral) from one image.
type RunRequest struct {
	Pod       Pod
	PodID     string
	Container policy.Container
	Image     Image
	Evidence  Evidence
	Spec      string // final OCI runtime spec: the bytes that the runtime will read
	Config    string // the container's configuration, remembered as judged
	Resolved  []Mount
	Volumes   []Volume     // the images of all mounts of kind image; each must be admitted like the container's own
	Devices   []Device     // device nodes of Spec that CDI devices brought
	CDI       []string     // qualified names of the CDI devices given
	Hooks     []Hook       // the programs of Spec's hooks as they were opened, by path and digest
	Refusals  []policy.Hit // requests to weaken that the floor refuses, found while building
}

// Volume is an image that a mount of the container shows. An image that a name could mean several times
// is given several times.
type Volume struct {
	Mount    int // index of Resolved
	Image    Image
	Evidence Evidence
	Refusals []policy.Hit
}

// VolumeImage is the judged image of a mount.
type VolumeImage struct {
	Mount int   `json:"mount"` // index of RunRequest.Resolved
	Image Image `json:"image"`
}

// Mount says what a mount of the spec really is: the spec itself names only a fixed place in the
// runtime bundle.
type Mount struct {
	Destination string // in the container
	Source      string // resolved path on the host, read from the opened descriptor
	Kind        string // host, file (ours: hosts, resolv.conf, hostname), shm, sys, image
	ReadOnly    bool
	Propagation string // private, slave, shared
}

// UpdateRequest asks to change the resources of a live container.
type UpdateRequest struct {
	Pod       Pod
	Container policy.Container
	Resources json.RawMessage // OCI LinuxResources wanted
	Refusals  []policy.Hit    // what was asked for and cannot be had
}

// ExecRequest asks to run a command in a live container.
type ExecRequest struct {
	Pod       Pod
	PodID     string
	Container policy.Container
	Exec      policy.Exec
	Process   string // OCI process JSON, byte for byte what the runtime will read
	Spec      string // the container's own spec, as it was granted: an exec may not exceed it
}

// AttachRequest asks for the output, and the input where it has one, of a live container's first process.
type AttachRequest struct {
	Pod       Pod
	PodID     string
	Container policy.Container
	Exec      policy.Exec // TTY alone
}

// PortForwardRequest asks to reach ports of a pod from its own loopback. A client that names its ports
// only later asks without any, and then once for each.
type PortForwardRequest struct {
	Pod   Pod
	PodID string
	Ports []uint16
}
