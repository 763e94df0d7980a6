// Package docs runs what README.md and docs/ tell people to type.
package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sallyport/test/page"
	"sallyport/test/sigkit"
)

// root is the repository.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// programs builds the two programs that documents call and returns their folder.
func programs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-o", dir+"/", "./cmd/sallyport", "./cmd/sallyportd")
	cmd.Dir = root(t)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return dir
}

// blocks are the shell blocks of a document.
func blocks(t *testing.T, name string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return page.Shell(t, string(text))
}

// TestFirstPolicy types the README's first policy as it stands, with another place for /etc and the
// daemon's reload left out.
func TestFirstPolicy(t *testing.T) {
	var script string
	for _, b := range blocks(t, "README.md") {
		if strings.Contains(b, "sallyport policy check") {
			script = b
		}
	}
	if script == "" {
		t.Fatal("README.md has no block that checks a policy")
	}
	dir := t.TempDir()
	key, err := sigkit.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cosign.pub"), key.PEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	script = strings.ReplaceAll(script, "/etc/sallyport", filepath.Join(dir, "etc"))
	script = strings.ReplaceAll(script, "systemctl reload sallyportd", ":")
	cmd := exec.Command("bash", "-euc", "umask 022\n"+script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+programs(t)+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("the README's first policy: %v\n%s", err, out)
	}
}

// TestCommandsExist: every "sallyport ..." and "sallyportd ..." line of the documents names a command
// that there is, and every "make ..." a target.
func TestCommandsExist(t *testing.T) {
	bin := programs(t)
	makefile, err := os.ReadFile(filepath.Join(root(t), "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	word := regexp.MustCompile(`^[a-z][a-z-]*$`)
	docs, err := filepath.Glob(filepath.Join(root(t), "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, doc := range append(docs, filepath.Join(root(t), "README.md"), filepath.Join(root(t), "CONTRIBUTING.md")) {
		name, _ := filepath.Rel(root(t), doc)
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "```sh\n") {
			continue
		}
		for _, line := range strings.Split(strings.Join(blocks(t, name), "\n"), "\n") {
			line, _, _ = strings.Cut(line, "#")
			f := strings.Fields(line)
			if len(f) < 2 {
				continue
			}
			switch f[0] {
			case "make":
				for _, target := range f[1:] {
					if word.MatchString(target) && !strings.Contains(string(makefile), "\n"+target+":") {
						t.Errorf("%s: %q: no such target", name, line)
					}
					seen++
				}
			case "sallyport":
				args := []string{}
				for _, a := range f[1:] {
					if !word.MatchString(a) || len(args) == 2 {
						break
					}
					args = append(args, a)
				}
				out, err := exec.Command(filepath.Join(bin, "sallyport"), append(args, "--help")...).CombinedOutput()
				if err != nil || !strings.Contains(string(out), "sallyport "+args[0]) {
					t.Errorf("%s: %q: no such command: %v\n%s", name, line, err, out)
				}
				seen++
			}
		}
	}
	if seen < 5 {
		t.Errorf("found %d commands in the documents; the search is broken", seen)
	}
}
