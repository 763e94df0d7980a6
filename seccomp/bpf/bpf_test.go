//go:build cgo && linux

package bpf

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"sallyport/seccomp"
)

// capSets are those that the default tells apart, and some together.
var capSets = [][]string{
	nil, {"CAP_DAC_READ_SEARCH"}, {"CAP_SYS_ADMIN"}, {"CAP_SYS_BOOT"}, {"CAP_SYS_CHROOT"}, {"CAP_SYS_MODULE"},
	{"CAP_SYS_NICE"}, {"CAP_SYS_PACCT"}, {"CAP_SYS_PTRACE"}, {"CAP_SYS_RAWIO"}, {"CAP_SYS_TIME"},
	{"CAP_SYS_TTY_CONFIG"}, {"CAP_SYSLOG"}, {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_CHROOT"},
}

var values = []uint64{0, 1, 2, 8, 10, 16, 17, 38, 40, 1<<32 | 2, 1<<32 | 40, 0x1200011, 0x10000011, 0x40000000,
	0x7e020000, 0x20008, 0xffffffff, 0xffffffffffffffff}

// TestDefaultFilterAgreesWithProfile runs the compiled default over every syscall that the library
// knows, with telling arguments, for every capability that the default tells apart.
func TestDefaultFilterAgreesWithProfile(t *testing.T) {
	for _, caps := range capSets {
		t.Run(strings.Join(caps, "+"), func(t *testing.T) {
			p, err := seccomp.Default().OCI(caps)
			if err != nil {
				t.Fatal(err)
			}
			f, err := Compile(p)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, f, p)
		})
	}
}

func compare(t *testing.T, f Filter, p *specs.LinuxSeccomp) {
	t.Helper()
	compared := 0
	for name := range names() {
		for _, v := range values {
			args := [6]uint64{v, v, v, v, v, v}
			got, err := f.SimulateName(name, args)
			if err != nil {
				break // this library does not know it
			}
			compared++
			if want := eval(p, name, args); got != want {
				t.Errorf("filter answers %s(%#x): %+v, want %+v", name, v, got, want)
			}
		}
	}
	if compared < 300*len(values) {
		t.Errorf("compared only %d calls", compared)
	}
}

// names are the native syscalls that the default names.
func names() map[string]bool {
	out := make(map[string]bool)
	for _, field := range strings.FieldsFunc(string(seccomp.DefaultJSON()), func(r rune) bool {
		return r != '_' && (r < 'a' || r > 'z') && (r < '0' || r > '9')
	}) {
		if seccomp.Native(field) {
			out[field] = true
		}
	}
	return out
}

// TestBlockedCalls names the calls that no capability brings back.
func TestBlockedCalls(t *testing.T) {
	p, err := seccomp.Default().OCI([]string{"CAP_SYS_ADMIN", "CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"io_uring_setup", "io_uring_enter", "io_uring_register", "bpf", "perf_event_open",
		"add_key", "request_key", "keyctl", "vmsplice", "swapon"} {
		if got, err := f.SimulateName(name, [6]uint64{}); err != nil || got != (Verdict{specs.ActErrno, uint(unix.EPERM)}) {
			t.Errorf("%s: %+v, %v, want EPERM", name, got, err)
		}
	}
	if got, err := f.SimulateName("ptrace", [6]uint64{}); err != nil || got.Action != specs.ActAllow {
		t.Errorf("ptrace with CAP_SYS_PTRACE: %+v, %v, want allowed", got, err)
	}
}

// TestForeignCallsAreKilled: 32-bit and x32 calls end the process or thread.
func TestForeignCallsAreKilled(t *testing.T) {
	p, err := seccomp.Default().OCI(nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	const i386 = 0x40000003
	if got, err := f.simulate(i386, 1, [6]uint64{}); err != nil || got.Action != specs.ActKillThread && got.Action != specs.ActKillProcess {
		t.Errorf("a 32-bit call: %+v, %v, want killed", got, err)
	}
	if f.arch == 0xc000003e { // x32 shares amd64's architecture
		if got, err := f.Simulate(0x40000000, [6]uint64{}); err != nil || got.Action == specs.ActAllow {
			t.Errorf("an x32 call: %+v, %v, want it not allowed", got, err)
		}
	}
}

// TestRandomProfiles compares filter and profile over random profiles with several conditions.
func TestRandomProfiles(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	compared, wrong := 0, 0
	for range 1500 {
		p, err := seccomp.FromJSON([]byte(randomProfile(r)))
		if err != nil {
			continue
		}
		var parts []Filter // of which a narrowed profile must be as strict as each
		if q, err := seccomp.FromJSON([]byte(randomProfile(r))); err == nil && r.IntN(2) == 0 {
			parts = compileAll(t, p, q)
			p = p.Narrow(q)
		}
		oci, err := p.OCI(nil)
		if err != nil {
			t.Fatal(err)
		}
		f, err := Compile(oci)
		if errors.Is(err, ErrMiscompiled) {
			wrong++
			continue
		}
		if err != nil {
			t.Fatalf("Compile(%+v) = %v", oci, err)
		}
		for _, name := range []string{"lseek", "mmap", "read"} {
			for x := range uint64(6) {
				for y := range uint64(6) {
					args := [6]uint64{x, y}
					got, err := f.SimulateName(name, args)
					if want := eval(oci, name, args); err != nil || got != want {
						t.Fatalf("filter answers %s(%d, %d): %+v, %v, want %+v\n%+v", name, x, y, got, err, want, oci)
					}
					for _, part := range parts {
						if want, _ := part.SimulateName(name, args); strictness[got.Action] < strictness[want.Action] {
							t.Fatalf("narrowed filter answers %s(%d, %d): %+v, a part of it %+v\n%+v", name, x, y, got, want, oci)
						}
					}
					compared++
				}
			}
		}
	}
	t.Logf("compared %d calls; libseccomp %s compiled %d of the profiles wrongly", compared, Library(), wrong)
	if compared < 10000 || wrong > 100 {
		t.Errorf("compared only %d calls, %d profiles compiled wrongly", compared, wrong)
	}
}

// compileAll leaves out what libseccomp compiles wrongly.
func compileAll(t *testing.T, profiles ...seccomp.Profile) (out []Filter) {
	for _, p := range profiles {
		oci, err := p.OCI(nil)
		if err != nil {
			t.Fatal(err)
		}
		if f, err := Compile(oci); err == nil {
			out = append(out, f)
		}
	}
	return out
}

// TestMiscompiledByLibrary: rules that libseccomp 2.5.4 makes a laxer filter of are refused.
func TestMiscompiledByLibrary(t *testing.T) {
	if Library() != "2.5.4" {
		t.Skipf("libseccomp %s may compile these rules well", Library())
	}
	rule := func(args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{"lseek"}, Action: specs.ActErrno, Args: args}
	}
	_, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActKillProcess, Syscalls: []specs.LinuxSyscall{
		rule(specs.LinuxSeccompArg{Index: 0, Op: specs.OpLessEqual}, specs.LinuxSeccompArg{Index: 1, Op: specs.OpLessThan}),
		rule(specs.LinuxSeccompArg{Index: 0, Value: 2, Op: specs.OpGreaterThan}),
	}})
	if !errors.Is(err, ErrMiscompiled) || !strings.Contains(err.Error(), "syscall lseek") {
		t.Errorf("Compile() = %v, want ErrMiscompiled for lseek", err)
	}
}

// TestLongFilterIsRefused: the kernel would refuse it when the container starts.
func TestLongFilterIsRefused(t *testing.T) {
	if _, err := load(make([]byte, 8*(maxInstructions+1)), 0, nil); err == nil || !strings.Contains(err.Error(), "which the kernel refuses") {
		t.Errorf("load(too long) = %v", err)
	}
}

// TestMiscompiledIsRefused: a filter is not taken for a profile that it does not answer as.
func TestMiscompiledIsRefused(t *testing.T) {
	f, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 2, Op: specs.OpEqualTo, Value: 7}}}}})
	if err != nil {
		t.Fatal(err)
	}
	other := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 2, Op: specs.OpEqualTo, Value: 8}}}}}
	if err := f.verify(other); !errors.Is(err, ErrMiscompiled) {
		t.Errorf("verify() of another profile = %v, want ErrMiscompiled", err)
	}
}

func randomProfile(r *rand.Rand) string {
	actions := []string{"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_LOG", "SCMP_ACT_KILL_PROCESS"}
	ops := []string{"SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_GT", "SCMP_CMP_GE", "SCMP_CMP_MASKED_EQ"}
	var rules []string
	for range r.IntN(4) {
		var args []string
		for i := range r.IntN(3) {
			op, two := ops[r.IntN(len(ops))], ""
			if op == "SCMP_CMP_MASKED_EQ" {
				two = fmt.Sprintf(`,"valueTwo":%d`, r.IntN(4))
			}
			args = append(args, fmt.Sprintf(`{"index":%d,"value":%d,"op":%q%s}`, i, r.IntN(4), op, two))
		}
		rules = append(rules, fmt.Sprintf(`{"names":[%q],"action":%q,"args":[%s]}`,
			[]string{"lseek", "mmap"}[r.IntN(2)], actions[r.IntN(4)], strings.Join(args, ",")))
	}
	return fmt.Sprintf(`{"defaultAction":%q,"syscalls":[%s]}`, actions[r.IntN(4)], strings.Join(rules, ","))
}

func TestCompileRefuses(t *testing.T) {
	one := func(s specs.LinuxSyscall) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{s}}
	}
	zero := uint(0)
	tests := []struct {
		name string
		in   *specs.LinuxSeccomp
		want string
	}{
		{"nil", nil, "no profile"},
		{"no default", &specs.LinuxSeccomp{}, "unknown action"},
		{"notify", &specs.LinuxSeccomp{DefaultAction: specs.ActNotify}, "unknown action"},
		{"errno 0", &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: &zero}, "out of range"},
		{"foreign", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchS390X}}, "not the native"},
		{"refused but unknown", one(specs.LinuxSyscall{Names: []string{"no_such_call"}, Action: specs.ActErrno}), "would be allowed"},
		{"argument twice", one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{
			{Index: 1, Op: specs.OpEqualTo}, {Index: 1, Op: specs.OpNotEqual}}}), "compared twice"},
		{"unknown op", one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{
			{Index: 1, Op: "EQ"}}}), "unknown op"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := Compile(tt.in)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Compile() = %v, want an error with %q", err, tt.want)
			}
			if _, err := f.Simulate(0, [6]uint64{}); err == nil || f.Hash() != "" {
				t.Error("a refused profile left a usable Filter")
			}
		})
	}
}

// TestUnresolvedAllowed: a name that the library does not know is reported, and answered by the default.
func TestUnresolvedAllowed(t *testing.T) {
	f, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"read", "no_such_call"}, Action: specs.ActAllow}}})
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Unresolved(); !slices.Equal(got, []string{"no_such_call"}) {
		t.Errorf("Unresolved() = %q, want no_such_call", got)
	}
}

func TestHash(t *testing.T) {
	hash := func(caps ...string) string {
		p, err := seccomp.Default().OCI(caps)
		if err != nil {
			t.Fatal(err)
		}
		f, err := Compile(p)
		if err != nil {
			t.Fatal(err)
		}
		if f.Len() == 0 || f.Len() > maxInstructions {
			t.Errorf("Len() = %d", f.Len())
		}
		return f.Hash()
	}
	if hash() != hash() {
		t.Error("the same profile has two hashes")
	}
	if hash() == hash("CAP_SYS_CHROOT") {
		t.Error("two profiles have one hash")
	}
}

func BenchmarkCompileDefault(b *testing.B) {
	p, err := seccomp.Default().OCI(nil)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := Compile(p); err != nil {
			b.Fatal(err)
		}
	}
}
