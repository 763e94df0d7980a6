package security

import (
	"regexp"
	"strings"
	"testing"
)

// TestPromisesNameTheirTests: each numbered promise of SECURITY.md names at least one test, and each
// test that it names exists.
func TestPromisesNameTheirTests(t *testing.T) {
	tests := map[string]bool{}
	for _, f := range tree(t) {
		if !f.test {
			continue
		}
		for name := range f.ast.Scope.Objects {
			if strings.HasPrefix(name, "Test") || strings.HasPrefix(name, "Fuzz") {
				tests[f.pkg+"."+name] = true
			}
		}
	}
	promise := regexp.MustCompile(`(?m)^(\d+)\. \*\*`)
	named := regexp.MustCompile("`([a-z/]+)\\.((?:Test|Fuzz)\\w+)`")
	text := read(t, "SECURITY.md")
	at := promise.FindAllStringSubmatchIndex(text, -1)
	if len(at) < 10 {
		t.Fatalf("found %d promises in SECURITY.md; the pattern or the document is broken", len(at))
	}
	for i, m := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		number, body := text[m[2]:m[3]], text[m[0]:end]
		found := named.FindAllStringSubmatch(body, -1)
		if len(found) == 0 {
			t.Errorf("promise %s names no test", number)
		}
		for _, n := range found {
			if !tests[n[1]+"."+n[2]] {
				t.Errorf("promise %s names %s.%s, which does not exist", number, n[1], n[2])
			}
		}
	}
}
