// Package seccomp holds seccomp profiles as pure data: the default, parsing of the JSON form that
// container engines share, narrowing of one profile by another, explanation, and translation to the
// OCI runtime spec. Nothing here loads a filter or asks the kernel; seccomp/bpf proves that a profile
// compiles.
//
// Two traps shape the package. A rule without arguments makes libseccomp ignore every rule with
// arguments for that syscall, whatever their order and action; and the kernel cuts an int argument to
// 32 bits while a filter sees 64. Both would let a profile mean less than it reads: here contradictions
// are refused, and comparisons of int arguments are masked.
package seccomp

import (
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ErrNoProfile is the answer of the zero Profile: no profile is a refusal, not "unconfined".
var ErrNoProfile = errors.New("no seccomp profile")

// Profile is an immutable seccomp profile, or several of which each must allow. The zero value is
// refused by OCI.
type Profile struct {
	layers []*layer // constant; none: refused. The strictest answer of all layers holds
}

// layer is one profile document.
type layer struct {
	name   string // "default profile", or "profile" for what was parsed
	answer answer // where no rule matches
	flags  []specs.LinuxSeccompFlag
	rules  []rule
}

// rule is one entry of a document: what is answered where it applies and its conditions hold.
type rule struct {
	names    []string
	answer   answer
	args     []arg // all must hold; none: always
	includes filter
	excludes filter
	comment  string
}

// filter says where a rule applies.
type filter struct {
	caps   []string // includes: all are granted; excludes: one is granted
	arches []string // GOARCH names: ours is among them
	always bool     // a minKernel that every kernel we run on has
}

// answer is an action with its errno.
type answer struct {
	action specs.LinuxSeccompAction
	errno  uint // of SCMP_ACT_ERRNO only
}

//go:embed default.json
var defaultJSON []byte

var parseDefault = sync.OnceValue(func() Profile {
	p, err := FromJSON(defaultJSON)
	if err != nil {
		return Profile{} // refused when used; a test holds that this does not happen
	}
	p.layers[0].name = "default profile"
	return p
})

// Default is the profile that a container gets unless its policy says otherwise: an allow-list
// (default.json beside this file) in which what belongs to a capability is allowed only where that
// capability is granted.
func Default() Profile { return parseDefault() }

// DefaultJSON is the text of Default, in the form that FromJSON reads: a start for one's own.
func DefaultJSON() []byte { return slices.Clone(defaultJSON) }

// IsZero reports whether p is the zero Profile, which OCI refuses.
func (p Profile) IsZero() bool { return len(p.layers) == 0 }

// Narrow returns a profile that allows only what both p and other allow; for each call it answers at
// least as strictly as either. Where the exact meet cannot be written as a filter (comparisons of one
// argument that do not combine) it is stricter. Narrowing by or of the zero Profile gives the zero
// Profile.
func (p Profile) Narrow(other Profile) Profile {
	if p.IsZero() || other.IsZero() {
		return Profile{}
	}
	layers := slices.Clone(p.layers)
	for _, l := range other.layers {
		if !slices.Contains(layers, l) {
			layers = append(layers, l)
		}
	}
	return Profile{layers: layers}
}

// OCI resolves p for a process that is granted caps ("CAP_X", its bounding set) on the architecture
// that this program was built for, and nothing but it: calls of another architecture (32-bit, x32)
// end the process. It returns ErrNoProfile for the zero Profile, and an error that names the syscall
// where rules contradict each other. The result is the caller's.
func (p Profile) OCI(caps []string) (*specs.LinuxSeccomp, error) {
	if p.IsZero() {
		return nil, ErrNoProfile
	}
	for _, c := range caps {
		if !validCap(c) {
			return nil, fmt.Errorf("resolve seccomp profile: capability %q is malformed", c)
		}
	}
	arch, err := nativeArch()
	if err != nil {
		return nil, err
	}
	var met *table
	for _, l := range p.layers {
		t, err := l.resolve(caps)
		if err != nil {
			return nil, fmt.Errorf("resolve seccomp %s: %w", l.name, err)
		}
		if met == nil {
			met = t
		} else {
			met = meet(met, t)
		}
	}
	return met.oci(arch), nil
}

func (a answer) String() string {
	switch a.action {
	case specs.ActAllow:
		return "allowed"
	case specs.ActLog:
		return "allowed and logged"
	case specs.ActErrno:
		return "refused with " + errnoName(a.errno)
	case specs.ActTrap:
		return "ended by SIGSYS"
	case specs.ActKillThread, specs.ActKill:
		return "answered by killing the thread"
	}
	return "answered by killing the process"
}

// strictness orders actions as the kernel does when several filters answer.
func (a answer) strictness() int {
	switch a.action {
	case specs.ActAllow:
		return 0
	case specs.ActLog:
		return 1
	case specs.ActErrno:
		return 2
	case specs.ActTrap:
		return 3
	case specs.ActKillThread, specs.ActKill:
		return 4
	}
	return 5
}

// stricter returns the stricter of a and b; a where they are equally strict.
func stricter(a, b answer) answer {
	if b.strictness() > a.strictness() {
		return b
	}
	return a
}

func validCap(c string) bool {
	return strings.HasPrefix(c, "CAP_") && len(c) <= 40 && c == strings.ToUpper(c) && !strings.ContainsAny(c, " \t\r\n\x00")
}
