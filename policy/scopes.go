package policy

import (
	"slices"
	"strings"
)

// scopes finds the policies whose globs may match a repository without asking each, so that a verdict
// costs the same however many policies are about other images. It never leaves one out that matches:
// what it finds is still matched glob by glob. The zero value finds nothing.
type scopes struct {
	exact map[string][]int // a repository to the policies that name it whole
	below map[string][]int // a path to the policies with a glob that is literal up to there; "" for all
}

func scopesOf(policies []requirement) scopes {
	x := scopes{exact: map[string][]int{}, below: map[string][]int{}}
	for i, p := range policies {
		for _, g := range p.globs {
			literal, _, wild := strings.Cut(g.text, "*")
			if !wild {
				x.exact[g.text] = append(x.exact[g.text], i)
				continue
			}
			at := literal[:max(strings.LastIndexByte(literal, '/'), 0)]
			x.below[at] = append(x.below[at], i)
		}
	}
	return x
}

// find lists the policies that may be about a repository, in the order of the file, each once.
func (x scopes) find(repository string) []int {
	out := slices.Concat(x.exact[repository], x.below[""])
	for i := range len(repository) {
		if repository[i] == '/' {
			out = append(out, x.below[repository[:i]]...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
