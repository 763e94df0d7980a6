package ociruntime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	linger  = 10 * time.Second // at most, for output that a client takes slowly after the command ended
	console = 30 * time.Second // for the runtime to hand over the terminal
)

// Size is a terminal's, in characters.
type Size = struct{ Width, Height uint16 }

// Streams are a client's ends of a command's streams; nil is none. They stay the caller's: a read or a
// write that hangs is left behind, and ends when the caller closes the connection.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Terminal       bool // the process asks for one; Stderr is unused then
	Resize         <-chan Size
}

// ExecStream runs one command with a client's streams and gives its exit code, as Exec does. It ends
// when the command has: what a child of it writes later is not waited for. When ctx ends, the command is
// killed with all its descendants.
func (r *Runtime) ExecStream(ctx context.Context, e Exec, s Streams) (int, error) {
	defer os.Remove(e.PidFile)
	run := r.piped
	if s.Terminal {
		run = r.onTerminal
	}
	code, err := run(ctx, e, s)
	if err != nil {
		return code, fmt.Errorf("exec in %s: %w", e.ID, err)
	}
	return code, nil
}

func (r *Runtime) piped(ctx context.Context, e Exec, s Streams) (int, error) {
	var std stdio
	var pumps []*pump
	defer func() {
		for _, p := range pumps {
			p.file.Close()
		}
		std.close()
	}()
	out := func(to io.Writer) (*os.File, error) {
		from, in, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		pumps = append(pumps, pumpTo(to, from))
		return in, nil
	}
	var err error
	if s.Stdout != nil {
		if std.out, err = out(s.Stdout); err != nil {
			return -1, err
		}
	}
	if s.Stderr != nil {
		if std.err, err = out(s.Stderr); err != nil {
			return -1, err
		}
	}
	if s.Stdin != nil {
		from, in, err := os.Pipe()
		if err != nil {
			return -1, err
		}
		std.in = from
		defer in.Close()
		go func() {
			io.Copy(in, s.Stdin)
			in.Close()
		}()
	}
	code, err := r.execute(ctx, e, std)
	std = stdio{}
	drainAll(ctx, pumps)
	return code, err
}

func (r *Runtime) onTerminal(ctx context.Context, e Exec, s Streams) (int, error) {
	socket, err := newConsole(e.PidFile + ".tty")
	if err != nil {
		return -1, err
	}
	defer socket.close()
	master := make(chan *os.File, 1)
	go func() {
		f, err := socket.accept()
		if err != nil {
			f = nil
		}
		master <- f
	}()
	shown := make(chan *pump, 1)
	go func() {
		tty := <-master
		if tty == nil {
			shown <- nil
			return
		}
		if s.Resize != nil {
			go resize(tty, s.Resize)
		}
		if s.Stdin != nil {
			go io.Copy(tty, s.Stdin)
		}
		shown <- pumpTo(s.Stdout, tty)
	}()
	code, err := r.execute(ctx, e, stdio{console: filepath.Base(e.PidFile) + ".tty"})
	if err != nil {
		socket.l.SetDeadline(time.Unix(1, 0)) // the runtime may never have come
	}
	p := <-shown
	if p == nil {
		if err == nil {
			err = errors.New("the runtime handed over no terminal")
		}
		return -1, err
	}
	drainAll(ctx, []*pump{p})
	p.file.Close()
	return code, err
}

func resize(tty *os.File, sizes <-chan Size) {
	for s := range sizes {
		raw, err := tty.SyscallConn()
		if err != nil {
			return
		}
		raw.Control(func(fd uintptr) {
			unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: s.Height, Col: s.Width})
		})
	}
}

// pump copies a command's output to the client.
type pump struct {
	file  *os.File
	moved atomic.Int64 // bytes so far
	done  chan struct{}
}

// pumpTo starts copying. A client that is gone does not stop the reading: the command must not hang on
// a full pipe before it is killed.
func pumpTo(to io.Writer, from *os.File) *pump {
	p := &pump{file: from, done: make(chan struct{})}
	if to == nil {
		to = io.Discard
	}
	go func() {
		defer close(p.done)
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf) // EIO: the last process left the terminal
			if n > 0 {
				if _, werr := to.Write(buf[:n]); werr != nil {
					to = io.Discard
				}
				p.moved.Add(int64(n))
			}
			if err != nil {
				return
			}
		}
	}()
	return p
}

// drainAll waits until the client has what the command wrote: as long as something moves, but not for
// ever, since a process that lives on may hold the other end.
func drainAll(ctx context.Context, pumps []*pump) {
	limit := time.Now().Add(linger)
	for _, p := range pumps {
		for last := int64(-1); p.moved.Load() != last && time.Now().Before(limit); {
			last = p.moved.Load()
			select {
			case <-p.done:
			case <-ctx.Done():
				return
			case <-time.After(drain):
				continue
			}
			break
		}
	}
}

// consoleSocket is where the runtime sends the terminal's master end. It lies in a directory of ours
// (0700), and is named by a short path: a socket's may have 107 bytes (unix(7)).
type consoleSocket struct {
	l    *net.UnixListener
	path string
}

func newConsole(path string) (*consoleSocket, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("open console: %w", err)
	}
	defer dir.Close()
	short := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("open console: %w", err)
	}
	l.SetUnlinkOnClose(false) // the short path is not valid then
	l.SetDeadline(time.Now().Add(console))
	return &consoleSocket{l: l, path: path}, nil
}

func (c *consoleSocket) close() {
	c.l.Close()
	os.Remove(c.path)
}

// accept takes the one descriptor that the runtime sends.
func (c *consoleSocket) accept() (*os.File, error) {
	conn, err := c.l.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("take terminal: %w", err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(console))
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*4))
	_, n, flags, _, err := conn.ReadMsgUnix(name, oob)
	if err != nil {
		return nil, fmt.Errorf("take terminal: %w", err)
	}
	fds, err := descriptors(oob[:n])
	if err != nil || len(fds) != 1 || flags&unix.MSG_CTRUNC != 0 {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, fmt.Errorf("take terminal: %d descriptors came, want 1", len(fds))
	}
	unix.CloseOnExec(fds[0])
	if _, err := unix.IoctlGetTermios(fds[0], unix.TCGETS); err != nil {
		unix.Close(fds[0])
		return nil, fmt.Errorf("take terminal: it is none: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return nil, fmt.Errorf("take terminal: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

func descriptors(oob []byte) (fds []int, err error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for _, m := range msgs {
		got, err := unix.ParseUnixRights(&m)
		if err != nil {
			return fds, err
		}
		fds = append(fds, got...)
	}
	return fds, nil
}
