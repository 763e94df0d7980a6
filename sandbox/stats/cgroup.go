package stats

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// noLimit and more is how cgroup v1 writes "none" (PAGE_COUNTER_MAX in bytes, whatever the page size).
const noLimit = 1 << 62

// layout says where each controller's hierarchy is mounted.
type layout struct {
	v1      map[string]string // controller to mount point
	unified string            // mount point of cgroup v2; "" if v1 has the controllers
	pages   []string          // huge page sizes, as cgroup files name them
}

func (l layout) version() int {
	switch {
	case l.unified != "":
		return 2
	case len(l.v1) > 0:
		return 1
	}
	return 0
}

// findLayout reads mountinfo (proc_pid_mountinfo(5)). The first mount of a hierarchy counts.
func findLayout(mountinfo string) layout {
	l := layout{v1: map[string]string{}}
	unified := ""
	for line := range strings.Lines(mountinfo) {
		left, right, ok := strings.Cut(line, " - ")
		mount, super := strings.Fields(left), strings.Fields(right)
		if !ok || len(mount) < 5 || len(super) < 3 {
			continue
		}
		switch super[0] {
		case "cgroup2":
			if unified == "" {
				unified = mount[4]
			}
		case "cgroup":
			for controller := range strings.SplitSeq(super[2], ",") {
				if slices.Contains([]string{"cpuacct", "memory", "pids", "cpu", "blkio", "hugetlb"}, controller) && l.v1[controller] == "" {
					l.v1[controller] = mount[4]
				}
			}
		}
	}
	if l.v1["cpuacct"] == "" && l.v1["memory"] == "" && l.v1["pids"] == "" { // a stray hierarchy does not make it v1
		l.v1, l.unified = map[string]string{}, unified
	}
	return l
}

// buffer is reused between readings; it grows to the largest file.
type buffer struct{ data []byte }

var buffers = sync.Pool{New: func() any { return &buffer{make([]byte, 8<<10)} }}

// reading is the reading of one cgroup. It is owned by one goroutine.
type reading struct {
	layout layout
	cgroup string
	buf    *buffer
}

func (r *reading) figures() (Figures, error) {
	f := Figures{At: time.Now()}
	parts := []func(*Figures) error{r.cpu1, r.memory1, r.pids1}
	if r.layout.version() == 2 {
		parts = []func(*Figures) error{r.cpu2, r.memory2, r.swap2, r.pids2, r.psi2}
	}
	for _, part := range parts {
		if err := part(&f); err != nil {
			return Figures{}, err
		}
	}
	return f, nil
}

func (r *reading) cpu1(f *Figures) error {
	usage, ok, err := r.number(r.layout.v1["cpuacct"], "cpuacct.usage")
	if ok {
		f.CPU = &CPU{Usage: usage}
	}
	return err
}

func (r *reading) memory1(f *Figures) error {
	usage, ok, err := r.number(r.layout.v1["memory"], "memory.usage_in_bytes")
	if !ok || err != nil {
		return err
	}
	stat, err := r.fields(r.layout.v1["memory"], "memory.stat",
		"total_inactive_file", "total_rss", "total_pgfault", "total_pgmajfault",
		"hierarchical_memory_limit", "total_swap", "hierarchical_memsw_limit")
	if err != nil {
		return err
	}
	f.Memory = memory(usage, stat[0], stat[4])
	f.Memory.RSS, f.Memory.Faults, f.Memory.MajorFaults = stat[1], stat[2], stat[3]
	f.Swap = &Swap{Usage: stat[5]}
	if limit, both := stat[4], stat[6]; limit < noLimit && both < noLimit && both >= limit {
		f.Swap.Available = left(both-limit, stat[5])
	}
	return nil
}

func (r *reading) pids1(f *Figures) error {
	pids, ok, err := r.number(r.layout.v1["pids"], "pids.current")
	if ok {
		f.Pids = &pids
	}
	return err
}

func (r *reading) cpu2(f *Figures) error {
	stat, err := r.fields(r.layout.unified, "cpu.stat", "usage_usec")
	if err != nil {
		return err
	}
	f.CPU = &CPU{Usage: stat[0] * 1000}
	return nil
}

func (r *reading) memory2(f *Figures) error {
	usage, ok, err := r.number(r.layout.unified, "memory.current")
	if !ok || err != nil { // the controller is not enabled for this cgroup
		return absent(err)
	}
	limit, _, err := r.number(r.layout.unified, "memory.max")
	if err != nil {
		return err
	}
	stat, err := r.fields(r.layout.unified, "memory.stat", "inactive_file", "anon", "pgfault", "pgmajfault")
	if err != nil {
		return err
	}
	f.Memory = memory(usage, stat[0], limit)
	f.Memory.RSS, f.Memory.Faults, f.Memory.MajorFaults = stat[1], stat[2], stat[3]
	return nil
}

func (r *reading) swap2(f *Figures) error {
	usage, ok, err := r.number(r.layout.unified, "memory.swap.current")
	if !ok || err != nil { // no swap support, or no memory controller
		return absent(err)
	}
	limit, _, err := r.number(r.layout.unified, "memory.swap.max")
	if err != nil {
		return err
	}
	f.Swap = &Swap{Usage: usage}
	if limit < noLimit {
		f.Swap.Available = left(limit, usage)
	}
	return nil
}

func (r *reading) pids2(f *Figures) error {
	pids, ok, err := r.number(r.layout.unified, "pids.current")
	if ok {
		f.Pids = &pids
	}
	return absent(err)
}

// psi2 reads pressure, where the kernel has it (CONFIG_PSI, psi=1). EOPNOTSUPP: the cgroup's is off.
func (r *reading) psi2(f *Figures) error {
	var psi PSI
	for file, p := range map[string]*Pressure{"cpu.pressure": &psi.CPU, "memory.pressure": &psi.Memory, "io.pressure": &psi.IO} {
		text, err := r.read(r.layout.unified, file)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil
		}
		if err != nil {
			return err
		}
		if *p, err = pressure(string(text)); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	f.PSI = &psi
	return nil
}

func (r *reading) oomKills() (uint64, error) {
	mount, file := r.layout.v1["memory"], "memory.oom_control"
	if r.layout.version() == 2 {
		mount, file = r.layout.unified, "memory.events"
	}
	if mount == "" {
		return 0, errors.New("no memory controller")
	}
	kills, err := r.fields(mount, file, "oom_kill")
	if err != nil {
		return 0, err
	}
	return kills[0], nil
}

func memory(usage, inactive, limit uint64) *Memory {
	m := &Memory{Usage: usage, WorkingSet: *left(usage, inactive)}
	if limit < noLimit {
		m.Available = left(limit, m.WorkingSet)
	}
	return m
}

// left is a-b, and not below 0: the two are not read at one instant.
func left(a, b uint64) *uint64 {
	d := a - min(a, b)
	return &d
}

// absent makes nil of a file that is not there.
func absent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// number reads a file that holds one number, or "max". ok is false without a mount point.
func (r *reading) number(mount, file string) (n uint64, ok bool, err error) {
	if mount == "" {
		return 0, false, nil
	}
	text, err := r.read(mount, file)
	if err != nil {
		return 0, false, err
	}
	if s := strings.TrimSpace(string(text)); s == "max" {
		n = noLimit
	} else if n, err = strconv.ParseUint(s, 10, 64); err != nil {
		return 0, false, fmt.Errorf("%s: %w", file, err)
	}
	return n, true, nil
}

// fields reads a file of lines "name number" and returns the numbers of names, 0 for those not there.
func (r *reading) fields(mount, file string, names ...string) ([]uint64, error) {
	text, err := r.read(mount, file)
	if err != nil {
		return nil, err
	}
	out := make([]uint64, len(names))
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, " ")
		i := slices.Index(names, name)
		if i < 0 {
			continue
		}
		if out[i], err = strconv.ParseUint(strings.TrimSpace(value), 10, 64); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return out, nil
}

// pressure reads lines such as "some avg10=0.00 avg60=0.00 avg300=0.00 total=0", the total in µs.
func pressure(text string) (Pressure, error) {
	var p Pressure
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		stall := map[string]*Stall{"some": &p.Some, "full": &p.Full}[words[0]]
		if stall == nil {
			continue
		}
		for _, word := range words[1:] {
			name, value, _ := strings.Cut(word, "=")
			var err error
			switch name {
			case "avg10":
				stall.Avg10, err = strconv.ParseFloat(value, 64)
			case "avg60":
				stall.Avg60, err = strconv.ParseFloat(value, 64)
			case "avg300":
				stall.Avg300, err = strconv.ParseFloat(value, 64)
			case "total":
				stall.Total, err = strconv.ParseUint(value, 10, 64)
				stall.Total *= 1000
			}
			if err != nil {
				return Pressure{}, err
			}
		}
	}
	return p, nil
}

// read returns the file's content, which is valid until the next read. cgroup files say their whole
// content from the start at each open.
func (r *reading) read(mount, file string) ([]byte, error) {
	return r.buf.read(mount + r.cgroup + "/" + file)
}

func (b *buffer) read(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	n := 0
	for {
		m, err := unix.Read(fd, b.data[n:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENODEV): // removed since the open
			return nil, fmt.Errorf("read %s: %w", path, fs.ErrNotExist)
		case err != nil:
			return nil, fmt.Errorf("read %s: %w", path, err)
		case m == 0:
			return b.data[:n], nil
		}
		if n += m; n == len(b.data) {
			b.data = append(b.data, make([]byte, len(b.data))...)
		}
	}
}
