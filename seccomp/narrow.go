package seccomp

import (
	"maps"
	"slices"
)

// meet returns a table that answers every call at least as strictly as a and as b.
func meet(a, b *table) *table {
	out := &table{
		fallback: stricter(a.fallback, b.fallback),
		calls:    make(map[string]verdict, len(a.calls)),
		flags:    a.flags,
	}
	if len(out.flags) == 0 {
		out.flags = b.flags
	}
	names := slices.AppendSeq(slices.Collect(maps.Keys(a.calls)), maps.Keys(b.calls))
	for _, name := range names {
		v := meetVerdicts(a.verdict(name), b.verdict(name))
		if v.otherwise.strictness() == out.fallback.strictness() {
			v.otherwise = out.fallback // an errno more or less is no reason to lose the cases
		}
		if len(v.cases) > 0 && v.otherwise != out.fallback {
			v = v.strictest() // libseccomp has no default of a syscall's own
		}
		out.calls[name] = v
	}
	return out
}

func meetVerdicts(a, b verdict) verdict {
	switch {
	case a.loosens() && b.loosens():
		return meetLoosening(a, b)
	case a.tightens() && b.tightens():
		return meetTightening(a, b)
	}
	v := a.strictest()
	v.otherwise = stricter(v.otherwise, b.strictest().otherwise)
	return v
}

// loosens reports that no case is stricter than the answer otherwise: an allow-list.
func (v verdict) loosens() bool {
	return !slices.ContainsFunc(v.cases, func(w when) bool {
		return w.answer.strictness() > v.otherwise.strictness()
	})
}

// tightens reports that no case is laxer than the answer otherwise: a deny-list.
func (v verdict) tightens() bool {
	return !slices.ContainsFunc(v.cases, func(w when) bool {
		return w.answer.strictness() < v.otherwise.strictness()
	})
}

// strictest is v without conditions, each call answered as the strictest case is.
func (v verdict) strictest() verdict {
	out := verdict{otherwise: v.otherwise}
	for _, w := range v.cases {
		out.otherwise = stricter(out.otherwise, w.answer)
	}
	return out
}

// meetLoosening keeps what a case of each lets pass. Where two conditions do not combine, the stricter
// answer of otherwise holds.
func meetLoosening(a, b verdict) verdict {
	out := verdict{otherwise: stricter(a.otherwise, b.otherwise)}
	for _, u := range a.orAlways() {
		for _, w := range b.orAlways() {
			both, how := u.and(w)
			if how != one || both.answer.strictness() == out.otherwise.strictness() {
				continue
			}
			out.add(both)
		}
	}
	return out
}

// orAlways is v's cases, or its one answer as a case without conditions.
func (v verdict) orAlways() []when {
	if len(v.cases) == 0 {
		return []when{{answer: v.otherwise}}
	}
	return v.cases
}

// meetTightening keeps what a case of either refuses.
func meetTightening(a, b verdict) verdict {
	out := verdict{otherwise: stricter(a.otherwise, b.otherwise)}
	for _, w := range slices.Concat(a.cases, b.cases) {
		if w.answer.strictness() > out.otherwise.strictness() {
			out.add(w)
		}
	}
	for i, u := range out.cases {
		for _, w := range out.cases[:i] {
			if u.answer != w.answer && !u.excludes(w) {
				return out.strictest()
			}
		}
	}
	return out
}
