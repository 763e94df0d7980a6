package stats

import (
	"context"
	"sync"
	"time"
)

// detailIdle is how long details are read at each pass after somebody asked for them: only metrics do.
const detailIdle = 5 * time.Minute

// Source is what is collected for one pod or container.
type Source struct {
	Cgroup string // "" for a pod without one of its own
	NetNS  string // a pod's pinned network namespace; "" for a container, or on the node's network
}

// Collector is the one place from which figures come. With a period it answers every call from its last
// pass, so that it does not matter how many ask; what a pass has not seen yet is read once, and kept.
// Without a period it reads when it is asked. It may be used concurrently.
type Collector struct {
	reader *Reader       // constant
	period time.Duration // constant

	mu      sync.Mutex              // guards the rest; never held over a read
	cgroups map[string]collected    // by path
	nets    map[string]interfacesAt // by path
	asked   time.Time               // for details, last
}

type interfacesAt struct {
	all []Interface // immutable
	at  time.Time   // when they were read
}

// collected is immutable.
type collected struct {
	figures Figures
	detail  *Detail // nil: not read
	kills   *uint64 // nil: not read, or not told by the node
}

// NewCollector wires a collector. Period 0 reads at each call.
func NewCollector(r *Reader, period time.Duration) *Collector {
	return &Collector{reader: r, period: period, cgroups: map[string]collected{}, nets: map[string]interfacesAt{}}
}

// Run makes a pass over what sources lists each period, until ctx ends.
func (c *Collector) Run(ctx context.Context, sources func() []Source) error {
	if c.period == 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(c.period)
	defer tick.Stop()
	for {
		c.pass(ctx, sources())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// pass reads all sources anew and drops what is not among them.
func (c *Collector) pass(ctx context.Context, sources []Source) {
	c.mu.Lock()
	deep := !c.asked.IsZero() && time.Since(c.asked) < detailIdle
	c.mu.Unlock()
	cgroups, nets := map[string]collected{}, map[string]interfacesAt{}
	for _, s := range sources {
		if ctx.Err() != nil {
			return
		}
		if s.Cgroup != "" {
			if now, err := c.read(s.Cgroup, deep); err == nil {
				cgroups[s.Cgroup] = now
			}
		}
		if s.NetNS != "" {
			if nics, err := Network(s.NetNS); err == nil {
				nets[s.NetNS] = interfacesAt{nics, time.Now()}
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cgroups, c.nets = cgroups, nets
}

func (c *Collector) read(cgroup string, deep bool) (now collected, err error) {
	if now.figures, err = c.reader.Read(cgroup); err != nil || !deep {
		return now, err
	}
	if d, err := c.reader.Detail(cgroup); err == nil {
		now.detail = &d
	}
	if n, err := c.reader.OOMKills(cgroup); err == nil {
		now.kills = &n
	}
	return now, nil
}

// known is what the last pass found of a cgroup, read now where it found nothing, or nothing so deep.
func (c *Collector) known(cgroup string, deep bool) (collected, error) {
	if c.period > 0 {
		c.mu.Lock()
		if deep {
			c.asked = time.Now()
		}
		have, ok := c.cgroups[cgroup]
		c.mu.Unlock()
		if ok && (!deep || have.detail != nil) {
			return have, nil
		}
	}
	now, err := c.read(cgroup, deep)
	if err == nil && c.period > 0 {
		c.mu.Lock()
		c.cgroups[cgroup] = now
		c.mu.Unlock()
	}
	return now, err
}

// Read gives a cgroup's figures; At says when they were read. One that is gone is fs.ErrNotExist.
func (c *Collector) Read(cgroup string) (Figures, error) {
	k, err := c.known(cgroup, false)
	return k.figures, err
}

// ReadAll gives the figures of many cgroups. Those that are gone, or cannot be read, are left out.
func (c *Collector) ReadAll(cgroups []string) map[string]Figures {
	all := make(map[string]Figures, len(cgroups))
	for _, cgroup := range cgroups {
		if f, err := c.Read(cgroup); err == nil {
			all[cgroup] = f
		}
	}
	return all
}

// ReadDeep gives a cgroup's figures with its details and the number of its processes that were killed
// for lack of memory; nil for what cannot be read.
func (c *Collector) ReadDeep(cgroup string) (Figures, *Detail, *uint64, error) {
	k, err := c.known(cgroup, true)
	return k.figures, k.detail, k.kills, err
}

// Network gives the interfaces of a pinned network namespace and when they were read. The caller does not
// change them.
func (c *Collector) Network(path string) ([]Interface, time.Time, error) {
	if c.period > 0 {
		c.mu.Lock()
		have, ok := c.nets[path]
		c.mu.Unlock()
		if ok {
			return have.all, have.at, nil
		}
	}
	nics, err := Network(path)
	now := interfacesAt{nics, time.Now()}
	if err == nil && c.period > 0 {
		c.mu.Lock()
		c.nets[path] = now
		c.mu.Unlock()
	}
	return now.all, now.at, err
}

// Processes looks at the processes of a cgroup. It is never kept: whoever asks does so off the path of a
// call.
func (c *Collector) Processes(cgroup string) (Processes, error) { return c.reader.Processes(cgroup) }

// Forget drops what is remembered of a cgroup. Call it when the container is removed.
func (c *Collector) Forget(cgroup string) {
	c.mu.Lock()
	delete(c.cgroups, cgroup)
	c.mu.Unlock()
	c.reader.Forget(cgroup)
}
