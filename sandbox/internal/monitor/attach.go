package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// What conmon writes to an attached client: packets of one byte that says which stream, and data
// (conmon's conn_sock.h and conmon.c; a packet is at most a read of 8 KiB and that byte).
const (
	packetStdout = 2
	packetStderr = 3
	maxPacket    = 64 << 10
	maxInput     = 8 << 10 // of one packet to conmon, which reads 32 KiB at most and drops the rest
)

// Streams are a client's ends of a container's streams; nil is none. They stay the caller's: a read or a
// write that hangs is left behind, and ends when the caller closes the connection.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan Size
	Leave          bool // the end of Stdin ends the attach: the container's own input stays open
}

// Size is a terminal's, in characters.
type Size = struct{ Width, Height uint16 }

// Attach connects a client to the first process of the bundle's container through its conmon, and
// returns when the container's output ends, or ctx does. The container goes on either way. conmon closes
// the container's input when that of a client ends, if it was told so (StdinOnce).
func Attach(ctx context.Context, bundle string, s Streams) error {
	conn, err := dial(filepath.Join(bundle, "attach"))
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	if s.Resize != nil {
		go func() {
			for size := range s.Resize {
				control(bundle, fmt.Sprintf("1 %d %d\n", size.Height, size.Width)) // conmon's ctrl.c
			}
		}()
	}
	left := make(chan struct{})
	if s.Stdin != nil {
		go func() {
			io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{s.Stdin}, make([]byte, maxInput))
			conn.CloseWrite()
			if s.Leave {
				close(left)
			}
		}()
	}
	shown := make(chan error, 1)
	go func() { shown <- show(conn, s) }()
	select {
	case err = <-shown:
	case <-left:
		return nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	return nil
}

// show copies output to the client until conmon closes the connection.
func show(conn io.Reader, s Streams) error {
	buf := make([]byte, maxPacket)
	for {
		n, err := conn.Read(buf)
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || err == nil && n == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		to, data := Packet(buf[:n], s)
		if to == nil {
			continue
		}
		if _, err := to.Write(data); err != nil {
			return fmt.Errorf("write to the client: %w", err)
		}
	}
}

// Packet says where a packet of conmon's goes: nowhere, if it is of no kind that is known or wanted.
func Packet(packet []byte, s Streams) (io.Writer, []byte) {
	if len(packet) < 2 {
		return nil, nil
	}
	switch {
	case packet[0] == packetStdout && s.Stdout != nil:
		return s.Stdout, packet[1:]
	case packet[0] == packetStderr && s.Stderr != nil:
		return s.Stderr, packet[1:]
	}
	return nil, nil
}

// dial connects to a socket whose path may be longer than a socket's may be (unix(7), 107 bytes).
func dial(path string) (*net.UnixConn, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	short := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	return net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: short, Net: "unixpacket"})
}
