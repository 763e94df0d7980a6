package baseline

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"sallyport/policy/internal/strict"
)

// hardening is the form of hardening.yaml. A knob that is absent keeps the level's answer; a list that
// is present replaces the level's.
type hardening struct {
	Level           string     `yaml:"level" need:"yes" enum:"restricted,baseline,privileged"`
	Seccomp         string     `yaml:"seccomp" enum:"refuse,override,allow"`
	NoNewPrivileges string     `yaml:"noNewPrivileges" enum:"refuse,override,allow"`
	Privileged      string     `yaml:"privileged" enum:"refuse,override,allow"`
	HostNetwork     string     `yaml:"hostNetwork" enum:"refuse,allow"`
	HostPID         string     `yaml:"hostPID" enum:"refuse,allow"`
	HostIPC         string     `yaml:"hostIPC" enum:"refuse,allow"`
	HostUsers       string     `yaml:"hostUsers" enum:"refuse,allow"`
	RootUser        string     `yaml:"rootUser" enum:"refuse,allow"`
	Devices         string     `yaml:"devices" enum:"refuse,allow"`
	UnmaskedPaths   string     `yaml:"unmaskedPaths" enum:"refuse,override,allow"`
	AppArmor        string     `yaml:"appArmor" enum:"refuse,override,allow"`
	SELinux         string     `yaml:"seLinux" enum:"refuse,override,allow"`
	BidirMounts     string     `yaml:"bidirectionalMounts" enum:"refuse,override,allow"`
	LayerBytes      string     `yaml:"layerBytes" enum:"first-use,every-start"`
	Capabilities    []string   `yaml:"capabilities"`
	HostPaths       []string   `yaml:"hostPaths"`
	Sysctls         []string   `yaml:"sysctls"`
	CDI             []string   `yaml:"cdi"`
	Hooks           []hookYAML `yaml:"hooks"`
}

// hookYAML is the form of a hook that may run.
type hookYAML struct {
	Path   string `yaml:"path" need:"yes"`
	Digest string `yaml:"digest" need:"yes"`
}

// ParseFloor reads a hardening.yaml: a level (restricted, baseline or privileged; required), and knobs
// that differ from it. Unknown and repeated fields, and answers that a knob cannot give, are errors
// that name the field. The bytes are not trusted.
func ParseFloor(data []byte) (Floor, error) {
	var h hardening
	if err := strict.Decode(data, &h); err != nil {
		return Floor{}, fmt.Errorf("parse hardening: %w", err)
	}
	level, ok := map[string]Level{"restricted": Restricted, "baseline": Baseline, "privileged": Privileged}[h.Level]
	if !ok {
		return Floor{}, fmt.Errorf("parse hardening: level: got %q, want restricted, baseline or privileged", h.Level)
	}
	f := ForLevel(level)
	for _, k := range []struct {
		field, text string
		answer      *Answer
		mayOverride bool // ours can stand in for what was asked
	}{
		{"seccomp", h.Seccomp, &f.Seccomp, true},
		{"noNewPrivileges", h.NoNewPrivileges, &f.NoNewPrivileges, true},
		{"privileged", h.Privileged, &f.Privileged, true},
		{"hostNetwork", h.HostNetwork, &f.HostNetwork, false},
		{"hostPID", h.HostPID, &f.HostPID, false},
		{"hostIPC", h.HostIPC, &f.HostIPC, false},
		{"hostUsers", h.HostUsers, &f.HostUsers, false},
		{"rootUser", h.RootUser, &f.RootUser, false},
		{"devices", h.Devices, &f.Devices, false},
		{"unmaskedPaths", h.UnmaskedPaths, &f.UnmaskedPaths, true},
		{"appArmor", h.AppArmor, &f.AppArmor, true},
		{"seLinux", h.SELinux, &f.SELinux, true},
		{"bidirectionalMounts", h.BidirMounts, &f.BidirMounts, true},
	} {
		switch {
		case k.text == "":
		case k.text == "refuse":
			*k.answer = Refuse
		case k.text == "override" && k.mayOverride:
			*k.answer = Override
		case k.text == "allow":
			*k.answer = Allow
		case k.mayOverride:
			return Floor{}, fmt.Errorf("parse hardening: %s: got %q, want refuse, override or allow", k.field, k.text)
		default:
			return Floor{}, fmt.Errorf("parse hardening: %s: got %q, want refuse or allow", k.field, k.text)
		}
	}
	switch h.LayerBytes {
	case "", "first-use":
	case "every-start":
		f.LayerBytes = EveryStart
	default:
		return Floor{}, fmt.Errorf("parse hardening: layerBytes: got %q, want first-use or every-start", h.LayerBytes)
	}
	if err := lists(&f, h); err != nil {
		return Floor{}, err
	}
	return f, nil
}

func lists(f *Floor, h hardening) error {
	if h.Capabilities != nil {
		f.Capabilities = nil
		for _, name := range h.Capabilities {
			c := "CAP_" + strings.TrimPrefix(strings.ToUpper(name), "CAP_")
			if c == "CAP_ALL" {
				c = "ALL"
			} else if !slices.Contains(capabilities, c) {
				return fmt.Errorf("parse hardening: capabilities: %q is no capability", name)
			}
			f.Capabilities = append(f.Capabilities, c)
		}
	}
	if h.HostPaths != nil {
		f.HostPaths = h.HostPaths
		for _, p := range h.HostPaths {
			if bare := strings.TrimPrefix(p, "="); !path.IsAbs(bare) || path.Clean(bare) != bare {
				return fmt.Errorf("parse hardening: hostPaths: %q is no clean absolute path", p)
			}
		}
	}
	if h.Sysctls != nil {
		f.Sysctls = h.Sysctls
		for _, s := range h.Sysctls {
			if err := sysctlPattern(s); err != nil {
				return fmt.Errorf("parse hardening: sysctls: %q: %w", s, err)
			}
		}
	}
	return programs(f, h)
}

// programs reads the lists of what may come from the node: CDI devices and hooks.
func programs(f *Floor, h hardening) error {
	if h.CDI != nil {
		f.CDI = h.CDI
		for _, p := range h.CDI {
			if !cdiPattern.MatchString(p) {
				return fmt.Errorf("parse hardening: cdi: %q is no device as vendor/class=name, with or without a trailing *", p)
			}
		}
	}
	if h.Hooks != nil {
		f.Hooks = nil
		for _, k := range h.Hooks {
			switch {
			case !clean(k.Path) || k.Path == "/":
				return fmt.Errorf("parse hardening: hooks: %q is no clean absolute path", k.Path)
			case !sha256Digest.MatchString(k.Digest):
				return fmt.Errorf("parse hardening: hooks: %q: digest %q is not sha256: and 64 lower-case hexadecimal digits", k.Path, k.Digest)
			}
			f.Hooks = append(f.Hooks, Hook(k))
		}
	}
	return nil
}

var (
	cdiPattern   = regexp.MustCompile(`^(\*|[A-Za-z][A-Za-z0-9._-]*/[A-Za-z][A-Za-z0-9_-]*=[A-Za-z0-9._:-]*\*?)$`)
	sha256Digest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

func sysctlPattern(s string) error {
	prefix, wild := strings.CutSuffix(s, "*")
	for _, c := range []byte(prefix) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("._-/", c) >= 0) {
			return errors.New("not a sysctl name, or one with a trailing *")
		}
	}
	if prefix == "" || !wild && !matches(namespaced, s) || wild && !slices.ContainsFunc(namespaced, func(n string) bool { _, ok := meetPattern(n, s); return ok }) {
		return errors.New("belongs to the node, not to a pod's namespaces")
	}
	return nil
}

// capabilities are all that Linux 6.x knows (capability.h, up to CAP_CHECKPOINT_RESTORE).
var capabilities = []string{
	"CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_AUDIT_WRITE", "CAP_BLOCK_SUSPEND", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
	"CAP_KILL", "CAP_LEASE", "CAP_LINUX_IMMUTABLE", "CAP_MAC_ADMIN", "CAP_MAC_OVERRIDE", "CAP_MKNOD", "CAP_NET_ADMIN",
	"CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_RAW", "CAP_PERFMON", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP",
	"CAP_SETUID", "CAP_SYSLOG", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_CHROOT", "CAP_SYS_MODULE", "CAP_SYS_NICE",
	"CAP_SYS_PACCT", "CAP_SYS_PTRACE", "CAP_SYS_RAWIO", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_WAKE_ALARM",
}

// Capabilities are the names of all capabilities, sorted. The slice is the caller's.
func Capabilities() []string { return slices.Clone(capabilities) }
