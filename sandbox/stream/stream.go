// Package stream serves the connections that carry the streams of an exec, an attach or a port-forward,
// over SPDY and WebSocket as the kubelet and crictl speak them. It knows neither pods nor policy: who
// asks for a URL says what the connection will do.
//
// A URL is the whole right to what it names, so it has 256 random bits, works once and for a minute. The
// protocols are those of k8s.io/cri-streaming; its own server is not used, since its URLs have 48 bits.
package stream

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"sallyport/internal/keypair"
)

const (
	urlLife    = time.Minute      // in which a URL must be used
	most       = 1000             // streams, where Options names no number
	mostOf     = 100              // streams of one container or pod, likewise
	headerWait = 10 * time.Second // for a request's head
	mostHeader = 64 << 10         // bytes of a request's head
	createWait = 30 * time.Second // for the client to open its streams (SPDY)
	closeWait  = 5 * time.Second  // for the client to take the last words
	endWait    = 5 * time.Second  // for streams to end when the server does
)

// ErrTooMany means that there are as many streams as there may be, open or waiting for their clients.
var ErrTooMany = errors.New("stream-limit")

// Options say where to listen and for how long.
type Options struct {
	Address     string        // host:port; port 0 takes a free one
	Certificate string        // PEM file; "" serves without TLS
	Key         string        // PEM file
	Idle        time.Duration // after which a connection on which nothing moves is closed; 0: never
	Most        int           // streams, open or waiting for their clients; 0: 1000
	MostOf      int           // likewise of one container, or of one pod's port-forwards; 0: 100
	Log         *slog.Logger
}

// Server gives out URLs and serves them. It may be used concurrently.
type Server struct {
	opt Options // constant

	mu      sync.Mutex // guards the rest
	base    string     // URL without the path; "" until Listen
	pending map[string]pending
	owners  map[string]int // connections being served, by container or pod
	kinds   map[string]int // likewise, by kind
	open    sync.WaitGroup // likewise, for the end
}

// pending is a URL that was not used yet.
type pending struct {
	until time.Time
	kind  string // first part of the path
	owner string // ID of the container or pod
	serve http.HandlerFunc
}

// New wires a Server; Listen and Serve run it.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	o.Most, o.MostOf = cmp.Or(o.Most, most), cmp.Or(o.MostOf, mostOf)
	return &Server{opt: o, pending: map[string]pending{}, owners: map[string]int{}, kinds: map[string]int{}}
}

// Terminal says which streams a client asked for.
type Terminal struct{ Stdin, Stdout, Stderr, TTY bool }

// Size is a terminal's, in characters.
type Size = struct{ Width, Height uint16 }

// IO is a client's streams; those that were not asked for are nil. All end when the function that they
// were given to returns.
type IO struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan Size // nil where the client sends none; closed in the end
}

// ExitError tells the client that a command ended with a code other than 0.
type ExitError struct{ Code int }

// Error is the text beside the code.
func (e ExitError) Error() string { return fmt.Sprintf("exit code %d", e.Code) }

// String, Exited and ExitStatus make ExitError the k8s.io/utils/exec.ExitError that is looked for.
func (e ExitError) String() string  { return e.Error() }
func (e ExitError) Exited() bool    { return true }
func (e ExitError) ExitStatus() int { return e.Code }

// Exec returns a URL for one connection to the container of that ID, on which run is called with the
// client's streams. Its context ends when the client has gone or the server ends. A nil error is exit
// code 0.
func (s *Server) Exec(container string, t Terminal, run func(context.Context, IO) error) (string, error) {
	return s.offer("exec", container, func(w http.ResponseWriter, r *http.Request) {
		if wsstream.IsWebSocketRequest(r) {
			s.serveWebSocket(w, r, process{t, run})
			return
		}
		remotecommand.ServeExec(w, r, process{t, run}, "", "", "", nil, options(t), s.opt.Idle, createWait, remotecommand.SupportedStreamingProtocols)
	})
}

// Attach is Exec for the streams of a process that runs already.
func (s *Server) Attach(container string, t Terminal, run func(context.Context, IO) error) (string, error) {
	return s.offer("attach", container, func(w http.ResponseWriter, r *http.Request) {
		if wsstream.IsWebSocketRequest(r) {
			s.serveWebSocket(w, r, process{t, run})
			return
		}
		remotecommand.ServeAttach(w, r, process{t, run}, "", "", "", options(t), s.opt.Idle, createWait, remotecommand.SupportedStreamingProtocols)
	})
}

// Forwarding is what a port-forward connection does.
type Forwarding struct {
	Ports []uint16                                                         // for WebSocket; an SPDY client names its ports later
	Port  func(ctx context.Context, port uint16, conn io.ReadWriter) error // serves one connection to a port
	End   func()                                                           // called once, when the client has gone
}

// PortForward returns a URL for one connection to the pod of that ID, over which the client opens any
// number of connections to ports, concurrently.
func (s *Server) PortForward(pod string, f Forwarding) (string, error) {
	return s.offer("portforward", pod, func(w http.ResponseWriter, r *http.Request) {
		ports := make([]int32, len(f.Ports))
		for i, p := range f.Ports {
			ports[i] = int32(p)
		}
		ctx, cancel := context.WithCancel(r.Context())
		fw := &forwarder{ctx: ctx, f: f}
		serve := func(w http.ResponseWriter, r *http.Request) {
			portforward.ServePortForward(w, r, fw, "", "", &portforward.V4Options{Ports: ports}, s.opt.Idle, createWait, portforward.SupportedProtocols)
		}
		if wsstream.IsWebSocketRequestWithTunnelingProtocol(r) {
			untunnel(w, r, serve)
		} else {
			serve(w, r)
		}
		cancel() // whoever still copies ends
		fw.open.Wait()
		f.End()
	})
}

// offer makes a URL for serve.
func (s *Server) offer(kind, owner string, serve http.HandlerFunc) (string, error) {
	var b [32]byte
	rand.Read(b[:]) // never fails
	token, now := hex.EncodeToString(b[:]), time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.base == "" {
		return "", errors.New("offer stream: the streaming server does not listen")
	}
	all, own := 1, 1+s.owners[owner]
	for _, n := range s.owners {
		all += n
	}
	for t, p := range s.pending {
		if !now.Before(p.until) {
			delete(s.pending, t)
			continue
		}
		if all++; p.owner == owner {
			own++
		}
	}
	switch {
	case all > s.opt.Most:
		return "", fmt.Errorf("offer stream: %w: this node has %d streams open or waiting for their clients, the most there may be (streaming.max_streams)", ErrTooMany, s.opt.Most)
	case own > s.opt.MostOf:
		return "", fmt.Errorf("offer stream: %w: %s has %d streams open or waiting for their clients, the most it may have (streaming.max_per_container)", ErrTooMany, owner, s.opt.MostOf)
	}
	s.pending[token] = pending{until: now.Add(urlLife), kind: kind, owner: owner, serve: serve}
	return s.base + "/" + kind + "/" + token, nil
}

// take uses a URL up; leave ends what it opened.
func (s *Server) take(kind, token string) (pending, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.pending[token]
	if !ok || p.kind != kind {
		return pending{}, false
	}
	delete(s.pending, token)
	if !time.Now().Before(p.until) {
		return pending{}, false
	}
	s.owners[p.owner]++
	s.kinds[p.kind]++
	return p, true
}

func (s *Server) leave(p pending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kinds[p.kind]--
	if s.owners[p.owner]--; s.owners[p.owner] == 0 {
		delete(s.owners, p.owner)
	}
}

// Open counts the connections that are being served, by kind: exec, attach and portforward.
func (s *Server) Open() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.kinds)
}

// ServeHTTP serves a URL once. It is for Serve, which gives requests their connections.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind, token, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	p, ok := s.take(kind, token)
	if !ok {
		http.NotFound(w, r)
		return
	}
	s.open.Add(1)
	defer s.open.Done()
	defer s.leave(p)
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		http.NotFound(w, r)
		return
	}
	// Where the client opened no streams nobody else closes the connection. A close at once could
	// overtake the last words to it.
	c := connOf(r)
	defer func() { time.AfterFunc(closeWait, func() { c.Close() }) }()
	p.serve(w, r)
}

// Listen takes the address; from then on there are URLs.
func (s *Server) Listen() (net.Listener, error) {
	var secure *tls.Config
	scheme := "http://"
	if s.opt.Certificate != "" {
		pair, err := keypair.Load(s.opt.Certificate, s.opt.Key, s.opt.Log)
		if err != nil {
			return nil, fmt.Errorf("listen for streams: %w", err)
		}
		secure, scheme = pair.Config(), "https://"
	}
	l, err := net.Listen("tcp", s.opt.Address)
	if err != nil {
		return nil, fmt.Errorf("listen for streams: %w", err)
	}
	s.mu.Lock()
	s.base = scheme + l.Addr().String()
	s.mu.Unlock()
	l = watched{l}
	if secure != nil {
		l = tls.NewListener(l, secure)
	}
	return l, nil
}

// Serve serves connections on l until ctx ends, which ends them all; it waits a few seconds for what
// they do to end. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler: s, ReadHeaderTimeout: headerWait, IdleTimeout: headerWait, MaxHeaderBytes: mostHeader,
		ErrorLog:    slog.NewLogLogger(s.opt.Log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: withConn,
		// HTTP/2 has no upgrade.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	err := srv.Serve(l)
	if ctx.Err() == nil {
		return fmt.Errorf("serve streams: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		s.open.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(endWait):
	}
	return nil
}

func options(t Terminal) *remotecommand.Options {
	return &remotecommand.Options{Stdin: t.Stdin, Stdout: t.Stdout, Stderr: t.Stderr, TTY: t.TTY}
}
