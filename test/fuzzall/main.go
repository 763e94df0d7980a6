// Command fuzzall runs every fuzz target of the fuzz package for a while each. The test binary is
// built once with coverage instrumentation.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	each := flag.String("time", "10s", "time for each target, or a number of executions as 200x")
	flag.Parse()
	if err := run(*each); err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(1)
	}
}

func run(each string) error {
	dir, err := os.MkdirTemp("", "sallyport-fuzz-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "fuzz.test")
	build := exec.Command("go", "test", "-c", "-fuzz=.", "-o", bin, "./fuzz")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build targets: %w", err)
	}
	list := exec.Command(bin, "-test.list", "^Fuzz")
	list.Dir = "fuzz"
	out, err := list.Output()
	if err != nil {
		return fmt.Errorf("list targets: %w", err)
	}
	ran := 0
	for _, target := range strings.Fields(string(out)) {
		if !strings.HasPrefix(target, "Fuzz") {
			continue
		}
		cmd := exec.Command(bin, "-test.run", "^$", "-test.fuzz", "^"+target+"$", "-test.fuzztime", each,
			"-test.fuzzminimizetime", "10x", // libraries that log or time cover a line now and then; shrinking by that never ends
			"-test.fuzzcachedir", filepath.Join(dir, "cache"), "-test.parallel", "2")
		cmd.Dir = "fuzz"
		out, err := cmd.CombinedOutput()
		if err != nil {
			os.Stdout.Write(out)
			return fmt.Errorf("%s: %w", target, err)
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		fmt.Printf("%-32s %s\n", target, lines[max(0, len(lines)-2)])
		ran++
	}
	if ran == 0 {
		return fmt.Errorf("no target in ./fuzz")
	}
	fmt.Printf("fuzz: %d targets, %s each, no failure\n", ran, each)
	return nil
}
