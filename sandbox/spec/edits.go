package spec

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Edits are changes to a container's spec that the node's own integrations ask for (CDI devices, NRI
// plugins), in a form that holds nothing else: what cannot be said here cannot be asked. Mounts are not
// laid over a built spec: their sources are opened like any other, and they go through Input.Mounts.
// The zero Edits changes nothing.
type Edits struct {
	Env           []EnvEdit
	Args          []string            // nil: as they were
	Unmount       []string            // destinations whose mount goes
	Mounts        []Mount             // each in the place of one that is there
	RemoveDevices []string            // paths in the container
	Devices       []specs.LinuxDevice // each in the place of one at its path
	DeviceRules   []specs.LinuxDeviceCgroup
	Groups        []uint32
	Hooks         specs.Hooks
	Rlimits       []specs.POSIXRlimit // each in the place of one of its type
	OOMScoreAdj   *int
	Resources     Resources
	Pids          int64 // most processes; 0: as it was
	Seccomp       *specs.LinuxSeccomp
}

// EnvEdit sets or removes one variable.
type EnvEdit struct {
	Name, Value string
	Remove      bool
}

// Empty reports whether e changes nothing.
func (e Edits) Empty() bool { return reflect.ValueOf(e).IsZero() }

// Join is e and then what comes later, which is laid over it. Lists of either are not changed.
func (e Edits) Join(later Edits) Edits {
	out := Edits{
		Env: slices.Concat(e.Env, later.Env), Args: e.Args, Unmount: slices.Concat(e.Unmount, later.Unmount),
		RemoveDevices: slices.Concat(e.RemoveDevices, later.RemoveDevices), Devices: slices.Concat(e.Devices, later.Devices),
		DeviceRules: slices.Concat(e.DeviceRules, later.DeviceRules), Groups: slices.Concat(e.Groups, later.Groups),
		Hooks: joinHooks(e.Hooks, later.Hooks), Rlimits: slices.Concat(e.Rlimits, later.Rlimits),
		OOMScoreAdj: e.OOMScoreAdj, Resources: e.Resources, Pids: e.Pids, Seccomp: e.Seccomp,
	}
	for _, m := range slices.Concat(e.Mounts, later.Mounts) {
		out.Mounts = append(slices.DeleteFunc(out.Mounts, func(o Mount) bool { return o.Destination == m.Destination }), m)
	}
	if later.Args != nil {
		out.Args = later.Args
	}
	if later.OOMScoreAdj != nil {
		out.OOMScoreAdj = later.OOMScoreAdj
	}
	if !reflect.ValueOf(later.Resources).IsZero() {
		out.Resources = later.Resources
	}
	if later.Pids != 0 {
		out.Pids = later.Pids
	}
	if later.Seccomp != nil {
		out.Seccomp = later.Seccomp
	}
	return out
}

// joinHooks never names a hook twice: a vendor's file repeats what all its devices need.
func joinHooks(a, b specs.Hooks) (out specs.Hooks) {
	for _, l := range []struct{ to, a, b *[]specs.Hook }{
		{&out.Prestart, &a.Prestart, &b.Prestart}, //nolint:staticcheck // deprecated and still run
		{&out.CreateRuntime, &a.CreateRuntime, &b.CreateRuntime}, {&out.CreateContainer, &a.CreateContainer, &b.CreateContainer},
		{&out.StartContainer, &a.StartContainer, &b.StartContainer}, {&out.Poststart, &a.Poststart, &b.Poststart}, {&out.Poststop, &a.Poststop, &b.Poststop},
	} {
		for _, h := range slices.Concat(*l.a, *l.b) {
			if !slices.ContainsFunc(*l.to, func(o specs.Hook) bool { return reflect.DeepEqual(o, h) }) {
				*l.to = append(*l.to, h)
			}
		}
	}
	return out
}

// With is the output with e laid over it, as a new value; each kind of edit is named among the
// weakenings, so that the decision's record shows it. Limits are held to what the node can do.
func (o Output) With(e Edits, h Host) (Output, error) {
	var s specs.Spec
	if err := json.Unmarshal(o.JSON, &s); err != nil { // a copy
		return Output{}, fmt.Errorf("edit spec: %w", err)
	}
	b := &builder{in: Input{Host: h}, spec: &s, weakenings: slices.Clone(o.Weakenings), refusals: slices.Clone(o.Refusals)}
	for _, step := range []func(Edits) error{b.editProcess, b.editDevices, b.editHooks, b.editLimits, b.editSeccomp} {
		if err := step(e); err != nil {
			return Output{}, fmt.Errorf("edit spec: %w", err)
		}
	}
	for _, m := range e.Mounts {
		b.note("edits", "mount at %s", m.Destination)
	}
	for _, d := range e.Unmount {
		b.note("edits", "no mount at %s", d)
	}
	return b.output()
}

func (b *builder) editProcess(e Edits) error {
	p := b.spec.Process
	for _, v := range e.Env {
		if v.Name == "" || strings.ContainsAny(v.Name, "=\x00") || text(v.Value) != nil {
			return fmt.Errorf("variable %.100q is malformed", v.Name)
		}
		p.Env = slices.DeleteFunc(p.Env, func(have string) bool { return strings.HasPrefix(have, v.Name+"=") })
		if !v.Remove {
			p.Env = append(p.Env, v.Name+"="+v.Value)
		}
		b.note("edits", "variable %s", v.Name)
	}
	if e.Args != nil {
		p.Args = e.Args
		b.note("edits", "arguments")
	}
	for _, g := range e.Groups {
		if !slices.Contains(p.User.AdditionalGids, g) {
			p.User.AdditionalGids = append(p.User.AdditionalGids, g)
			b.note("edits", "group %d", g)
		}
	}
	return nil
}

func (b *builder) editDevices(e Edits) error {
	l := b.spec.Linux
	without := func(path string) {
		l.Devices = slices.DeleteFunc(l.Devices, func(d specs.LinuxDevice) bool { return d.Path == path })
	}
	for _, path := range e.RemoveDevices {
		without(path)
		b.note("edits", "no device %s", path)
	}
	for _, d := range e.Devices {
		if dest, err := destination(d.Path); err != nil || dest != d.Path {
			return fmt.Errorf("device at %.100q: not a clean absolute path", d.Path)
		}
		without(d.Path)
		l.Devices = append(l.Devices, d)
		b.note("edits", "device %s", d.Path)
	}
	l.Resources.Devices = append(l.Resources.Devices, e.DeviceRules...)
	return nil
}

func (b *builder) editHooks(e Edits) error {
	if reflect.ValueOf(e.Hooks).IsZero() {
		return nil
	}
	var have specs.Hooks
	if b.spec.Hooks != nil {
		have = *b.spec.Hooks
	}
	all := joinHooks(have, e.Hooks)
	b.spec.Hooks = &all
	b.note("edits", "hooks")
	return nil
}

func (b *builder) editLimits(e Edits) error {
	for _, r := range e.Rlimits {
		if top, ok := b.in.Host.RlimitMax[r.Type]; ok && r.Hard > top {
			r.Hard = top
		}
		r.Soft = min(r.Soft, r.Hard)
		list := &b.spec.Process.Rlimits
		*list = append(slices.DeleteFunc(*list, func(o specs.POSIXRlimit) bool { return o.Type == r.Type }), r)
		b.note("edits", "%s", r.Type)
	}
	if e.OOMScoreAdj != nil {
		b.spec.Process.OOMScoreAdj = b.oomScoreAdj(int64(*e.OOMScoreAdj))
		b.note("edits", "OOM score")
	}
	if e.Pids != 0 {
		if e.Pids < 0 {
			return errors.New("no limit of processes is asked for")
		}
		limit, err := pids(e.Pids, b.in.Host)
		if err != nil {
			return err
		}
		b.spec.Linux.Resources.Pids = limit
		b.note("edits", "limit of processes")
	}
	if reflect.ValueOf(e.Resources).IsZero() {
		return nil
	}
	over, err := BuildResources(e.Resources, b.in.Host)
	if err != nil {
		return err
	}
	b.note("edits", "resources")
	return json.Unmarshal(over, b.spec.Linux.Resources) // field by field; it holds no devices
}

func (b *builder) editSeccomp(e Edits) error {
	if e.Seccomp != nil {
		b.spec.Linux.Seccomp = e.Seccomp
		b.note("edits", "seccomp profile")
	}
	return nil
}

// EditMount reads the bind mount of an edit. What a mount of a pod could not say cannot be said here
// either: other file systems, unknown options.
func EditMount(m specs.Mount) (Mount, error) {
	out := Mount{Destination: m.Destination, Source: m.Source, Propagation: PropagationPrivate}
	bind := m.Type == "bind" || m.Type == ""
	for _, o := range m.Options {
		switch o {
		case "bind", "rbind":
			bind = true
		case "ro":
			out.ReadOnly = true
		case "rro":
			out.ReadOnly, out.RecursiveReadOnly = true, true
		case "rw":
			out.ReadOnly = false
		case "private", "rprivate":
			out.Propagation = PropagationPrivate
		case "slave", "rslave":
			out.Propagation = PropagationSlave
		case "shared", "rshared":
			out.Propagation = PropagationShared
		default:
			if !slices.Contains(MountOptions, o) {
				return Mount{}, fmt.Errorf("mount at %.100q: option %.40q cannot be asked for", m.Destination, o)
			}
			out.Options = append(out.Options, o)
		}
	}
	if !bind || m.Type != "" && m.Type != "bind" && m.Type != "none" { // none with the option bind is mount(8)'s spelling
		return Mount{}, fmt.Errorf("mount at %.100q: type %.40q; only bind mounts can be asked for", m.Destination, m.Type)
	}
	dest, err := destination(m.Destination)
	if err != nil {
		return Mount{}, err
	}
	out.Destination = dest
	return out, nil
}
