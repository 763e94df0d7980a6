// Package ociruntime is the only code that executes runc, crun or another OCI runtime. Creating a
// container is left to the monitor (conmon runs the runtime and becomes the container's reaper); all
// other verbs run here, each under a deadline, and a runtime that hangs is killed.
package ociruntime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"sallyport/internal/span"
)

// Deadline is how long one call of the runtime may take. A call takes 5 to 40 ms; a loaded node may
// be a hundred times slower.
const Deadline = 30 * time.Second

const maxOutput = 256 << 10 // of a runtime's own stdout and stderr; features is 12 KiB

// ErrNotFound means that the runtime knows no container of that ID.
var ErrNotFound = errors.New("runtime knows no such container")

// Kind says how a runtime runs containers. The zero value is on the node's kernel.
type Kind int

// The kinds.
const (
	Native Kind = iota // runc, crun: processes of the node
	GVisor             // runsc: each container on a kernel of its own, which is a process of the node
)

// Options says which runtime this is.
type Options struct {
	Handler  string        // CRI runtime handler, for messages
	Kind     Kind          // how it runs containers
	Path     string        // absolute path of the executable
	Root     string        // the runtime's own state directory, on a tmpfs
	Deadline time.Duration // per call; 0 means Deadline
}

// Runtime executes one OCI runtime. It may be used concurrently.
type Runtime struct {
	opt Options // constant
}

// New returns a Runtime; it runs nothing (see Probe).
func New(opt Options) *Runtime {
	if opt.Deadline <= 0 {
		opt.Deadline = Deadline
	}
	return &Runtime{opt: opt}
}

// Handler is the CRI runtime handler.
func (r *Runtime) Handler() string { return r.opt.Handler }

// Path is the executable, for the monitor.
func (r *Runtime) Path() string { return r.opt.Path }

// Kind says how it runs containers.
func (r *Runtime) Kind() Kind { return r.opt.Kind }

// gvisorArgs: containers of a pod are kernels of their own that meet in the pod's network namespace, so
// they use its stack: gVisor's own would take the pod's address for the first container alone. The
// spec's seccomp profile holds inside as well; no socket or pipe of a volume is passed through.
var gvisorArgs = []string{"--network=host", "--oci-seccomp=true", "--host-uds=none", "--host-fifo=none", "--allow-flag-override=false"}

// GlobalArgs are what the monitor must pass to the runtime before the verb.
func (r *Runtime) GlobalArgs() []string {
	args := []string{"--root=" + r.opt.Root, "--log-format=json"}
	if r.opt.Kind == GVisor {
		args = append(args, gvisorArgs...)
	}
	return args
}

// Start lets a created container's process run.
func (r *Runtime) Start(ctx context.Context, id string) error {
	_, err := r.run(ctx, nil, "start", id)
	return err
}

// Kill sends a signal to the container's first process, as the runtime understands it. The daemon
// itself signals by pidfd; this is for a process whose pid is not known.
func (r *Runtime) Kill(ctx context.Context, id string, sig syscall.Signal) error {
	_, err := r.run(ctx, nil, "kill", id, fmt.Sprint(int(sig)))
	return err
}

// Delete removes what the runtime holds of a stopped container: cgroup and state. It does not kill
// (runc's --force sleeps 100 ms). Nil if the runtime knows no such container.
func (r *Runtime) Delete(ctx context.Context, id string) error {
	_, err := r.run(ctx, nil, "delete", id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// DeleteForce kills and removes: for a container whose process cannot be found, such as one whose
// create was cut off. Nil if the runtime knows no such container.
func (r *Runtime) DeleteForce(ctx context.Context, id string) error {
	_, err := r.run(ctx, nil, "delete", "--force", id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// State is what the runtime says of a container; asked only when pid and exit file disagree.
type State struct {
	ID     string `json:"id"`
	Pid    int    `json:"pid"`
	Status string `json:"status"` // creating, created, running, stopped, paused
	Bundle string `json:"bundle"`
}

// State asks the runtime; ErrNotFound if it knows no such container.
func (r *Runtime) State(ctx context.Context, id string) (State, error) {
	out, err := r.run(ctx, nil, "state", id)
	if err != nil {
		return State{}, err
	}
	var s State
	if err := json.Unmarshal(out, &s); err != nil {
		return State{}, fmt.Errorf("read runtime state of %s: %w", id, err)
	}
	return s, nil
}

// Update applies OCI LinuxResources (JSON) to a live container.
func (r *Runtime) Update(ctx context.Context, id string, resources []byte) error {
	_, err := r.run(ctx, resources, "update", "--resources=-", id)
	return err
}

// Pause freezes the container's processes; Resume thaws them.
func (r *Runtime) Pause(ctx context.Context, id string) error {
	_, err := r.run(ctx, nil, "pause", id)
	return err
}

// Resume thaws what Pause froze.
func (r *Runtime) Resume(ctx context.Context, id string) error {
	_, err := r.run(ctx, nil, "resume", id)
	return err
}

// run executes one verb and returns its standard output. The error carries the runtime's own last
// message in one line. The ID must begin with a letter or digit, so that it is no option.
func (r *Runtime) run(ctx context.Context, stdin []byte, args ...string) (_ []byte, err error) {
	verb := args[0]
	ctx, sp := span.Start(ctx, span.Runtime)
	defer sp.End(&err)
	sp.Set(span.Verb, verb)
	if id := args[len(args)-1]; len(args) > 1 && strings.HasPrefix(id, "-") {
		return nil, fmt.Errorf("run %s %s: bad container ID %q", r.opt.Handler, verb, id)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.opt.Deadline, fmt.Errorf("no answer in %v", r.opt.Deadline))
	defer cancel()
	cmd := exec.CommandContext(ctx, r.opt.Path, append(r.GlobalArgs(), args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if stdin != nil {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	var out, log capped
	out.limit, log.limit = maxOutput, maxOutput
	cmd.Stdout, cmd.Stderr = &out, &log
	err = cmd.Run()
	if err == nil {
		return out.Bytes(), nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return nil, fmt.Errorf("run %s %s: %w", r.opt.Handler, verb, cause)
	}
	msg := Message(log.Bytes())
	if strings.Contains(msg, "does not exist") && strings.Contains(msg, "container") {
		return nil, fmt.Errorf("run %s %s: %w", r.opt.Handler, verb, ErrNotFound)
	}
	if msg == "" {
		msg = err.Error()
	}
	return nil, fmt.Errorf("run %s %s: %s", r.opt.Handler, verb, msg)
}

// maxMessage bounds what of a runtime's log reaches an error; an event shows 1,024 bytes.
const maxMessage = 512

// Message takes the last error out of a runtime's log, which is JSON lines or text, as one line. The
// log quotes hostile text (paths in an image), so control characters are replaced.
func Message(log []byte) string {
	var last string
	for line := range strings.Lines(string(log)) {
		line = strings.TrimSpace(line)
		var entry struct {
			Level string `json:"level"`
			Msg   string `json:"msg"`
		}
		switch {
		case line == "":
		case json.Unmarshal([]byte(line), &entry) != nil:
			last = line
		case entry.Msg != "" && (entry.Level == "error" || entry.Level == "fatal"):
			last = entry.Msg
		}
	}
	last = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, last)
	if len(last) > maxMessage {
		last = strings.ToValidUTF8(last[:maxMessage], "") + "…"
	}
	return last
}

// capped keeps the first limit bytes written to it and drops the rest without an error, so that the
// writer neither blocks nor fails. It embeds no buffer: io.Copy would find ReadFrom and fill that.
type capped struct {
	buf     bytes.Buffer
	limit   int
	dropped int64
}

func (c *capped) Write(p []byte) (int, error) {
	keep := min(len(p), c.limit-c.buf.Len())
	c.buf.Write(p[:keep])
	c.dropped += int64(len(p) - keep)
	return len(p), nil
}

func (c *capped) Bytes() []byte { return c.buf.Bytes() }
