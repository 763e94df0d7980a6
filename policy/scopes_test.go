package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// The index leaves out no policy whose glob matches, and keeps the order of the file.
func TestScopesLeaveNothingOut(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	words := []string{"a", "b", "team", "app"}
	pick := func(from []string) string { return from[rnd.IntN(len(from))] }
	var policies []requirement
	for len(policies) < 400 {
		parts := []string{pick([]string{"r.example", "s.example:5000", "*.example", "**", "r.*"})}
		for range 1 + rnd.IntN(3) {
			parts = append(parts, pick(append(words, "*", "**", "a*", "*p", "te**m")))
		}
		g, err := parseGlob(strings.Join(parts, "/"))
		if err != nil {
			continue
		}
		policies = append(policies, requirement{globs: []glob{g}})
	}
	x := scopesOf(policies)
	matched := 0
	for range 2000 {
		parts := []string{pick([]string{"r.example", "s.example:5000", "t.example"})}
		for range 1 + rnd.IntN(3) {
			parts = append(parts, pick(words))
		}
		repository := strings.Join(parts, "/")
		found := x.find(repository)
		if !slices.IsSorted(found) {
			t.Fatalf("find(%s) = %v, out of order", repository, found)
		}
		for i, p := range policies {
			if p.globs[0].match(repository) {
				matched++
				if !slices.Contains(found, i) {
					t.Fatalf("find(%s) leaves out %q", repository, p.globs[0].text)
				}
			}
		}
	}
	if matched == 0 {
		t.Fatal("nothing matched")
	}
}

// What is looked at for one image does not grow with the policies about others.
func TestScopesAreNarrow(t *testing.T) {
	var b strings.Builder
	b.WriteString("policies:\n")
	for i := range 2000 {
		glob := fmt.Sprintf("registry.example/team-%d/app", i)
		if i%2 == 0 {
			glob = fmt.Sprintf("registry.example/team-%d/**", i)
		}
		fmt.Fprintf(&b, "- name: team-%d\n  images: [{glob: \"%s\"}]\n  authorities: [{static: {action: pass}}]\n", i, glob)
	}
	r, err := ParseRequirements([]byte(b.String()), nil)
	if err != nil {
		t.Fatal(err)
	}
	for repository, want := range map[string]int{"registry.example/team-7/app": 1, "registry.example/team-8/x/y": 1, "registry.example/other": 0} {
		if got := r.scopes.find(repository); len(got) != want {
			t.Errorf("find(%s) = %v, want %d policies of 2000", repository, got, want)
		}
	}
}
