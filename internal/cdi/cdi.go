// Package cdi turns the names of CDI devices into edits of a container's spec. What a device consists
// of stands in files that vendors' tools write on the node (Container Device Interface); they are read
// once and again when they change, never at a create. Whether a container may have a device, and what
// comes with it, is the gate's to say.
package cdi

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"

	"sallyport/sandbox/spec"
)

// ErrUnknown says that no file describes a device.
var ErrUnknown = errors.New("unknown CDI device")

// maxDevices bounds what one container can ask for.
const maxDevices = 100

// Registry knows the CDI devices of this node. It is safe for concurrent use.
type Registry struct {
	cache *cdi.Cache // constant; has its own lock
}

// Node is a device node and the CDI device that brings it.
type Node struct {
	CDI  string // qualified name
	Node specs.LinuxDevice
}

// Open reads the files in dirs, of which later ones win, and follows their changes until Close. A
// directory need not exist.
func Open(dirs []string) (*Registry, error) {
	cache, err := cdi.NewCache(cdi.WithSpecDirs(dirs...), cdi.WithAutoRefresh(true))
	if err != nil {
		return nil, fmt.Errorf("read CDI devices: %w", err)
	}
	return &Registry{cache: cache}, nil
}

// Close ends the following of changes.
func (r *Registry) Close() {
	_ = r.cache.Configure(cdi.WithAutoRefresh(false)) // never fails with an option
}

// Asked are the devices that a container asks for by its field and by annotations (cdi.k8s.io/...),
// each once, in the order of field and then annotations.
func Asked(field []string, annotations map[string]string) ([]string, error) {
	_, more, err := cdi.ParseAnnotations(annotations)
	if err != nil {
		return nil, fmt.Errorf("read CDI annotations: %w", err)
	}
	slices.Sort(more) // a map has no order
	var out []string
	for _, name := range slices.Concat(field, more) {
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	if len(out) > maxDevices {
		return nil, fmt.Errorf("%d CDI devices are asked for, at most %d", len(out), maxDevices)
	}
	return out, nil
}

// Edits is what giving all of the named devices means, and which device nodes come with which.
// ErrUnknown names one that no file describes.
func (r *Registry) Edits(names []string) (spec.Edits, []Node, error) {
	var nodes []Node
	for _, name := range names {
		if _, _, _, err := parser.ParseQualifiedName(name); err != nil {
			return spec.Edits{}, nil, fmt.Errorf("%w: %.200q is no name as vendor/class=device", ErrUnknown, name)
		}
		d := r.cache.GetDevice(name)
		if d == nil {
			return spec.Edits{}, nil, fmt.Errorf("%w: %.200q: no file in %s describes it%s", ErrUnknown, name, strings.Join(r.cache.GetSpecDirectories(), " or "), r.faults())
		}
		if err := rootsOwn(d.GetSpec().GetPath()); err != nil {
			return spec.Edits{}, nil, fmt.Errorf("give CDI device %q: %w", name, err)
		}
		var alone specs.Spec
		if _, err := r.cache.InjectDevices(&alone, name); err != nil {
			return spec.Edits{}, nil, fmt.Errorf("give CDI device %q: %w", name, err)
		}
		if alone.Linux != nil {
			for _, n := range alone.Linux.Devices {
				nodes = append(nodes, Node{name, n})
			}
		}
	}
	var all specs.Spec
	if _, err := r.cache.InjectDevices(&all, names...); err != nil {
		return spec.Edits{}, nil, fmt.Errorf("give CDI devices: %w", err)
	}
	e, err := edits(all)
	if err != nil {
		return spec.Edits{}, nil, fmt.Errorf("give CDI devices %q: %w", names, err)
	}
	return e, nodes, nil
}

// faults names a file that could not be read, which may be the one.
func (r *Registry) faults() string {
	faulty := slices.Sorted(maps.Keys(r.cache.GetErrors()))
	if len(faulty) == 0 {
		return ""
	}
	first := strings.ReplaceAll(fmt.Sprint(r.cache.GetErrors()[faulty[0]]), "\n", " ")
	return fmt.Sprintf("; %d cannot be read, such as %s: %.300s", len(faulty), faulty[0], first)
}

// rootsOwn refuses a file that others than root could have written: it says which devices of the node a
// name stands for.
func rootsOwn(file string) error {
	for _, p := range []string{file, filepath.Dir(file)} {
		var st unix.Stat_t
		if err := unix.Stat(p, &st); err != nil {
			return fmt.Errorf("look at %s: %w", p, err)
		}
		if st.Uid != 0 || fs.FileMode(st.Mode)&0o022 != 0 {
			return fmt.Errorf("%s can be written by others than root", p)
		}
	}
	return nil
}

// edits reads what the library put into an empty spec.
func edits(s specs.Spec) (e spec.Edits, err error) {
	if s.Linux != nil {
		if s.Linux.IntelRdt != nil || len(s.Linux.NetDevices) > 0 {
			return e, errors.New("cache classes (RDT) and network devices cannot be given")
		}
		e.Devices = s.Linux.Devices
		if s.Linux.Resources != nil {
			e.DeviceRules = s.Linux.Resources.Devices
		}
	}
	if s.Process != nil {
		e.Groups = s.Process.User.AdditionalGids
		for _, kv := range s.Process.Env {
			name, value, _ := strings.Cut(kv, "=")
			e.Env = append(e.Env, spec.EnvEdit{Name: name, Value: value})
		}
	}
	if s.Hooks != nil {
		e.Hooks = *s.Hooks
	}
	for _, m := range s.Mounts {
		t, err := spec.EditMount(m)
		if err != nil {
			return e, err
		}
		e.Mounts = append(e.Mounts, t)
	}
	return e.Join(spec.Edits{}), nil // repeated hooks once
}
