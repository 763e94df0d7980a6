package spec

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/mod/semver"

	"sallyport/policy/baseline"
)

// maxPids is the limit of processes of a container where the configuration names none: a fork bomb
// ends there. Kubelets set 1024 to 4096 per pod where they set any.
const maxPids = 4096

// builder is one spec being built. It lives for one call.
type builder struct {
	in         Input
	spec       *specs.Spec
	privileged bool // asked for and granted
	userNS     bool // the pod has a user namespace of its own
	weakenings []string
	refusals   []Refusal
}

// Build makes the OCI runtime spec of a container. It starts from nothing allowed. A request to weaken
// is answered by in.Floor: what was granted or overridden is named in Output.Weakenings, what was
// refused in Output.Refusals. An error means that no spec can be made of the input: something
// contradicts itself, does not exist, or the node lacks what hardening needs.
func Build(in Input) (Output, error) {
	b := &builder{in: in, spec: &specs.Spec{
		Version: specVersion(in.Host),
		Root:    &specs.Root{Path: "rootfs", Readonly: in.Container.Security.ReadOnlyRootfs},
		Process: &specs.Process{Terminal: in.Container.TTY, User: specs.User{Umask: in.Container.Umask}},
		Linux:   &specs.Linux{},
	}}
	for _, step := range []func() error{
		b.privilege,
		b.namespaces,
		b.user,
		b.command,
		b.environment,
		b.workingDirectory,
		b.capabilities,
		b.noNewPrivileges,
		b.labels,
		b.mounts,
		b.paths,
		b.devices,
		b.limits,
		b.rlimits,
		b.annotations,
		b.seccomp, // last: what it allows follows from the capabilities
	} {
		if err := step(); err != nil {
			return Output{}, fmt.Errorf("build spec of container %q: %w", in.Container.Name, err)
		}
	}
	return b.output()
}

// specVersion is the newest that both sides know: old runtimes refuse a newer one outright.
func specVersion(h Host) string {
	if h.SpecVersion != "" && semver.Compare("v"+h.SpecVersion, "v"+specs.Version) < 0 {
		return h.SpecVersion
	}
	return specs.Version
}

func (b *builder) output() (Output, error) {
	data, err := json.Marshal(b.spec)
	if err != nil {
		return Output{}, fmt.Errorf("encode spec: %w", err)
	}
	slices.Sort(b.weakenings)
	return Output{Spec: b.spec, JSON: data, Weakenings: slices.Compact(b.weakenings), Refusals: b.refusals}, nil
}

// ask puts one request to weaken to the floor and reports whether it is granted. An Override answers
// with ours instead.
func (b *builder) ask(knob string, answer baseline.Answer, what string) bool {
	switch answer {
	case baseline.Allow:
		b.note(knob, "%s allowed", what)
		return true
	case baseline.Override:
		b.note(knob, "%s overridden by default", what)
		return false
	}
	b.refuse(knob, "%s is asked for; hardening.yaml refuses it (%s)", what, knob)
	return false
}

// must is ask for a knob where nothing of ours can stand in: Override is read as Refuse.
func (b *builder) must(knob string, answer baseline.Answer, what string) bool {
	if answer == baseline.Override {
		answer = baseline.Refuse
	}
	return b.ask(knob, answer, what)
}

func (b *builder) note(knob, format string, args ...any) {
	b.weakenings = append(b.weakenings, knob+": "+fmt.Sprintf(format, args...))
}

func (b *builder) refuse(knob, format string, args ...any) {
	b.refusals = append(b.refusals, Refusal{knob, fmt.Sprintf(format, args...)})
}

func (b *builder) privilege() error {
	if !b.in.Container.Security.Privileged {
		return nil
	}
	if !b.in.Pod.Security.Privileged {
		return errors.New("it asks to be privileged in a pod that does not")
	}
	b.privileged = b.ask("privileged", b.in.Floor.Privileged, "privileged container")
	return nil
}

// command joins entrypoint and arguments (cri-api v1, ContainerConfig: command replaces the image's
// entrypoint, and with it the image's cmd; args replace the image's cmd).
func (b *builder) command() error {
	c, img := b.in.Container, b.in.Image
	entry, args := c.Command, c.Args
	if len(entry) == 0 {
		entry = img.Entrypoint
		if len(args) == 0 {
			args = img.Cmd
		}
	}
	b.spec.Process.Args = slices.Concat(entry, args)
	if len(b.spec.Process.Args) == 0 || b.spec.Process.Args[0] == "" {
		return errors.New("neither the pod nor the image names a command")
	}
	for _, a := range b.spec.Process.Args {
		if err := text(a); err != nil {
			return fmt.Errorf("command: %w", err)
		}
	}
	return nil
}

// noNewPrivileges: the kubelet sends false also for a pod that asked nothing.
func (b *builder) noNewPrivileges() error {
	p := b.spec.Process
	switch {
	case b.in.Container.Security.NoNewPrivs:
		p.NoNewPrivileges = true
	case b.privileged:
	default:
		p.NoNewPrivileges = !b.ask("noNewPrivileges", b.in.Floor.NoNewPrivileges, "false")
	}
	return nil
}

// annotations: the OCI runtimes read some as orders, so only names of our own choice are passed.
func (b *builder) annotations() error {
	b.spec.Annotations = ours(b.in.Pod, b.in.PodID)
	if b.in.Container.Name != "" {
		b.spec.Annotations["sallyport/container"] = b.in.Container.Name
	}
	for _, name := range b.in.Container.Ignored {
		b.note("annotations", "%.80q has no effect with this runtime handler", name)
	}
	for key, value := range b.spec.Annotations {
		if len(value) > 256 || text(value) != nil || strings.ContainsFunc(value, isControl) {
			return fmt.Errorf("the value for %s is longer than 256 bytes or holds control characters", key)
		}
	}
	return nil
}

func ours(p PodConfig, id string) map[string]string {
	return map[string]string{"sallyport/namespace": p.Namespace, "sallyport/pod": p.Name, "sallyport/pod-uid": p.UID, "sallyport/pod-id": id}
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }
