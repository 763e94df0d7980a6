// Package proc holds on to processes so that a recycled pid is never taken for the one that was meant:
// a process is a pidfd together with the start time that the kernel gives it.
package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone means that the process has ended, or that its pid belongs to another one by now.
var ErrGone = errors.New("process is gone")

// ID names one process for as long as the kernel runs.
type ID struct {
	Pid   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot, field 22 of /proc/<pid>/stat
}

// Of reads the ID of a live pid; ErrGone if there is none. A zombie counts as live: its pid is taken.
func Of(pid int) (ID, error) {
	s, err := readStat(pid)
	if err != nil {
		return ID{}, err
	}
	return ID{Pid: pid, Start: s.start}, nil
}

// Process is an open process. It may be used concurrently; the owner closes it.
type Process struct {
	id ID       // constant
	fd *os.File // constant; pollable pidfd
}

// Open opens the process that id names; ErrGone if it has ended and been reaped, or if the pid is
// another process now. Other errors (no descriptors left) mean that it may well be alive.
func Open(id ID) (*Process, error) {
	if id.Pid <= 1 {
		return nil, fmt.Errorf("open process %d: %w", id.Pid, ErrGone)
	}
	fd, err := unix.PidfdOpen(id.Pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("open process %d: %w", id.Pid, ErrGone)
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", id.Pid, err)
	}
	// The descriptor is open, so the pid cannot be recycled between here and the comparison
	// without the comparison noticing: start times differ.
	now, err := Of(id.Pid)
	if err != nil || now != id {
		unix.Close(fd)
		return nil, fmt.Errorf("open process %d: %w", id.Pid, ErrGone)
	}
	return &Process{id: id, fd: os.NewFile(uintptr(fd), "pidfd")}, nil
}

// ID names the process.
func (p *Process) ID() ID { return p.id }

// Close releases the descriptor; the process is left alone.
func (p *Process) Close() error { return p.fd.Close() }

// Signal sends sig; ErrGone if the process has ended.
func (p *Process) Signal(sig syscall.Signal) error {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) { serr = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	if errors.Is(serr, unix.ESRCH) {
		return ErrGone
	}
	return errors.Join(err, serr)
}

// Exited reports whether the process has ended (it may still be a zombie).
func (p *Process) Exited() bool {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return false
	}
	var done bool
	raw.Control(func(fd uintptr) { done = readable(fd) })
	return done
}

// Wait returns nil once the process has ended, or the context's cause. It holds no thread.
func (p *Process) Wait(ctx context.Context) error {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { p.fd.SetReadDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() {
			p.fd.SetReadDeadline(time.Time{})
		}
	}()
	err = raw.Read(readable)
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func readable(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1
}

// Reap collects the exit status of a child that has ended. It is not an error if the process is no
// child of ours or was reaped already. It never waits for another pid, so it steals nothing from
// os/exec.
func Reap(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// Collect reaps a child that has ended and gives its exit code, 128+n for signal n.
func Collect(pid int) (int, error) {
	var ws unix.WaitStatus
	for {
		got, err := unix.Wait4(pid, &ws, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return -1, fmt.Errorf("collect process %d: %w", pid, err)
		case got != pid:
			return -1, fmt.Errorf("collect process %d: it has not ended", pid)
		case ws.Signaled():
			return 128 + int(ws.Signal()), nil
		default:
			return ws.ExitStatus(), nil
		}
	}
}

// Subreaper makes orphaned descendants children of this process, for as long as it lives.
func Subreaper() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	return nil
}

type stat struct {
	pid, ppid, session int
	state              byte
	start              uint64
}

// readStat reads /proc/<pid>/stat (proc(5)). The command name in brackets is chosen by the process and
// may hold anything, so fields are counted from the last bracket.
func readStat(pid int) (stat, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return stat{}, fmt.Errorf("read process %d: %w", pid, ErrGone)
	}
	if err != nil {
		return stat{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	return parseStat(pid, data)
}

func parseStat(pid int, data []byte) (stat, error) {
	_, rest, ok := bytes.Cut(data[max(0, bytes.LastIndexByte(data, ')')):], []byte(") "))
	f := bytes.Fields(rest)
	if !ok || len(f) < 20 || len(f[0]) != 1 {
		return stat{}, fmt.Errorf("read process %d: malformed stat", pid)
	}
	s := stat{pid: pid, state: f[0][0]}
	var e1, e2, e3 error
	s.ppid, e1 = strconv.Atoi(string(f[1]))
	s.session, e2 = strconv.Atoi(string(f[3]))
	s.start, e3 = strconv.ParseUint(string(f[19]), 10, 64)
	if err := errors.Join(e1, e2, e3); err != nil {
		return stat{}, fmt.Errorf("read process %d: malformed stat: %w", pid, err)
	}
	return s, nil
}
