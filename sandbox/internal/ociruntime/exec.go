package ociruntime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/span"
	"sallyport/sandbox/internal/proc"
)

// ErrTimeout means that an exec was ended because its time was up.
var ErrTimeout = errors.New("command timed out")

const (
	drain = 2 * time.Second // how long output is read on after the command ended, if a child of it holds the pipe
	mercy = 2 * time.Second // for a killed command to end
)

// Exec is one command to run inside a live container.
type Exec struct {
	ID        string        // container
	Process   []byte        // OCI process JSON, handed to the runtime byte for byte
	PidFile   string        // a path of this exec's own on a tmpfs; removed at the end
	Timeout   time.Duration // 0: as long as the context allows
	MaxOutput int           // bytes kept of each of stdout and stderr (CVE-2022-1708); the rest is dropped
}

// Result is how a command ended.
type Result struct {
	Stdout, Stderr []byte
	Code           int   // 128+n for signal n
	Dropped        int64 // bytes beyond MaxOutput
}

// Exec runs one command without a terminal and waits for it. The command's own failure is a Code, not
// an error. ErrTimeout, or the context's cause, means that the command was killed with all its
// descendants; the Result then holds the output so far.
//
// It goes to the runtime directly: the monitor would cost another 20 ms, and nobody needs an exec to
// outlive the daemon. The runtime is told to detach, since otherwise it copies the output itself and
// waits as long as any process holds the pipe; the command then becomes a child of this process, which
// must be a subreaper (proc.Subreaper).
func (r *Runtime) Exec(ctx context.Context, e Exec) (Result, error) {
	if e.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, e.Timeout, ErrTimeout)
		defer cancel()
	}
	defer os.Remove(e.PidFile)
	out, err := newTap(e.MaxOutput)
	if err != nil {
		return Result{}, fmt.Errorf("exec in %s: %w", e.ID, err)
	}
	defer out.close()
	errs, err := newTap(e.MaxOutput)
	if err != nil {
		return Result{}, fmt.Errorf("exec in %s: %w", e.ID, err)
	}
	defer errs.close()
	code, err := r.execute(ctx, e, stdio{out: out.in, err: errs.in})
	limit := time.Now().Add(drain)
	res := Result{Stdout: out.finish(limit), Stderr: errs.finish(limit), Code: code, Dropped: out.kept.dropped + errs.kept.dropped}
	if err != nil {
		return res, fmt.Errorf("exec in %s: %w", e.ID, err)
	}
	return res, nil
}

// stdio is the command's ends of its streams; nil is /dev/null. execute closes them. console is the
// name, beside the pid file, of the socket on which the runtime sends the terminal; "" for none.
type stdio struct {
	in, out, err *os.File
	console      string
}

func (s stdio) close() {
	for _, f := range []*os.File{s.in, s.out, s.err} {
		if f != nil {
			f.Close()
		}
	}
}

// execute starts the command and waits for its end.
func (r *Runtime) execute(ctx context.Context, e Exec, std stdio) (_ int, err error) {
	ctx, sp := span.Start(ctx, span.Exec)
	defer sp.End(&err)
	sp.Set(span.Container, e.ID)
	defer std.close()
	process, err := memfile("process", e.Process)
	if err != nil {
		return -1, err
	}
	defer process.Close()
	log, err := memfile("log", nil)
	if err != nil {
		return -1, err
	}
	defer log.Close()
	// The log goes to a file of its own: on stderr it would mix with the command's. runsc starts itself
	// once more and hands no descriptors on, so the files are named as ours.
	args := append(r.GlobalArgs(), "--log="+ownFile(log), "exec", "--detach", "--process="+ownFile(process), "--pid-file="+e.PidFile)
	if r.opt.Kind == GVisor {
		args = append(args, "--internal-pid-file="+e.inner())
		defer os.Remove(e.inner())
	}
	if std.console != "" {
		args = append(args, "--console-socket="+std.console)
	}
	args = append(args, e.ID)
	cmd := exec.Command(r.opt.Path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Dir = filepath.Dir(e.PidFile)
	if std.in != nil { // a nil *os.File is no nil Reader
		cmd.Stdin = std.in
	}
	if std.out != nil {
		cmd.Stdout = std.out
	}
	if std.err != nil {
		cmd.Stderr = std.err
	}
	err = cmd.Start()
	std.close() // the command's copies are the last
	if err != nil {
		return -1, err
	}
	pid := cmd.Process.Pid
	stop := context.AfterFunc(ctx, func() {
		proc.KillTree(pid)
		syscall.Kill(-pid, syscall.SIGKILL)
	})
	err = cmd.Wait()
	if !stop() {
		if id, perr := pidFrom(e.PidFile); perr == nil {
			r.end(e, id)
		}
		return -1, context.Cause(ctx)
	}
	if err != nil {
		return -1, errors.New(failure(log, err))
	}
	id, err := pidFrom(e.PidFile)
	if err != nil {
		return -1, errors.New(failure(log, err))
	}
	held, err := proc.Open(id)
	if err != nil {
		proc.Collect(id.Pid)
		return -1, err
	}
	defer held.Close()
	if err := held.Wait(ctx); err != nil {
		r.end(e, id)
		return -1, err
	}
	return proc.Collect(id.Pid)
}

func pidFrom(file string) (proc.ID, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return proc.ID{}, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return proc.ID{}, err
	}
	return proc.Of(pid)
}

// inner is the file in which gVisor tells the command's pid inside.
func (e Exec) inner() string { return e.PidFile + ".inner" }

// ownFile names a file of this process for a program that this process starts.
func ownFile(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }

// end kills the command and what it started, and reaps it.
func (r *Runtime) end(e Exec, id proc.ID) {
	if r.opt.Kind == GVisor {
		r.endInside(e) // what the node sees is runsc waiting for the command
	}
	proc.KillTree(id.Pid)
	held, err := proc.Open(id)
	if err != nil {
		return
	}
	defer held.Close()
	held.Signal(syscall.SIGKILL)
	ctx, cancel := context.WithTimeout(context.Background(), mercy)
	defer cancel()
	if held.Wait(ctx) == nil {
		proc.KillTree(id.Pid) // what it forked at last
		proc.Reap(id.Pid)
	}
}

// endInside kills a command on the container's own kernel.
func (r *Runtime) endInside(e Exec) {
	pid, err := os.ReadFile(e.inner())
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), mercy)
	defer cancel()
	r.run(ctx, nil, "kill", "--pid="+strings.TrimSpace(string(pid)), e.ID, "KILL")
}

// tap is a pipe whose far end is kept up to a limit.
type tap struct {
	in, out *os.File
	kept    capped
	done    chan struct{}
}

func newTap(limit int) (*tap, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	t := &tap{in: in, out: out, kept: capped{limit: limit}, done: make(chan struct{})}
	go func() {
		io.Copy(&t.kept, t.out)
		close(t.done)
	}()
	return t, nil
}

// finish waits for the end of the pipe, or until limit if a process that lives on holds it.
func (t *tap) finish(limit time.Time) []byte {
	t.in.Close()
	t.out.SetReadDeadline(limit)
	<-t.done
	return t.kept.Bytes()
}

func (t *tap) close() {
	t.in.Close()
	t.out.SetReadDeadline(time.Unix(1, 0))
	<-t.done
	t.out.Close()
}

// failure is the runtime's own words on why there was no command.
func failure(log *os.File, err error) string {
	buf := make([]byte, 64<<10)
	n, _ := log.ReadAt(buf, 0)
	if msg := Message(buf[:n]); msg != "" {
		return msg
	}
	if err != nil {
		return err.Error()
	}
	return "the runtime started no command and gave no reason"
}

// memfile is an anonymous file that holds data.
func memfile(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("sallyport-"+name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(data); err != nil {
		f.Close()
		return nil, fmt.Errorf("write memory file: %w", err)
	}
	return f, nil
}
