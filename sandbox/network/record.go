package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"sallyport/internal/durable"
)

const recordVersion = 1

// record is all that a DEL needs, whatever is configured when it is due. It is written and synced before
// the first plugin of an ADD runs, and removed after the last of a DEL.
type record struct {
	Version    int               `json:"version"`
	PodID      string            `json:"podID"`
	BootID     string            `json:"bootID"`
	NetNS      string            `json:"netNS"`
	Args       [][2]string       `json:"args"`
	Ports      []Port            `json:"ports,omitempty"`
	Network    string            `json:"network"`
	CNIVersion string            `json:"cniVersion"`
	Plugins    []json.RawMessage `json:"plugins"`
	NoCheck    bool              `json:"disableCheck,omitempty"`
}

func newRecord(bootID string, list *libcni.NetworkConfigList, a Attachment) *record {
	r := &record{
		Version: recordVersion, PodID: a.PodID, BootID: bootID, NetNS: a.NetNS, Ports: a.Ports,
		Network: list.Name, CNIVersion: list.CNIVersion, NoCheck: list.DisableCheck,
		Args: [][2]string{ // as the kubelet's own CNI code named them; plugins such as Multus read them
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", a.Namespace},
			{"K8S_POD_NAME", a.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", a.PodID},
			{"K8S_POD_UID", a.UID},
		},
	}
	for _, p := range list.Plugins {
		r.Plugins = append(r.Plugins, p.Bytes)
	}
	return r
}

// list is the configuration that the pod was attached with.
func (r *record) list() (*libcni.NetworkConfigList, error) {
	list := &libcni.NetworkConfigList{Name: r.Network, CNIVersion: r.CNIVersion, DisableCheck: r.NoCheck}
	for _, raw := range r.Plugins {
		p, err := libcni.NetworkPluginConfFromBytes(raw)
		if err != nil {
			return nil, fmt.Errorf("read attachment of pod %s: %w", r.PodID, err)
		}
		list.Plugins = append(list.Plugins, p)
	}
	return list, nil
}

func (r *record) runtimeConf(netNS string) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{ContainerID: r.PodID, NetNS: netNS, IfName: ifName, Args: r.Args}
	if len(r.Ports) > 0 {
		rt.CapabilityArgs = map[string]any{"portMappings": r.Ports}
	}
	return rt
}

// existing is path, or "" if nothing is there: a DEL without CNI_NETNS frees what it can.
func existing(path string) string {
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

func (c *CNI) dir() string              { return filepath.Join(c.o.CacheDir, "attachments") }
func (c *CNI) file(podID string) string { return filepath.Join(c.dir(), podID+".json") }

// keep makes r durable.
func (c *CNI) keep(r *record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("keep attachment: %w", err)
	}
	err = durable.WriteFile(c.file(r.PodID), data, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(c.dir(), 0o700); err != nil {
			return fmt.Errorf("keep attachment: %w", err)
		}
		err = durable.WriteFile(c.file(r.PodID), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep attachment: %w", err)
	}
	return nil
}

// forget removes a record. The removal is not synced: a DEL that is repeated after a power cut is
// harmless, since DEL is idempotent and IDs are never reused.
func (c *CNI) forget(podID string) error {
	if err := os.Remove(c.file(podID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget attachment: %w", err)
	}
	return nil
}

// find returns the record of a pod, or nil if it has none. One that cannot be read is replaced by what
// the current configuration would have made, since the ID is all that most plugins go by.
func (c *CNI) find(podID string) (*record, error) {
	if err := checkID(podID); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(c.file(podID))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read attachment: %w", err)
	}
	r := new(record)
	if json.Unmarshal(data, r) == nil && r.Version == recordVersion && r.PodID == podID && len(r.Plugins) > 0 {
		return r, nil
	}
	conf, err := c.ready()
	if err != nil {
		return nil, fmt.Errorf("read attachment %s: it is damaged, and %w", c.file(podID), err)
	}
	return newRecord("", conf.list, Attachment{PodID: podID}), nil
}

// attached lists the pods that have a record.
func (c *CNI) attached() ([]string, error) {
	entries, err := os.ReadDir(c.dir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list attachments: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), ".json"); ok && checkID(id) == nil {
			ids = append(ids, id)
		}
	}
	return ids, nil
}
