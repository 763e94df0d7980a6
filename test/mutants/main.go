// Command mutants takes out each guard that security/guards.txt names and requires that the test named
// beside it goes red. The tree is not touched: the mutated file is laid over it (go build -overlay).
//
// A line of guards.txt:
//
//	id | file | exact fragment, once in the file | replacement | test package | test name regexp
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

type guard struct{ id, file, fragment, replacement, pkg, test string }

func main() {
	list := flag.String("guards", "security/guards.txt", "list of guards")
	only := flag.String("only", "", "run only the guards whose ID starts with this")
	flag.Parse()
	guards, err := read(*list)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(2)
	}
	alive, killed := 0, 0
	for _, g := range guards {
		if !strings.HasPrefix(g.id, *only) {
			continue
		}
		start := time.Now()
		if err := try(g); err != nil {
			alive++
			fmt.Printf("ALIVE  %-32s %v\n", g.id, err)
			continue
		}
		killed++
		fmt.Printf("killed %-32s by %s %s (%.1fs)\n", g.id, g.pkg, g.test, time.Since(start).Seconds())
	}
	fmt.Printf("mutants: %d killed, %d alive\n", killed, alive)
	if alive > 0 || killed == 0 {
		os.Exit(1)
	}
}

func read(path string) (guards []guard, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	seen := map[string]bool{}
	s := bufio.NewScanner(f)
	for n := 1; s.Scan(); n++ {
		line := strings.TrimSpace(s.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		p := strings.Split(line, " | ")
		if len(p) != 6 {
			return nil, fmt.Errorf("%s:%d: %d fields, want 6", path, n, len(p))
		}
		g := guard{p[0], p[1], p[2], p[3], p[4], p[5]}
		if seen[g.id] {
			return nil, fmt.Errorf("%s:%d: guard %s stands twice", path, n, g.id)
		}
		seen[g.id] = true
		guards = append(guards, g)
	}
	return guards, s.Err()
}

// try reports nil if the mutant was killed: it compiled, at least one named test ran, and it failed.
func try(g guard) error {
	src, err := os.ReadFile(g.file)
	if err != nil {
		return err
	}
	if n := bytes.Count(src, []byte(g.fragment)); n != 1 {
		return fmt.Errorf("fragment stands %d times in %s, want once", n, g.file)
	}
	dir, err := os.MkdirTemp("", "mutant-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	mutated := filepath.Join(dir, "mutated.go")
	if err := os.WriteFile(mutated, bytes.Replace(src, []byte(g.fragment), []byte(g.replacement), 1), 0o600); err != nil {
		return err
	}
	abs, err := filepath.Abs(g.file)
	if err != nil {
		return err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{abs: mutated}})
	if err != nil {
		return err
	}
	overlayFile := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayFile, overlay, 0o600); err != nil {
		return err
	}
	bin := filepath.Join(dir, "test.bin")
	if out, err := exec.Command("go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", overlayFile, "-o", bin, g.pkg).CombinedOutput(); err != nil {
		return fmt.Errorf("the mutant does not compile: %s", lastLine(out))
	}
	cmd := exec.Command(bin, "-test.run", g.test, "-test.v", "-test.timeout", "120s")
	cmd.Dir = g.pkg
	cmd.Env = append(os.Environ(), "GOFLAGS="+os.Getenv("GOFLAGS")+" -overlay="+overlayFile) // for tests that build programs
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil && !bytes.Contains(out, []byte("--- PASS")):
		return fmt.Errorf("no test matches %s in %s", g.test, g.pkg)
	case err == nil:
		return fmt.Errorf("%s %s stays green without it", g.pkg, g.test)
	case !bytes.Contains(out, []byte("--- FAIL")) && !bytes.Contains(out, []byte("panic:")):
		return fmt.Errorf("%s did not run: %s", g.pkg, lastLine(out))
	}
	return nil
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}
