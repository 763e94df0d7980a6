package seccomp

import (
	"cmp"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// table is a profile resolved for one architecture and one set of capabilities.
type table struct {
	fallback answer
	flags    []specs.LinuxSeccompFlag
	calls    map[string]verdict // native syscalls; absent: fallback
}

// verdict is what is answered to one syscall. Cases with different answers exclude each other, none
// answers as otherwise does, and where there are cases otherwise is the table's fallback: this is the
// form in which libseccomp, the OCI runtimes and a reader agree.
type verdict struct {
	otherwise answer
	cases     []when
}

// when is an answer that is given where all of args hold. Args are canonical and sorted by index.
type when struct {
	args   []arg
	answer answer
}

func (t *table) verdict(name string) verdict {
	if v, ok := t.calls[name]; ok {
		return v
	}
	return verdict{otherwise: t.fallback}
}

// resolve applies the rules that hold with caps.
func (l *layer) resolve(caps []string) (*table, error) {
	found := make(map[string][]when)
	for _, r := range l.rules {
		if !r.applies(caps) {
			continue
		}
		for _, name := range r.names {
			if !Native(name) {
				continue
			}
			found[name] = append(found[name], r.whens(name)...)
		}
	}
	t := &table{fallback: l.answer, flags: l.flags, calls: make(map[string]verdict, len(found))}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		v, err := settle(found[name], l.answer)
		if err != nil {
			return nil, fmt.Errorf("syscall %s: %w", name, err)
		}
		t.calls[name] = v
	}
	return t, nil
}

// applies reports whether r holds for a process with caps: every included capability is granted and no
// excluded one, as container engines read it.
func (r rule) applies(caps []string) bool {
	for _, c := range r.includes.caps {
		if !slices.Contains(caps, c) {
			return false
		}
	}
	for _, c := range r.excludes.caps {
		if slices.Contains(caps, c) {
			return false
		}
	}
	return r.native()
}

// native reports whether r is about this architecture and the kernels that we run on.
func (r rule) native() bool {
	if r.excludes.always || slices.Contains(r.excludes.arches, runtime.GOARCH) {
		return false
	}
	return len(r.includes.arches) == 0 || slices.Contains(r.includes.arches, runtime.GOARCH)
}

// whens is r for one syscall; none if it can never hold. "Is not v" of an int argument has no masked
// form, so it becomes "bit i differs" for each of 32 bits; of a rule with several such, see Lint.
func (r rule) whens(name string) []when {
	w, expand := when{answer: r.answer}, -1
	for _, a := range r.args {
		switch c, holds := a.canonical(name); holds {
		case impossible:
			return nil
		case sometimes:
			w.args = append(w.args, c)
		}
	}
	slices.SortFunc(w.args, func(a, b arg) int { return cmp.Compare(a.index, b.index) })
	if r.inequalities(name) == 1 {
		expand = slices.IndexFunc(w.args, func(a arg) bool { return a.op == specs.OpNotEqual && isInt(name, a.index) })
	}
	if expand < 0 {
		return []when{w}
	}
	var out []when
	for bit := uint64(1); bit < 1<<32; bit <<= 1 {
		args := slices.Clone(w.args)
		not := args[expand]
		args[expand] = arg{index: not.index, op: specs.OpMaskedEqual, value: bit, two: ^not.value & bit}
		out = append(out, when{args: args, answer: w.answer})
	}
	return out
}

// inequalities counts the int arguments that r wants to differ from a value.
func (r rule) inequalities(name string) (n int) {
	for _, a := range r.args {
		if a.op == specs.OpNotEqual && isInt(name, a.index) {
			n++
		}
	}
	return n
}

// settle makes one verdict of the rules for one syscall. Of several rules without arguments the
// strictest holds. A stricter rule with arguments beside a laxer one without is refused, because
// libseccomp would drop it; so are rules that answer the same call differently.
func settle(rules []when, fallback answer) (verdict, error) {
	v := verdict{otherwise: fallback}
	unconditional := false
	for _, w := range rules {
		if len(w.args) == 0 {
			if unconditional {
				v.otherwise = stricter(v.otherwise, w.answer)
			} else {
				v.otherwise, unconditional = w.answer, true
			}
		}
	}
	for i, w := range rules {
		if len(w.args) == 0 {
			continue
		}
		if unconditional {
			if w.answer.strictness() > v.otherwise.strictness() {
				return verdict{}, fmt.Errorf("%s if %s, but a rule without arguments says %s, and would win", w.answer, w.text(), v.otherwise)
			}
			continue
		}
		for _, u := range rules[:i] {
			if u.answer != w.answer && !u.excludes(w) {
				return verdict{}, fmt.Errorf("%s if %s, but %s if %s: both can hold at once", u.answer, u.text(), w.answer, w.text())
			}
		}
		v.add(w)
	}
	return v, nil
}

// add appends w unless it says nothing new, and drops what w makes superfluous: overlapping rules are
// what libseccomp compiles worst.
func (v *verdict) add(w when) {
	if w.answer == v.otherwise || slices.ContainsFunc(v.cases, func(u when) bool { return u.covers(w) }) {
		return
	}
	v.cases = append(slices.DeleteFunc(v.cases, w.covers), w)
}

// covers reports that u provably holds wherever w does, with the same answer.
func (u when) covers(w when) bool {
	both, how := u.and(w)
	return u.answer == w.answer && how == one && slices.Equal(both.args, w.args)
}

// excludes reports that u and w provably never hold at once.
func (u when) excludes(w when) bool {
	_, how := u.and(w)
	return how == never
}

// and combines the conditions of u and w; the answer is the stricter.
func (u when) and(w when) (when, conjunction) {
	out := when{answer: stricter(u.answer, w.answer), args: slices.Clone(u.args)}
	how := one
	for _, b := range w.args {
		i := slices.IndexFunc(out.args, func(a arg) bool { return a.index == b.index })
		if i < 0 {
			out.args = append(out.args, b)
			continue
		}
		c, h := out.args[i].and(b)
		switch h {
		case never:
			return when{}, never
		case unknown:
			how = unknown
		}
		out.args[i] = c
	}
	slices.SortFunc(out.args, func(a, b arg) int { return cmp.Compare(a.index, b.index) })
	return out, how
}

func (u when) text() string {
	var parts []string
	for _, a := range u.args {
		parts = append(parts, a.String())
	}
	return strings.Join(parts, " and ")
}

// oci writes t as the runtime spec has it, in a fixed order. Rules that answer as the default are left
// out, as the OCI runtimes would.
func (t *table) oci(arch specs.Arch) *specs.LinuxSeccomp {
	out := &specs.LinuxSeccomp{
		DefaultAction:   t.fallback.action,
		DefaultErrnoRet: t.fallback.errnoRet(),
		Architectures:   []specs.Arch{arch},
		Flags:           slices.Clone(t.flags),
	}
	plain := make(map[answer][]string)
	for _, name := range slices.Sorted(maps.Keys(t.calls)) {
		v := t.calls[name]
		if v.otherwise != t.fallback {
			plain[v.otherwise] = append(plain[v.otherwise], name)
		}
		for _, w := range v.cases {
			var args []specs.LinuxSeccompArg
			for _, a := range w.args {
				args = append(args, a.oci())
			}
			out.Syscalls = append(out.Syscalls, specs.LinuxSyscall{
				Names: []string{name}, Action: w.answer.action, ErrnoRet: w.answer.errnoRet(), Args: args,
			})
		}
	}
	answers := slices.SortedFunc(maps.Keys(plain), func(a, b answer) int {
		return cmp.Or(cmp.Compare(a.strictness(), b.strictness()), cmp.Compare(a.errno, b.errno))
	})
	var head []specs.LinuxSyscall
	for _, a := range answers {
		head = append(head, specs.LinuxSyscall{Names: plain[a], Action: a.action, ErrnoRet: a.errnoRet()})
	}
	out.Syscalls = append(head, out.Syscalls...)
	return out
}

func (a answer) errnoRet() *uint {
	if a.action != specs.ActErrno {
		return nil
	}
	n := a.errno
	return &n
}
