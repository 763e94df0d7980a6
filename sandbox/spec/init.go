package spec

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// BuildInit makes the spec of the first process of a pod that shares a PID namespace: sallyport-init,
// alone in a read-only root filesystem (which must hold /sallyport-init and empty /proc and /dev), with
// no capability, the default seccomp profile and the pod's namespaces, its PID namespace being made
// here. The floor can change none of this; it answers only for the node's namespaces.
func BuildInit(in PodInput) (Output, error) {
	b := &builder{
		in: Input{
			Pod: in.Pod, PodID: in.PodID, ID: in.PodID, Namespaces: in.Namespaces, Labels: in.Labels,
			Floor: in.Floor, Host: in.Host, Defaults: in.Defaults,
		},
		spec: &specs.Spec{
			Version: specVersion(in.Host),
			Root:    &specs.Root{Path: "rootfs", Readonly: true},
			Process: &specs.Process{
				Args:            []string{"/sallyport-init", "pause"},
				Env:             []string{defaultPath},
				Cwd:             "/",
				User:            specs.User{AdditionalGids: []uint32{0}},
				Capabilities:    &specs.LinuxCapabilities{},
				NoNewPrivileges: true,
			},
			Linux: &specs.Linux{},
		},
	}
	for _, step := range []func() error{b.namespaces, b.labels, b.initMounts, b.paths, b.devices, b.limits, b.annotations, b.seccomp} {
		if err := step(); err != nil {
			return Output{}, fmt.Errorf("build spec of pod %q: %w", in.Pod.Name, err)
		}
	}
	return b.output()
}

func (b *builder) initMounts() error {
	if err := b.mounts(); err != nil {
		return err
	}
	b.spec.Mounts = slices.DeleteFunc(b.spec.Mounts, func(m specs.Mount) bool { return m.Destination != "/proc" && m.Destination != "/dev" })
	return nil
}

// ExecInput is a command to run in a live container.
type ExecInput struct {
	Spec     []byte // the container's config.json as it was granted
	Args     []string
	Terminal bool
}

// BuildExec makes the OCI process, as JSON, of a command in a live container: the container's own
// process with other arguments, so it has the same user, capabilities, labels and limits, and never
// more (CVE-2022-27652).
func BuildExec(in ExecInput) ([]byte, error) {
	var s specs.Spec
	if err := json.Unmarshal(in.Spec, &s); err != nil {
		return nil, fmt.Errorf("build exec: read the container's spec: %w", err)
	}
	if s.Process == nil || len(in.Args) == 0 || in.Args[0] == "" {
		return nil, errors.New("build exec: the command is empty or the container's spec has no process")
	}
	for _, a := range in.Args {
		if err := text(a); err != nil {
			return nil, fmt.Errorf("build exec: %w", err)
		}
	}
	p := s.Process
	p.Args, p.Terminal = in.Args, in.Terminal
	if in.Terminal && !slices.ContainsFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, "TERM=") }) {
		p.Env = append(p.Env, "TERM=xterm")
	}
	data, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("build exec: %w", err)
	}
	return data, nil
}
