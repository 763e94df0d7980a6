package spec

import (
	"errors"
	"fmt"
	"math"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Annotations say which requests a runtime handler takes from pods' annotations. The zero value takes
// none. An annotation only adds to what CRI's own fields ask, and is judged as they are: it lifts no
// limit (CVE-2023-6476), and never reaches the OCI runtime itself (CVE-2024-3154).
type Annotations struct {
	Allowed  []string          // names, see AnnotationNames, in the older or the newer form
	Defaults map[string]string // for pods that say nothing themselves; need not be in Allowed
}

// annotation is one that is understood: its newer name, its older one and what it does. A perContainer
// one may end in /<container>, which goes before the plain one.
type annotation struct {
	name, older  string
	perContainer bool
	pod          func(*PodConfig, string) error
	container    func(*ContainerConfig, string) error
}

// annotations have the names that CRI-O's users know (its pkg/annotations).
var annotations = []annotation{
	{name: "devices.crio.io", older: "io.kubernetes.cri-o.Devices", container: askDevices},
	{name: "shm-size.crio.io", older: "io.kubernetes.cri-o.ShmSize", pod: askShm},
	{name: "umask.crio.io", older: "io.kubernetes.cri-o.umask", container: askUmask},
	{name: "unified-cgroup.crio.io", older: "io.kubernetes.cri-o.UnifiedCgroup", perContainer: true, container: askUnified},
	{name: "org.opencontainers.image.stopSignal", container: askStopSignal},
}

// unsupported are those that CRI-O's users know too and that have no effect here, with the reason.
var unsupported = map[string]string{
	"userns-mode.crio.io":                   "set hostUsers: false in the pod",
	"cgroup2-mount-hierarchy-rw.crio.io":    "a container's cgroup files are read-only",
	"seccomp-profile.crio.io":               "name a Localhost profile, or set the handler's seccomp_profile",
	"seccomp-notifier-action.crio.io":       "there is no seccomp notifier",
	"link-logs.crio.io":                     "logs stay where the kubelet reads them",
	"try-skip-volume-selinux-label.crio.io": "a volume is always labelled whole",
	"disable-fips.crio.io":                  "there is no FIPS mode",
	"platform-runtime-path.crio.io":         "a pod chooses no program of the node",
	"pod-linux-overhead.crio.io":            "the CRI's own field says it",
	"pod-linux-resources.crio.io":           "the CRI's own field says it",
	"spoofed.crio.io":                       "every container is real",
	"cpu-load-balancing.crio.io":            "a pod changes no setting of the node's scheduler",
	"cpu-quota.crio.io":                     "an annotation lifts no limit",
	"cpu-c-states.crio.io":                  "a pod changes no setting of the node's CPUs",
	"cpu-freq-governor.crio.io":             "a pod changes no setting of the node's CPUs",
	"cpu-shared.crio.io":                    "the kubelet's CPU manager decides",
	"irq-load-balancing.crio.io":            "a pod changes no setting of the node's interrupts",
	"io.containers.trace-syscall":           "it is an OCI hook, which is code of the node",
	"io.kubernetes.cri.rdt-class":           "there is no RDT",
	"io.kubernetes.cri.container-type":      "it is an order to the OCI runtime",
	"org.systemd.property.":                 "it would set properties of systemd units (CVE-2024-3154)",
	"org.criu.config":                       "it is an order to the OCI runtime",
	"run.oci.":                              "it is an order to the OCI runtime",
	"dev.gvisor.":                           "it is an order to the OCI runtime",
	"module.wasm.image/variant":             "it is an order to the OCI runtime",
	"bundle":                                "it is an order to the OCI runtime",
}

// olderNames are the older forms whose newer one is in unsupported.
var olderNames = map[string]string{
	"io.kubernetes.cri-o.userns-mode":                "userns-mode.crio.io",
	"io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw": "cgroup2-mount-hierarchy-rw.crio.io",
	"seccomp-profile.kubernetes.cri-o.io":            "seccomp-profile.crio.io",
	"io.kubernetes.cri-o.seccompNotifierAction":      "seccomp-notifier-action.crio.io",
	"io.kubernetes.cri-o.LinkLogs":                   "link-logs.crio.io",
	"io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel":  "try-skip-volume-selinux-label.crio.io",
	"io.kubernetes.cri-o.DisableFIPS":                "disable-fips.crio.io",
	"io.kubernetes.cri-o.PlatformRuntimePath":        "platform-runtime-path.crio.io",
	"io.kubernetes.cri-o.PodLinuxOverhead":           "pod-linux-overhead.crio.io",
	"io.kubernetes.cri-o.PodLinuxResources":          "pod-linux-resources.crio.io",
	"io.kubernetes.cri-o.Spoofed":                    "spoofed.crio.io",
}

// AnnotationNames are the names that a handler can allow, the newer form of each.
func AnnotationNames() (names []string) {
	for _, a := range annotations {
		names = append(names, a.name)
	}
	return names
}

// Check refuses names that nothing here understands, with the reason where there is one.
func (r Annotations) Check() error {
	for _, name := range slices.Concat(r.Allowed, keys(r.Defaults)) {
		if _, ok := understood(name); ok {
			continue
		}
		if why, ok := whyNot(name); ok {
			return fmt.Errorf("annotation %.80q is not supported: %s", name, why)
		}
		return fmt.Errorf("annotation %.80q is unknown; known are %s", name, strings.Join(AnnotationNames(), ", "))
	}
	pod, container := PodConfig{Annotations: r.Defaults}, ContainerConfig{}
	all := Annotations{Allowed: AnnotationNames()}
	if err := all.Pod(&pod); err != nil {
		return err
	}
	return all.Container(pod, &container)
}

// Pod lays what a pod's annotations ask over its configuration. An allowed one that cannot be read is an
// error; one that is not allowed has no effect, which Container records.
func (r Annotations) Pod(c *PodConfig) error {
	for _, a := range annotations {
		if value, ok := r.find(a, c.Annotations, ""); ok && a.pod != nil {
			if err := a.pod(c, value); err != nil {
				return fmt.Errorf("annotation %s: %w", a.name, err)
			}
		}
	}
	return nil
}

// Container lays what a pod's annotations ask over a container's configuration. Known ones without an
// effect are named in c.Ignored, which becomes part of the decision's record.
func (r Annotations) Container(pod PodConfig, c *ContainerConfig) error {
	for _, a := range annotations {
		if value, ok := r.find(a, pod.Annotations, c.Name); ok && a.container != nil {
			if err := a.container(c, value); err != nil {
				return fmt.Errorf("annotation %s: %w", a.name, err)
			}
		}
	}
	for name := range pod.Annotations {
		_, known := understood(name)
		_, never := whyNot(name)
		if never || known && !r.allows(name) {
			c.Ignored = append(c.Ignored, name)
		}
	}
	slices.Sort(c.Ignored)
	return nil
}

// find gives the value that counts: the container's own before the plain one, the newer name before the
// older, the pod's before the handler's default.
func (r Annotations) find(a annotation, said map[string]string, container string) (string, bool) {
	var names []string
	for _, n := range []string{a.name, a.older} {
		if n != "" && a.perContainer && container != "" {
			names = append(names, n+"/"+container, n+"."+container)
		}
	}
	for _, n := range append(names, a.name, a.older) {
		if v, ok := said[n]; ok && r.allows(n) {
			return v, true
		}
	}
	for _, n := range append(names, a.name, a.older) {
		if v, ok := r.Defaults[n]; ok {
			return v, true
		}
	}
	return "", false
}

func (r Annotations) allows(name string) bool {
	a, ok := understood(name)
	return ok && slices.ContainsFunc(r.Allowed, func(allowed string) bool { return allowed == a.name || allowed == a.older && a.older != "" })
}

// understood finds the annotation of a name, which may be of one container.
func understood(name string) (annotation, bool) {
	for _, a := range annotations {
		for _, n := range []string{a.name, a.older} {
			rest, ok := strings.CutPrefix(name, n)
			if n != "" && ok && (rest == "" || a.perContainer && len(rest) > 1 && (rest[0] == '/' || rest[0] == '.')) {
				return a, true
			}
		}
	}
	return annotation{}, false
}

// whyNot is the reason why a known annotation has no effect. Names that end in a dot are prefixes.
func whyNot(name string) (string, bool) {
	base, _, _ := strings.Cut(name, "/")
	for _, n := range []string{name, base, olderNames[name], olderNames[base]} {
		if why, ok := unsupported[n]; ok {
			return why, true
		}
	}
	for n, why := range unsupported {
		if strings.HasSuffix(n, ".") && strings.HasPrefix(name, n) {
			return why, true
		}
	}
	return "", false
}

func keys(m map[string]string) (out []string) {
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// maxAsked bounds a list in an annotation: the API server admits 256 KiB of annotations.
const maxAsked = 64

// askDevices reads source[:destination][:access],... Each is asked of the floor like any other device.
func askDevices(c *ContainerConfig, value string) error {
	list := strings.Split(value, ",")
	if value == "" || len(list) > maxAsked {
		return fmt.Errorf("%d devices, want 1 to %d", len(list), maxAsked)
	}
	for _, one := range list {
		parts := strings.Split(one, ":")
		d := Device{Source: parts[0], Destination: parts[0], Access: "rwm"}
		if len(parts) == 2 && !path.IsAbs(parts[1]) {
			d.Access = parts[1]
		} else if len(parts) > 1 {
			d.Destination = parts[1]
		}
		if len(parts) == 3 {
			d.Access = parts[2]
		}
		if len(parts) > 3 || !strings.HasPrefix(d.Source, "/dev/") || path.Clean(d.Source) != d.Source || !path.IsAbs(d.Destination) {
			return fmt.Errorf("device %.80q is not /dev/name[:/path][:rwm]", one)
		}
		c.Devices = append(c.Devices, d)
	}
	return nil
}

var sizeText = regexp.MustCompile(`\A([0-9]{1,15})(k|m|g|[kmg]i|[kmg]b|[kmg]ib)?\z`)

// maxShm is the largest /dev/shm that an annotation can ask for, in bytes. Its pages are charged to the
// containers that touch them, so that their memory limits hold.
const maxShm = 64 << 30

// askShm reads a size in bytes, or with k, m or g (of 1024, as CRI-O reads them).
func askShm(c *PodConfig, value string) error {
	m := sizeText.FindStringSubmatch(strings.ToLower(value))
	if m == nil {
		return fmt.Errorf("%.40q is no size such as 64Mi", value)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		return err
	}
	if m[2] != "" {
		shift := map[byte]int{'k': 10, 'm': 20, 'g': 30}[m[2][0]]
		if n > math.MaxInt64>>shift {
			return fmt.Errorf("%.40q is too large", value)
		}
		n <<= shift
	}
	if n < 1 || n > maxShm {
		return fmt.Errorf("%.40q is not between 1 and %d bytes", value, int64(maxShm))
	}
	c.ShmSize = n
	return nil
}

// askUmask reads an octal umask of the first process and of commands.
func askUmask(c *ContainerConfig, value string) error {
	n, err := strconv.ParseUint(value, 8, 32)
	if err != nil || n > 0o777 {
		return fmt.Errorf("%.40q is no umask such as 0077", value)
	}
	mask := uint32(n)
	c.Umask = &mask
	return nil
}

// askUnified reads key=value;... of cgroup v2 files. Only those that tighten are taken, and none goes
// above what the CRI asks (CVE-2023-6476).
func askUnified(c *ContainerConfig, value string) error {
	list := strings.Split(strings.TrimSuffix(value, ";"), ";")
	if value == "" || len(list) > maxAsked {
		return fmt.Errorf("%d settings, want 1 to %d", len(list), maxAsked)
	}
	merged := map[string]string{}
	for k, v := range c.Resources.Unified {
		merged[k] = v
	}
	for _, one := range list {
		key, v, ok := strings.Cut(one, "=")
		if !ok {
			return fmt.Errorf("%.80q is not key=value", one)
		}
		switch key {
		case "memory.high":
			n, err := strconv.ParseUint(v, 10, 63)
			if err != nil {
				return fmt.Errorf("memory.high=%.40q is no number of bytes", v)
			}
			if have, err := strconv.ParseUint(merged[key], 10, 63); err == nil && have < n {
				n = have
			}
			merged[key] = strconv.FormatUint(n, 10)
		case "memory.oom.group":
			if v != "1" {
				return errors.New("memory.oom.group can only be set to 1")
			}
			merged[key] = v
		default:
			return fmt.Errorf("%.40q is not among those that only tighten: memory.high and memory.oom.group", key)
		}
	}
	c.Resources.Unified = merged
	return nil
}

// askStopSignal is asked where the CRI says nothing.
func askStopSignal(c *ContainerConfig, value string) error {
	if len(value) > 20 || value == "" || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return fmt.Errorf("%.40q is no signal", value)
	}
	if c.StopSignal == "" {
		c.StopSignal = value
	}
	return nil
}
