// Package stats reads what containers and pods use, from cgroup v1 or v2 and from network namespaces:
// by path, without walking a directory and without starting a process.
package stats

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"time"
)

// minWindow is the shortest time over which a CPU rate is told; two callers at once do not spoil it.
const minWindow = time.Second

// Figures are a cgroup's figures. A nil part is one that the node does not tell.
type Figures struct {
	At     time.Time // when they were read
	CPU    *CPU
	Memory *Memory
	Swap   *Swap
	Pids   *uint64 // processes and threads
	PSI    *PSI    // cgroup v2 only
}

// CPU is the use of all processors together.
type CPU struct {
	Usage     uint64  // ns since the cgroup was made
	NanoCores *uint64 // ns of use a second since the previous sample; nil at the first
}

// Memory is in bytes, except the faults, which are counts since the cgroup was made.
type Memory struct {
	Usage       uint64
	WorkingSet  uint64  // Usage without the inactive file cache
	Available   *uint64 // the limit without WorkingSet; nil without a limit
	RSS         uint64  // anonymous memory
	Faults      uint64
	MajorFaults uint64
}

// Swap is in bytes.
type Swap struct {
	Usage     uint64
	Available *uint64 // nil without a limit
}

// PSI holds how long tasks waited for each resource (Documentation/accounting/psi.rst).
type PSI struct{ CPU, Memory, IO Pressure }

// Pressure is one resource's: some tasks waited, or all did.
type Pressure struct{ Some, Full Stall }

// Stall is the share of time in percent over three windows, and the total in ns.
type Stall struct {
	Avg10, Avg60, Avg300 float64
	Total                uint64
}

// Reader reads figures. It may be used concurrently.
type Reader struct {
	layout layout // constant

	mu   sync.Mutex        // guards last; never held over a read
	last map[string]sample // guarded by mu; by cgroup path
}

// sample is the previous figure of a cgroup, from which its CPU rate is told.
type sample struct {
	at    time.Time
	usage uint64
	rate  *uint64 // told last; immutable
}

// Open finds where the controllers are mounted. A node without cgroups is an error.
func Open() (*Reader, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	l := findLayout(string(data))
	l.pages = pageSizes()
	if l.version() == 0 {
		return nil, errors.New("find cgroups: no cgroup controllers are mounted")
	}
	return &Reader{layout: l, last: map[string]sample{}}, nil
}

// Version is 1 (also where v1 and v2 are mounted and v1 has the controllers) or 2.
func (r *Reader) Version() int { return r.layout.version() }

// Read reads the figures of the cgroup at path, as in the OCI spec's cgroupsPath (absolute, cgroupfs
// driver). A cgroup that is gone is fs.ErrNotExist.
func (r *Reader) Read(cgroup string) (Figures, error) {
	if err := plain(cgroup); err != nil {
		return Figures{}, err
	}
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	read := (&reading{layout: r.layout, cgroup: cgroup, buf: buf})
	f, err := read.figures()
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			r.Forget(cgroup)
		}
		return Figures{}, fmt.Errorf("read figures of cgroup %s: %w", cgroup, err)
	}
	if f.CPU != nil {
		f.CPU.NanoCores = r.rate(cgroup, f.At, f.CPU.Usage)
	}
	return f, nil
}

// ReadAll reads many cgroups. Those that are gone, or that cannot be read, are left out of the result.
func (r *Reader) ReadAll(cgroups []string) map[string]Figures {
	all := make(map[string]Figures, len(cgroups))
	for _, c := range cgroups {
		if f, err := r.Read(c); err == nil {
			all[c] = f
		}
	}
	return all
}

// Forget drops what is remembered of a cgroup. Call it when the container is removed.
func (r *Reader) Forget(cgroup string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.last, cgroup)
}

// OOMKills counts the processes of the cgroup and those below that were killed for lack of memory.
func (r *Reader) OOMKills(cgroup string) (uint64, error) {
	if err := plain(cgroup); err != nil {
		return 0, err
	}
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	n, err := (&reading{layout: r.layout, cgroup: cgroup, buf: buf}).oomKills()
	if err != nil {
		return 0, fmt.Errorf("count kills of cgroup %s: %w", cgroup, err)
	}
	return n, nil
}

// rate tells the CPU rate since the previous sample and remembers this one. Within minWindow it repeats
// what it told. A counter that went back (the cgroup was made anew) starts over.
func (r *Reader) rate(cgroup string, at time.Time, usage uint64) *uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, ok := r.last[cgroup]
	next := sample{at: at, usage: usage}
	if ok && usage >= old.usage {
		window := at.Sub(old.at)
		if window < minWindow {
			return old.rate
		}
		rate := uint64(float64(usage-old.usage) / window.Seconds())
		next.rate = &rate
	}
	r.last[cgroup] = next
	return next.rate
}

// plain refuses a cgroup path that could lead elsewhere, or to the root, whose figures are the node's.
func plain(cgroup string) error {
	if !strings.HasPrefix(cgroup, "/") || path.Clean(cgroup) != cgroup || cgroup == "/" || strings.ContainsRune(cgroup, 0) {
		return fmt.Errorf("read figures of cgroup %q: not a plain absolute path", cgroup)
	}
	return nil
}
