package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"sallyport/internal/span"
)

const (
	maxAnswer  = 1 << 20 // of a plugin's output
	maxMessage = 400     // of a plugin's error: the decisive part must reach an event
	busyTries  = 20      // a plugin that is just being replaced is busy (ETXTBSY) ...
	busyWait   = 50 * time.Millisecond
	defPath    = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// PluginError is a plugin's refusal. Its text is one line.
type PluginError struct {
	Plugin string // base name
	Verb   string // ADD, DEL, ...
	Code   uint   // of the CNI specification; 0 if the plugin gave none
	Msg    string
}

func (e *PluginError) Error() string {
	if e.Code == 0 {
		return fmt.Sprintf("%s %s: %s", e.Plugin, e.Verb, e.Msg)
	}
	return fmt.Sprintf("%s %s: %s (CNI code %d)", e.Plugin, e.Verb, e.Msg, e.Code)
}

// runner executes plugins for libcni: with a bounded answer, the whole process group ended with ctx (a
// plugin starts others: IPAM, iptables), and none of the daemon's environment but the search path.
type runner struct{ version.PluginDecoder }

// FindInPath implements invoke.Exec.
func (runner) FindInPath(plugin string, dirs []string) (string, error) {
	path, err := invoke.FindInPath(plugin, dirs)
	if err != nil {
		return "", fmt.Errorf("find CNI plugin %q in %s: not there", plugin, strings.Join(dirs, ", "))
	}
	return path, nil
}

// ExecPlugin implements invoke.Exec.
func (runner) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error) {
	env, verb := environment(env)
	ctx, sp := span.Start(ctx, span.Plugin)
	defer sp.End(nil)
	sp.Set(span.PluginName, filepath.Base(path))
	sp.Set(span.Verb, verb)
	for try := 1; ; try++ {
		out, err := execute(ctx, path, stdin, env)
		if errors.Is(err, syscall.ETXTBSY) && try < busyTries {
			time.Sleep(busyWait)
			continue
		}
		if err != nil {
			return nil, pluginError(ctx, filepath.Base(path), verb, out, err)
		}
		return out.answer.data, nil
	}
}

// output is what a plugin wrote. Both are cut at maxAnswer.
type output struct{ answer, diagnosis bounded }

func execute(ctx context.Context, path string, stdin []byte, env []string) (*output, error) {
	out := new(output)
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = env
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Stdout, cmd.Stderr = &out.answer, &out.diagnosis
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // a grandchild of another group may hold the pipes
	err := cmd.Run()
	if err == nil && out.answer.cut {
		err = fmt.Errorf("its answer is larger than %d bytes", maxAnswer)
	}
	return out, err
}

// environment keeps CNI's own variables and PATH, and tells the verb. A plugin's behaviour must not
// depend on how the daemon was started.
func environment(env []string) (kept []string, verb string) {
	path := "PATH=" + defPath
	for _, e := range env {
		switch name, value, _ := strings.Cut(e, "="); {
		case name == "CNI_COMMAND":
			verb = value
			fallthrough
		case strings.HasPrefix(name, "CNI_"):
			kept = append(kept, e)
		case name == "PATH" && value != "":
			path = e
		}
	}
	return append(kept, path), verb
}

// pluginError says in one line why a plugin failed: our deadline, its own JSON, its stderr, or its exit.
func pluginError(ctx context.Context, plugin, verb string, out *output, err error) error {
	e := &PluginError{Plugin: plugin, Verb: verb}
	var said types.Error
	switch {
	case ctx.Err() != nil:
		e.Msg = "ended: " + context.Cause(ctx).Error()
	case json.Unmarshal(out.answer.data, &said) == nil && said.Msg != "":
		e.Code, e.Msg = said.Code, said.Msg
		if said.Details != "" {
			e.Msg += ": " + said.Details
		}
	case len(out.diagnosis.data) > 0:
		e.Msg = err.Error() + ": " + string(out.diagnosis.data)
	default:
		e.Msg = err.Error() + ": " + string(out.answer.data)
	}
	e.Msg = strings.TrimSuffix(flat(e.Msg), ":")
	return e
}

// oneLine takes our own errors out of libcni's wrapping, which repeats names and holds newlines.
func oneLine(err error) error {
	var plugin *PluginError
	if errors.As(err, &plugin) {
		return plugin
	}
	return errors.New(flat(err.Error()))
}

// flat makes s one printable line of bounded length.
func flat(s string) string {
	s = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "?"), func(r rune) bool { return r <= ' ' || r == 0x7f }), " ")
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "..."
	}
	return s
}

// bounded is a buffer that drops what exceeds maxAnswer, and remembers that it did. It embeds nothing,
// since io.Copy would prefer the ReadFrom of a bytes.Buffer, which knows no bound.
type bounded struct {
	data []byte
	cut  bool
}

func (b *bounded) Write(p []byte) (int, error) {
	room := min(len(p), maxAnswer-len(b.data))
	b.data = append(b.data, p[:room]...)
	b.cut = b.cut || room < len(p)
	return len(p), nil
}
