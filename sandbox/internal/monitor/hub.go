package monitor

import (
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

const (
	queue   = 256             // packets of output that a client may lag behind, 2 MiB
	stall   = 2 * time.Second // that a client with a full queue may hold up the others
	parting = time.Second     // for conmon to notice that input has ended, before output does
)

// hub is the one connection to a container's conmon, which all attached clients share. One each would
// let clients harm the container: conmon writes to its clients with blocking writes, so that a slow one
// stops container and log; it closes the input of a StdinOnce container when any client leaves; and it
// (2.1.6 to the newest) touches freed memory when one of several closes while it is being written to,
// and takes the container down with it.
type hub struct {
	to    Target        // constant
	conn  *net.UnixConn // constant
	input chan []byte   // unbuffered
	ended chan struct{} // closed when no more input comes
	done  chan struct{} // closed when conmon has closed the connection, or everybody has left
	end   func()        // closes ended, once
	mu    sync.Mutex    // guards the rest
	all   map[*client]bool
}

// client is one who attached.
type client struct {
	packets chan []byte
	gone    chan struct{} // closed when it has left
	slow    chan struct{} // closed when it was given up
}

// join adds a client to the container's hub, or makes one.
func (m *Monitor) join(to Target, c *client) (*hub, error) {
	m.mu.Lock()
	defer m.mu.Unlock() // over a connect to a local socket, which does not wait
	h := m.hubs[to.Bundle]
	if h == nil {
		conn, err := dial(filepath.Join(to.Bundle, "attach"))
		if err != nil {
			return nil, err
		}
		h = &hub{to: to, conn: conn, input: make(chan []byte), ended: make(chan struct{}), done: make(chan struct{}), all: map[*client]bool{}}
		h.end = sync.OnceFunc(func() { close(h.ended) })
		m.hubs[to.Bundle] = h
		go m.read(h)
		go h.write()
	}
	h.mu.Lock()
	h.all[c] = true
	h.mu.Unlock()
	return h, nil
}

// leave takes a client away. The last one ends the hub, but not that of a container whose input is still
// to come: conmon would close it.
func (m *Monitor) leave(h *hub, c *client) {
	close(c.gone)
	m.mu.Lock()
	defer m.mu.Unlock()
	h.mu.Lock()
	delete(h.all, c)
	empty := len(h.all) == 0
	h.mu.Unlock()
	if !empty || m.hubs[h.to.Bundle] != h || h.to.Stdin == StdinOnce && !h.inputEnded() {
		return
	}
	delete(m.hubs, h.to.Bundle)
	h.end()
	// conmon must have taken note of the end of input before a write of its fails, or it uses what it
	// has freed; until then its output is read.
	time.AfterFunc(parting, func() { h.conn.Close() })
}

// endInput lets the container's input end.
func (h *hub) endInput() { h.end() }

func (h *hub) inputEnded() bool {
	select {
	case <-h.ended:
		return true
	default:
		return false
	}
}

// read gives conmon's packets to all clients until the connection ends.
func (m *Monitor) read(h *hub) {
	buf := make([]byte, maxPacket)
	for {
		n, err := h.conn.Read(buf)
		if err != nil || n == 0 {
			break
		}
		h.mu.Lock()
		clients := slices.Collect(maps.Keys(h.all))
		h.mu.Unlock()
		if len(clients) == 0 {
			continue
		}
		packet := slices.Clone(buf[:n])
		for _, c := range clients {
			c.give(packet)
		}
	}
	h.conn.Close()
	close(h.done)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.hubs[h.to.Bundle] == h {
		delete(m.hubs, h.to.Bundle)
	}
}

// give queues a packet, which is read by many and changed by none. It waits for a slow client a little,
// so that one who is only slower than the container loses nothing, and then gives it up.
func (c *client) give(packet []byte) {
	select {
	case c.packets <- packet:
		return
	case <-c.slow:
		return
	default:
	}
	t := time.NewTimer(stall)
	defer t.Stop()
	select {
	case c.packets <- packet:
	case <-c.gone:
	case <-t.C:
		close(c.slow)
	}
}

// feed passes a client's input on until either ends.
func (h *hub) feed(c *client, from io.Reader) {
	for {
		buf := make([]byte, maxInput)
		n, err := from.Read(buf)
		if n > 0 {
			select {
			case h.input <- buf[:n]:
			case <-c.gone:
				return
			case <-h.ended:
				return
			case <-h.done:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// write is the one who writes to conmon.
func (h *hub) write() {
	for {
		select {
		case p := <-h.input:
			if _, err := h.conn.Write(p); err != nil {
				return
			}
		case <-h.ended:
			h.conn.CloseWrite()
			return
		case <-h.done:
			return
		}
	}
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
