package seccomp

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// eval answers a call as the table says; the test's own reading of a verdict.
func (t *table) eval(name string, args [6]uint64) answer {
	v := t.verdict(name)
	out := v.otherwise
	for _, w := range v.cases {
		if !slices.ContainsFunc(w.args, func(a arg) bool { return !a.holds(args[a.index]) }) {
			return w.answer
		}
	}
	return out
}

func resolved(tb testing.TB, p Profile, caps ...string) *table {
	tb.Helper()
	var met *table
	for _, l := range p.layers {
		t, err := l.resolve(caps)
		if err != nil {
			tb.Fatal(err)
		}
		if met == nil {
			met = t
		} else {
			met = meet(met, t)
		}
	}
	return met
}

func TestZeroProfileIsRefused(t *testing.T) {
	if _, err := (Profile{}).OCI(nil); !errors.Is(err, ErrNoProfile) {
		t.Errorf("Profile{}.OCI() = %v, want ErrNoProfile", err)
	}
	if got := Default().Narrow(Profile{}); !got.IsZero() {
		t.Error("Default().Narrow(zero) is usable, want the zero Profile")
	}
	if got := (Profile{}).Narrow(Default()); !got.IsZero() {
		t.Error("zero.Narrow(Default()) is usable, want the zero Profile")
	}
}

// TestEverySyscallIsConsidered holds that no syscall of this architecture is missing from the default:
// a new one must be put somewhere by a person.
func TestEverySyscallIsConsidered(t *testing.T) {
	named := make(map[string]bool)
	for _, r := range Default().layers[0].rules {
		for _, n := range r.names {
			named[n] = true
		}
	}
	for name := range known() {
		if Native(name) && !named[name] {
			t.Errorf("default.json does not say what becomes of %s", name)
		}
	}
}

func TestDefault(t *testing.T) {
	const allowed, eperm, enosys = "allowed", "refused with EPERM", "refused with ENOSYS"
	tests := []struct {
		call string
		args [6]uint64
		caps string
		want string
	}{
		{call: "read", want: allowed},
		{call: "openat2", want: allowed},
		{call: "ptrace", want: eperm},
		{call: "ptrace", caps: "CAP_SYS_PTRACE", want: allowed},
		{call: "process_vm_readv", want: eperm},
		{call: "process_vm_readv", caps: "CAP_SYS_PTRACE", want: allowed},
		{call: "userfaultfd", want: eperm},
		{call: "name_to_handle_at", want: eperm},
		{call: "name_to_handle_at", caps: "CAP_DAC_READ_SEARCH", want: allowed},
		{call: "chroot", want: eperm},
		{call: "chroot", caps: "CAP_SYS_CHROOT", want: allowed},
		{call: "mount", want: eperm},
		{call: "mount", caps: "CAP_SYS_ADMIN", want: allowed},
		{call: "unshare", want: eperm},
		{call: "setns", want: eperm},
		{call: "setns", caps: "CAP_SYS_ADMIN", want: allowed},
		{call: "keyctl", want: eperm},
		{call: "keyctl", caps: "CAP_SYS_ADMIN", want: eperm},
		{call: "vmsplice", caps: "CAP_SYS_ADMIN", want: eperm},
		{call: "modify_ldt", caps: "CAP_SYS_ADMIN", want: eperm},
		{call: "io_uring_setup", caps: "CAP_SYS_ADMIN", want: eperm},
		{call: "bpf", caps: "CAP_SYS_ADMIN", want: eperm},
		{call: "perf_event_open", caps: "CAP_SYS_ADMIN", want: eperm},
		{call: "add_key", want: eperm},
		{call: "request_key", want: eperm},
		{call: "clone", args: [6]uint64{0x1200011}, want: allowed},
		{call: "clone", args: [6]uint64{0x10000011}, want: eperm},
		{call: "clone", args: [6]uint64{0xdead00001200011}, want: allowed},
		{call: "clone", args: [6]uint64{0x10000011}, caps: "CAP_SYS_ADMIN", want: allowed},
		{call: "clone3", want: enosys},
		{call: "clone3", caps: "CAP_SYS_ADMIN", want: allowed},
		{call: "socket", args: [6]uint64{1}, want: allowed},
		{call: "socket", args: [6]uint64{2}, want: allowed},
		{call: "socket", args: [6]uint64{10}, want: allowed},
		{call: "socket", args: [6]uint64{16}, want: allowed},
		{call: "socket", args: [6]uint64{17}, want: allowed},
		{call: "socket", args: [6]uint64{38}, want: eperm},
		{call: "socket", args: [6]uint64{40}, want: eperm},
		{call: "socket", args: [6]uint64{1<<32 | 40}, want: eperm},
		{call: "socket", args: [6]uint64{1<<32 | 2}, want: allowed},
		{call: "socketpair", args: [6]uint64{1}, want: allowed},
		{call: "socketpair", args: [6]uint64{30}, want: eperm},
		{call: "personality", args: [6]uint64{0xffffffff}, want: allowed},
		{call: "personality", args: [6]uint64{0x0040000}, want: eperm}, // ADDR_NO_RANDOMIZE
	}
	for _, tt := range tests {
		if !Native(tt.call) {
			continue
		}
		t.Run(fmt.Sprintf("%s/%#x/%s", tt.call, tt.args[0], tt.caps), func(t *testing.T) {
			var caps []string
			if tt.caps != "" {
				caps = []string{tt.caps}
			}
			if got := resolved(t, Default(), caps...).eval(tt.call, tt.args).String(); got != tt.want {
				t.Errorf("default answers %s(%#x) with caps %q: %s, want %s", tt.call, tt.args[0], tt.caps, got, tt.want)
			}
		})
	}
}

func TestOCI(t *testing.T) {
	got, err := Default().OCI([]string{"CAP_SYS_CHROOT"})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Architectures) != 1 {
		t.Errorf("OCI() architectures = %v, want the native one alone", got.Architectures)
	}
	if got.DefaultAction != specs.ActErrno || *got.DefaultErrnoRet != 1 {
		t.Errorf("OCI() default = %s %d, want SCMP_ACT_ERRNO 1", got.DefaultAction, *got.DefaultErrnoRet)
	}
	for _, s := range got.Syscalls {
		for _, n := range s.Names {
			if !Native(n) {
				t.Errorf("OCI() names %s, which is not native", n)
			}
		}
		if s.Action == got.DefaultAction && *s.ErrnoRet == *got.DefaultErrnoRet {
			t.Errorf("OCI() has the rule %v, which says what the default says", s.Names)
		}
	}
	if !slices.Contains(got.Syscalls[0].Names, "chroot") {
		t.Error("OCI(CAP_SYS_CHROOT) does not allow chroot")
	}
	if _, err := Default().OCI([]string{"cap_sys_admin"}); err == nil {
		t.Error(`OCI("cap_sys_admin") = nil error, want the malformed capability refused`)
	}
}

func TestFromJSONRefuses(t *testing.T) {
	const good = `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}`
	if _, err := FromJSON([]byte(good)); err != nil {
		t.Fatalf("FromJSON(good) = %v", err)
	}
	call := func(s string) string { return `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[` + s + `]}` }
	tests := []struct{ name, in, want string }{
		{"empty", ``, "EOF"},
		{"null", `null`, "defaultAction: none given"},
		{"no default", `{"syscalls":[]}`, "defaultAction: none given"},
		{"trailing text", good + `{}`, "text after"},
		{"unknown field", `{"defaultAction":"SCMP_ACT_ERRNO","listenerPath":"/x"}`, "listenerPath"},
		{"unknown action", `{"defaultAction":"SCMP_ACT_PERMIT"}`, `unknown action "SCMP_ACT_PERMIT"`},
		{"notify", call(`{"names":["read"],"action":"SCMP_ACT_NOTIFY"}`), "not supported"},
		{"trace", call(`{"names":["read"],"action":"SCMP_ACT_TRACE"}`), "not supported"},
		{"errno 0", call(`{"names":["mount"],"action":"SCMP_ACT_ERRNO","errnoRet":0}`), "read as success"},
		{"errno too big", call(`{"names":["mount"],"action":"SCMP_ACT_ERRNO","errnoRet":65536}`), "out of range"},
		{"errno unknown", call(`{"names":["mount"],"action":"SCMP_ACT_ERRNO","errno":"EWHAT"}`), "unknown errno"},
		{"errno disagrees", call(`{"names":["mount"],"action":"SCMP_ACT_ERRNO","errno":"EPERM","errnoRet":2}`), "but errnoRet"},
		{"misspelt syscall", call(`{"names":["raed"],"action":"SCMP_ACT_ALLOW"}`), `unknown syscall "raed"`},
		{"no names", call(`{"action":"SCMP_ACT_ALLOW"}`), "names: none"},
		{"unknown op", call(`{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"EQ"}]}`), "unknown op"},
		{"index 6", call(`{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}`), "index 6"},
		{"argument twice", call(`{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_GT"},{"index":0,"value":9,"op":"SCMP_CMP_LT"}]}`), "compared twice"},
		{"stray valueTwo", call(`{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"valueTwo":2,"op":"SCMP_CMP_EQ"}]}`), "valueTwo"},
		{"capability", call(`{"names":["read"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["sys_admin"]}}`), "not a capability"},
		{"kernel too new", call(`{"names":["read"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"6.9"}}`), "minKernel"},
		{"kernel malformed", call(`{"names":["read"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"new"}}`), "minKernel"},
		{"flag", `{"defaultAction":"SCMP_ACT_ERRNO","flags":["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]}`, "not admitted"},
		{"foreign", `{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_S390X"]}`, "not this machine's"},
		{"unknown architecture", `{"defaultAction":"SCMP_ACT_ERRNO","architectures":["x86"]}`, "unknown architecture"},
		{"dead rule", call(`{"names":["socket"],"action":"SCMP_ACT_ALLOW"},{"names":["socket"],"action":"SCMP_ACT_KILL_PROCESS","args":[{"index":0,"value":40,"op":"SCMP_CMP_EQ"}]}`), "would win"},
		{"contradiction", call(`{"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2,"op":"SCMP_CMP_EQ"}]},{"names":["socket"],"action":"SCMP_ACT_KILL_PROCESS","args":[{"index":1,"value":3,"op":"SCMP_CMP_EQ"}]}`), "both can hold at once"},
		{"too long", `{"defaultAction":"SCMP_ACT_ERRNO"}` + strings.Repeat(" ", maxJSON), "at most"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := FromJSON([]byte(tt.in)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("FromJSON() = %v, want an error with %q", err, tt.want)
			}
		})
	}
}

// TestContradictionByCapability: a contradiction that only some capabilities bring about is found when
// the profile is resolved for them.
func TestContradictionByCapability(t *testing.T) {
	p, err := FromJSON([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
		{"names":["socket"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_NET_RAW"]}},
		{"names":["socket"],"action":"SCMP_ACT_KILL_PROCESS","excludes":{"caps":["CAP_SYS_ADMIN"]},"args":[{"index":0,"value":40,"op":"SCMP_CMP_EQ"}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.OCI([]string{"CAP_NET_RAW"}); err == nil || !strings.Contains(err.Error(), "syscall socket") {
		t.Errorf("OCI(CAP_NET_RAW) = %v, want the contradiction named", err)
	}
	if _, err := p.OCI([]string{"CAP_NET_RAW", "CAP_SYS_ADMIN"}); err != nil {
		t.Errorf("OCI(CAP_NET_RAW, CAP_SYS_ADMIN) = %v, want no error", err)
	}
}

func TestUnconditionalRefusalWins(t *testing.T) {
	p, err := FromJSON([]byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
		{"names":["bpf"],"action":"SCMP_ACT_ALLOW"},{"names":["bpf"],"action":"SCMP_ACT_ERRNO"},
		{"names":["bpf"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := resolved(t, p).eval("bpf", [6]uint64{1}); got.action != specs.ActErrno {
		t.Errorf("bpf is %s, want the refusal to win", got)
	}
}

func TestIntArgumentsAreMasked(t *testing.T) {
	p, err := FromJSON([]byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
		{"names":["socket"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":40,"op":"SCMP_CMP_EQ"}]},
		{"names":["lseek"],"action":"SCMP_ACT_ERRNO","args":[{"index":1,"value":40,"op":"SCMP_CMP_EQ"}]},
		{"names":["ioctl"],"action":"SCMP_ACT_ERRNO","args":[{"index":1,"value":21522,"op":"SCMP_CMP_GE"}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	tab := resolved(t, p)
	if got := tab.eval("socket", [6]uint64{1<<40 | 40}); got.action != specs.ActErrno {
		t.Errorf("socket(40 | 1<<40) is %s, want refused: the kernel sees 40", got)
	}
	if got := tab.eval("lseek", [6]uint64{0, 1<<40 | 40}); got.action != specs.ActAllow {
		t.Errorf("lseek(0, 40 | 1<<40) is %s, want allowed: off_t has 64 bits", got)
	}
	if lint := p.Lint(); len(lint) != 1 || !strings.Contains(lint[0], "ioctl") {
		t.Errorf("Lint() = %q, want the comparison of ioctl's command", lint)
	}
	if lint := Default().Lint(); len(lint) != 0 {
		t.Errorf("Default().Lint() = %q, want nothing", lint)
	}
}

// TestIntInequality: "is not" of an int argument looks at 32 bits, and so excludes "is" of the same.
func TestIntInequality(t *testing.T) {
	p, err := FromJSON([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"syscalls":[
		{"names":["socket"],"action":"SCMP_ACT_ERRNO","errnoRet":22,"args":[{"index":0,"value":16,"op":"SCMP_CMP_EQ"},{"index":2,"value":9,"op":"SCMP_CMP_EQ"}]},
		{"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":2,"value":9,"op":"SCMP_CMP_NE"}]},
		{"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":16,"op":"SCMP_CMP_NE"}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	tab := resolved(t, p)
	for _, tt := range []struct {
		family, protocol uint64
		want             string
	}{
		{16, 9, "refused with EINVAL"}, {16, 1<<32 | 9, "refused with EINVAL"}, {1<<40 | 16, 9, "refused with EINVAL"},
		{16, 8, "allowed"}, {2, 9, "allowed"}, {2, 0, "allowed"},
	} {
		if got := tab.eval("socket", [6]uint64{tt.family, 0, tt.protocol}).String(); got != tt.want {
			t.Errorf("socket(%#x, 0, %#x) is %s, want %s", tt.family, tt.protocol, got, tt.want)
		}
	}
	if lint := p.Lint(); len(lint) != 0 {
		t.Errorf("Lint() = %q, want nothing", lint)
	}
}

// randomProfile makes a small profile over few syscalls and values, so that rules meet often.
func randomProfile(r *rand.Rand) string {
	actions := []string{"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_LOG", "SCMP_ACT_KILL_PROCESS"}
	ops := []string{"SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_GT", "SCMP_CMP_GE", "SCMP_CMP_MASKED_EQ"}
	pick := func(s []string) string { return s[r.IntN(len(s))] }
	var rules []string
	for range r.IntN(5) {
		var args []string
		for i := range r.IntN(3) {
			op := pick(ops)
			two := ""
			if op == "SCMP_CMP_MASKED_EQ" {
				two = fmt.Sprintf(`,"valueTwo":%d`, r.IntN(4))
			}
			args = append(args, fmt.Sprintf(`{"index":%d,"value":%d,"op":%q%s}`, i, r.IntN(4), op, two))
		}
		rules = append(rules, fmt.Sprintf(`{"names":[%q],"action":%q,"args":[%s]}`,
			pick([]string{"lseek", "mmap"}), pick(actions), strings.Join(args, ",")))
	}
	return fmt.Sprintf(`{"defaultAction":%q,"syscalls":[%s]}`, pick(actions), strings.Join(rules, ","))
}

// TestNarrowIsAtLeastAsStrict is the promise of Narrow, over random pairs and every small argument.
func TestNarrowIsAtLeastAsStrict(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	pairs, kept := 0, 0
	for range 20000 {
		a, errA := FromJSON([]byte(randomProfile(r)))
		b, errB := FromJSON([]byte(randomProfile(r)))
		if errA != nil || errB != nil {
			continue // contradictory
		}
		pairs++
		ta, tb, tn := resolved(t, a), resolved(t, b), resolved(t, a.Narrow(b))
		for _, name := range []string{"lseek", "mmap", "read"} {
			if len(tn.verdict(name).cases) > 0 {
				kept++
			}
			for x := range uint64(6) {
				for y := range uint64(6) {
					args := [6]uint64{x, y}
					want := stricter(ta.eval(name, args), tb.eval(name, args))
					if got := tn.eval(name, args); got.strictness() < want.strictness() {
						t.Fatalf("narrowed: %s(%d, %d) is %s, want at least %s\n%+v\n%+v", name, x, y, got, want, ta, tb)
					}
				}
			}
		}
	}
	if pairs < 1000 || kept < 200 {
		t.Errorf("only %d pairs, %d with conditions kept: the test shows little", pairs, kept)
	}
}

// TestNarrowTakesTheSafeSide: "at most 5" and "at least 3" are no single comparison, so nothing is allowed.
func TestNarrowTakesTheSafeSide(t *testing.T) {
	profile := func(op string, value int) Profile {
		p, err := FromJSON([]byte(fmt.Sprintf(`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["lseek"],
			"action":"SCMP_ACT_ALLOW","args":[{"index":1,"value":%d,"op":%q}]}]}`, value, op)))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	both, err := profile("SCMP_CMP_LE", 5).Narrow(profile("SCMP_CMP_GE", 3)).OCI(nil)
	if err != nil || len(both.Syscalls) != 0 {
		t.Errorf("narrowed: %+v, %v, want no rule", both, err)
	}
	one, err := profile("SCMP_CMP_LE", 5).Narrow(profile("SCMP_CMP_LE", 3)).OCI(nil)
	if err != nil || len(one.Syscalls) != 1 || one.Syscalls[0].Args[0].Value != 3 {
		t.Errorf("narrowed: %+v, %v, want at most 3", one, err)
	}
}

// TestNarrowRangeByEquality: a range and an equality of an int argument, as "family below 38" and
// "family is 2" of two profiles, keep what both allow.
func TestNarrowRangeByEquality(t *testing.T) {
	p, err := FromJSON([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
		{"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":17,"op":"SCMP_CMP_LT"}]},
		{"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":40,"op":"SCMP_CMP_GT"}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, tab := range map[string]*table{"by": resolved(t, p.Narrow(Default())), "of": resolved(t, Default().Narrow(p))} {
		for family, want := range map[uint64]string{2: "allowed", 16: "allowed", 17: "refused with EPERM",
			41: "refused with EPERM", 1<<32 | 40: "refused with EPERM", 38: "refused with EPERM"} {
			if got := tab.eval("socket", [6]uint64{family}).String(); got != want {
				t.Errorf("narrowed %s the default: socket(%#x) is %s, want %s", name, family, got, want)
			}
		}
	}
}

// TestForeignNamesAreLeftOut: the OCI runtime would ignore them silently.
func TestForeignNamesAreLeftOut(t *testing.T) {
	p, err := FromJSON([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read","socketcall","_llseek"],"action":"SCMP_ACT_ALLOW"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	oci, err := p.OCI(nil)
	if err != nil || len(oci.Syscalls) != 1 || !slices.Equal(oci.Syscalls[0].Names, []string{"read"}) {
		t.Errorf("OCI() = %+v, %v, want read alone", oci, err)
	}
}

// TestNarrowKeepsWhatBothAllow: the default narrowed by itself, by a copy, and by "allow all" is the default.
func TestNarrowKeepsWhatBothAllow(t *testing.T) {
	all, err := FromJSON([]byte(`{"defaultAction":"SCMP_ACT_ALLOW"}`))
	if err != nil {
		t.Fatal(err)
	}
	twin, err := FromJSON(DefaultJSON())
	if err != nil {
		t.Fatal(err)
	}
	want := resolved(t, Default())
	for name, p := range map[string]Profile{
		"itself": Default().Narrow(Default()), "twin": Default().Narrow(twin),
		"all": Default().Narrow(all), "all first": all.Narrow(Default()),
	} {
		got := resolved(t, p)
		for call := range known() {
			for _, v := range []uint64{0, 1, 2, 8, 40, 0x10000011, 0x1200011, 0xffffffff} {
				if g, w := got.eval(call, [6]uint64{v}), want.eval(call, [6]uint64{v}); g.action != w.action {
					t.Errorf("narrowed by %s: %s(%#x) is %s, want %s", name, call, v, g, w)
				}
			}
		}
	}
}

func TestExplain(t *testing.T) {
	tests := []struct{ call, want string }{
		{"read", "read: allowed (files: names, contents, attributes)"},
		{"mount", "mount: allowed with CAP_SYS_ADMIN (mounts and namespaces)\nmount: otherwise refused with EPERM (default profile)"},
		{"clone3", "clone3: refused with ENOSYS without CAP_SYS_ADMIN"},
		{"socket", "socket: allowed if argument 0 is 2 (AF_INET)"},
		{"raed", "raed: not a syscall of Linux"},
		{"socketcall", "socketcall: not a syscall of this architecture"},
	}
	for _, tt := range tests {
		if got := Default().Explain(tt.call); !strings.Contains(got, tt.want) {
			t.Errorf("Explain(%q) = %q, want it to hold %q", tt.call, got, tt.want)
		}
	}
	if got := (Profile{}).Explain("read"); got != "read: no profile; the container is refused" {
		t.Errorf("Profile{}.Explain() = %q", got)
	}
}
