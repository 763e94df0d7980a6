// Package streamclient is a client of exec, attach and port-forward URLs for tests, over SPDY and
// WebSocket, as small as the protocols allow.
package streamclient

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/net/websocket"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// Ask says which streams to open.
type Ask struct{ Stdin, Stdout, Stderr, TTY bool }

// Client is an open exec or attach. Streams that were not asked for are nil.
type Client struct {
	Stdin          io.WriteCloser // WebSocket before v5: Close does nothing, the protocol has no word for it
	Stdout, Stderr io.Reader
	resize         io.Writer
	status         io.Reader
	close          func() error
}

// Insecure trusts any certificate.
var Insecure = &tls.Config{InsecureSkipVerify: true}

// SPDY opens the URL as kubectl and crictl do.
func SPDY(at string, a Ask) (*Client, error) {
	conn, err := dialSPDY(at, "v4.channel.k8s.io")
	if err != nil {
		return nil, err
	}
	var failed error
	open := func(kind string) httpstream.Stream {
		s, err := conn.CreateStream(http.Header{"streamType": {kind}})
		if err != nil {
			failed = err
			return nil
		}
		return s
	}
	c := &Client{close: conn.Close, status: open("error")}
	if a.Stdin {
		c.Stdin = open("stdin")
	}
	if a.Stdout {
		c.Stdout = open("stdout")
	}
	if a.Stderr {
		c.Stderr = open("stderr")
	}
	if a.TTY {
		c.resize = open("resize")
	}
	if failed != nil {
		conn.Close()
		return nil, failed
	}
	return c, nil
}

func dialSPDY(at, protocol string) (httpstream.Connection, error) {
	rt, err := spdy.NewRoundTripper(Insecure)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequest(http.MethodPost, at, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set(httpstream.HeaderProtocolVersion, protocol)
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	return rt.NewConnection(resp)
}

// WebSocket opens the URL as a browser would.
func WebSocket(at string, a Ask) (*Client, error) { return overWebSocket(at, "v4.channel.k8s.io", a) }

// WebSocketV5 opens the URL as kubectl and crictl do by default: the input can be closed.
func WebSocketV5(at string, a Ask) (*Client, error) { return overWebSocket(at, v5, a) }

const v5 = "v5.channel.k8s.io"

func overWebSocket(at, protocol string, a Ask) (*Client, error) {
	ws, err := dialWebSocket(at, protocol)
	if err != nil {
		return nil, err
	}
	ch := channels(ws)
	ch.halfClose = protocol == v5
	c := &Client{close: ch.close, status: ch.reader(3)}
	if a.Stdin {
		c.Stdin = ch.writer(0)
	}
	if a.Stdout {
		c.Stdout = ch.reader(1)
	}
	if a.Stderr {
		c.Stderr = ch.reader(2)
	}
	if a.TTY {
		c.resize = ch.writer(4)
	}
	go ch.run()
	return c, nil
}

func dialWebSocket(at, protocol string) (*websocket.Conn, error) {
	u, err := url.Parse(at)
	if err != nil {
		return nil, err
	}
	u.Scheme = strings.Replace(u.Scheme, "http", "ws", 1)
	cfg, err := websocket.NewConfig(u.String(), "http://localhost/")
	if err != nil {
		return nil, err
	}
	cfg.Protocol, cfg.TlsConfig = []string{protocol}, Insecure
	ws, err := websocket.DialConfig(cfg)
	if err != nil {
		return nil, err
	}
	ws.PayloadType = websocket.BinaryFrame
	return ws, nil
}

// Resize tells the server the terminal's size.
func (c *Client) Resize(width, height uint16) error {
	_, err := fmt.Fprintf(c.resize, `{"Width":%d,"Height":%d}`+"\n", width, height)
	return err
}

// Wait waits for the end and gives the exit code; an error is what the server said in words.
func (c *Client) Wait() (int, error) {
	data, err := io.ReadAll(c.status)
	if err != nil {
		return -1, err
	}
	var st struct {
		Status, Message, Reason string
		Details                 struct {
			Causes []struct{ Reason, Message string }
		}
	}
	if err := json.Unmarshal(data, &st); err != nil {
		return -1, fmt.Errorf("read status %q: %w", data, err)
	}
	switch {
	case st.Status == "Success":
		return 0, nil
	case st.Reason == "NonZeroExitCode" && len(st.Details.Causes) > 0:
		return strconv.Atoi(st.Details.Causes[0].Message)
	}
	return -1, fmt.Errorf("%s", st.Message)
}

// Close closes the connection, as a client does that leaves in the middle.
func (c *Client) Close() error { return c.close() }

// Forward opens a port-forward URL over SPDY; each call of the result opens one connection to a port.
func Forward(at string) (open func(port int) (data io.ReadWriteCloser, problem io.Reader, err error), stop func() error, err error) {
	conn, err := dialSPDY(at, "portforward.k8s.io")
	if err != nil {
		return nil, nil, err
	}
	return opener(conn)
}

// ForwardTunnel is Forward with its SPDY inside a WebSocket.
func ForwardTunnel(at string) (open func(port int) (data io.ReadWriteCloser, problem io.Reader, err error), stop func() error, err error) {
	ws, err := dialWebSocket(at, "SPDY/3.1+portforward.k8s.io")
	if err != nil {
		return nil, nil, err
	}
	conn, err := spdy.NewClientConnection(ws)
	if err != nil {
		ws.Close()
		return nil, nil, err
	}
	return opener(conn)
}

func opener(conn httpstream.Connection) (open func(port int) (data io.ReadWriteCloser, problem io.Reader, err error), stop func() error, err error) {
	var n int
	var mu sync.Mutex
	return func(port int) (io.ReadWriteCloser, io.Reader, error) {
		mu.Lock()
		n++
		h := http.Header{"port": {strconv.Itoa(port)}, "requestID": {strconv.Itoa(n)}, "streamType": {"error"}}
		mu.Unlock()
		problem, err := conn.CreateStream(h)
		if err != nil {
			return nil, nil, err
		}
		problem.Close()
		h = h.Clone()
		h["streamType"] = []string{"data"}
		data, err := conn.CreateStream(h)
		return data, problem, err
	}, conn.Close, nil
}

// ForwardWebSocket opens a port-forward URL over WebSocket and gives the first port's connection.
func ForwardWebSocket(at string) (data io.ReadWriter, problem io.Reader, stop func() error, err error) {
	ws, err := dialWebSocket(at, "v4.channel.k8s.io")
	if err != nil {
		return nil, nil, nil, err
	}
	ch := channels(ws)
	out, errs := ch.reader(0), ch.reader(1)
	go ch.run()
	for _, r := range []io.Reader{out, errs} { // both begin with the port
		if _, err := io.ReadFull(r, make([]byte, 2)); err != nil {
			ws.Close()
			return nil, nil, nil, err
		}
	}
	return struct {
		io.Reader
		io.Writer
	}{out, ch.writer(0)}, errs, ch.close, nil
}

// demux parts a WebSocket into its channels.
type demux struct {
	ws        *websocket.Conn
	out       map[byte]*io.PipeWriter
	mu        *sync.Mutex // guards writes
	halfClose bool
}

func channels(ws *websocket.Conn) demux {
	return demux{ws: ws, out: map[byte]*io.PipeWriter{}, mu: new(sync.Mutex)}
}

func (d demux) reader(n byte) io.Reader {
	r, w := io.Pipe()
	d.out[n] = w
	return r
}

func (d demux) writer(n byte) io.WriteCloser { return channel{d, n} }

// close closes the connection; whatever nobody has read is dropped.
func (d demux) close() error {
	err := d.ws.Close()
	for _, w := range d.out {
		w.Close()
	}
	return err
}

func (d demux) run() {
	for {
		var msg []byte
		err := websocket.Message.Receive(d.ws, &msg)
		if err != nil {
			for _, w := range d.out {
				w.Close()
			}
			return
		}
		if len(msg) > 1 && d.out[msg[0]] != nil {
			d.out[msg[0]].Write(msg[1:])
		}
	}
}

type channel struct {
	d demux
	n byte
}

func (c channel) Write(p []byte) (int, error) {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	if err := websocket.Message.Send(c.d.ws, append([]byte{c.n}, p...)); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c channel) Close() error {
	if !c.d.halfClose {
		return nil
	}
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	return websocket.Message.Send(c.d.ws, []byte{255, c.n}) // KEP-4006
}
