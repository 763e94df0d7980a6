package security

import (
	"regexp"
	"strings"
	"testing"
)

// naming is how our documents name a test: folder.Test.
var naming = regexp.MustCompile("`([a-z0-9/-]+)\\.((?:Test|Fuzz)\\w+)`")

// unnamed says which of the parts of a document name no test, and which tests they name that do not
// exist.
func unnamed(t *testing.T, what string, parts map[string]string, excuse string) {
	t.Helper()
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
	for part, body := range parts {
		found := naming.FindAllStringSubmatch(body, -1)
		if len(found) == 0 && (excuse == "" || !strings.Contains(body, excuse)) {
			t.Errorf("%s %s names no test", what, part)
		}
		for _, n := range found {
			if !tests[n[1]+"."+n[2]] {
				t.Errorf("%s %s names %s.%s, which does not exist", what, part, n[1], n[2])
			}
		}
	}
}

// TestPromisesNameTheirTests: each numbered promise of SECURITY.md names at least one test, and each
// test that it names exists.
func TestPromisesNameTheirTests(t *testing.T) {
	promise := regexp.MustCompile(`(?m)^(\d+)\. \*\*`)
	text := read(t, "SECURITY.md")
	at := promise.FindAllStringSubmatchIndex(text, -1)
	if len(at) < 10 {
		t.Fatalf("found %d promises in SECURITY.md; the pattern or the document is broken", len(at))
	}
	parts := map[string]string{}
	for i, m := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		parts[text[m[2]:m[3]]] = text[m[0]:end]
	}
	unnamed(t, "promise", parts, "")
}

// TestThreatsNameTheirTests: each row of THREATS.md names tests that exist, or says what is not built.
func TestThreatsNameTheirTests(t *testing.T) {
	rows := map[string]string{}
	for line := range strings.Lines(read(t, "security/THREATS.md")) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 5 || strings.HasPrefix(cells[1], "---") || strings.TrimSpace(cells[3]) == "Tests" {
			if strings.HasPrefix(line, "|") && len(cells) != 5 {
				t.Errorf("row of %d cells: %s", len(cells)-2, line)
			}
			continue
		}
		rows[strings.TrimSpace(cells[1])] = cells[3]
	}
	if len(rows) < 40 {
		t.Fatalf("found %d rows in THREATS.md; the pattern or the document is broken", len(rows))
	}
	unnamed(t, "row", rows, "not built yet: ")
}
