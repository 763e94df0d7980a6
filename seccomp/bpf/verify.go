//go:build cgo && linux

package bpf

import (
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"
)

// ErrMiscompiled says that libseccomp made a filter that answers otherwise than the profile. Version
// 2.5.4 does so for rules of one syscall whose ranges overlap, and not only to the strict side.
var ErrMiscompiled = errors.New("libseccomp compiles this profile wrongly; write it with fewer overlapping ranges")

// maxPoints bounds the calls that are tried of one syscall.
const maxPoints = 20000

// verify simulates every syscall of profile at each side of every bound that it compares with.
func (f Filter) verify(profile *specs.LinuxSeccomp) error {
	bounds := make(map[string]*[6][]uint64)
	for _, s := range profile.Syscalls {
		for _, name := range s.Names {
			b := bounds[name]
			if b == nil {
				b = new([6][]uint64)
				bounds[name] = b
			}
			for _, a := range s.Args {
				b[a.Index] = append(b[a.Index], 0, a.Value-1, a.Value, a.Value+1, a.ValueTwo, a.ValueTwo^1, a.Value^1<<32, a.ValueTwo|1<<32)
			}
		}
	}
	for name, b := range bounds {
		number, err := libseccomp.GetSyscallFromName(name)
		if err != nil || number < 0 {
			continue // reported by Unresolved
		}
		for _, args := range points(b) {
			got, err := f.Simulate(uint32(number), args)
			if err != nil {
				return err
			}
			if want := eval(profile, name, args); got != want {
				return fmt.Errorf("syscall %s with arguments %v: filter answers %s, profile %s: %w", name, args, got.Action, want.Action, ErrMiscompiled)
			}
		}
	}
	return nil
}

// points is the product of the values of each argument, cut at maxPoints.
func points(values *[6][]uint64) [][6]uint64 {
	out := [][6]uint64{{}}
	for i, vs := range values {
		slices.Sort(vs)
		var next [][6]uint64
		for _, p := range out {
			for _, v := range slices.Compact(vs) {
				p[i] = v
				next = append(next, p)
			}
		}
		if len(next) > maxPoints {
			next = next[:maxPoints]
		}
		if len(next) > 0 {
			out = next
		}
	}
	return out
}

// eval reads profile without libseccomp: a rule without conditions comes first, as there, then the
// first whose conditions all hold.
func eval(profile *specs.LinuxSeccomp, name string, args [6]uint64) Verdict {
	for _, conditional := range []bool{false, true} {
		for _, s := range profile.Syscalls {
			if (len(s.Args) > 0) == conditional && slices.Contains(s.Names, name) && allHold(s.Args, args) {
				return verdict(s.Action, s.ErrnoRet)
			}
		}
	}
	return verdict(profile.DefaultAction, profile.DefaultErrnoRet)
}

func verdict(a specs.LinuxSeccompAction, errno *uint) Verdict {
	switch {
	case a == specs.ActKill:
		return Verdict{Action: specs.ActKillThread}
	case a != specs.ActErrno:
		return Verdict{Action: a}
	case errno == nil:
		return Verdict{Action: a, Errno: 1}
	}
	return Verdict{Action: a, Errno: *errno}
}

func allHold(conds []specs.LinuxSeccompArg, args [6]uint64) bool {
	return !slices.ContainsFunc(conds, func(a specs.LinuxSeccompArg) bool { return !holds(a, args[a.Index]) })
}

func holds(a specs.LinuxSeccompArg, v uint64) bool {
	switch a.Op {
	case specs.OpNotEqual:
		return v != a.Value
	case specs.OpLessThan:
		return v < a.Value
	case specs.OpLessEqual:
		return v <= a.Value
	case specs.OpEqualTo:
		return v == a.Value
	case specs.OpGreaterEqual:
		return v >= a.Value
	case specs.OpGreaterThan:
		return v > a.Value
	}
	return v&a.Value == a.ValueTwo
}
