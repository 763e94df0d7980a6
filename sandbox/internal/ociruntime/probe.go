package ociruntime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// ErrUnsafe marks a runtime that must not be used: too old to be safe, or unable to enforce.
var ErrUnsafe = errors.New("unsafe OCI runtime")

// Facts is what a runtime says of itself.
type Facts struct {
	Name       string // runc, crun
	Version    string
	Spec       string // newest runtime-spec that it says it reads, 1.x.y; "" if it does not say
	Seccomp    bool   // can install seccomp filters
	IDMap      bool   // can mount with ID maps
	RRO        bool   // can mount recursively read-only
	SELinux    bool
	AppArmor   bool
	CgroupV1   bool
	CgroupV2   bool
	Libseccomp string // version of libseccomp that it is linked with, if told
}

// Probe asks the runtime for version and features and judges both: an error that is ErrUnsafe names
// what is wrong and how to put it right.
func (r *Runtime) Probe(ctx context.Context) (Facts, error) {
	out, err := r.run(ctx, nil, "--version")
	if err != nil {
		return Facts{}, fmt.Errorf("probe runtime %s: %w", r.opt.Path, err)
	}
	f, err := parseVersion(string(out))
	if err != nil {
		return Facts{}, fmt.Errorf("probe runtime %s: %w", r.opt.Path, err)
	}
	out, err = r.run(ctx, nil, "features")
	if err != nil {
		if old := f.Safe(); old != nil {
			return f, fmt.Errorf("probe runtime %s: %w", r.opt.Path, old)
		}
		return f, fmt.Errorf("probe runtime %s: %w: it cannot tell its features: %w", r.opt.Path, ErrUnsafe, err)
	}
	if err := parseFeatures(out, &f); err != nil {
		return f, fmt.Errorf("probe runtime %s: %w", r.opt.Path, err)
	}
	if err := f.Safe(); err != nil {
		return f, fmt.Errorf("probe runtime %s: %w", r.opt.Path, err)
	}
	return f, nil
}

// oldestRunsc is the first day of releases of runsc that are taken: it patches no older ones.
const oldestRunsc = "20260101"

var runscRelease = regexp.MustCompile(`^release-(20[0-9]{6})\.[0-9]+`)

// safeRunsc judges runsc, whose releases are named by day (gvisor.dev: release-20260105.0).
func (f Facts) safeRunsc() error {
	m := runscRelease.FindStringSubmatch(f.Version)
	switch {
	case m == nil:
		return fmt.Errorf("%w: runsc says that its version is %.40q; want release-YYYYMMDD.N", ErrUnsafe, f.Version)
	case m[1] < oldestRunsc:
		return fmt.Errorf("%w: runsc %s gets no fixes; install release-%s or newer", ErrUnsafe, f.Version, oldestRunsc)
	}
	return f.filters()
}

// filters refuses a runtime that cannot install seccomp filters.
func (f Facts) filters() error {
	if !f.Seccomp {
		return fmt.Errorf("%w: %s %s was built without seccomp", ErrUnsafe, f.Name, f.Version)
	}
	return nil
}

// floors are the oldest safe releases by name and, for a name, by minor line. runc: CVE-2025-31133,
// CVE-2025-52565, CVE-2025-52881, CVE-2026-41579 are fixed in 1.3.6, 1.4.3 and 1.5.0. crun:
// CVE-2025-24965 is fixed in 1.20.
var floors = map[string][][3]int{
	"runc": {{1, 3, 6}, {1, 4, 3}, {1, 5, 0}},
	"crun": {{1, 20, 0}},
}

// Safe says whether the runtime may be used: recent enough, and able to install seccomp filters. A
// name or a version that is not understood is refused.
func (f Facts) Safe() error {
	if f.Name == "runsc" {
		return f.safeRunsc()
	}
	lines, known := floors[f.Name]
	if !known {
		return fmt.Errorf("%w: %q is not a known runtime; runc, crun and runsc are", ErrUnsafe, f.Name)
	}
	v, pre, err := semver(f.Version)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnsafe, err)
	}
	if !atLeast(v, pre, lines) {
		last := lines[len(lines)-1]
		return fmt.Errorf("%w: %s %s has known escapes; install %s %d.%d.%d or newer", ErrUnsafe, f.Name, f.Version, f.Name, last[0], last[1], last[2])
	}
	return f.filters()
}

// atLeast reports whether v is in one of the lines (same major and minor, patch not lower), or newer
// than the newest line. A pre-release comes before its release.
func atLeast(v [3]int, pre bool, lines [][3]int) bool {
	if pre {
		v[2]--
	}
	for _, l := range lines {
		if v[0] == l[0] && v[1] == l[1] {
			return v[2] >= l[2]
		}
	}
	last := lines[len(lines)-1]
	return v[0] > last[0] || v[0] == last[0] && v[1] > last[1]
}

func semver(s string) (v [3]int, pre bool, err error) {
	core, _, _ := strings.Cut(s, "+")
	core, _, pre = strings.Cut(core, "-")
	parts := strings.Split(core, ".")
	if len(parts) == 2 {
		parts = append(parts, "0") // crun 1.20
	}
	if len(parts) != 3 {
		return v, pre, fmt.Errorf("parse version %q: want major.minor.patch", s)
	}
	for i, p := range parts {
		if v[i], err = strconv.Atoi(p); err != nil || v[i] < 0 {
			return v, pre, fmt.Errorf("parse version %q: want major.minor.patch", s)
		}
	}
	return v, pre, nil
}

var specLine = regexp.MustCompile(`(?m)^spec: (1\.[0-9]{1,3}\.[0-9]{1,3})$`)

// parseVersion reads "runc version 1.5.2" or "crun version 1.20" from the first line.
func parseVersion(out string) (Facts, error) {
	first, _, _ := strings.Cut(out, "\n")
	words := strings.Fields(first)
	if len(words) < 3 || words[1] != "version" {
		return Facts{}, fmt.Errorf("%w: %q is not the version of an OCI runtime", ErrUnsafe, first)
	}
	f := Facts{Name: words[0], Version: words[2]}
	if m := specLine.FindStringSubmatch(out); m != nil {
		f.Spec = m[1]
	}
	for _, w := range strings.Fields(out) { // crun says here what it was built with; before 1.9 it has no features
		f.Seccomp, f.SELinux, f.AppArmor = f.Seccomp || w == "+SECCOMP", f.SELinux || w == "+SELINUX", f.AppArmor || w == "+APPARMOR"
	}
	return f, nil
}

// parseFeatures reads the features document of the runtime-spec (features.md), as far as we need it.
func parseFeatures(out []byte, f *Facts) error {
	type enabled struct {
		Enabled bool `json:"enabled"`
	}
	var doc struct {
		MountOptions []string `json:"mountOptions"`
		Linux        struct {
			Cgroup struct {
				V1 bool `json:"v1"`
				V2 bool `json:"v2"`
			} `json:"cgroup"`
			Seccomp         enabled `json:"seccomp"`
			AppArmor        enabled `json:"apparmor"`
			SELinux         enabled `json:"selinux"`
			MountExtensions struct {
				IDMap enabled `json:"idmap"`
			} `json:"mountExtensions"`
		} `json:"linux"`
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(out, &doc); err != nil {
		return fmt.Errorf("%w: read features: %w", ErrUnsafe, err)
	}
	l := doc.Linux
	f.Seccomp, f.AppArmor, f.SELinux, f.IDMap = l.Seccomp.Enabled, l.AppArmor.Enabled, l.SELinux.Enabled, l.MountExtensions.IDMap.Enabled
	f.CgroupV1, f.CgroupV2 = l.Cgroup.V1, l.Cgroup.V2
	f.Libseccomp = doc.Annotations["io.github.seccomp.libseccomp.version"]
	for _, o := range doc.MountOptions {
		f.RRO = f.RRO || o == "rro"
	}
	return nil
}
