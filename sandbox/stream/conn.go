package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// glance is how often a connection is looked at whose reader is stuck on data that nobody takes, and so
// would not see the client go.
const glance = 2 * time.Second

// watched is a listener whose connections tell when their client has gone. net/http stops looking once a
// connection is hijacked, and a command without input or output would never learn of it.
type watched struct{ net.Listener }

// Accept waits for the next connection.
func (w watched) Accept() (net.Conn, error) {
	c, err := w.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, gone: make(chan struct{})}, nil
}

// conn closes gone when the server's side closes it, which the SPDY and WebSocket readers do at once when
// the client has.
type conn struct {
	net.Conn
	once sync.Once
	gone chan struct{}
}

func (c *conn) left() { c.once.Do(func() { close(c.gone) }) }

// Close closes the connection.
func (c *conn) Close() error {
	c.left()
	return c.Conn.Close()
}

// closing asks the kernel whether the other end has closed or reset the connection.
func (c *conn) closing() bool {
	tcp, ok := c.Conn.(*net.TCPConn)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return true
	}
	closing := false
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		closing = err == nil && info.State != unix.BPF_TCP_ESTABLISHED
	})
	return closing || err != nil
}

// watch looks until the connection is gone.
func (c *conn) watch() {
	tick := time.NewTicker(glance)
	defer tick.Stop()
	for {
		select {
		case <-c.gone:
			return
		case <-tick.C:
			if c.closing() {
				c.Close()
			}
		}
	}
}

type connKey struct{}

// withConn gives requests a context that ends with their connection, and the connection itself.
func withConn(ctx context.Context, nc net.Conn) context.Context {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	c := nc.(*conn) // all are: Serve's listener comes from Listen
	ctx, cancel := context.WithCancelCause(context.WithValue(ctx, connKey{}, c))
	go func() {
		c.watch()
		cancel(errGone)
	}()
	return ctx
}

var errGone = errors.New("the client has gone")

func connOf(r *http.Request) *conn { return r.Context().Value(connKey{}).(*conn) }
