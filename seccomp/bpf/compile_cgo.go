//go:build cgo && linux

package bpf

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Library is the version of the host's libseccomp, such as "2.5.4".
func Library() string {
	major, minor, micro := libseccomp.GetLibraryVersion()
	return fmt.Sprintf("%d.%d.%d", major, minor, micro)
}

// Compile compiles profile with libseccomp as the OCI runtimes do. It loads nothing. It returns an
// error that names the syscall or field if libseccomp refuses it, if a syscall that the profile
// refuses is unknown to the library while the default is laxer, if the filter is longer than the
// kernel accepts, or if, simulated, it answers otherwise than the profile (ErrMiscompiled). A nil
// profile is refused. The profile is not kept.
func Compile(profile *specs.LinuxSeccomp) (Filter, error) {
	f, err := compile(profile)
	if err != nil {
		return Filter{}, fmt.Errorf("compile seccomp profile: %w", err)
	}
	return f, nil
}

func compile(profile *specs.LinuxSeccomp) (Filter, error) {
	if profile == nil {
		return Filter{}, fmt.Errorf("no profile")
	}
	fallback, err := action(profile.DefaultAction, profile.DefaultErrnoRet)
	if err != nil {
		return Filter{}, fmt.Errorf("defaultAction: %w", err)
	}
	filter, err := libseccomp.NewFilter(fallback)
	if err != nil {
		return Filter{}, err
	}
	defer filter.Release()
	native, err := libseccomp.GetNativeArch()
	if err != nil {
		return Filter{}, err
	}
	for _, a := range profile.Architectures {
		if ociArch[native] != a {
			return Filter{}, fmt.Errorf("architecture %s is not the native one", a)
		}
	}
	var unresolved []string
	for _, call := range profile.Syscalls {
		unknown, err := addRule(filter, call, fallback)
		if err != nil {
			return Filter{}, err
		}
		unresolved = append(unresolved, unknown...)
	}
	raw, err := export(filter)
	if err != nil {
		return Filter{}, err
	}
	slices.Sort(unresolved)
	f, err := load(raw, auditArch[native], slices.Compact(unresolved))
	if err != nil {
		return Filter{}, err
	}
	if err := f.verify(profile); err != nil {
		return Filter{}, err
	}
	return f, nil
}

// addRule adds one rule for each of its names and returns the names that the library does not know.
func addRule(filter *libseccomp.ScmpFilter, call specs.LinuxSyscall, fallback libseccomp.ScmpAction) ([]string, error) {
	act, err := action(call.Action, call.ErrnoRet)
	if err != nil {
		return nil, fmt.Errorf("syscalls %v: %w", call.Names, err)
	}
	var conds []libseccomp.ScmpCondition
	seen := make(map[uint]bool)
	for _, a := range call.Args {
		if seen[a.Index] {
			return nil, fmt.Errorf("syscalls %v: argument %d is compared twice", call.Names, a.Index)
		}
		seen[a.Index] = true
		op, ok := operators[a.Op]
		if !ok {
			return nil, fmt.Errorf("syscalls %v: unknown op %q", call.Names, a.Op)
		}
		cond, err := libseccomp.MakeCondition(a.Index, op, a.Value, a.ValueTwo)
		if err != nil {
			return nil, fmt.Errorf("syscalls %v: argument %d: %w", call.Names, a.Index, err)
		}
		conds = append(conds, cond)
	}
	var unknown []string
	for _, name := range call.Names {
		number, err := libseccomp.GetSyscallFromName(name)
		if err != nil {
			if strictness[call.Action] > strictness[actionOf[fallback&0xffff]] {
				return nil, fmt.Errorf("syscall %s: unknown to libseccomp %s, so it would be allowed", name, Library())
			}
			unknown = append(unknown, name)
			continue
		}
		if act == fallback {
			continue // libseccomp refuses such a rule, and the OCI runtimes drop it
		}
		if len(conds) == 0 {
			err = filter.AddRule(number, act)
		} else {
			err = filter.AddRuleConditional(number, act, conds)
		}
		if err != nil {
			return nil, fmt.Errorf("syscall %s: %w", name, err)
		}
	}
	return unknown, nil
}

// export returns the filter as the kernel would get it.
func export(filter *libseccomp.ScmpFilter) ([]byte, error) {
	fd, err := unix.MemfdCreate("seccomp", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("export filter: %w", err)
	}
	file := os.NewFile(uintptr(fd), "seccomp")
	defer file.Close()
	if err := filter.ExportBPF(file); err != nil {
		return nil, fmt.Errorf("export filter: %w", err)
	}
	raw, err := io.ReadAll(io.NewSectionReader(file, 0, 8*(maxInstructions+1)))
	if err != nil {
		return nil, fmt.Errorf("export filter: %w", err)
	}
	return raw, nil
}

// load reads struct sock_filter instructions in host order.
func load(raw []byte, arch uint32, unresolved []string) (Filter, error) {
	if len(raw) > 8*maxInstructions {
		return Filter{}, fmt.Errorf("filter has over %d instructions, which the kernel refuses", maxInstructions)
	}
	var prog []struct {
		Op     uint16
		Jt, Jf uint8
		K      uint32
	}
	prog = slices.Grow(prog, len(raw)/8)[:len(raw)/8]
	if err := binary.Read(bytes.NewReader(raw), binary.NativeEndian, prog); err != nil {
		return Filter{}, fmt.Errorf("read filter: %w", err)
	}
	var ins []bpf.Instruction
	for _, p := range prog {
		ins = append(ins, bpf.RawInstruction{Op: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}.Disassemble())
	}
	vm, err := bpf.NewVM(ins)
	if err != nil {
		return Filter{}, fmt.Errorf("read filter: %w", err)
	}
	return Filter{vm: vm, raw: raw, hash: sha256.Sum256(raw), arch: arch, unresolved: unresolved}, nil
}

// SimulateName is Simulate by name. A name that the library does not know is an error.
func (f Filter) SimulateName(name string, args [6]uint64) (Verdict, error) {
	number, err := libseccomp.GetSyscallFromName(name)
	if err != nil || number < 0 {
		return Verdict{}, fmt.Errorf("simulate seccomp filter: syscall %s is unknown to libseccomp %s", name, Library())
	}
	return f.Simulate(uint32(number), args)
}

func action(a specs.LinuxSeccompAction, errno *uint) (libseccomp.ScmpAction, error) {
	act, ok := actions[a]
	if !ok {
		return libseccomp.ActInvalid, fmt.Errorf("unknown action %q", a)
	}
	if a != specs.ActErrno {
		return act, nil
	}
	n := uint(unix.EPERM)
	if errno != nil {
		n = *errno
	}
	if n == 0 || n > 4095 {
		return libseccomp.ActInvalid, fmt.Errorf("errno %d is out of range", n)
	}
	return act.SetReturnCode(int16(n)), nil
}

var actions = map[specs.LinuxSeccompAction]libseccomp.ScmpAction{
	specs.ActAllow: libseccomp.ActAllow, specs.ActLog: libseccomp.ActLog, specs.ActErrno: libseccomp.ActErrno,
	specs.ActTrap: libseccomp.ActTrap, specs.ActKill: libseccomp.ActKillThread,
	specs.ActKillThread: libseccomp.ActKillThread, specs.ActKillProcess: libseccomp.ActKillProcess,
}

// actionOf undoes actions; a libseccomp action holds its return code in the high half.
var actionOf = map[libseccomp.ScmpAction]specs.LinuxSeccompAction{
	libseccomp.ActAllow: specs.ActAllow, libseccomp.ActLog: specs.ActLog, libseccomp.ActErrno: specs.ActErrno,
	libseccomp.ActTrap: specs.ActTrap, libseccomp.ActKillThread: specs.ActKillThread,
	libseccomp.ActKillProcess: specs.ActKillProcess,
}

// strictness orders actions as the kernel does.
var strictness = map[specs.LinuxSeccompAction]int{
	specs.ActAllow: 0, specs.ActLog: 1, specs.ActErrno: 2, specs.ActTrap: 3, specs.ActKill: 4,
	specs.ActKillThread: 4, specs.ActKillProcess: 5,
}

var operators = map[specs.LinuxSeccompOperator]libseccomp.ScmpCompareOp{
	specs.OpNotEqual: libseccomp.CompareNotEqual, specs.OpLessThan: libseccomp.CompareLess,
	specs.OpLessEqual: libseccomp.CompareLessOrEqual, specs.OpEqualTo: libseccomp.CompareEqual,
	specs.OpGreaterEqual: libseccomp.CompareGreaterEqual, specs.OpGreaterThan: libseccomp.CompareGreater,
	specs.OpMaskedEqual: libseccomp.CompareMaskedEqual,
}

var ociArch = map[libseccomp.ScmpArch]specs.Arch{
	libseccomp.ArchAMD64: specs.ArchX86_64, libseccomp.ArchARM64: specs.ArchAARCH64,
}

// auditArch is AUDIT_ARCH_* of linux/audit.h, as seccomp_data.arch has it.
var auditArch = map[libseccomp.ScmpArch]uint32{libseccomp.ArchAMD64: 0xc000003e, libseccomp.ArchARM64: 0xc00000b7}
