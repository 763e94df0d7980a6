package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/test/streamclient"
)

// serve runs a server until the test ends.
func serve(t *testing.T, o Options) (*Server, context.CancelFunc) {
	t.Helper()
	o.Address = "127.0.0.1:0"
	s := New(o)
	l, err := s.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Serve() = %v, want nil", err)
		}
	})
	return s, stop
}

func url(t *testing.T) func(string, error) string {
	return func(u string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
}

var (
	both = map[string]func(string, streamclient.Ask) (*streamclient.Client, error){"SPDY": streamclient.SPDY, "WebSocket": streamclient.WebSocket, "WebSocket v5": streamclient.WebSocketV5}
	out  = Terminal{Stdout: true}
)

func nothing(context.Context, IO) error { return nil }

func TestURLs(t *testing.T) {
	s, _ := serve(t, Options{})
	a, b := url(t)(s.Exec("c", out, nothing)), url(t)(s.Exec("c", out, nothing))
	if a == b || len(a[strings.LastIndex(a, "/")+1:]) != 64 {
		t.Errorf("URLs = %q, %q, want 256 bits of chance each", a, b)
	}
	get := func(u string) int {
		r, err := http.Get(u)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		return r.StatusCode
	}
	if code := get(strings.Replace(a, "/exec/", "/attach/", 1)); code != http.StatusNotFound {
		t.Errorf("status of another kind's URL = %d, want 404", code)
	}
	if code := get(a[:len(a)-1] + "g"); code != http.StatusNotFound {
		t.Errorf("status of an unknown URL = %d, want 404", code)
	}
	if code := get(a); code != http.StatusBadRequest && code != http.StatusForbidden { // it asks for no upgrade
		t.Errorf("status of the URL = %d, want a refusal by the protocol", code)
	}
	if code := get(a); code != http.StatusNotFound {
		t.Errorf("status of a used URL = %d, want 404", code)
	}
	if _, err := New(Options{}).Exec("c", out, nothing); err == nil {
		t.Error("Exec() before Listen = nil, want an error")
	}
}

func TestURLsAreBoundedInTimeAndNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		s.base = "http://x"
		first := url(t)(s.Exec("c", out, nothing))
		token := first[strings.LastIndex(first, "/")+1:]
		for range mostOf - 1 {
			url(t)(s.Exec("c", out, nothing))
		}
		if _, err := s.Exec("c", out, nothing); !errors.Is(err, ErrTooMany) || !strings.Contains(err.Error(), "max_per_container") {
			t.Errorf("Exec() = %v, want stream-limit of the container", err)
		}
		for i := range most - mostOf {
			url(t)(s.Exec(strconv.Itoa(i), out, nothing))
		}
		if _, err := s.Exec("another", out, nothing); !errors.Is(err, ErrTooMany) || !strings.Contains(err.Error(), "max_streams") {
			t.Errorf("Exec() = %v, want stream-limit of the node", err)
		}
		time.Sleep(urlLife - time.Second)
		if p, ok := s.take("exec", token); !ok {
			t.Error("a URL ended before its time")
		} else {
			s.leave(p)
		}
		second := url(t)(s.Exec("c", out, nothing))
		token = second[strings.LastIndex(second, "/")+1:]
		time.Sleep(urlLife)
		if _, ok := s.take("exec", token); ok {
			t.Error("a URL outlived its time")
		}
		url(t)(s.Exec("c", out, nothing)) // there is room again
		if len(s.pending) != 1 {
			t.Errorf("%d URLs wait, want 1", len(s.pending))
		}
	})
}

// What was not asked for is not given, whatever the client opens.
func TestOnlyWhatWasAskedFor(t *testing.T) {
	s, _ := serve(t, Options{})
	for name, open := range both {
		t.Run(name, func(t *testing.T) {
			got := make(chan IO, 1)
			c, err := open(url(t)(s.Exec("c", out, func(_ context.Context, client IO) error { got <- client; return nil })), streamclient.Ask{Stdin: true})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if g := <-got; g.Stdin != nil || g.Stderr != nil || g.Resize != nil {
				t.Errorf("streams = %+v, want none but stdout", g)
			}
		})
	}
}

// The context ends with the client, also one that left while nobody read what it had sent.
func TestClientGone(t *testing.T) {
	s, _ := serve(t, Options{})
	for name, open := range both {
		for _, flood := range []int{0, 4 << 20} {
			limit := glance / 2 // at once, where the server reads
			if flood > 0 {
				limit = 5 * glance
			}
			t.Run(name, func(t *testing.T) {
				begun, ended := make(chan bool), make(chan error, 1)
				u := url(t)(s.Exec("c", Terminal{Stdin: true, Stdout: true}, func(ctx context.Context, _ IO) error {
					close(begun)
					<-ctx.Done()
					ended <- context.Cause(ctx)
					return nil
				}))
				c, err := open(u, streamclient.Ask{Stdin: true, Stdout: true})
				if err != nil {
					t.Fatal(err)
				}
				<-begun
				if flood > 0 { // even an empty message would hold the reader up
					go c.Stdin.Write(make([]byte, flood))
				}
				time.Sleep(100 * time.Millisecond)
				c.Close()
				select {
				case err := <-ended:
					if !errors.Is(err, errGone) {
						t.Errorf("cause = %v, want errGone", err)
					}
				case <-time.After(limit):
					t.Error("the context does not end")
				}
			})
		}
	}
}

func TestServerEnds(t *testing.T) {
	s, stop := serve(t, Options{})
	ended := make(chan bool)
	u := url(t)(s.Exec("c", out, func(ctx context.Context, _ IO) error { <-ctx.Done(); close(ended); return nil }))
	if _, err := streamclient.SPDY(u, streamclient.Ask{Stdout: true}); err != nil {
		t.Fatal(err)
	}
	stop()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the context does not end with the server")
	}
}

func TestIdle(t *testing.T) {
	s, _ := serve(t, Options{Idle: 300 * time.Millisecond})
	for name, open := range both {
		t.Run(name, func(t *testing.T) {
			ended := make(chan bool)
			c, err := open(url(t)(s.Exec("c", out, func(ctx context.Context, _ IO) error { <-ctx.Done(); close(ended); return nil })), streamclient.Ask{Stdout: true})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Error("a connection on which nothing moves stays open")
			}
		})
	}
}

func TestPortForward(t *testing.T) {
	s, _ := serve(t, Options{})
	t.Run("SPDY", func(t *testing.T) { forward(t, s, streamclient.Forward) })
	t.Run("tunnel", func(t *testing.T) { forward(t, s, streamclient.ForwardTunnel) })
}

func forward(t *testing.T, s *Server, dial func(string) (func(int) (io.ReadWriteCloser, io.Reader, error), func() error, error)) {
	ended := make(chan bool)
	u := url(t)(s.PortForward("pod", Forwarding{End: func() { close(ended) }, Port: func(_ context.Context, port uint16, c io.ReadWriter) error {
		if port != 80 {
			return errors.New("only 80")
		}
		b := make([]byte, 4)
		io.ReadFull(c, b)
		c.Write([]byte(strings.ToUpper(string(b))))
		return nil
	}}))
	open, stop, err := dial(u)
	if err != nil {
		t.Fatal(err)
	}
	data, _, err := open(80)
	if err != nil {
		t.Fatal(err)
	}
	data.Write([]byte("ping"))
	if b, err := io.ReadAll(data); err != nil || string(b) != "PING" {
		t.Errorf("answer = %q, %v, want PING", b, err)
	}
	_, problem, err := open(81)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(problem); !strings.Contains(string(b), "only 80") {
		t.Errorf("problem = %q, want only 80", b)
	}
	stop()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("End is not called")
	}
}

func TestTLS(t *testing.T) {
	dir, pair := t.TempDir(), streamclient.KeyPair(t)
	cert, private := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	os.WriteFile(cert, pair.Cert, 0o600)
	os.WriteFile(private, pair.Key, 0o600)
	s, _ := serve(t, Options{Certificate: cert, Key: private})
	for name, open := range both {
		t.Run(name, func(t *testing.T) {
			u := url(t)(s.Exec("c", out, func(_ context.Context, c IO) error {
				io.WriteString(c.Stdout, "secret")
				return ExitError{3}
			}))
			if !strings.HasPrefix(u, "https://") {
				t.Fatalf("URL = %q, want https", u)
			}
			if r, err := http.Get(strings.Replace(u, "https", "http", 1)); err == nil && r.StatusCode != http.StatusBadRequest {
				t.Errorf("plain HTTP is answered with %d", r.StatusCode)
			}
			c, err := open(u, streamclient.Ask{Stdout: true})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			text := make(chan string, 1)
			go func() {
				b, _ := io.ReadAll(c.Stdout)
				text <- string(b)
			}()
			if code, err := c.Wait(); err != nil || code != 3 || <-text != "secret" {
				t.Errorf("Wait() = %d, %v, want 3 and the output", code, err)
			}
		})
	}
	if _, err := New(Options{Address: "127.0.0.1:0", Certificate: cert, Key: cert}).Listen(); err == nil {
		t.Error("Listen() with a wrong key = nil, want an error")
	}
}

// Connections that never become a stream, and clients that open no streams, are closed.
func TestIdlersDoNotLeak(t *testing.T) {
	s, _ := serve(t, Options{})
	before := runtime.NumGoroutine()
	for range 50 {
		c, err := net.Dial("tcp", strings.TrimPrefix(s.base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "GET /exec/none HTTP/1.1\r\nHost: x\r\n\r\n")
		c.Close()
	}
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before+2 && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > before+2 {
		t.Errorf("%d goroutines, were %d", n, before)
	}
}

// A client that closes its input goes on reading what the command says to it (v5).
func TestHalfClose(t *testing.T) {
	s, _ := serve(t, Options{})
	c, err := streamclient.WebSocketV5(url(t)(s.Exec("c", Terminal{Stdin: true, Stdout: true}, func(_ context.Context, client IO) error {
		b, err := io.ReadAll(client.Stdin)
		if err != nil {
			return err
		}
		_, err = client.Stdout.Write(bytes.ToUpper(b))
		return err
	})), streamclient.Ask{Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c.Stdin, "all of it")
	c.Stdin.Close()
	text := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(c.Stdout)
		text <- string(b)
	}()
	if code, err := c.Wait(); err != nil || code != 0 || <-text != "ALL OF IT" {
		t.Errorf("Wait() = %d, %v, want 0 and the answer", code, err)
	}
}

func TestResize(t *testing.T) {
	s, _ := serve(t, Options{})
	for name, open := range both {
		t.Run(name, func(t *testing.T) {
			c, err := open(url(t)(s.Exec("c", Terminal{Stdout: true, TTY: true}, func(_ context.Context, client IO) error {
				if z := <-client.Resize; z != (Size{80, 25}) {
					return fmt.Errorf("size %v", z)
				}
				return nil
			})), streamclient.Ask{Stdout: true, TTY: true})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			go io.Copy(io.Discard, c.Stdout)
			c.Resize(80, 25)
			if code, err := c.Wait(); err != nil || code != 0 {
				t.Errorf("Wait() = %d, %v, want 0", code, err)
			}
		})
	}
}

// An error reaches the client in words, whatever it speaks.
func TestErrorInWords(t *testing.T) {
	s, _ := serve(t, Options{})
	for name, open := range both {
		t.Run(name, func(t *testing.T) {
			c, err := open(url(t)(s.Exec("c", out, func(context.Context, IO) error { return errors.New("the reason") })), streamclient.Ask{Stdout: true})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			go io.Copy(io.Discard, c.Stdout)
			if _, err := c.Wait(); err == nil || !strings.Contains(err.Error(), "the reason") {
				t.Errorf("Wait() = %v, want the reason", err)
			}
		})
	}
	if got := string(lastWords("channel.k8s.io", errors.New("the reason"))); got != "the reason" {
		t.Errorf("lastWords(v1) = %q, want the reason alone", got)
	}
	if got := lastWords("", nil); len(got) != 0 {
		t.Errorf("lastWords(v1, success) = %q, want nothing", got)
	}
}

// Streams that are open count until they end, and so do URLs that wait.
func TestOpenStreamsAreLimited(t *testing.T) {
	s, _ := serve(t, Options{Most: 3, MostOf: 2})
	var clients []*streamclient.Client
	wait := func(_ context.Context, c IO) error { _, err := io.Copy(io.Discard, c.Stdin); return err }
	in := Terminal{Stdin: true}
	for _, open := range []func(string, streamclient.Ask) (*streamclient.Client, error){streamclient.SPDY, streamclient.WebSocketV5} {
		c, err := open(url(t)(s.Exec("a", in, wait)), streamclient.Ask{Stdin: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		clients = append(clients, c)
	}
	if got := s.Open(); got["exec"] != 2 {
		t.Errorf("Open() = %v, want 2 execs", got)
	}
	if _, err := s.Attach("a", in, wait); !errors.Is(err, ErrTooMany) || !strings.Contains(err.Error(), "a has 2 streams") {
		t.Errorf("Attach() = %v, want stream-limit of the container", err)
	}
	url(t)(s.Attach("b", in, wait)) // another container has its own
	if _, err := s.PortForward("pod", Forwarding{}); !errors.Is(err, ErrTooMany) || !strings.Contains(err.Error(), "this node has 3") {
		t.Errorf("PortForward() = %v, want stream-limit of the node", err)
	}
	clients[0].Close()
	for end := time.Now().Add(10 * time.Second); s.Open()["exec"] > 1 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	url(t)(s.Attach("a", in, wait)) // there is room again
}
