//go:build !cgo || !linux

package bpf

import "github.com/opencontainers/runtime-spec/specs-go"

// Library is "none" in a build without libseccomp.
func Library() string { return "none" }

// Compile refuses in a build without libseccomp.
func Compile(*specs.LinuxSeccomp) (Filter, error) { return Filter{}, ErrUnsupported }

// SimulateName refuses in a build without libseccomp.
func (f Filter) SimulateName(string, [6]uint64) (Verdict, error) { return Verdict{}, ErrUnsupported }
