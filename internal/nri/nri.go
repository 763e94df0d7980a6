// Package nri lets plugins of the node (Node Resource Interface) hear of pods and containers and ask for
// changes to them. A plugin is foreign code that is trusted as far as its operator's list goes: only one
// that is named there may register, what it asks for comes out of this package as edits and limits and
// passes the gate like a pod's own requests, and one that does not answer is given up at its deadline.
//
// Connections, deadlines and the list are ours; how the answers of several plugins are merged, who owns
// which field and what the default validator refuses is the NRI library's. The library's own server
// admits any name and holds one lock over every call, so that one hung plugin would hold up every
// container of the node; so each request is merged by an Adaptation of its own, whose plugins are
// functions that call the real ones.
package nri

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/nri/pkg/api"
	nrilog "github.com/containerd/nri/pkg/log"
)

// Pod, Container and Resources are the protocol's.
type (
	Pod       = api.PodSandbox
	Container = api.Container
	Resources = api.LinuxResources
)

// Options are the parts of a Hub.
type Options struct {
	Socket   string        // where plugins connect
	Plugins  string        // directory of programs to start, each named index-name
	Config   string        // directory of their configuration, index-name.conf or name.conf
	Allowed  []string      // index-name of the plugins that may register; * and ? match within it. Empty: none
	Required []string      // names without index: nothing is created without them
	Permit   []string      // what the validator lets plugins change beyond its default: hooks, seccomp
	Version  string        // of the daemon
	Register time.Duration // for a plugin to say who it is, and again to take in the state of the node
	Answer   time.Duration // for a plugin to answer one call
	Log      *slog.Logger
}

// Runtime is what plugins act on. Each may be called concurrently.
type Runtime struct {
	// State is everything there is: what a plugin is told when it connects.
	State func() ([]*Pod, []*Container)
	// Change makes changes that a plugin asks for unasked, and returns those that were refused or failed.
	Change func(ctx context.Context, plugin string, changes []Change) []Change
	// Evict stops a container that a plugin wants gone.
	Evict func(ctx context.Context, plugin, containerID, reason string)
}

// Hub is all plugins. It is safe for concurrent use.
type Hub struct {
	o Options // constant

	mu      sync.Mutex            // guards the rest; never held over a call
	rt      Runtime               // zero until Run
	plugins []*plugin             // by index and name
	making  map[string]*Container // containers whose creation plugins were asked about and that State may not know yet
	raising map[string]*Pod       // likewise pods
	pending int                   // connections that have not registered
}

// maxPending bounds connections that have not said who they are.
const maxPending = 16

// New wires a hub. It starts nothing.
func New(o Options) (*Hub, error) {
	for _, p := range o.Allowed {
		if _, err := path.Match(p, "x"); err != nil {
			return nil, fmt.Errorf("make NRI: plugin pattern %q: %w", p, err)
		}
	}
	if o.Register <= 0 || o.Answer <= 0 || o.Log == nil {
		return nil, errors.New("make NRI: deadlines or log are missing")
	}
	nrilog.Set(quiet{o.Log})
	return &Hub{o: o, making: map[string]*Container{}, raising: map[string]*Pod{}}, nil
}

// Listen makes the socket, mode 0600 in a directory that only root may enter; nil if no plugin is
// allowed: then there is nothing to connect to.
func (h *Hub) Listen() (net.Listener, error) {
	if len(h.o.Allowed) == 0 {
		return nil, nil
	}
	dir := filepath.Dir(h.o.Socket)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("listen for NRI plugins: %w", err)
	}
	if st, err := os.Lstat(h.o.Socket); err == nil {
		if st.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("listen for NRI plugins: %s exists and is no socket", h.o.Socket)
		}
		if conn, err := net.DialTimeout("unix", h.o.Socket, time.Second); err == nil {
			conn.Close()
			return nil, fmt.Errorf("listen for NRI plugins: another process serves %s", h.o.Socket)
		}
		if err := os.Remove(h.o.Socket); err != nil {
			return nil, fmt.Errorf("listen for NRI plugins: %w", err)
		}
	}
	l, err := listen(h.o.Socket)
	if err != nil {
		return nil, fmt.Errorf("listen for NRI plugins: %w", err)
	}
	return l, nil
}

// Run starts the programs of the plugin directory that are allowed and takes connections on l until ctx
// ends; then it lets go of every plugin. l may be nil.
func (h *Hub) Run(ctx context.Context, l net.Listener, rt Runtime) error {
	if l == nil {
		<-ctx.Done()
		return nil
	}
	h.mu.Lock()
	h.rt = rt
	h.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer h.dropAll()
	h.launchAll(ctx)
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("serve NRI plugins: %w", err)
		}
		go h.admit(ctx, conn, launched{})
	}
}

// Plugins are the registered ones, index-name, in the order in which they are asked.
func (h *Hub) Plugins() (names []string) {
	for _, p := range h.all() {
		names = append(names, p.name())
	}
	return names
}

// Active reports whether anybody must be asked about a container of pod.
func (h *Hub) Active(pod *Pod, container string) bool {
	if h == nil || len(h.o.Allowed) == 0 {
		return false
	}
	return len(h.all()) > 0 || len(h.required(pod, container)) > 0
}

func (h *Hub) all() []*plugin {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.plugins)
}

// allowed reports whether a plugin of that index and name may register.
func (h *Hub) allowed(name string) bool {
	return slices.ContainsFunc(h.o.Allowed, func(p string) bool {
		ok, err := path.Match(p, name)
		return ok && err == nil
	})
}

// join makes a plugin one that is asked, in the place of one that went by its name: a plugin that was
// restarted comes back before the loss of its old connection is noticed.
func (h *Hub) join(p *plugin) {
	h.mu.Lock()
	var old []*plugin
	h.plugins = slices.DeleteFunc(h.plugins, func(o *plugin) bool {
		if o.name() == p.name() {
			old = append(old, o)
			return true
		}
		return false
	})
	h.plugins = append(h.plugins, p)
	slices.SortStableFunc(h.plugins, func(a, b *plugin) int { return cmp.Compare(a.name(), b.name()) })
	h.mu.Unlock()
	for _, o := range old {
		o.drop("another connection took its name")
	}
}

func (h *Hub) leave(p *plugin) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.plugins = slices.DeleteFunc(h.plugins, func(o *plugin) bool { return o == p })
}

func (h *Hub) dropAll() {
	for _, p := range h.all() {
		p.drop("the daemon ends")
	}
}

// snapshot is the state that a plugin is told: what runs, and what is being created.
func (h *Hub) snapshot() ([]*Pod, []*Container) {
	h.mu.Lock()
	rt := h.rt
	known, young := maps.Clone(h.making), maps.Clone(h.raising)
	h.mu.Unlock()
	pods, ctrs := rt.State()
	for _, p := range pods {
		delete(young, p.GetId())
	}
	for _, p := range young {
		pods = append(pods, p)
	}
	for _, c := range ctrs {
		delete(known, c.GetId())
	}
	for _, c := range known {
		ctrs = append(ctrs, c)
	}
	return pods, ctrs
}

// quiet passes the library's words on, one step less loud: every request makes an adaptation, which
// tells that it starts.
type quiet struct{ log *slog.Logger }

func (q quiet) Debugf(context.Context, string, ...any) {}
func (q quiet) Infof(context.Context, string, ...any)  {}
func (q quiet) Warnf(_ context.Context, f string, a ...any) {
	q.log.Debug("nri", "msg", fmt.Sprintf(f, a...))
}
func (q quiet) Errorf(_ context.Context, f string, a ...any) {
	q.log.Debug("nri", "msg", fmt.Sprintf(f, a...))
}
