package spec

import (
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"sallyport/policy/baseline"
)

const ownProfile = `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read","mount"],"action":"SCMP_ACT_ALLOW"}]}`

func hasNamespace(s *specs.Spec, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
}

func lets(s *specs.LinuxSeccomp, name string) bool {
	return s == nil || slices.ContainsFunc(s.Syscalls, func(c specs.LinuxSyscall) bool {
		return c.Action == specs.ActAllow && slices.Contains(c.Names, name)
	})
}

// TestKnobs: each request to weaken is refused by name, overridden and recorded where ours can stand in,
// or granted and recorded; in the first two cases the spec is as tight as without the request.
func TestKnobs(t *testing.T) {
	security := func(change func(*ContainerSecurity)) func(*Input) {
		return func(in *Input) { change(&in.Container.Security) }
	}
	for _, c := range []struct {
		knob     string
		override string // what is recorded where it is overridden; "": read as a refusal
		ask      func(*Input)
		answer   func(*baseline.Floor) *baseline.Answer
		weak     func(*specs.Spec) bool
	}{
		{"seccomp", "seccomp: Unconfined overridden by default", func(*Input) {}, func(f *baseline.Floor) *baseline.Answer { return &f.Seccomp },
			func(s *specs.Spec) bool { return s.Linux.Seccomp == nil }},
		{"seccomp", `seccomp: profile "own.json" narrowed by default`, func(in *Input) {
			in.Container.Security.Seccomp, in.SeccompProfile = Profile{Localhost, "own.json"}, []byte(ownProfile)
		}, func(f *baseline.Floor) *baseline.Answer { return &f.Seccomp }, func(s *specs.Spec) bool { return lets(s.Linux.Seccomp, "mount") }},
		{"noNewPrivileges", "noNewPrivileges: false overridden by default", func(*Input) {}, func(f *baseline.Floor) *baseline.Answer { return &f.NoNewPrivileges },
			func(s *specs.Spec) bool { return !s.Process.NoNewPrivileges }},
		{"privileged", "privileged: privileged container overridden by default", func(in *Input) { in.Pod.Security.Privileged, in.Container.Security.Privileged = true, true },
			func(f *baseline.Floor) *baseline.Answer { return &f.Privileged }, func(s *specs.Spec) bool { return len(s.Linux.MaskedPaths) == 0 }},
		{"hostNetwork", "", func(in *Input) { in.Pod.Security.Namespaces.Network = NamespaceNode }, func(f *baseline.Floor) *baseline.Answer { return &f.HostNetwork },
			func(s *specs.Spec) bool { return !hasNamespace(s, "network") }},
		{"hostPID", "", func(in *Input) {
			in.Pod.Security.Namespaces.PID, in.Container.Security.Namespaces.PID = NamespaceNode, NamespaceNode
		}, func(f *baseline.Floor) *baseline.Answer { return &f.HostPID }, func(s *specs.Spec) bool { return !hasNamespace(s, "pid") }},
		{"hostIPC", "", func(in *Input) { in.Pod.Security.Namespaces.IPC = NamespaceNode }, func(f *baseline.Floor) *baseline.Answer { return &f.HostIPC },
			func(s *specs.Spec) bool { return !hasNamespace(s, "ipc") }},
		{"hostUsers", "", func(*Input) {}, func(f *baseline.Floor) *baseline.Answer { return &f.HostUsers }, nil},
		{"rootUser", "", func(*Input) {}, func(f *baseline.Floor) *baseline.Answer { return &f.RootUser }, nil},
		{"devices", "", func(in *Input) {
			in.Container.Devices = []Device{{"/dev/fuse", "/dev/fuse", "rw"}}
			in.Host.DevicesByPath = []HostDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229, Mode: 0o666}}
		}, func(f *baseline.Floor) *baseline.Answer { return &f.Devices }, func(s *specs.Spec) bool { return len(s.Linux.Devices) > 0 }},
		{"unmaskedPaths", "unmaskedPaths: procMount Unmasked overridden by default", security(func(s *ContainerSecurity) { s.Unmasked = true }),
			func(f *baseline.Floor) *baseline.Answer { return &f.UnmaskedPaths }, func(s *specs.Spec) bool { return len(s.Linux.MaskedPaths) == 0 }},
		{"appArmor", "appArmor: Unconfined overridden by default", func(in *Input) {
			in.Host.AppArmor, in.Defaults.AppArmorProfile, in.Container.Security.AppArmor.Kind = true, "sallyport-default", Unconfined
		}, func(f *baseline.Floor) *baseline.Answer { return &f.AppArmor }, func(s *specs.Spec) bool { return s.Process.ApparmorProfile != "sallyport-default" }},
		{"appArmor", `appArmor: profile "mine" overridden by default`, func(in *Input) {
			in.Host.AppArmor, in.Defaults.AppArmorProfile, in.Container.Security.AppArmor = true, "sallyport-default", Profile{Localhost, "mine"}
		}, func(f *baseline.Floor) *baseline.Answer { return &f.AppArmor }, func(s *specs.Spec) bool { return s.Process.ApparmorProfile == "mine" }},
		{"seLinux", "seLinux: label ::spc_t: overridden by default", func(in *Input) {
			in.Host.SELinux, in.Labels = true, Labels{"system_u:system_r:container_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2"}
			in.Container.Security.SELinux = &SELinux{Type: "spc_t"}
		}, func(f *baseline.Floor) *baseline.Answer { return &f.SELinux }, func(s *specs.Spec) bool { return s.Process.SelinuxLabel != "system_u:system_r:container_t:s0:c1,c2" }},
		{"bidirectionalMounts", "bidirectionalMounts: mount propagation to the host overridden by default", func(in *Input) { in.Mounts[0].Propagation = PropagationShared },
			func(f *baseline.Floor) *baseline.Answer { return &f.BidirMounts }, func(s *specs.Spec) bool { return s.Linux.RootfsPropagation == "rshared" }},
	} {
		t.Run(c.knob, func(t *testing.T) {
			try := func(a baseline.Answer) Output {
				in := usual()
				in.Floor = baseline.ForLevel(baseline.Baseline)
				c.ask(&in)
				*c.answer(&in.Floor) = a
				out, err := Build(in)
				if err != nil {
					t.Fatal(err)
				}
				return out
			}
			refused := func(o Output) bool {
				return slices.ContainsFunc(o.Refusals, func(r Refusal) bool { return r.Knob == c.knob })
			}
			weak := func(o Output) bool { return c.weak != nil && c.weak(o.Spec) }
			recorded := func(o Output, word string) bool {
				return slices.ContainsFunc(o.Weakenings, func(w string) bool { return strings.HasPrefix(w, c.knob+": ") && strings.Contains(w, word) })
			}
			if o := try(baseline.Refuse); !refused(o) || weak(o) || recorded(o, "") {
				t.Errorf("refuse: refusals %v, weakenings %v, weak %v", o.Refusals, o.Weakenings, weak(o))
			}
			o := try(baseline.Override)
			if c.override == "" && !refused(o) || c.override != "" && !slices.Contains(o.Weakenings, c.override) || weak(o) {
				t.Errorf("override: refusals %v, weakenings %v, weak %v, want %q", o.Refusals, o.Weakenings, weak(o), c.override)
			}
			if o := try(baseline.Allow); refused(o) || c.weak != nil && !weak(o) || !recorded(o, "allowed") {
				t.Errorf("allow: refusals %v, weakenings %v, weak %v", o.Refusals, o.Weakenings, weak(o))
			}
		})
	}
}

func TestCapabilities(t *testing.T) {
	usualSet := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID"}
	for name, c := range map[string]struct {
		floor    baseline.Level
		asked    Capabilities
		want     []string
		ambient  []string
		refusals int
	}{
		"nothing asked":         {baseline.Baseline, Capabilities{}, usualSet, nil, 0},
		"restricted":            {baseline.Restricted, Capabilities{}, nil, nil, 0},
		"restricted, one":       {baseline.Restricted, Capabilities{Add: []string{"NET_BIND_SERVICE"}}, []string{"CAP_NET_BIND_SERVICE"}, nil, 0},
		"restricted, refused":   {baseline.Restricted, Capabilities{Add: []string{"CHOWN"}}, nil, nil, 1},
		"drop all, add one":     {baseline.Baseline, Capabilities{Add: []string{"cap_kill"}, Drop: []string{"all"}}, []string{"CAP_KILL"}, nil, 0},
		"add and drop the same": {baseline.Baseline, Capabilities{Add: []string{"MKNOD"}, Drop: []string{"MKNOD"}}, usualSet, nil, 0},
		"add beyond":            {baseline.Baseline, Capabilities{Add: []string{"SYS_ADMIN"}}, usualSet, nil, 1},
		"add all, refused":      {baseline.Baseline, Capabilities{Add: []string{"ALL"}}, usualSet, nil, 1},
		"drop one":              {baseline.Baseline, Capabilities{Drop: []string{"KILL"}}, slices.DeleteFunc(slices.Clone(usualSet), func(c string) bool { return c == "CAP_KILL" }), nil, 0},
		"add all":               {baseline.Privileged, Capabilities{Add: []string{"ALL"}}, host().Bounding, nil, 0},
		"not on this node":      {baseline.Privileged, Capabilities{Add: []string{"SYS_RESOURCE"}}, usualSet, nil, 0},
		"ambient":               {baseline.Baseline, Capabilities{AddAmbient: []string{"KILL"}}, usualSet, []string{"CAP_KILL"}, 0},
		"ambient refused":       {baseline.Restricted, Capabilities{Add: []string{"NET_BIND_SERVICE"}, AddAmbient: []string{"CHOWN"}}, []string{"CAP_NET_BIND_SERVICE"}, nil, 1},
		"ambient without it":    {baseline.Baseline, Capabilities{AddAmbient: []string{"MKNOD"}}, usualSet, nil, 0},
	} {
		out := build(t, func(in *Input) {
			in.Floor, in.Image.User, in.Container.Security.Capabilities = baseline.ForLevel(c.floor), "app", c.asked
		})
		got := out.Spec.Process.Capabilities
		slices.Sort(c.want)
		if !slices.Equal(got.Bounding, c.want) || !slices.Equal(got.Effective, c.want) || !slices.Equal(got.Permitted, c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
		if !slices.Equal(got.Ambient, c.ambient) || !slices.Equal(got.Inheritable, c.ambient) {
			t.Errorf("%s: ambient %v, inheritable %v, want %v", name, got.Ambient, got.Inheritable, c.ambient)
		}
		if len(out.Refusals) != c.refusals {
			t.Errorf("%s: refusals %v, want %d", name, out.Refusals, c.refusals)
		}
	}
}

// TestPrivileged: everything that the node has, and still the default seccomp profile and a limit of
// processes; in a pod that did not ask for it, an error.
func TestPrivileged(t *testing.T) {
	in := usual()
	in.Floor = baseline.ForLevel(baseline.Privileged)
	in.Container.Security.Privileged = true
	in.Container.Security.Namespaces.PID = NamespaceContainer
	in.Host.Devices = []HostDevice{{Path: "/dev/sda", Type: "b", Major: 8}}
	in.Container.Resources.OOMScoreAdj = -997
	if _, err := Build(in); err == nil || !strings.Contains(err.Error(), "privileged") {
		t.Errorf("Build() of a privileged container in an ordinary pod = %v, want an error", err)
	}
	in.Pod.Security.Privileged = true
	out, err := Build(in)
	if err != nil {
		t.Fatal(err)
	}
	if found := baseline.Check(out.JSON, facts(in), in.Floor); len(found) > 0 {
		t.Errorf("Check() = %v", found)
	}
	s := out.Spec
	if s.Linux.Seccomp == nil || s.Linux.Resources.Pids == nil || len(s.Linux.Devices) != 1 || !s.Linux.Resources.Devices[0].Allow ||
		len(s.Process.Capabilities.Bounding) != len(in.Host.Bounding) || *s.Process.OOMScoreAdj != 0 {
		t.Errorf("Build() = %s", out.JSON)
	}
	in.Container.Security.Seccomp = Profile{Kind: RuntimeDefault}
	in.Floor.Seccomp = baseline.Allow
	if out, err = Build(in); err != nil || out.Spec.Linux.Seccomp != nil || !slices.Contains(out.Weakenings, "seccomp: Unconfined allowed") {
		t.Errorf("Build() where the floor allows Unconfined = %v, %v; want no profile, and that recorded", out.Weakenings, err)
	}
	in.Floor.Seccomp = baseline.Override
	in.Container.Security.Seccomp, in.SeccompProfile = Profile{Localhost, "own.json"}, []byte(ownProfile)
	if out, err = Build(in); err != nil || !slices.Contains(out.Weakenings, `seccomp: profile "own.json" narrowed by default`) {
		t.Errorf("Build() where the floor does not allow Unconfined = %v, %v; want the profile of its own, narrowed", out.Weakenings, err)
	}
	in.Floor.Seccomp, in.Floor.Privileged = baseline.Allow, baseline.Override
	if out, err = Build(in); err != nil || out.Spec.Linux.Seccomp == nil {
		t.Errorf("Build() where privileged is overridden = %v; want the profile asked for", err)
	}
	in.Floor.Privileged = baseline.Refuse
	if out, err = Build(in); err != nil || len(out.Refusals) == 0 || len(out.Spec.Linux.Devices) > 0 || len(out.Spec.Linux.MaskedPaths) == 0 {
		t.Errorf("Build() refused = %v, %v; want a tight spec and a refusal", out.Refusals, err)
	}
}
