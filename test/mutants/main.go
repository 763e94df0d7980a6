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
	known := flag.String("known", "", "folder that remembers which mutants were killed; one is asked again when anything that its test is built from, or that lies beside it, has changed")
	flag.Parse()
	guards, err := read(*list)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(2)
	}
	m := memory{dir: *known, inputs: map[string]string{}}
	// The next mutant is built while the tests of one run; never two tests at a time, or one could fail
	// for the other's sake.
	ready := make(chan mutant)
	go func() {
		defer close(ready)
		for _, g := range guards {
			if strings.HasPrefix(g.id, *only) {
				key, known := m.of(g)
				ready <- build(g, key, known)
			}
		}
	}()
	alive, killed, before := 0, 0, 0
	for mu := range ready {
		start := time.Now()
		err := mu.err
		switch {
		case mu.known:
			killed++
			before++
			continue
		case err == nil:
			err = mu.run()
		}
		os.RemoveAll(mu.dir)
		if err != nil {
			alive++
			fmt.Printf("ALIVE  %-32s %v\n", mu.id, err)
			continue
		}
		killed++
		m.keep(mu)
		fmt.Printf("killed %-32s by %s %s (%.1fs)\n", mu.id, mu.pkg, mu.test, time.Since(start).Seconds())
	}
	fmt.Printf("mutants: %d killed, %d of them in an earlier run on the same files, %d alive\n", killed, before, alive)
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

// mutant is a guard taken out, built and ready to run.
type mutant struct {
	guard
	key   string // what its result depends on
	known bool   // killed in an earlier run with the same key
	dir   string // holds bin and overlay; removed by the caller
	err   error  // why it cannot run
}

func (m mutant) bin() string     { return filepath.Join(m.dir, "test.bin") }
func (m mutant) overlay() string { return filepath.Join(m.dir, "overlay.json") }

func build(g guard, key string, known bool) mutant {
	m := mutant{guard: g, key: key, known: known}
	src, err := os.ReadFile(g.file)
	if err != nil {
		m.err = err
		return m
	}
	if n := bytes.Count(src, []byte(g.fragment)); n != 1 {
		m.err = fmt.Errorf("fragment stands %d times in %s, want once", n, g.file)
		return m
	}
	if known {
		return m
	}
	if m.dir, m.err = os.MkdirTemp("", "mutant-"); m.err != nil {
		return m
	}
	mutated := filepath.Join(m.dir, "mutated.go")
	if m.err = os.WriteFile(mutated, bytes.Replace(src, []byte(g.fragment), []byte(g.replacement), 1), 0o600); m.err != nil {
		return m
	}
	abs, err := filepath.Abs(g.file)
	if err != nil {
		m.err = err
		return m
	}
	text, err := json.Marshal(map[string]any{"Replace": map[string]string{abs: mutated}})
	if err != nil {
		m.err = err
		return m
	}
	if m.err = os.WriteFile(m.overlay(), text, 0o600); m.err != nil {
		return m
	}
	cmd := exec.Command("go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", m.overlay(), "-o", m.bin(), g.pkg)
	if out, err := cmd.CombinedOutput(); err != nil {
		m.err = fmt.Errorf("the mutant does not compile: %s", lastLine(out))
	}
	return m
}

// run reports nil if the mutant was killed: at least one named test ran, and it failed.
func (m mutant) run() error {
	cmd := exec.Command(m.bin(), "-test.run", m.test, "-test.v", "-test.timeout", "120s")
	cmd.Dir = m.pkg
	cmd.Env = append(os.Environ(), "GOFLAGS="+os.Getenv("GOFLAGS")+" -overlay="+m.overlay()) // for tests that build programs
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil && !bytes.Contains(out, []byte("--- PASS")):
		return fmt.Errorf("no test matches %s in %s", m.test, m.pkg)
	case err == nil:
		return fmt.Errorf("%s %s stays green without it", m.pkg, m.test)
	case !bytes.Contains(out, []byte("--- FAIL")) && !bytes.Contains(out, []byte("panic:")):
		return fmt.Errorf("%s did not run: %s", m.pkg, lastLine(out))
	}
	return nil
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}
