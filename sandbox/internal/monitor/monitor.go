// Package monitor is the only code that starts conmon and speaks its pipes and sockets. One conmon
// stays beside each container: it holds the container's output, writes the CRI log, reaps the
// container's first process and leaves its exit code in a file, so that the daemon may come and go.
package monitor

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/failpoint"
	"sallyport/internal/span"
	"sallyport/sandbox/internal/ociruntime"
	"sallyport/sandbox/internal/proc"
)

// Deadline is how long conmon and the runtime may take to create a container.
const Deadline = 2 * time.Minute

// maxSync bounds what conmon says on its pipe; it carries the runtime's stderr.
const maxSync = 256 << 10

// Monitor starts conmon. It may be used concurrently.
type Monitor struct {
	path     string        // constant
	deadline time.Duration // constant
	pathEnv  string        // constant

	mu   sync.Mutex      // guards hubs
	hubs map[string]*hub // by bundle
}

// New returns a Monitor for the conmon at path; deadline 0 means Deadline. It starts nothing.
func New(path string, deadline time.Duration) *Monitor {
	if deadline <= 0 {
		deadline = Deadline
	}
	return &Monitor{path: path, deadline: deadline, pathEnv: os.Getenv("PATH"), hubs: map[string]*hub{}}
}

// Probe asks conmon for its version.
func (m *Monitor) Probe(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, m.path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("probe conmon %s: %w", m.path, err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	version, ok := strings.CutPrefix(line, "conmon version ")
	if !ok {
		return "", fmt.Errorf("probe conmon %s: %q is not its version", m.path, line)
	}
	return version, nil
}

// Container says what to create. Bundle holds config.json; all paths are absolute.
type Container struct {
	ID       string
	Bundle   string              // conmon's working directory: its sockets and files live here
	ExitDir  string              // where the exit code goes, by ID
	Log      string              // CRI log file; "" drops the output
	LogMax   int64               // bytes after which conmon starts the log anew; 0: no limit
	Terminal bool                // the spec asks for a terminal
	Stdin    StdinMode           //
	Runtime  *ociruntime.Runtime //
}

// StdinMode says what becomes of a container's standard input.
type StdinMode int

// The modes. The zero value gives no input.
const (
	NoStdin   StdinMode = iota
	StdinOnce           // closed when the first attached client leaves
	StdinOpen           // stays open between clients
)

// Running is a created container's processes.
type Running struct {
	Monitor   proc.ID
	Container proc.ID
}

// Create starts conmon, which has the runtime create the container, and waits for the container's pid.
// On an error, or when ctx ends first, conmon, the runtime and what they started have been killed; the
// caller still has to delete the container at the runtime.
func (m *Monitor) Create(ctx context.Context, c Container) (_ Running, err error) {
	ctx, sp := span.Start(ctx, span.Monitor)
	defer sp.End(&err)
	ctx, cancel := context.WithTimeoutCause(ctx, m.deadline, fmt.Errorf("no answer from conmon and %s in %v", c.Runtime.Handler(), m.deadline))
	defer cancel()
	sync, syncChild, err := os.Pipe()
	if err != nil {
		return Running{}, fmt.Errorf("start conmon: %w", err)
	}
	defer sync.Close()
	startChild, start, err := os.Pipe()
	if err != nil {
		syncChild.Close()
		return Running{}, fmt.Errorf("start conmon: %w", err)
	}
	defer start.Close()

	cmd := exec.Command(m.path, m.args(c)...)
	cmd.Dir = c.Bundle
	cmd.ExtraFiles = []*os.File{syncChild, startChild}
	cmd.Env = []string{"_OCI_SYNCPIPE=3", "_OCI_STARTPIPE=4", "PATH=" + m.pathEnv}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	syncChild.Close()
	startChild.Close()
	if err != nil {
		return Running{}, fmt.Errorf("start conmon: %w", err)
	}
	pid := cmd.Process.Pid
	cmd.Process.Release() // reaped by pid when its pidfd says so
	kill := func() {
		syscall.Kill(pid, syscall.SIGSTOP) // it must not report or write an exit file while its children die
		proc.KillTree(pid)
		syscall.Kill(pid, syscall.SIGKILL)
		unix.Wait4(pid, nil, 0, nil)
	}
	failpoint.Hit("monitor-started")
	id, err := proc.Of(pid)
	if err == nil {
		_, err = start.Write([]byte{0}) // conmon waits for it before it starts the runtime
	}
	if err != nil {
		kill()
		return Running{}, fmt.Errorf("start conmon: %w", err)
	}

	failpoint.Hit("monitor-told")
	stop := context.AfterFunc(ctx, func() { sync.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	child, err := readSync(sync)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	var cid proc.ID
	if err == nil {
		cid, err = proc.Of(child)
	}
	if err != nil {
		kill()
		return Running{}, fmt.Errorf("create container at %s: %w", c.Runtime.Handler(), err)
	}
	return Running{Monitor: id, Container: cid}, nil
}

// args are conmon's. It forks no second time (--sync) and so is our child until the daemon ends.
func (m *Monitor) args(c Container) []string {
	log := "k8s-file:" + c.Log // with the driver named, a colon in the path is no driver
	if c.Log == "" {
		log = "off"
	}
	args := []string{
		"--sync", "--cid", c.ID, "--cuuid", c.ID, "--name", c.ID,
		"--bundle", c.Bundle, "--full-attach",
		"--runtime", c.Runtime.Path(),
		"--container-pidfile", filepath.Join(c.Bundle, "pid"),
		"--exit-dir", c.ExitDir,
		"--log-path", log, "--no-sync-log",
		"--log-level", "error",
	}
	for _, a := range c.Runtime.GlobalArgs() {
		args = append(args, "--runtime-arg", a)
	}
	if c.LogMax > 0 {
		args = append(args, "--log-size-max", strconv.FormatInt(c.LogMax, 10))
	}
	if c.Terminal {
		args = append(args, "--terminal")
	}
	switch c.Stdin {
	case StdinOnce:
		args = append(args, "--stdin")
	case StdinOpen:
		args = append(args, "--stdin", "--leave-stdin-open")
	}
	return args
}

// readSync reads the one line that conmon writes: the container's pid, or why there is none.
func readSync(r io.Reader) (int, error) {
	line, err := bufio.NewReader(io.LimitReader(r, maxSync)).ReadBytes('\n')
	if err != nil && (err != io.EOF || len(line) == 0) {
		if err == io.EOF {
			return 0, errors.New("conmon ended without an answer")
		}
		return 0, fmt.Errorf("read conmon's answer: %w", err)
	}
	return ParseSync(line)
}

// ParseSync parses what conmon says once the runtime has created the container: its pid, or the reason why
// there is none, in one line.
func ParseSync(line []byte) (int, error) {
	var msg struct {
		Pid     *int   `json:"pid"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal(bytes.TrimSpace(line), &msg); err != nil {
		return 0, fmt.Errorf("parse conmon's answer: %w", err)
	}
	if msg.Pid != nil && *msg.Pid > 1 {
		return *msg.Pid, nil
	}
	if why := ociruntime.Message([]byte(msg.Message)); why != "" {
		return 0, errors.New(why)
	}
	return 0, errors.New("the runtime gave no pid and no reason")
}
