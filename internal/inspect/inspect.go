// Package inspect answers over HTTP what CRI-O's users ask their runtime with curl: info, config, a
// container, pause and unpause, goroutines and heap. It is served on the operator's socket, which lets
// nobody in but the daemon's own user. What acts passes the gate and leaves a record.
package inspect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/pprof"
	"time"

	"sallyport/enforce"
	"sallyport/sandbox"
)

// Options are the parts of a Handler; Goroutines and Heap are off in their zero value.
type Options struct {
	Pods       *sandbox.Pods
	Freeze     func(ctx context.Context, c *sandbox.Container, do string) error // asks the gate, then does it
	Info       Info
	Config     string       // in force, as TOML
	Metrics    http.Handler // for Prometheus
	Goroutines bool
	Heap       bool
	Log        *slog.Logger
}

// Info is what /info tells, by CRI-O's names.
type Info struct {
	StorageDriver string `json:"storage_driver"`
	StorageImage  string `json:"storage_image"` // additional store; always ""
	StorageRoot   string `json:"storage_root"`
	CgroupDriver  string `json:"cgroup_driver"`
	Version       string `json:"version"`
}

// Container is what /containers/{id} tells, by CRI-O's names. A container's environment and arguments
// are not among it.
type Container struct {
	Name        string            `json:"name"`
	State       string            `json:"state"`
	Paused      bool              `json:"paused"`
	Image       string            `json:"image"`     // as the pod's owner wrote it
	ImageRef    string            `json:"image_ref"` // manifest digest
	ImageID     string            `json:"image_id"`
	Created     int64             `json:"created_time"` // Unix nanoseconds
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	LogPath     string            `json:"log_path"`
	Cgroup      string            `json:"cgroup"`
	Sandbox     string            `json:"sandbox"`
	Namespace   string            `json:"namespace"`
	Pod         string            `json:"pod"`
	IPs         []string          `json:"ip_addresses"`
	Audit       uint64            `json:"audit"` // record of its admission; sallyport explain
}

// Reads is the effect of an endpoint that changes nothing.
const Reads = "reads"

// endpoint is one path. effect is Reads, or names what it does and by which verb of the gate.
type endpoint struct {
	pattern string
	effect  string
	serve   func(*handler) http.HandlerFunc
}

// endpoints answer GET as CRI-O's do; on this socket no browser's page can ask.
var endpoints = []endpoint{
	{"GET /info", Reads, func(h *handler) http.HandlerFunc {
		return h.json(func(*http.Request) (any, error) { return h.o.Info, nil })
	}},
	{"GET /config", Reads, func(h *handler) http.HandlerFunc { return h.config }},
	{"GET /containers/{id}", Reads, func(h *handler) http.HandlerFunc { return h.json(h.container) }},
	{"GET /metrics", Reads, func(h *handler) http.HandlerFunc { return h.o.Metrics.ServeHTTP }},
	{"GET /debug/goroutines", Reads, func(h *handler) http.HandlerFunc { return h.goroutines }},
	{"GET /debug/heap", Reads, func(h *handler) http.HandlerFunc { return h.heap }},
	{"GET /pause/{id}", "pauses a container; AdmitFreeze", func(h *handler) http.HandlerFunc { return h.freeze(enforce.Pause) }},
	{"GET /unpause/{id}", "resumes a container; AdmitFreeze", func(h *handler) http.HandlerFunc { return h.freeze(enforce.Resume) }},
}

// Effects are all endpoints, each with its effect.
func Effects() map[string]string {
	out := make(map[string]string, len(endpoints))
	for _, e := range endpoints {
		out[e.pattern] = e.effect
	}
	return out
}

type handler struct{ o Options } // constant

// New wires a handler, safe for concurrent use.
func New(o Options) (http.Handler, error) {
	if o.Pods == nil || o.Freeze == nil || o.Metrics == nil || o.Log == nil {
		return nil, errors.New("make inspect handler: pods, freeze, metrics or log is missing")
	}
	h, mux := &handler{o}, http.NewServeMux()
	for _, e := range endpoints {
		mux.HandleFunc(e.pattern, e.serve(h))
	}
	return mux, nil
}

func (h *handler) json(ask func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := ask(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v) // who asked has gone
	}
}

func (h *handler) config(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/toml")
	_, _ = w.Write([]byte(h.o.Config))
}

// find takes a whole ID: an act must not hit another container for want of letters.
func (h *handler) find(r *http.Request) (*sandbox.Container, error) {
	id := r.PathValue("id")
	for _, c := range h.o.Pods.Containers() {
		if c.ID() == id {
			return c, nil
		}
	}
	return nil, fmt.Errorf("no container %.80q; give the whole ID", id)
}

func (h *handler) container(r *http.Request) (any, error) {
	c, err := h.find(r)
	if err != nil {
		return nil, err
	}
	st, pod := c.Status(), c.Pod()
	out := Container{Name: c.Config().Name, State: string(st.State), Paused: c.Frozen(), Image: c.Image().Name.String(),
		ImageRef: c.Image().Instance.String(), ImageID: c.Image().ID.String(), Created: st.Created.UnixNano(), Labels: c.Config().Labels,
		Annotations: c.Config().Annotations, LogPath: c.LogPath(), Cgroup: c.CgroupPath(), Sandbox: pod.ID(), Namespace: pod.Config().Namespace,
		Pod: pod.Config().Name, IPs: []string{}, Audit: c.Audit()}
	for _, ip := range pod.Status().IPs {
		out.IPs = append(out.IPs, ip.String())
	}
	return out, nil
}

// freeze has the gate judge the act and does it.
func (h *handler) freeze(do string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := h.find(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		if err := h.o.Freeze(r.Context(), c, do); err != nil {
			code := http.StatusInternalServerError
			var denied *enforce.Denied
			switch {
			case errors.As(err, &denied):
				code = http.StatusForbidden
			case errors.Is(err, sandbox.ErrFreeze), errors.Is(err, sandbox.ErrNotRunning):
				code = http.StatusConflict
			case errors.Is(err, enforce.ErrAudit):
				code = http.StatusServiceUnavailable
			}
			http.Error(w, err.Error(), code)
			return
		}
		h.o.Log.Info("container by the operator's hand", "act", do, "id", c.ID())
		fmt.Fprintln(w, "200 OK") // as CRI-O says
	}
}

// goroutines lists the stacks of all goroutines: what they wait for, never what they hold.
func (h *handler) goroutines(w http.ResponseWriter, _ *http.Request) {
	if !h.o.Goroutines {
		http.Error(w, "goroutines are not shown: inspect.goroutines is off", http.StatusForbidden)
		return
	}
	_ = pprof.Lookup("goroutine").WriteTo(w, 2)
}

// heap is a profile of allocations, for go tool pprof.
func (h *handler) heap(w http.ResponseWriter, _ *http.Request) {
	if !h.o.Heap {
		http.Error(w, "the heap is not shown: inspect.heap is off", http.StatusForbidden)
		return
	}
	runtime.GC()
	w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="sallyportd-%d.heap"`, time.Now().Unix()))
	_ = pprof.WriteHeapProfile(w)
}
