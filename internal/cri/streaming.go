package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/enforce"
	"sallyport/sandbox"
	"sallyport/sandbox/spec"
	"sallyport/sandbox/stream"
)

const (
	mostPorts  = 100 // of one port-forward; a WebSocket has 255 channels, two for each
	recordWait = 10 * time.Second
)

// Exec judges a command and returns a URL on which it runs with the client's streams.
func (s *Server) Exec(ctx context.Context, req *v1.ExecRequest) (*v1.ExecResponse, error) {
	c, t, err := s.streamed(req.GetContainerId(), stream.Terminal{Stdin: req.GetStdin(), Stdout: req.GetStdout(), Stderr: req.GetStderr(), TTY: req.GetTty()})
	if err == nil && len(req.GetCmd()) == 0 {
		err = fmt.Errorf("exec in container %s: %w: cmd is empty", c.ID(), errInvalid)
	}
	if err != nil {
		return nil, toStatus(err)
	}
	ask := func(ctx context.Context) (enforce.ExecAdmission, error) {
		return s.admitExec(ctx, c, req.GetCmd(), t.TTY)
	}
	adm, err := ask(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	url, err := s.o.Streams.Exec(c.ID(), t, func(ctx context.Context, client stream.IO) error {
		m := begin("exec", c, req.GetCmd())
		streams := m.streams(client, t)
		code, err := c.Exec(ctx, adm, streams)
		if errors.Is(err, enforce.ErrExpired) { // the policy changed since the URL was given out
			if adm, err = ask(ctx); err == nil {
				code, err = c.Exec(ctx, adm, streams)
			}
		}
		if err == nil {
			m.detail["exitCode"] = fmt.Sprint(code)
		}
		s.end(m, err)
		if err == nil && code != 0 {
			return stream.ExitError{Code: code}
		}
		return err
	})
	if err != nil {
		return nil, toStatus(err)
	}
	return &v1.ExecResponse{Url: url}, nil
}

func (s *Server) admitExec(ctx context.Context, c *sandbox.Container, cmd []string, tty bool) (enforce.ExecAdmission, error) {
	text, err := c.Spec()
	if err != nil {
		return enforce.ExecAdmission{}, err
	}
	process, err := spec.BuildExec(spec.ExecInput{Spec: text, Args: cmd, Terminal: tty})
	if err != nil {
		return enforce.ExecAdmission{}, fmt.Errorf("exec in container %s: %w", c.ID(), err)
	}
	return s.o.Gate.AdmitExec(ctx, enforce.ExecRequest{Pod: podFacts(c.Pod().Config()), PodID: c.Pod().ID(),
		Container: containerFacts(c.Config(), c.ID(), nil), Exec: enforce.Exec{Argv: cmd, TTY: tty}, Process: string(process), Spec: string(text)})
}

// Attach judges the way to a container's first process and returns a URL that has its streams.
func (s *Server) Attach(ctx context.Context, req *v1.AttachRequest) (*v1.AttachResponse, error) {
	c, t, err := s.streamed(req.GetContainerId(), stream.Terminal{Stdin: req.GetStdin(), Stdout: req.GetStdout(), Stderr: req.GetStderr(), TTY: req.GetTty()})
	if err != nil {
		return nil, toStatus(err)
	}
	ask := func(ctx context.Context) (enforce.AttachAdmission, error) {
		return s.o.Gate.AdmitAttach(ctx, enforce.AttachRequest{Pod: podFacts(c.Pod().Config()), PodID: c.Pod().ID(),
			Container: containerFacts(c.Config(), c.ID(), nil), Exec: enforce.Exec{TTY: c.Config().TTY}})
	}
	adm, err := ask(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	url, err := s.o.Streams.Attach(c.ID(), t, func(ctx context.Context, client stream.IO) error {
		m := begin("attach", c, nil)
		streams := m.streams(client, t)
		err := c.Attach(ctx, adm, streams)
		if errors.Is(err, enforce.ErrExpired) {
			if adm, err = ask(ctx); err == nil {
				err = c.Attach(ctx, adm, streams)
			}
		}
		s.end(m, err)
		return err
	})
	if err != nil {
		return nil, toStatus(err)
	}
	return &v1.AttachResponse{Url: url}, nil
}

// streamed finds a running container and checks which streams are asked for.
func (s *Server) streamed(id string, t stream.Terminal) (*sandbox.Container, stream.Terminal, error) {
	c, err := s.findContainer(id)
	switch {
	case err != nil:
		return nil, t, err
	case t.TTY && t.Stderr:
		return nil, t, fmt.Errorf("stream from container %s: %w: a terminal has no stderr of its own", c.ID(), errInvalid)
	case !t.Stdin && !t.Stdout && !t.Stderr:
		return nil, t, fmt.Errorf("stream from container %s: %w: none of stdin, stdout and stderr is asked for", c.ID(), errInvalid)
	case c.Status().State != sandbox.Running:
		return nil, t, fmt.Errorf("stream from container %s: %w", c.ID(), sandbox.ErrNotRunning)
	}
	return c, t, nil
}

// PortForward judges the ports that are named and returns a URL on which connections to them are
// served. A client that names its ports only there has each of them judged at its first connection.
func (s *Server) PortForward(ctx context.Context, req *v1.PortForwardRequest) (*v1.PortForwardResponse, error) {
	pod, err := s.findPod(req.GetPodSandboxId())
	if err != nil {
		return nil, toStatus(err)
	}
	ports := make([]uint16, len(req.GetPort()))
	for i, p := range req.GetPort() {
		if p < 1 || p > 65535 || len(ports) > mostPorts {
			return nil, toStatus(fmt.Errorf("port-forward to pod %s: %w: port %d is none, or there are more than %d", pod.ID(), errInvalid, p, mostPorts))
		}
		ports[i] = uint16(p)
	}
	if pod.Status().State != sandbox.Ready {
		return nil, toStatus(fmt.Errorf("port-forward to pod %s: %w", pod.ID(), sandbox.ErrNotReady))
	}
	f := &forwarding{server: s, pod: pod, begun: time.Now(), ways: map[uint16]way{}, moved: map[uint16]*sandbox.Moved{}}
	if _, err := f.admit(ctx, ports...); err != nil {
		return nil, toStatus(err)
	}
	url, err := s.o.Streams.PortForward(pod.ID(), stream.Forwarding{Ports: ports, Port: f.serve, End: f.end})
	if err != nil {
		return nil, toStatus(err)
	}
	return &v1.PortForwardResponse{Url: url}, nil
}

// forwarding is one client's port-forward.
type forwarding struct {
	server *Server      // constant
	pod    *sandbox.Pod // constant
	begun  time.Time    // constant

	mu    sync.Mutex // guards the rest
	ways  map[uint16]way
	moved map[uint16]*sandbox.Moved
	conns int
	last  error
}

// way is permission to reach a port, for as long as the policy that gave it is in force.
type way struct {
	effective string
	to        *sandbox.Forward
}

// admit asks the gate for ports and redeems.
func (f *forwarding) admit(ctx context.Context, ports ...uint16) (*sandbox.Forward, error) {
	gate, cfg := f.server.o.Gate, f.pod.Config()
	effective := gate.Effective(cfg.Namespace)
	adm, err := gate.AdmitPortForward(ctx, enforce.PortForwardRequest{Pod: podFacts(cfg), PodID: f.pod.ID(), Ports: ports})
	if err != nil {
		return nil, err
	}
	to, err := f.pod.PortForward(adm)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range ports {
		f.ways[p] = way{effective, to}
	}
	return to, nil
}

// reach finds the way to a port. Where there is none yet, or the policy has changed, the gate is asked.
func (f *forwarding) reach(ctx context.Context, port uint16) (*sandbox.Forward, error) {
	f.mu.Lock()
	w, ok := f.ways[port]
	f.mu.Unlock()
	if ok && w.effective == f.server.o.Gate.Effective(f.pod.Config().Namespace) {
		return w.to, nil
	}
	return f.admit(ctx, port)
}

func (f *forwarding) serve(ctx context.Context, port uint16, client io.ReadWriter) error {
	to, err := f.reach(ctx, port)
	var moved sandbox.Moved
	if err == nil {
		moved, err = to.Serve(ctx, port, client)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns++
	if f.moved[port] == nil {
		f.moved[port] = &sandbox.Moved{}
	}
	f.moved[port].In += moved.In
	f.moved[port].Out += moved.Out
	if err != nil {
		f.last = err
	}
	return err
}

func (f *forwarding) end() {
	m := &meter{begun: f.begun, event: enforce.Event{Type: "stream", Verb: "portforward", Outcome: "end", Namespace: f.pod.Config().Namespace,
		Pod: f.pod.Config().Name, PodID: f.pod.ID()}, detail: map[string]string{}}
	f.mu.Lock()
	m.detail["connections"] = fmt.Sprint(f.conns)
	for port, moved := range f.moved {
		m.detail[fmt.Sprintf("port %d", port)] = fmt.Sprintf("%d bytes to the pod, %d from it", moved.In, moved.Out)
	}
	for _, moved := range f.moved {
		m.in, m.out = m.in+moved.In, m.out+moved.Out
	}
	err := f.last
	f.mu.Unlock()
	f.server.end(m, err)
}

// meter measures one stream for its record.
type meter struct {
	begun  time.Time
	event  enforce.Event
	detail map[string]string
	bytes  map[string]*atomic.Int64
	in     int64 // bytes that are not in bytes
	out    int64
}

func begin(verb string, c *sandbox.Container, argv []string) *meter {
	pod := c.Pod().Config()
	return &meter{begun: time.Now(), detail: map[string]string{}, bytes: map[string]*atomic.Int64{}, event: enforce.Event{Type: "stream", Verb: verb,
		Outcome: "end", Namespace: pod.Namespace, Pod: pod.Name, PodID: c.Pod().ID(), Container: c.Config().Name, ID: c.ID(), Argv: argv}}
}

// streams are the client's, counted.
func (m *meter) streams(client stream.IO, t stream.Terminal) sandbox.Streams {
	count := func(name string) *atomic.Int64 {
		m.bytes[name] = new(atomic.Int64)
		return m.bytes[name]
	}
	out := sandbox.Streams{Terminal: t.TTY, Resize: client.Resize}
	if client.Stdin != nil {
		out.Stdin = countedReader{client.Stdin, count("stdin")}
	}
	if client.Stdout != nil {
		out.Stdout = countedWriter{client.Stdout, count("stdout")}
	}
	if client.Stderr != nil {
		out.Stderr = countedWriter{client.Stderr, count("stderr")}
	}
	return out
}

// end records how a stream ended. The deed is done, so a failure to record is told and no more; the gate
// then admits nothing until it can record.
func (s *Server) end(m *meter, err error) {
	took := time.Since(m.begun)
	m.detail["duration"] = took.Round(time.Millisecond).String()
	for name, n := range m.bytes {
		m.detail[name] = fmt.Sprint(n.Load())
		if name == "stdin" {
			m.in += n.Load()
		} else {
			m.out += n.Load()
		}
	}
	if s.o.Streamed != nil {
		s.o.Streamed(StreamEnd{Kind: m.event.Verb, Failed: err != nil, Took: took, In: m.in, Out: m.out})
	}
	if err != nil {
		m.detail["error"] = err.Error()
	}
	m.event.Detail = m.detail
	ctx, cancel := context.WithTimeout(context.Background(), recordWait)
	defer cancel()
	if rerr := s.o.Gate.Record(ctx, m.event); rerr != nil {
		s.o.Log.Error("record the end of a stream", "verb", m.event.Verb, "id", m.event.ID, "err", rerr)
	}
}

type countedReader struct {
	io.Reader
	n *atomic.Int64
}

func (c countedReader) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

type countedWriter struct {
	io.Writer
	n *atomic.Int64
}

func (c countedWriter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n.Add(int64(n))
	return n, err
}
