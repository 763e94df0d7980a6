package seccomp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Limits of a profile's text; the longest profiles in use have 40 rules and 20 KB.
const (
	maxJSON  = 1 << 20
	maxRules = 2000
	maxErrno = 4095 // MAX_ERRNO; the kernel cuts SECCOMP_RET_DATA to it
)

// document is the JSON form, as engines share it and as the OCI runtime spec has it.
type document struct {
	DefaultAction   string   `json:"defaultAction"`
	DefaultErrnoRet *uint    `json:"defaultErrnoRet"`
	DefaultErrno    string   `json:"defaultErrno"`
	Architectures   []string `json:"architectures"`
	ArchMap         []struct {
		Architecture     string   `json:"architecture"`
		SubArchitectures []string `json:"subArchitectures"`
	} `json:"archMap"`
	Flags    []string    `json:"flags"`
	Syscalls []entryJSON `json:"syscalls"`
}

type entryJSON struct {
	Name     string     `json:"name"`
	Names    []string   `json:"names"`
	Action   string     `json:"action"`
	ErrnoRet *uint      `json:"errnoRet"`
	Errno    string     `json:"errno"`
	Args     []argJSON  `json:"args"`
	Comment  string     `json:"comment"`
	Includes filterJSON `json:"includes"`
	Excludes filterJSON `json:"excludes"`
}

type argJSON struct {
	Index    uint   `json:"index"`
	Value    uint64 `json:"value"`
	ValueTwo uint64 `json:"valueTwo"`
	Op       string `json:"op"`
}

type filterJSON struct {
	Caps      []string `json:"caps"`
	Arches    []string `json:"arches"`
	MinKernel string   `json:"minKernel"`
}

// FromJSON reads a profile in the JSON form that container engines share (names, action, args,
// includes and excludes by capability and architecture); what the OCI runtime spec writes is read too.
// Unknown fields, actions, operators and syscall names are refused, and so are rules that contradict
// each other. SCMP_ACT_NOTIFY and SCMP_ACT_TRACE are refused: nothing here would answer them.
func FromJSON(data []byte) (Profile, error) {
	l, err := parse(data)
	if err != nil {
		return Profile{}, fmt.Errorf("read seccomp profile: %w", err)
	}
	// Contradictions depend on the granted capabilities: none and all are tried here, the real set by OCI.
	for _, caps := range [][]string{nil, l.caps()} {
		if _, err := l.resolve(caps); err != nil {
			return Profile{}, fmt.Errorf("read seccomp profile: %w", err)
		}
	}
	return Profile{layers: []*layer{l}}, nil
}

func parse(data []byte) (*layer, error) {
	if len(data) > maxJSON {
		return nil, fmt.Errorf("%d bytes, at most %d are read", len(data), maxJSON)
	}
	var doc document
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&doc); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("text after the profile")
	}
	if len(doc.Syscalls) > maxRules {
		return nil, fmt.Errorf("syscalls: %d rules, at most %d are read", len(doc.Syscalls), maxRules)
	}
	def, err := parseAnswer(doc.DefaultAction, doc.DefaultErrnoRet, doc.DefaultErrno)
	if err != nil {
		return nil, fmt.Errorf("defaultAction: %w", err)
	}
	if err := doc.forThisMachine(); err != nil {
		return nil, err
	}
	l := &layer{name: "profile", answer: def}
	for _, f := range doc.Flags {
		// SPEC_ALLOW would switch off a CPU mitigation, WAIT_KILLABLE_RECV is for a notifier.
		if f != string(specs.LinuxSeccompFlagLog) {
			return nil, fmt.Errorf("flags: %q is not admitted, only %s", f, specs.LinuxSeccompFlagLog)
		}
		l.flags = []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog}
	}
	for i, e := range doc.Syscalls {
		r, err := e.rule()
		if err != nil {
			return nil, fmt.Errorf("syscalls[%d]: %w", i, err)
		}
		l.rules = append(l.rules, r)
	}
	return l, nil
}

// forThisMachine refuses a profile that lists architectures without ours; what it says of others is
// not used, since only the native one may be called.
func (d *document) forThisMachine() error {
	names := slices.Clone(d.Architectures)
	for _, m := range d.ArchMap {
		names = append(names, m.Architecture)
		for _, s := range m.SubArchitectures {
			if !strings.HasPrefix(s, "SCMP_ARCH_") {
				return fmt.Errorf("archMap: unknown architecture %q", s)
			}
		}
	}
	native, err := nativeArch()
	if err != nil {
		return err
	}
	for _, n := range names {
		if !strings.HasPrefix(n, "SCMP_ARCH_") {
			return fmt.Errorf("architectures: unknown architecture %q", n)
		}
	}
	if len(names) > 0 && !slices.Contains(names, string(native)) {
		return fmt.Errorf("architectures: lists %s, not this machine's %s", strings.Join(names, ", "), native)
	}
	return nil
}

func (e entryJSON) rule() (rule, error) {
	r := rule{names: e.Names, comment: e.Comment}
	if e.Name != "" {
		r.names = append([]string{e.Name}, e.Names...)
	}
	if len(r.names) == 0 {
		return rule{}, fmt.Errorf("names: none given")
	}
	for _, n := range r.names {
		if !Known(n) {
			return rule{}, fmt.Errorf("names: unknown syscall %q", n)
		}
	}
	var err error
	if r.answer, err = parseAnswer(e.Action, e.ErrnoRet, e.Errno); err != nil {
		return rule{}, fmt.Errorf("action: %w", err)
	}
	for i, a := range e.Args {
		op := specs.LinuxSeccompOperator(a.Op)
		if !slices.Contains(operators, op) {
			return rule{}, fmt.Errorf("args[%d]: unknown op %q", i, a.Op)
		}
		if a.Index > 5 {
			return rule{}, fmt.Errorf("args[%d]: index %d, a syscall has arguments 0 to 5", i, a.Index)
		}
		// The OCI runtimes read two comparisons of one argument as "or", everyone else as "and".
		if slices.ContainsFunc(r.args, func(b arg) bool { return b.index == a.Index }) {
			return rule{}, fmt.Errorf("args[%d]: argument %d is compared twice; write two rules", i, a.Index)
		}
		if op != specs.OpMaskedEqual && a.ValueTwo != 0 {
			return rule{}, fmt.Errorf("args[%d]: valueTwo is for SCMP_CMP_MASKED_EQ only", i)
		}
		r.args = append(r.args, arg{index: a.Index, op: op, value: a.Value, two: a.ValueTwo})
	}
	if r.includes, err = e.Includes.filter(); err != nil {
		return rule{}, fmt.Errorf("includes: %w", err)
	}
	if r.excludes, err = e.Excludes.filter(); err != nil {
		return rule{}, fmt.Errorf("excludes: %w", err)
	}
	return r, nil
}

var operators = []specs.LinuxSeccompOperator{
	specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual,
	specs.OpGreaterThan, specs.OpMaskedEqual,
}

func (f filterJSON) filter() (filter, error) {
	for _, c := range f.Caps {
		if !validCap(c) {
			return filter{}, fmt.Errorf("caps: %q is not a capability", c)
		}
	}
	out := filter{caps: f.Caps, arches: f.Arches}
	if f.MinKernel != "" {
		// The daemon needs Linux 5.10, so an older minimum always holds; a newer one would make the
		// profile depend on the host, which pure data cannot.
		major, minor, err := kernelVersion(f.MinKernel)
		if err != nil {
			return filter{}, err
		}
		if major > 5 || major == 5 && minor > 10 {
			return filter{}, fmt.Errorf("minKernel: %q is newer than 5.10, which is not supported", f.MinKernel)
		}
		out.always = true
	}
	return out, nil
}

func kernelVersion(s string) (major, minor int, err error) {
	a, b, ok := strings.Cut(s, ".")
	if ok {
		if major, err = strconv.Atoi(a); err == nil {
			minor, err = strconv.Atoi(b)
		}
	}
	if !ok || err != nil || major < 0 || minor < 0 {
		return 0, 0, fmt.Errorf("minKernel: %q is not major.minor", s)
	}
	return major, minor, nil
}

// parseAnswer reads an action with its errno, given as a number or as a name or both.
func parseAnswer(action string, ret *uint, name string) (answer, error) {
	a := answer{action: specs.LinuxSeccompAction(action)}
	switch a.action {
	case specs.ActAllow, specs.ActLog, specs.ActTrap, specs.ActKillProcess, specs.ActKillThread:
	case specs.ActKill:
		a.action = specs.ActKillThread // the same; one spelling
	case specs.ActErrno:
		a.errno = 1 // EPERM, as the OCI runtimes do
		if ret != nil {
			a.errno = *ret
		}
		if name != "" {
			n, ok := errnoNumber(name)
			if !ok {
				return answer{}, fmt.Errorf("unknown errno %q", name)
			}
			if ret != nil && *ret != n {
				return answer{}, fmt.Errorf("errno %q is %d, but errnoRet is %d", name, n, *ret)
			}
			a.errno = n
		}
		if a.errno == 0 || a.errno > maxErrno {
			return answer{}, fmt.Errorf("errno %d is out of range 1 to %d; 0 would read as success", a.errno, maxErrno)
		}
	case specs.ActNotify, specs.ActTrace:
		return answer{}, fmt.Errorf("%s is not supported: nothing would answer it", action)
	case "":
		return answer{}, fmt.Errorf("none given")
	default:
		return answer{}, fmt.Errorf("unknown action %q", action)
	}
	return a, nil
}

func errnoNumber(name string) (uint, bool) {
	for n := range uint(200) {
		if unix.ErrnoName(unix.Errno(n)) == name {
			return n, true
		}
	}
	return 0, false
}

// caps lists every capability that a rule of l names.
func (l *layer) caps() []string {
	var all []string
	for _, r := range l.rules {
		all = append(append(all, r.includes.caps...), r.excludes.caps...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
