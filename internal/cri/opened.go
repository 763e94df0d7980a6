package cri

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"sallyport/sandbox"
	"sallyport/sandbox/stats"
)

const (
	openedGap  = 15 * time.Second // between two passes over open files
	openedIdle = 5 * time.Minute  // nobody asked for metrics for so long: no more passes
)

// opened is what the processes of one container held open at one time.
type opened struct {
	stats.Processes
	at time.Time
}

// openedFiles remembers it for all containers: open files can only be counted one by one, which is done
// off the path of a call, but for a container that is asked for the first time.
type openedFiles struct {
	read func(cgroup string) (stats.Processes, error) // constant

	mu    sync.Mutex         // guards the rest; never held over a read
	of    map[string]*opened // by container ID; values are immutable
	asked time.Time          // last
}

// look gives what is known of the container; nil if its processes cannot be looked at.
func (o *openedFiles) look(id, cgroup string) *opened {
	o.mu.Lock()
	o.asked = time.Now()
	known := o.of[id]
	o.mu.Unlock()
	if known == nil {
		known = o.renew(id, cgroup)
	}
	return known
}

func (o *openedFiles) renew(id, cgroup string) *opened {
	p, err := o.read(cgroup)
	if err != nil {
		return nil
	}
	now := &opened{p, time.Now()}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.of[id] = now
	return now
}

// Run collects figures, and counts open files from time to time while somebody asks for metrics, until
// ctx ends.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.o.Stats.Run(ctx, s.sources) })
	g.Go(func() error { return s.countOpened(ctx) })
	return g.Wait()
}

// sources are what figures are collected of: the ready pods and the running containers.
func (s *Server) sources() (out []stats.Source) {
	for _, pod := range s.o.Pods.List() {
		if pod.Status().State == sandbox.Ready {
			out = append(out, stats.Source{Cgroup: pod.Config().CgroupParent, NetNS: pod.NetNS()})
		}
	}
	for _, c := range s.o.Pods.Containers() {
		if c.Status().State == sandbox.Running {
			out = append(out, stats.Source{Cgroup: c.CgroupPath()})
		}
	}
	return out
}

func (s *Server) countOpened(ctx context.Context) error {
	tick := time.NewTicker(openedGap)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.opened.pass(ctx, s.o.Pods.Containers())
		}
	}
}

// pass renews the containers that run and drops the others.
func (o *openedFiles) pass(ctx context.Context, all []*sandbox.Container) {
	o.mu.Lock()
	idle := time.Since(o.asked) > openedIdle
	o.mu.Unlock()
	running := map[string]bool{}
	for _, c := range all {
		if idle || ctx.Err() != nil || c.Status().State != sandbox.Running {
			continue
		}
		if o.renew(c.ID(), c.CgroupPath()) != nil {
			running[c.ID()] = true
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for id := range o.of {
		if !running[id] {
			delete(o.of, id)
		}
	}
}
