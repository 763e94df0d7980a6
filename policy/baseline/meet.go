package baseline

import (
	"slices"
	"strings"
)

// Meet is the floor that is as tight as both: per knob the tighter answer, of lists only what both
// admit. It is commutative, associative and idempotent up to the order and spelling of lists, and
// what Meet(a, b) admits, a admits and b admits.
func Meet(a, b Floor) Floor {
	return Floor{
		Level:           min(a.Level, b.Level),
		Seccomp:         min(a.Seccomp, b.Seccomp),
		NoNewPrivileges: min(a.NoNewPrivileges, b.NoNewPrivileges),
		Privileged:      min(a.Privileged, b.Privileged),
		HostNetwork:     min(a.HostNetwork, b.HostNetwork),
		HostPID:         min(a.HostPID, b.HostPID),
		HostIPC:         min(a.HostIPC, b.HostIPC),
		HostUsers:       min(a.HostUsers, b.HostUsers),
		RootUser:        min(a.RootUser, b.RootUser),
		Devices:         min(a.Devices, b.Devices),
		UnmaskedPaths:   min(a.UnmaskedPaths, b.UnmaskedPaths),
		AppArmor:        min(a.AppArmor, b.AppArmor),
		SELinux:         min(a.SELinux, b.SELinux),
		BidirMounts:     min(a.BidirMounts, b.BidirMounts),
		LayerBytes:      min(a.LayerBytes, b.LayerBytes),
		Capabilities:    pairs(a.Capabilities, b.Capabilities, meetCapability),
		HostPaths:       pairs(a.HostPaths, b.HostPaths, meetPath),
		Sysctls:         pairs(a.Sysctls, b.Sysctls, meetPattern),
		CDI:             pairs(a.CDI, b.CDI, meetPattern),
		Hooks:           meetHooks(a.Hooks, b.Hooks),
	}
}

// meetHooks is the sorted set of the hooks that both admit.
func meetHooks(a, b []Hook) (out []Hook) {
	for _, h := range a {
		if slices.Contains(b, h) {
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(x, y Hook) int { return strings.Compare(x.Path+x.Digest, y.Path+y.Digest) })
	return slices.Compact(out)
}

// pairs is the sorted set of what any entry of a and any of b both admit.
func pairs(a, b []string, meet func(x, y string) (string, bool)) []string {
	var out []string
	for _, x := range a {
		for _, y := range b {
			if z, ok := meet(x, y); ok {
				out = append(out, z)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func meetCapability(x, y string) (string, bool) {
	switch {
	case x == "ALL":
		return y, true
	case y == "ALL":
		return x, true
	}
	return x, x == y
}

// meetPath: an exact exception (=/path) meets only itself, since a prefix never admits a path that
// exposes a control path.
func meetPath(x, y string) (string, bool) {
	switch {
	case strings.HasPrefix(x, "=") || strings.HasPrefix(y, "="):
		return x, x == y
	case Beneath(x, y):
		return x, true
	}
	return y, Beneath(y, x)
}

func meetPattern(x, y string) (string, bool) {
	px, wx := strings.CutSuffix(x, "*")
	py, wy := strings.CutSuffix(y, "*")
	switch {
	case wy && strings.HasPrefix(px, py):
		return x, true
	case wx && strings.HasPrefix(py, px):
		return y, true
	}
	return x, x == y
}

// Beneath reports whether the clean absolute path is dir or lies beneath it, by whole elements.
func Beneath(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// AdmitsCapability reports whether the floor lets a container add a capability (CAP_X).
func (f Floor) AdmitsCapability(name string) bool {
	return slices.Contains(f.Capabilities, "ALL") || slices.Contains(f.Capabilities, name)
}

// AdmitsSysctl reports whether the floor lets a pod set a sysctl, named with dots. Sysctls that are
// not namespaced are never admitted.
func (f Floor) AdmitsSysctl(name string) bool {
	return matches(namespaced, name) && matches(f.Sysctls, name)
}

// AdmitsCDI reports whether the floor lets a container have the CDI device of that qualified name.
func (f Floor) AdmitsCDI(name string) bool { return matches(f.CDI, name) }

func matches(patterns []string, name string) bool {
	for _, p := range patterns {
		if prefix, wild := strings.CutSuffix(p, "*"); p == name || wild && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
