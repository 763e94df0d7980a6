package nri

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"sync"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/net/multiplex"
	"github.com/containerd/ttrpc"
)

// plugin is one connection. Calls about different containers are made at the same time, so that nobody
// waits for another's; one that is not answered in time ends the connection.
type plugin struct {
	hub   *Hub              // constant
	mux   multiplex.Mux     // constant
	calls *ttrpc.Client     // constant
	serve *ttrpc.Server     // constant
	svc   api.PluginService // constant
	cmd   *exec.Cmd         // constant; nil: it connected

	who    chan string   // what the plugin registered as, once
	ready  chan struct{} // closed when it knows the state and is asked about what happens
	closed chan struct{} // closed when it was given up
	once   sync.Once     // of closing

	full   string        // index-name; set before join, then constant
	events api.EventMask // likewise
}

func (p *plugin) name() string { return p.full }

// connect speaks NRI over conn: calls to the plugin, and a service for the calls that it makes.
func (h *Hub) connect(ctx context.Context, conn net.Conn, cmd *exec.Cmd) (*plugin, error) {
	p := &plugin{hub: h, cmd: cmd, who: make(chan string, 1), ready: make(chan struct{}), closed: make(chan struct{})}
	p.mux = multiplex.Multiplex(conn, multiplex.WithBlockedRead())
	out, err := p.mux.Open(multiplex.PluginServiceConn)
	if err != nil {
		p.mux.Close()
		return nil, err
	}
	in, err := p.mux.Listen(multiplex.RuntimeServiceConn)
	if err != nil {
		p.mux.Close()
		return nil, err
	}
	if p.serve, err = ttrpc.NewServer(); err != nil {
		p.mux.Close()
		return nil, err
	}
	api.RegisterRuntimeService(p.serve, p)
	p.calls = ttrpc.NewClient(out, ttrpc.WithOnClose(func() { p.drop("the connection was closed") }))
	p.svc = api.NewPluginClient(p.calls)
	go func() {
		_ = p.serve.Serve(ctx, in) // its end is the connection's
		p.drop("the connection was closed")
	}()
	p.mux.Unblock()
	return p, nil
}

// drop gives the plugin up. It may be called again and never waits.
func (p *plugin) drop(why string) {
	p.once.Do(func() {
		close(p.closed)
		if p.full != "" {
			p.hub.leave(p)
			p.hub.o.Log.Warn("NRI plugin is gone", "plugin", p.full, "why", why)
		}
		go func() { // each may wait for calls that are being served
			p.mux.Close()
			p.calls.Close()
			p.serve.Close()
			if p.cmd != nil {
				_ = p.cmd.Process.Kill()
				_ = p.cmd.Wait()
			}
		}()
	})
}

// admit takes one connection from its first word to the moment where the plugin is asked. own is
// what we started; the zero value is one that connected.
func (h *Hub) admit(ctx context.Context, conn net.Conn, own launched) {
	h.mu.Lock()
	full := h.pending >= maxPending
	if !full {
		h.pending++
	}
	h.mu.Unlock()
	if full {
		conn.Close()
		h.o.Log.Warn("refuse NRI connection: too many that did not say who they are", "limit", maxPending)
		return
	}
	p, err := h.connect(ctx, conn, own.cmd)
	if err != nil {
		conn.Close()
	} else {
		err = p.introduce(ctx, own.name)
	}
	h.mu.Lock()
	h.pending--
	h.mu.Unlock()
	if err == nil {
		err = p.begin(ctx)
	}
	if err != nil {
		h.o.Log.Warn("refuse NRI plugin", "err", err)
		if p != nil {
			p.drop("it was refused")
		}
	}
}

// introduce waits for the plugin to register, by a name on the list, and configures it.
func (p *plugin) introduce(ctx context.Context, want string) error {
	ctx, cancel := context.WithTimeout(ctx, p.hub.o.Register)
	defer cancel()
	name := want
	select {
	case said := <-p.who:
		if want == "" {
			name = said
		}
	case <-p.closed:
		return errors.New("register: the connection was closed")
	case <-ctx.Done():
		return errors.New("register: it did not say who it is in time")
	}
	config, err := p.hub.configFor(name)
	if err != nil {
		return err
	}
	rpl, err := p.svc.Configure(ctx, &api.ConfigureRequest{Config: config, RuntimeName: "sallyport", RuntimeVersion: p.hub.o.Version,
		RegistrationTimeout: p.hub.o.Register.Milliseconds(), RequestTimeout: p.hub.o.Answer.Milliseconds(), NRIVersion: nriVersion})
	if err != nil {
		return fmt.Errorf("configure %s: %w", name, err)
	}
	events := api.EventMask(rpl.GetEvents())
	if events == 0 {
		events = api.ValidEvents
	}
	if extra := events &^ api.ValidEvents; extra != 0 {
		return fmt.Errorf("configure %s: it subscribes to unknown events %#x", name, extra)
	}
	p.full, p.events = name, events
	return nil
}

// begin tells the plugin the state of the node. It joins first: what begins from now on waits for it,
// and what began before is in the state.
func (p *plugin) begin(ctx context.Context) error {
	p.hub.join(p)
	ctx, cancel := context.WithTimeout(ctx, p.hub.o.Register) // the whole node's state takes longer than one question
	defer cancel()
	pods, ctrs := p.hub.snapshot()
	updates, err := p.synchronize(ctx, pods, ctrs)
	if err != nil {
		return fmt.Errorf("synchronize %s: %w", p.full, err)
	}
	close(p.ready)
	p.hub.o.Log.Info("NRI plugin is connected", "plugin", p.full)
	if changes := changesOf(updates); len(changes) > 0 {
		for _, c := range p.hub.runtime().Change(context.WithoutCancel(ctx), p.full, changes) {
			p.hub.o.Log.Warn("refuse change of an NRI plugin", "plugin", p.full, "container", c.ID)
		}
	}
	return nil
}

// syncChunk is how many objects one message carries: the protocol's message holds 4 MiB, and one
// container takes a few kilobytes.
const syncChunk = 200

func (p *plugin) synchronize(ctx context.Context, pods []*Pod, ctrs []*Container) (updates []*api.ContainerUpdate, err error) {
	for {
		np, nc := min(len(pods), syncChunk), min(len(ctrs), syncChunk)
		req := &api.SynchronizeRequest{Pods: pods[:np], Containers: ctrs[:nc]}
		pods, ctrs = pods[np:], ctrs[nc:]
		req.More = len(pods)+len(ctrs) > 0
		rpl, err := p.svc.Synchronize(ctx, req)
		switch {
		case err != nil:
			return nil, err
		case !req.More:
			return rpl.GetUpdate(), nil
		case !rpl.GetMore() || len(rpl.GetUpdate()) > 0:
			return nil, errors.New("it cannot take the state in parts")
		}
	}
}

// RegisterPlugin is called by the plugin, with a name of its own choice.
func (p *plugin) RegisterPlugin(_ context.Context, req *api.RegisterPluginRequest) (*api.Empty, error) {
	if err := api.CheckPluginName(req.GetPluginName()); err != nil {
		return nil, err
	}
	if err := api.CheckPluginIndex(req.GetPluginIdx()); err != nil {
		return nil, err
	}
	name := req.GetPluginIdx() + "-" + req.GetPluginName()
	if p.cmd == nil && !p.hub.allowed(name) { // launch held its own to the list
		time.AfterFunc(100*time.Millisecond, func() { p.drop("it is not allowed") }) // once it has heard so
		p.hub.o.Log.Warn("refuse NRI plugin: nri.plugins does not name it", "plugin", name)
		return nil, fmt.Errorf("plugin %s is not allowed: nri.plugins of the runtime's configuration does not name it", name)
	}
	select {
	case p.who <- name:
		return &api.Empty{}, nil
	default:
		return nil, errors.New("registered already")
	}
}

// UpdateContainers is called by the plugin when it wants containers changed or gone.
func (p *plugin) UpdateContainers(ctx context.Context, req *api.UpdateContainersRequest) (rpl *api.UpdateContainersResponse, err error) {
	defer func() {
		if r := recover(); r != nil { // this runs in a goroutine of the library
			rpl, err = nil, fmt.Errorf("update containers: panic: %v", r)
		}
	}()
	select {
	case <-p.ready:
	default:
		return nil, errors.New("update containers: not synchronized yet")
	}
	rt := p.hub.runtime()
	failed := rt.Change(ctx, p.full, changesOf(req.GetUpdate()))
	for _, e := range req.GetEvict() {
		rt.Evict(ctx, p.full, e.GetContainerId(), e.GetReason())
	}
	rpl = &api.UpdateContainersResponse{}
	for _, c := range failed {
		rpl.Failed = append(rpl.Failed, c.raw)
	}
	return rpl, nil
}

func (h *Hub) runtime() Runtime {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.rt
}

// gone says that a plugin did not answer: not a word of the plugin's, and the end of its connection.
func gone(err error) bool {
	return errors.Is(err, ttrpc.ErrClosed) || errors.Is(err, ttrpc.ErrServerClosed) || errors.Is(err, ttrpc.ErrProtocol) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errGone)
}

var errGone = errors.New("it is gone")

// call makes one call. A plugin that is still being told the state is waited for, which ends with its
// answer or its deadline.
func (p *plugin) call(ctx context.Context, f func(context.Context) error) error {
	select {
	case <-p.ready:
	case <-p.closed:
		return errGone
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	limited, cancel := context.WithTimeout(ctx, p.hub.o.Answer)
	defer cancel()
	err := f(limited)
	if err != nil && gone(err) && ctx.Err() == nil {
		p.drop(err.Error())
	}
	return err
}
