package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sallyport/test/node"
)

// report is the part of ginkgo's JSON report that is read here.
type report struct {
	SpecReports []spec
}

type spec struct {
	ContainerHierarchyTexts []string
	LeafNodeText            string
	LeafNodeType            string
	State                   string
	RunTime                 time.Duration
	Failure                 struct {
		Message  string
		Location struct {
			FileName   string
			LineNumber int
		}
	}
}

func (s spec) name() string {
	return strings.Join(append(slices.Clone(s.ContainerHierarchyTexts), s.LeafNodeText), " ")
}

// suite runs critest, prints a line for each failed and each skipped spec and the figures, and returns
// how many specs failed that were not expected to.
func suite(ctx context.Context, o options, n *node.Node) (int, error) {
	dir := n.Path("critest")
	if o.out != "" {
		dir = o.out
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	output, err := os.Create(filepath.Join(dir, "critest.out"))
	if err != nil {
		return 0, err
	}
	defer output.Close()
	result := filepath.Join(dir, "report.json")
	if err := os.Remove(result); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	tmp := n.Path("tmp")
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return 0, err
	}
	args := []string{
		"--runtime-endpoint", "unix://" + n.Socket, "--report-dir", dir,
		"--ginkgo.json-report", result, "--ginkgo.no-color",
		"--nri-socket", n.Path("nri.sock"), "--runtime-service-timeout", "60s", "--image-service-timeout", "60s",
	}
	if o.focus != "" {
		args = append(args, "--ginkgo.focus", o.focus)
	}
	if o.skip != "" {
		args = append(args, "--ginkgo.skip", o.skip)
	}
	cmd := exec.CommandContext(ctx, o.critest, args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = output, output, n.Scratch
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp) // it leaves folders there
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	data, err := os.ReadFile(result)
	if err != nil {
		return 0, fmt.Errorf("critest left no report (%v): %w", cmd.ProcessState, err)
	}
	var reports []report
	if err := json.Unmarshal(data, &reports); err != nil {
		return 0, fmt.Errorf("parse %s: %w", result, err)
	}
	return tell(reports), nil
}

// tally is what the reports say. Specs that focus and skip left out are not counted.
type tally struct {
	passed, failed, skipped int
	unexpected              int // failed without being expected to
	lines                   []string
}

// tell prints what the reports say and returns how many specs failed that are not in expected.txt.
func tell(reports []report) int {
	t := count(reports, expectations(expected))
	slices.Sort(t.lines)
	for _, l := range t.lines {
		fmt.Println(l)
	}
	fmt.Printf("critest: ran %d, passed %d, failed %d (expected %d), skipped %d\n",
		t.passed+t.failed, t.passed, t.failed, t.failed-t.unexpected, t.skipped)
	return t.unexpected
}

func count(reports []report, expected map[string]string) (t tally) {
	for _, r := range reports {
		for _, s := range r.SpecReports {
			name, reason := s.name(), reason(s.Failure.Message)
			because, foreseen := expected[name]
			switch {
			case s.State == "passed" && s.LeafNodeType == "It":
				t.passed++
				if foreseen {
					t.say("PASS (expected to fail: %s) %s", because, name)
				}
			case s.State == "passed", s.State == "pending", s.State == "skipped" && reason == "":
			case s.State == "skipped":
				t.skipped++
				t.say("SKIP %s: %s", name, reason)
			case foreseen:
				t.failed++
				t.say("FAIL (expected: %s) %s: %s", because, name, reason)
			default:
				t.failed++
				t.unexpected++
				at := fmt.Sprintf("%s:%d", filepath.Base(s.Failure.Location.FileName), s.Failure.Location.LineNumber)
				t.say("FAIL %s: %s (%s, %s after %s)", name, reason, s.State, at, s.RunTime.Round(time.Millisecond))
			}
		}
	}
	return t
}

func (t *tally) say(format string, args ...any) {
	t.lines = append(t.lines, fmt.Sprintf(format, args...))
}

// expectations are the lines of expected.txt: the reason by the spec's name.
func expectations(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		name, because, ok := strings.Cut(strings.TrimSpace(line), " | ")
		if ok && !strings.HasPrefix(name, "#") {
			out[name] = because
		}
	}
	return out
}

// reason is the decisive part of a failure: what a gRPC status says, where there is one.
func reason(message string) string {
	if _, after, ok := strings.Cut(message, "rpc error: code = "); ok {
		message, _, _ = strings.Cut(after, "\n")
	}
	return oneLine(message)
}

// oneLine is text on one line, cut to what fits a terminal or two.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 500 {
		text = text[:500] + "..."
	}
	return text
}
