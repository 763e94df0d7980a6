package baseline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Mount says what a mount of the spec really is: the Nth is mounts/N in the runtime bundle.
type Mount struct {
	Destination string // in the container
	Source      string // resolved path on the host, read back from the opened descriptor
	Kind        string // host, file (ours: hosts, resolv.conf, hostname), shm, sys (the node's /sys), image
	ReadOnly    bool
	Propagation string // private, slave, shared
}

// PodFacts are what a pod asks of the node. The zero PodFacts asks nothing, except for a user
// namespace: HostUsers is false.
type PodFacts struct {
	HostNetwork, HostPID, HostIPC bool
	HostUsers                     bool // no user namespace
	UIDs, GIDs                    []IDMapping
	Privileged                    bool // may hold privileged containers
	Sysctls                       map[string]string
}

// IDMapping maps Length IDs from Container inside a user namespace to Host on the node.
type IDMapping struct{ Container, Host, Length uint32 }

// Facts are what the judge must know beside the spec. The zero Facts gives a spec nothing.
type Facts struct {
	ID           string   // of the container (pod for PodInit); its cgroup is sallyport-<ID>
	PodInit      bool     // the spec is of a pod's first process
	Privileged   bool     // the container asks to be privileged
	Pod          PodFacts // as AdmitPod judged them
	PodUID       string   // the kubelet's own mounts of this pod are those under <KubeletDir>/pods/<PodUID>/; "" has none
	KubeletDir   string   // "" is /var/lib/kubelet
	Mounts       []Mount
	Devices      []Device // device nodes that CDI gave
	CDI          []string // qualified names of the CDI devices given
	Hooks        []Hook   // what the spec's hooks are: the digests of the files opened beneath their paths
	ControlPaths []string // ours: socket, state, policy, store, configuration; clean absolute paths
}

// Device is a device node that a CDI device brings.
type Device struct {
	CDI          string // qualified name of the device that brings it
	Path         string // in the container
	Type         string // c, b, u or p
	Major, Minor int64
}

// Violation is one finding of one check. ID and Name are stable: policies and people refer to them.
type Violation struct {
	ID   string // B01 and so on; P01 for pods, X01 for exec
	Name string
	Msg  string // what was found, in one line
}

// view is what a check sees.
type view struct {
	Facts
	spec       specs.Spec
	process    specs.Process
	linux      specs.Linux
	floor      Floor
	privileged bool // asked for and granted by the floor
}

type check struct {
	id, name string
	find     func(*view) []string // one message per finding
}

// checks is the list. Their order is the order of the findings; an ID is never used for something else.
var checks = []check{
	{"B02", "known sections only", sections},
	{"B03", "hooks by rule", hooks},
	{"B04", "root filesystem", rootfs},
	{"B05", "no new privileges", noNewPrivileges},
	{"B06", "seccomp profile", seccompProfile},
	{"B07", "inheritable and ambient capabilities", inherited},
	{"B08", "capabilities", bounded},
	{"B09", "devices", devices},
	{"B10", "device cgroup", deviceCgroup},
	{"B11", "masked paths", masked},
	{"B12", "read-only paths", readOnly},
	{"B13", "namespaces", namespaces},
	{"B14", "root user", rootUser},
	{"B15", "user range", userRange},
	{"B16", "working directory", workingDirectory},
	{"B17", "mounts", mounts},
	{"B18", "mount sources", sources},
	{"B19", "control paths", control},
	{"B20", "sysctls", sysctls},
	{"B21", "cgroup limits", limits},
	{"B22", "cgroup path", cgroupPath},
	{"B23", "oom score", oomScore},
	{"B24", "rlimits", rlimits},
	{"B25", "annotations", annotations},
	{"B26", "arguments and environment", arguments},
	{"B27", "mandatory access control", labels},
	{"B28", "first process of a pod", podInit},
	{"B29", "CDI devices", cdi},
}

// Check reads a final OCI runtime spec with its own eyes and returns every finding; none means that the
// spec stands on the floor. It trusts nothing of the spec's builder: the bytes must be in the one form
// that encoding/json gives (so no runtime reads them otherwise), and a section that no check knows is
// itself a finding. It may be called concurrently.
func Check(specJSON []byte, f Facts, floor Floor) []Violation {
	v := &view{Facts: f, floor: floor, privileged: f.Privileged && floor.Privileged == Allow && !f.PodInit}
	if err := canonical(specJSON, &v.spec); err != nil {
		return []Violation{{"B01", "canonical form", err.Error()}}
	}
	if v.spec.Process == nil || v.spec.Linux == nil || v.spec.Root == nil {
		return []Violation{{"B01", "canonical form", "process, root and linux must be present"}}
	}
	v.process, v.linux = *v.spec.Process, *v.spec.Linux
	if v.process.Capabilities == nil {
		return []Violation{{"B08", "capabilities", "process.capabilities is missing; the runtime would choose"}}
	}
	var out []Violation
	for _, c := range checks {
		for _, msg := range c.find(v) {
			out = append(out, Violation{c.id, c.name, msg})
		}
	}
	return out
}

// canonical decodes data strictly and requires that encoding gives the same bytes: no unknown field, no
// field twice, no field in another case, nothing after the end.
func canonical(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	again, err := json.Marshal(into)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	if !bytes.Equal(again, data) {
		return fmt.Errorf("the bytes are not in canonical form: decoded and encoded again they differ")
	}
	return nil
}

// found is a list of at most one finding.
func found(when bool, format string, args ...any) []string {
	if !when {
		return nil
	}
	return []string{fmt.Sprintf(format, args...)}
}

func contains[T comparable](list []T, want T) bool { return slices.Contains(list, want) }
