package seccomp

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Explain says in plain words, a line for each rule, what p answers to a syscall and why. It never
// fails: an unknown name and the zero Profile are explained too.
func (p Profile) Explain(syscall string) string {
	switch {
	case p.IsZero():
		return syscall + ": no profile; the container is refused"
	case !Known(syscall):
		return syscall + ": not a syscall of Linux"
	case !Native(syscall):
		return syscall + ": not a syscall of this architecture; calls of another end the process"
	}
	var lines []string
	for _, l := range p.layers {
		lines = append(lines, l.explain(syscall)...)
	}
	return strings.Join(lines, "\n")
}

func (l *layer) explain(syscall string) []string {
	var lines []string
	for _, r := range l.rules {
		if !slices.Contains(r.names, syscall) || !r.native() {
			continue
		}
		var parts []string
		for _, a := range r.args {
			c, _ := a.canonical(syscall)
			parts = append(parts, c.String())
		}
		line := fmt.Sprintf("%s: %s", syscall, r.answer)
		if len(parts) > 0 {
			line += " if " + strings.Join(parts, " and ")
		}
		if len(r.includes.caps) > 0 {
			line += " with " + strings.Join(r.includes.caps, " and ")
		}
		if len(r.excludes.caps) > 0 {
			line += " without " + strings.Join(r.excludes.caps, " and without ")
		}
		if r.comment != "" {
			line += " (" + r.comment + ")"
		}
		lines = append(lines, line)
	}
	return append(lines, fmt.Sprintf("%s: otherwise %s (%s)", syscall, l.answer, l.name))
}

// Lint lists comparisons that mean less than they read: of an int argument, which the kernel cuts to
// 32 bits while the filter sees 64, in a way that cannot be masked. Each can be evaded by setting a
// high bit; equalities, and one inequality in a rule, are masked silently and are not listed.
func (p Profile) Lint() []string {
	var out []string
	for _, l := range p.layers {
		for _, r := range l.rules {
			for _, a := range r.args {
				if a.op == specs.OpEqualTo || a.op == specs.OpMaskedEqual {
					continue
				}
				for _, name := range r.names {
					if a.op == specs.OpNotEqual && r.inequalities(name) == 1 {
						continue
					}
					if isInt(name, a.index) {
						out = append(out, fmt.Sprintf("syscall %s: %s: the kernel reads 32 bits of it, the filter 64", name, a))
					}
				}
			}
		}
	}
	return out
}
