package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// What conmon writes to an attached client: packets of one byte that says which stream, and data
// (conmon's conn_sock.h and conmon.c; a packet is at most a read of 8 KiB and that byte).
const (
	packetStdout = 2
	packetStderr = 3
	maxPacket    = 64 << 10
	maxInput     = 8 << 10 // of one packet to conmon, which reads 32 KiB at most and drops the rest
)

// ErrSlow means that a client took the output so slowly that it would have held up the container.
var ErrSlow = errors.New("the client takes the output too slowly")

// linger is how long a client may take for the last output.
const linger = 10 * time.Second

// Streams are a client's ends of a container's streams; nil is none. They stay the caller's: a read or a
// write that hangs is left behind, and ends when the caller closes the connection.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan Size // nil: none come
	Leave          bool        // the end of Stdin ends the attach
}

// Size is a terminal's, in characters.
type Size = struct{ Width, Height uint16 }

// Target is a container to attach to, as it was made.
type Target struct {
	Bundle string
	Stdin  StdinMode
}

// Attach connects a client to the first process of a container through its conmon, and returns when the
// container's output ends, or ctx does. The container goes on either way, and no client holds it up. The
// input of a container made with StdinOnce ends with that of the first client who has one.
func (m *Monitor) Attach(ctx context.Context, to Target, s Streams) error {
	c := &client{packets: make(chan []byte, queue), gone: make(chan struct{}), slow: make(chan struct{})}
	h, err := m.join(to, c)
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	defer m.leave(h, c)
	if s.Resize != nil {
		go func() {
			for size := range s.Resize {
				control(to.Bundle, fmt.Sprintf("1 %d %d\n", size.Height, size.Width)) // conmon's ctrl.c
			}
		}()
	}
	left := make(chan struct{})
	if s.Stdin != nil && to.Stdin != NoStdin {
		if to.Stdin == StdinOnce {
			defer h.endInput()
		}
		go func() {
			h.feed(c, s.Stdin)
			switch {
			case to.Stdin == StdinOnce:
				h.endInput()
			case s.Leave:
				close(left)
			}
		}()
	}
	shown := make(chan error, 1)
	go func() { shown <- c.show(h, s) }()
	select {
	case err = <-shown:
	case <-h.done:
		select {
		case err = <-shown:
		case <-time.After(linger):
			err = ErrSlow
		}
	case <-left:
	case <-c.slow:
		err = ErrSlow
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	return nil
}

// show copies output to the client until there is no more.
func (c *client) show(h *hub, s Streams) error {
	for {
		select {
		case p := <-c.packets:
			if err := write(p, s); err != nil {
				return err
			}
		case <-c.gone:
			return nil
		case <-h.done: // what came before it is in the queue already
			for {
				select {
				case p := <-c.packets:
					if err := write(p, s); err != nil {
						return err
					}
				default:
					return nil
				}
			}
		}
	}
}

func write(packet []byte, s Streams) error {
	to, data := Packet(packet, s)
	if to == nil {
		return nil
	}
	if _, err := to.Write(data); err != nil {
		return fmt.Errorf("write to the client: %w", err)
	}
	return nil
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
