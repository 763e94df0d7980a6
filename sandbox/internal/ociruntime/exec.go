package ociruntime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/sandbox/internal/proc"
)

// ErrTimeout means that an exec was ended because its time was up.
var ErrTimeout = errors.New("command timed out")

const (
	drain = 2 * time.Second // how long output is read on after the command ended, if a child of it holds the pipe
	mercy = 2 * time.Second // for the runtime to notice that its command was killed
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
// descendants; the Result then holds the output so far. It goes to the runtime directly: the monitor
// would cost another 20 ms, and nobody needs an exec to outlive the daemon.
func (r *Runtime) Exec(ctx context.Context, e Exec) (Result, error) {
	process, err := memfile("process", e.Process)
	if err != nil {
		return Result{}, fmt.Errorf("exec in %s: %w", e.ID, err)
	}
	defer process.Close()
	log, err := memfile("log", nil)
	if err != nil {
		return Result{}, fmt.Errorf("exec in %s: %w", e.ID, err)
	}
	defer log.Close()
	if e.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, e.Timeout, ErrTimeout)
		defer cancel()
	}

	// The log goes to a file of its own: on stderr it would mix with the command's.
	args := append(r.GlobalArgs(), "--log=/proc/self/fd/4", "exec", "--process=/proc/self/fd/3", "--pid-file="+e.PidFile, e.ID)
	cmd := exec.Command(r.opt.Path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.ExtraFiles = []*os.File{process, log}
	cmd.Dir = filepath.Dir(e.PidFile)
	cmd.WaitDelay = drain
	out, errs := capped{limit: e.MaxOutput}, capped{limit: e.MaxOutput}
	cmd.Stdout, cmd.Stderr = &out, &errs
	defer os.Remove(e.PidFile)
	if err := cmd.Start(); err != nil {
		return Result{}, fmt.Errorf("exec in %s: %w", e.ID, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		r.end(cmd.Process.Pid, ended)
		return Result{Stdout: out.Bytes(), Stderr: errs.Bytes(), Code: -1, Dropped: out.dropped + errs.dropped},
			fmt.Errorf("exec in %s: %w", e.ID, context.Cause(ctx))
	}
	res := Result{Stdout: out.Bytes(), Stderr: errs.Bytes(), Dropped: out.dropped + errs.dropped}
	// The runtime writes the pid file once the command runs; without it there was no command.
	if _, serr := os.Stat(e.PidFile); serr != nil {
		return Result{}, fmt.Errorf("exec in %s: %s", e.ID, failure(log, err))
	}
	res.Code = cmd.ProcessState.ExitCode()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		res.Code = 128 + int(ws.Signal())
	}
	return res, nil
}

// end kills the command and what it started, then the runtime if it does not follow by itself.
func (r *Runtime) end(pid int, ended <-chan error) {
	deadline := time.After(mercy)
	for {
		proc.KillTree(pid)
		select {
		case <-ended:
			return
		case <-time.After(50 * time.Millisecond):
		case <-deadline:
			syscall.Kill(-pid, syscall.SIGKILL)
			proc.KillTree(pid)
			<-ended // bounded by WaitDelay
			return
		}
	}
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
