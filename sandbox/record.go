package sandbox

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"sallyport/enforce"
	"sallyport/internal/durable"
	"sallyport/internal/failpoint"
	"sallyport/sandbox/internal/proc"
	"sallyport/sandbox/spec"
)

// recordVersion is raised when an older daemon would misread a record. Records of every released
// version stay in testdata and must load.
const recordVersion = 1

const (
	recordName = "record.json"
	maxRecord  = 16 << 20
)

// key names what a client asked for; it is the SHA-256 of the parts that tell two requests apart, and
// a directory name. Making the directory reserves it.
type key string

func podKey(c spec.PodConfig) key {
	return hashKey("pod", c.Namespace, c.Name, c.UID, fmt.Sprint(c.Attempt))
}

func containerKey(podID, name string, attempt uint32) key {
	return hashKey("container", podID, name, fmt.Sprint(attempt))
}

// hashKey quotes each part, so that no two lists of parts give the same bytes.
func hashKey(parts ...string) key {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%q\n", p)
	}
	return key(hex.EncodeToString(h.Sum(nil)))
}

// reserve makes the directory of k; ErrExists if there is one.
func (p *Pods) reserve(k key) error {
	err := os.Mkdir(p.keyDir(k), 0o700)
	if errors.Is(err, os.ErrExist) {
		return ErrExists
	}
	return err
}

// unreserve removes the directory of k with its record.
func (p *Pods) unreserve(k key) error {
	err := os.Remove(filepath.Join(p.keyDir(k), recordName))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove record: %w", err)
	}
	failpoint.Hit("record-removed")
	err = os.RemoveAll(p.keyDir(k))
	if err != nil {
		return fmt.Errorf("remove record: %w", err)
	}
	failpoint.Hit("key-freed")
	return nil
}

// State is where a pod or container is in its life. The zero value is unknown.
type State string

// The states. A pod is creating, ready or stopped; a container creating, created, running or exited.
const (
	Creating State = "creating"
	Ready    State = "ready"
	Stopped  State = "stopped"
	Created  State = "created"
	Running  State = "running"
	Exited   State = "exited"
)

// record is the file about one pod or container. It is written whole before each step that cannot be
// taken back, and says enough to undo or take over.
type record struct {
	Version int       `json:"version"`
	ID      string    `json:"id"`
	State   State     `json:"state"`
	Claimed bool      `json:"claimed"` // its ID was returned to a client
	Created time.Time `json:"created"`
	Audit   uint64    `json:"audit"`  // sequence of the admission
	Sealed  string    `json:"sealed"` // configuration, as judged
	Pod     *podPart  `json:"pod,omitempty"`
	Ctr     *ctrPart  `json:"container,omitempty"`
}

type podPart struct {
	IPs  []netip.Addr `json:"ips,omitempty"`
	Init running      `json:"init"` // first process; zero where there is none
}

type ctrPart struct {
	PodID     string                `json:"podID"`
	Namespace string                `json:"namespace"`
	Image     enforce.Image         `json:"image"`
	Volumes   []enforce.VolumeImage `json:"volumes,omitempty"` // judged images of mounts
	SpecHash  string                `json:"specHash"`          // sha256 of config.json, hexadecimal
	Handler   string                `json:"handler"`
	Log       string                `json:"log,omitempty"` // file, resolved
	Cgroup    string                `json:"cgroup"`        // path of the spec
	Processes running               `json:"processes"`
	Starting  bool                  `json:"starting,omitempty"` // the runtime was told to start it; the answer is not on record
	Started   time.Time             `json:"started"`
	Finished  time.Time             `json:"finished"`
	ExitCode  int                   `json:"exitCode"`
	Reason    string                `json:"reason,omitempty"`
	Message   string                `json:"message,omitempty"`
	Resources json.RawMessage       `json:"resources,omitempty"` // OCI LinuxResources in force
}

// running are the processes of a created container.
type running struct {
	Monitor   proc.ID `json:"monitor"`
	Container proc.ID `json:"container"`
}

// save writes r into the directory of k.
func (p *Pods) save(k key, r record) error {
	r.Version = recordVersion
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write record of %s: %w", r.ID, err)
	}
	return durable.Replace(filepath.Join(p.keyDir(k), recordName), data, 0o600)
}

// parseRecord reads a record strictly: a field that this version does not know, or an ID that is none
// of ours (paths are made of it), is an error.
func parseRecord(data []byte) (record, error) {
	var r record
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return record{}, fmt.Errorf("parse record: %w", err)
	}
	switch {
	case r.Version < 1 || r.Version > recordVersion:
		return record{}, fmt.Errorf("parse record: version %d; this daemon knows 1 to %d", r.Version, recordVersion)
	case !isID(r.ID):
		return record{}, fmt.Errorf("parse record: bad ID %q", r.ID)
	case (r.Pod == nil) == (r.Ctr == nil):
		return record{}, fmt.Errorf("parse record of %s: want a pod or a container", r.ID)
	case r.Ctr != nil && !isID(r.Ctr.PodID):
		return record{}, fmt.Errorf("parse record of %s: bad pod ID %q", r.ID, r.Ctr.PodID)
	}
	return r, nil
}

func isID(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
