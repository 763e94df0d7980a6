package security

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var testName = regexp.MustCompile(`func (Test|Fuzz)\w*`)

// TestGuardsStand: what guards.txt says can be taken out is there, once, so that "make mutants" takes out
// what it names; and the test that must go red has a name that some test of the package bears.
func TestGuardsStand(t *testing.T) {
	text, err := os.ReadFile("guards.txt")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{} // of a package: its test sources
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Split(line, " | ")
		if len(f) != 6 {
			t.Errorf("%.60q has %d fields, want 6", line, len(f))
			continue
		}
		id, file, fragment, pkg, test := f[0], f[1], f[2], f[4], f[5]
		src, err := os.ReadFile(filepath.Join("..", file))
		if err != nil || strings.Count(string(src), fragment) != 1 {
			t.Errorf("guard %s: %q stands %d times in %s (%v), want once; mend the line", id, fragment, strings.Count(string(src), fragment), file, err)
		}
		if _, ok := names[pkg]; !ok {
			files, err := filepath.Glob(filepath.Join("..", pkg, "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				src, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				names[pkg] += string(src)
			}
		}
		first, _, _ := strings.Cut(test, "/")
		want, err := regexp.Compile(first)
		if err != nil {
			t.Errorf("guard %s: %v", id, err)
			continue
		}
		found := false
		for _, n := range testName.FindAllString(names[pkg], -1) {
			found = found || want.MatchString(strings.TrimPrefix(n, "func "))
		}
		if !found {
			t.Errorf("guard %s: no test of %s is called %s", id, pkg, test)
		}
	}
}
