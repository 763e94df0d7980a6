// Package bpf proves that a seccomp profile compiles, with the same library that the OCI runtime uses,
// and simulates the compiled filter. It is the only package that uses cgo (libseccomp); built without
// cgo it refuses everything with ErrUnsupported.
package bpf

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
)

// ErrUnsupported is the answer of a build without libseccomp.
var ErrUnsupported = errors.New("built without libseccomp")

// maxInstructions is BPF_MAXINSNS (linux/bpf_common.h): the kernel refuses longer filters.
const maxInstructions = 4096

// Filter is a compiled profile. It is immutable and may be used concurrently; the zero value answers
// every question with an error or nothing.
type Filter struct {
	vm         *bpf.VM  // constant; nil in the zero value
	raw        []byte   // constant; the instructions as the kernel reads them
	hash       [32]byte // constant; SHA-256 of raw
	arch       uint32   // constant; AUDIT_ARCH_* of the native architecture
	unresolved []string // constant; sorted
}

// Verdict is what a filter answers to one call.
type Verdict struct {
	Action specs.LinuxSeccompAction
	Errno  uint // of SCMP_ACT_ERRNO
}

// Hash is the SHA-256 of the filter's instructions in hex; "" for the zero Filter. Another version of
// libseccomp may compile the same profile to another filter.
func (f Filter) Hash() string {
	if f.vm == nil {
		return ""
	}
	return hex.EncodeToString(f.hash[:])
}

// Len is the number of instructions.
func (f Filter) Len() int { return len(f.raw) / 8 }

// Unresolved lists the syscalls in the profile that the host's libseccomp does not know, sorted. They
// are answered by the default, since Compile refuses a profile that would refuse one of them and
// otherwise allows.
func (f Filter) Unresolved() []string { return slices.Clone(f.unresolved) }

// Simulate runs the filter over one call of the native architecture, by number.
func (f Filter) Simulate(number uint32, args [6]uint64) (Verdict, error) {
	return f.simulate(f.arch, number, args)
}

// simulate lays out struct seccomp_data (linux/seccomp.h). The VM reads words in network order and the
// kernel in its own, so each 32-bit word is written big-endian; low halves come first on the
// little-endian machines that we build for.
func (f Filter) simulate(arch, number uint32, args [6]uint64) (Verdict, error) {
	if f.vm == nil {
		return Verdict{}, fmt.Errorf("simulate seccomp filter: no filter")
	}
	words := [16]uint32{number, arch}
	for i, a := range args {
		words[4+2*i], words[5+2*i] = uint32(a), uint32(a>>32)
	}
	data := make([]byte, 0, 64)
	for _, w := range words {
		data = append(data, byte(w>>24), byte(w>>16), byte(w>>8), byte(w))
	}
	ret, err := f.vm.Run(data)
	if err != nil {
		return Verdict{}, fmt.Errorf("simulate seccomp filter: %w", err)
	}
	return decode(uint32(ret))
}

// decode reads a filter's return value: SECCOMP_RET_* of linux/seccomp.h.
func decode(ret uint32) (Verdict, error) {
	switch ret & 0xffff0000 {
	case 0x80000000:
		return Verdict{Action: specs.ActKillProcess}, nil
	case 0:
		return Verdict{Action: specs.ActKillThread}, nil
	case 0x00030000:
		return Verdict{Action: specs.ActTrap}, nil
	case 0x00050000:
		return Verdict{Action: specs.ActErrno, Errno: uint(ret & 0xffff)}, nil
	case 0x7fc00000:
		return Verdict{Action: specs.ActNotify}, nil
	case 0x7ff00000:
		return Verdict{Action: specs.ActTrace}, nil
	case 0x7ffc0000:
		return Verdict{Action: specs.ActLog}, nil
	case 0x7fff0000:
		return Verdict{Action: specs.ActAllow}, nil
	}
	return Verdict{}, fmt.Errorf("simulate seccomp filter: unknown return value %#x", ret)
}
