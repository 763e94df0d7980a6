package fuzz

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"sallyport/seccomp"
	"sallyport/seccomp/bpf"
)

// FuzzSeccompProfile: a profile that is read resolves to names that the machine has, compiles to a
// filter that answers as it says or is refused, and narrowed by the default it never lets a call pass
// that the default refuses.
func FuzzSeccompProfile(f *testing.F) {
	f.Add(seccomp.DefaultJSON(), uint64(40), uint64(0))
	for _, seed := range []string{
		`{"defaultAction":"SCMP_ACT_ALLOW"}`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["socket"],"action":"SCMP_ACT_ERRNO","errnoRet":97,"args":[{"index":0,"value":40,"op":"SCMP_CMP_EQ"}]}]}`,
		`{"defaultAction":"SCMP_ACT_KILL_PROCESS","syscalls":[{"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}],"excludes":{"caps":["CAP_SYS_ADMIN"],"arches":["s390x"]}},{"name":"ptrace","action":"SCMP_ACT_LOG","includes":{"minKernel":"4.8"}}]}`,
		`{"defaultAction":"SCMP_ACT_ERRNO","defaultErrno":"ENOSYS","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],"syscalls":[{"names":["mmap","lseek"],"action":"SCMP_ACT_ALLOW","args":[{"index":1,"value":3,"op":"SCMP_CMP_LE"},{"index":2,"value":7,"op":"SCMP_CMP_NE"}]}]}`,
	} {
		f.Add([]byte(seed), uint64(1), uint64(0x10000011))
	}
	strict := compiled(f, seccomp.Default())
	calls := []string{"read", "mount", "ptrace", "bpf", "keyctl", "clone", "clone3", "socket", "socketpair", "personality", "mmap", "lseek", "unshare"}
	f.Fuzz(func(t *testing.T, data []byte, x, y uint64) {
		p, err := seccomp.FromJSON(data)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x00") {
				t.Fatalf("the error is not one line: %q", err)
			}
			return
		}
		oci, err := p.OCI(nil)
		if err != nil {
			t.Fatalf("FromJSON() accepted what OCI() refuses: %v", err)
		}
		for _, s := range oci.Syscalls {
			for _, name := range s.Names {
				if !seccomp.Native(name) {
					t.Fatalf("OCI() names %q", name)
				}
			}
		}
		if _, err := bpf.Compile(oci); err != nil && !refusal(err) {
			t.Fatalf("Compile(%+v) = %v", oci, err)
		}
		narrow, err := p.Narrow(seccomp.Default()).OCI(nil)
		if err != nil {
			t.Fatal(err)
		}
		filter, err := bpf.Compile(narrow)
		if err != nil {
			if !refusal(err) {
				t.Fatalf("Compile(narrowed) = %v", err)
			}
			return
		}
		for _, name := range calls {
			for _, args := range [][6]uint64{{x, y}, {y, x}, {x, x, x}, {}} {
				got, err := filter.SimulateName(name, args)
				want, _ := strict.SimulateName(name, args)
				if err != nil || passes(got) && !passes(want) {
					t.Fatalf("narrowed by the default, %s%v: %+v, %v; the default: %+v", name, args, got, err, want)
				}
			}
		}
	})
}

func passes(v bpf.Verdict) bool { return v.Action == specs.ActAllow || v.Action == specs.ActLog }

// refusal tells errors that name a limit of the host's library from bugs of ours.
func refusal(err error) bool {
	return errors.Is(err, bpf.ErrMiscompiled) || strings.Contains(err.Error(), "unknown to libseccomp") ||
		strings.Contains(err.Error(), "instructions")
}

func compiled(tb testing.TB, p seccomp.Profile) bpf.Filter {
	tb.Helper()
	oci, err := p.OCI(nil)
	if err != nil {
		tb.Fatal(err)
	}
	filter, err := bpf.Compile(oci)
	if err != nil {
		tb.Fatal(err)
	}
	return filter
}
