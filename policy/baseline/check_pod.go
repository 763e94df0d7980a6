package baseline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// CheckPod asks the floor for everything that a pod wants of the node. It may be called concurrently.
func CheckPod(f PodFacts, floor Floor) (out []Violation) {
	for _, c := range []struct {
		id, name string
		asked    bool
		answer   Answer
	}{
		{"P01", "host network", f.HostNetwork, floor.HostNetwork},
		{"P02", "host PIDs", f.HostPID, floor.HostPID},
		{"P03", "host IPC", f.HostIPC, floor.HostIPC},
		{"P04", "user namespace", f.HostUsers, floor.HostUsers},
	} {
		if c.asked && c.answer != Allow {
			out = append(out, Violation{c.id, c.name, "the pod asks for the node's and the floor refuses"})
		}
	}
	if f.Privileged && floor.Privileged == Refuse {
		out = append(out, Violation{"P05", "privileged", "the pod asks to hold privileged containers and the floor refuses"})
	}
	if !f.HostUsers {
		for _, msg := range slices.Concat(idMap("user", f.UIDs), idMap("group", f.GIDs)) {
			out = append(out, Violation{"P07", "ID mappings", msg})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.Sysctls)) {
		if msg := sysctl(name, f.Sysctls[name], f, floor); msg != "" {
			out = append(out, Violation{"P06", "sysctls", msg})
		}
	}
	return out
}

// idMap holds the map of a user namespace to what makes it isolate: root inside is somebody, and nobody
// inside is the node's root.
func idMap(kind string, lines []IDMapping) (out []string) {
	if len(lines) == 0 {
		return []string{"the user namespace has no " + kind + " ID mappings"}
	}
	root := false
	for i, m := range lines {
		out = append(out, found(m.Host == 0, "the node's %s ID 0 is mapped", kind)...)
		out = append(out, found(m.Length == 0 || uint64(m.Host)+uint64(m.Length) > 1<<32-1 || uint64(m.Container)+uint64(m.Length) > 1<<32-1,
			"%s ID mapping %d has a length of %d, which is out of range", kind, i, m.Length)...)
		for _, o := range lines[:i] {
			out = append(out, found(overlap(m.Container, m.Length, o.Container, o.Length) || overlap(m.Host, m.Length, o.Host, o.Length),
				"%s ID mapping %d overlaps another", kind, i)...)
		}
		root = root || m.Container == 0
	}
	return append(out, found(!root, "%s ID 0 of the pod is not mapped", kind)...)
}

func overlap(a, na, b, nb uint32) bool {
	return uint64(a) < uint64(b)+uint64(nb) && uint64(b) < uint64(a)+uint64(na)
}

// maxSysctl bounds a sysctl's value, in bytes; the longest that pods set are port lists.
const maxSysctl = 1024

// sysctl returns why a sysctl is refused, or "". A value with a line break or a plus sign once smuggled
// in a second sysctl (CVE-2022-0811), and one without its own namespace is the node's (CVE-2022-0532).
func sysctl(name, value string, f PodFacts, floor Floor) string {
	dotted, ok := Dotted(name)
	switch {
	case !ok:
		return fmt.Sprintf("%q is no sysctl name", name)
	case !floor.AdmitsSysctl(dotted):
		return fmt.Sprintf("the floor does not admit %s", dotted)
	case f.HostNetwork && strings.HasPrefix(dotted, "net."):
		return fmt.Sprintf("%s would be set on the node: the pod has the node's network", dotted)
	case f.HostIPC && !strings.HasPrefix(dotted, "net."):
		return fmt.Sprintf("%s would be set on the node: the pod has the node's IPC namespace", dotted)
	case len(value) > maxSysctl || strings.ContainsFunc(value, func(r rune) bool { return !plain(r) }):
		return fmt.Sprintf("the value of %s holds other than letters, digits, spaces and any of .,:-_/ or is longer than %d bytes", dotted, maxSysctl)
	}
	return ""
}

func plain(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r < 0x80 && strings.ContainsRune(" \t.,:-_/", r)
}

// Dotted is the name of a sysctl with dots as separators. Names may come with slashes instead (as the
// kubelet admits them): then dots inside elements are written as slashes, as sysctl(8) does. It reports
// false for anything that could leave /proc/sys.
func Dotted(name string) (string, bool) {
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '/' {
		name = strings.Map(func(r rune) rune {
			switch r {
			case '/':
				return '.'
			case '.':
				return '/'
			}
			return r
		}, name)
	}
	if len(name) > 253 || !strings.Contains(name, ".") {
		return "", false
	}
	for _, part := range strings.Split(name, ".") {
		if part == "" || strings.HasPrefix(part, "/") || strings.HasSuffix(part, "/") || strings.Contains(part, "//") {
			return "", false
		}
		for _, c := range []byte(part) {
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '/') {
				return "", false
			}
		}
	}
	return name, true
}

// CheckExec requires that a process (OCI process JSON) to be run in a container is that container's own
// process with other arguments: the same user, groups, capabilities, labels, limits and environment (a
// terminal may add TERM=xterm). specJSON is the container's spec as it was granted.
func CheckExec(processJSON, specJSON []byte) []Violation {
	var p specs.Process
	if err := canonical(processJSON, &p); err != nil {
		return []Violation{{"X01", "canonical form", err.Error()}}
	}
	var s specs.Spec
	if err := canonical(specJSON, &s); err != nil || s.Process == nil {
		return []Violation{{"X01", "canonical form", "the container's own spec cannot be read"}}
	}
	if len(p.Args) == 0 || p.Args[0] == "" || slices.ContainsFunc(p.Args, func(a string) bool { return strings.ContainsRune(a, 0) }) {
		return []Violation{{"X02", "arguments", "the command is empty or holds a zero byte"}}
	}
	own := *s.Process
	own.Args, own.Terminal = p.Args, p.Terminal
	want, err := json.Marshal(own)
	if err == nil && bytes.Equal(want, processJSON) {
		return nil
	}
	own.Env = append(slices.Clip(own.Env), "TERM=xterm")
	if again, err := json.Marshal(own); err == nil && p.Terminal && bytes.Equal(again, processJSON) {
		return nil
	}
	return []Violation{{"X03", "same confinement", "the process differs from the container's own in more than arguments and terminal"}}
}

// CheckUpdate reads a wanted change to the resources of a live container (OCI LinuxResources, JSON): only
// limits of CPU, memory and hugepages may change, never devices or the limit of processes.
func CheckUpdate(resourcesJSON []byte) (out []Violation) {
	var r specs.LinuxResources
	if err := canonical(resourcesJSON, &r); err != nil {
		return []Violation{{"U01", "canonical form", err.Error()}}
	}
	if r.Devices != nil || r.Pids != nil {
		out = append(out, Violation{"U02", "limits only", "devices or the limit of processes would change"})
	}
	for _, msg := range knownLimits(r) {
		out = append(out, Violation{"U03", "cgroup limits", msg})
	}
	return out
}
