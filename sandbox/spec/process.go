package spec

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/opencontainers/runtime-spec/specs-go"
	"sallyport/policy/baseline"
	"sallyport/seccomp"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// text refuses what JSON or execve cannot carry unchanged: bytes that are not UTF-8, and zero bytes.
func text(s string) error {
	if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		return fmt.Errorf("%.40q is not UTF-8 text, or holds a zero byte", s)
	}
	return nil
}

// environment: ours, then the image's, then the pod's; a later variable replaces an earlier one in its
// place. What the image says wrongly is left out; what the pod says wrongly is an error.
func (b *builder) environment() error {
	env := variables{at: map[string]int{}}
	env.set(defaultPath)
	if b.in.Pod.Hostname != "" {
		env.set("HOSTNAME=" + b.in.Pod.Hostname)
	}
	if b.in.Container.TTY {
		env.set("TERM=xterm")
	}
	home := "/"
	if account, ok := b.account(); ok {
		home = account.home
	}
	env.set("HOME=" + home)
	for _, e := range b.in.Image.Env {
		if name, value, ok := strings.Cut(e, "="); ok && name != "" && text(e) == nil && !strings.ContainsFunc(name, isControl) && plainHome(name, value) {
			env.set(e)
		}
	}
	for _, e := range b.in.Container.Env {
		pair := e.Name + "=" + string(e.Value)
		if e.Name == "" || strings.ContainsRune(e.Name, '=') || text(pair) != nil {
			return fmt.Errorf("environment variable %.40q: the name is empty or has an equals sign, or the value is not UTF-8 text", e.Name)
		}
		if !plainHome(e.Name, string(e.Value)) {
			return errors.New("environment variable HOME holds control characters")
		}
		env.set(pair)
	}
	b.spec.Process.Env = env.list
	return nil
}

// plainHome: HOME reaches files of accounts in some runtimes (CVE-2022-4318, CVE-2026-15809).
func plainHome(name, value string) bool {
	return name != "HOME" || !strings.ContainsFunc(value, isControl)
}

type variables struct {
	list []string
	at   map[string]int
}

func (v *variables) set(pair string) {
	name, _, _ := strings.Cut(pair, "=")
	if i, ok := v.at[name]; ok {
		v.list[i] = pair
		return
	}
	v.at[name] = len(v.list)
	v.list = append(v.list, pair)
}

// workingDirectory: one under /proc can lead out of the container while it is being set up
// (CVE-2024-21626).
func (b *builder) workingDirectory() error {
	cwd := b.in.Container.WorkingDir
	if cwd == "" {
		cwd = b.in.Image.WorkingDir
	}
	if err := text(cwd); err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	cwd = path.Join("/", cwd)
	if baseline.Beneath(cwd, "/proc") {
		b.refuse("workingDir", "the working directory %q is under /proc", cwd)
		cwd = "/"
	}
	b.spec.Process.Cwd = cwd
	return nil
}

// capabilities: the default set of the floor's level, then ALL, then names; what is both added and
// dropped is dropped. What the daemon itself does not hold cannot be given, and is noted.
func (b *builder) capabilities() error {
	asked := b.in.Container.Security.Capabilities
	add, err := normal(asked.Add)
	if err != nil {
		return err
	}
	drop, err := normal(asked.Drop)
	if err != nil {
		return err
	}
	ambient, err := normal(asked.AddAmbient)
	if err != nil {
		return err
	}
	usual := b.in.Floor.DefaultCapabilities()
	set := map[string]bool{}
	for _, c := range usual {
		set[c] = true
	}
	if b.privileged || slices.Contains(add, "ALL") && b.may("ALL") {
		for _, c := range baseline.Capabilities() {
			set[c] = true
		}
	}
	if slices.Contains(drop, "ALL") && !b.privileged {
		clear(set)
	}
	for _, c := range add {
		if c != "ALL" && (b.privileged || slices.Contains(usual, c) || b.may(c)) {
			set[c] = true
		}
	}
	for _, c := range drop {
		if !b.privileged {
			delete(set, c)
		}
	}
	for c := range set {
		if !slices.Contains(b.in.Host.Bounding, c) {
			delete(set, c)
			if slices.Contains(add, c) {
				b.note("capabilities", "%s is not there on this node", c)
			}
		}
	}
	held := slices.Sorted(maps.Keys(set))
	var kept []string
	for _, c := range ambient {
		if !b.privileged && !b.in.Floor.AdmitsCapability(c) {
			b.refuse("capabilities", "%s is asked for as ambient; hardening.yaml does not list it (capabilities)", c)
		} else if slices.Contains(held, c) {
			b.note("capabilities", "%s ambient", c)
			kept = append(kept, c)
		}
	}
	slices.Sort(kept)
	kept = slices.Compact(kept)
	// Inheritable is empty unless ambient needs it (CVE-2022-27652).
	b.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: held, Effective: held, Permitted: held, Inheritable: kept, Ambient: kept}
	return nil
}

// may asks the floor for one capability beyond the default set.
func (b *builder) may(c string) bool {
	if b.in.Floor.AdmitsCapability(c) {
		b.note("capabilities", "%s allowed", c)
		return true
	}
	b.refuse("capabilities", "%s is asked for; hardening.yaml does not list it (capabilities)", c)
	return false
}

// normal writes capabilities as CAP_X, or ALL.
func normal(names []string) (out []string, err error) {
	for _, n := range names {
		c := strings.ToUpper(n)
		if c != "ALL" {
			c = "CAP_" + strings.TrimPrefix(c, "CAP_")
			if !slices.Contains(baseline.Capabilities(), c) {
				return nil, fmt.Errorf("%q is no capability", n)
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// labels: SELinux and AppArmor where the node has them.
func (b *builder) labels() error {
	s, p, floor := b.in.Container.Security, b.spec.Process, b.in.Floor
	if b.in.Host.SELinux {
		label, err := b.selinux()
		if err != nil {
			return err
		}
		p.SelinuxLabel, b.spec.Linux.MountLabel = label, b.in.Labels.Mount
	}
	if !b.in.Host.AppArmor {
		if s.AppArmor.Kind == Localhost {
			return fmt.Errorf("AppArmor profile %q is asked for and the node has no AppArmor", s.AppArmor.Ref)
		}
		return nil
	}
	p.ApparmorProfile = b.in.Defaults.AppArmorProfile
	switch s.AppArmor.Kind {
	case "", RuntimeDefault:
		if b.privileged {
			p.ApparmorProfile = "unconfined"
		}
	case Unconfined:
		if b.privileged || b.ask("appArmor", floor.AppArmor, "Unconfined") {
			p.ApparmorProfile = "unconfined"
		}
	case Localhost:
		if s.AppArmor.Ref == "" || s.AppArmor.Ref == "unconfined" || strings.ContainsFunc(s.AppArmor.Ref, isControl) {
			return fmt.Errorf("AppArmor profile name %.40q is malformed", s.AppArmor.Ref)
		}
		if b.ask("appArmor", floor.AppArmor, fmt.Sprintf("profile %q", s.AppArmor.Ref)) {
			p.ApparmorProfile = s.AppArmor.Ref
		}
	default:
		return fmt.Errorf("AppArmor profile kind %q is unknown", s.AppArmor.Kind)
	}
	return nil
}

func (b *builder) selinux() (string, error) {
	if b.in.Labels.Process == "" || b.in.Labels.Mount == "" {
		return "", errors.New("the node has SELinux and the pod has no labels")
	}
	if b.privileged {
		return "system_u:system_r:spc_t:s0", nil
	}
	asked := b.in.Container.Security.SELinux
	parts := strings.SplitN(b.in.Labels.Process, ":", 4)
	if asked == nil || *asked == (SELinux{}) {
		return b.in.Labels.Process, nil
	}
	if len(parts) != 4 {
		return "", fmt.Errorf("SELinux label %q has not four parts", b.in.Labels.Process)
	}
	if !b.ask("seLinux", b.in.Floor.SELinux, fmt.Sprintf("label %s:%s:%s:%s", asked.User, asked.Role, asked.Type, asked.Level)) {
		return b.in.Labels.Process, nil
	}
	for i, want := range []string{asked.User, asked.Role, asked.Type, asked.Level} {
		if want == "" {
			continue
		}
		if i < 3 && strings.ContainsRune(want, ':') || strings.ContainsFunc(want, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return "", fmt.Errorf("SELinux label part %.40q is malformed", want)
		}
		parts[i] = want
	}
	return strings.Join(parts, ":"), nil
}

// seccomp: the kubelet sends Unconfined also for a pod that asked nothing, so the default stands in
// for it unless the floor says Allow. A profile of the pod's own, where the floor overrides, is
// narrowed by the default: it may forbid more and never allow more. A privileged container is one that
// asks for Unconfined, whatever else it says (api.proto: privileged implies that "Seccomp restrictions
// are not applied"); but where the floor does not grant that, a profile of its own still narrows.
func (b *builder) seccomp() error {
	s, profile := b.in.Container.Security.Seccomp, b.in.Defaults.Seccomp
	if profile.IsZero() {
		profile = seccomp.Default()
	}
	if b.privileged && b.in.Floor.Seccomp == baseline.Allow {
		s.Kind = Unconfined
	}
	switch s.Kind {
	case "", RuntimeDefault:
	case Unconfined:
		if b.ask("seccomp", b.in.Floor.Seccomp, "Unconfined") {
			return nil
		}
	case Localhost:
		own, err := seccomp.FromJSON(b.in.SeccompProfile)
		if err != nil {
			return fmt.Errorf("seccomp profile %q: %w", s.Ref, err)
		}
		switch b.in.Floor.Seccomp {
		case baseline.Allow:
			b.note("seccomp", "profile %q allowed", s.Ref)
			profile = own
		case baseline.Override:
			b.note("seccomp", "profile %q narrowed by default", s.Ref)
			profile = profile.Narrow(own)
		default:
			b.refuse("seccomp", "profile %q is asked for; hardening.yaml refuses it (seccomp)", s.Ref)
		}
	default:
		return fmt.Errorf("seccomp profile kind %q is unknown", s.Kind)
	}
	if !b.in.Host.Seccomp {
		return errors.New("the kernel or the OCI runtime cannot filter system calls (seccomp)")
	}
	var err error
	b.spec.Linux.Seccomp, err = profile.OCI(b.spec.Process.Capabilities.Bounding)
	return err
}
