package stats

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Detail is what metrics tell beyond Figures. A nil part is one that the node does not tell.
type Detail struct {
	CPU     *CPUDetail
	Memory  *MemoryDetail
	MaxPids *uint64     // limit of processes and threads; 0 without one
	Devices []DeviceIO  // block devices that the cgroup has used
	Huge    []HugePages // by page size, where the controller is there
}

// CPUDetail splits the use of the processors, and counts how the CFS quota was enforced.
type CPUDetail struct {
	User, System       uint64 // ns since the cgroup was made
	Periods, Throttled uint64 // enforcement intervals, and those in which it was throttled
	ThrottledTime      uint64 // ns
}

// MemoryDetail is in bytes, except the counts. Own faults leave out the cgroups below; v2 does not tell
// them apart.
type MemoryDetail struct {
	Cache, Mapped, Kernel, Swap uint64
	Max                         *uint64 // highest Usage; nil before Linux 5.19 on v2
	LimitHits                   uint64  // how often the limit was reached
	OwnFaults, OwnMajorFaults   uint64
}

// DeviceIO counts what a cgroup did to one block device.
type DeviceIO struct {
	Major, Minor          uint32
	Name                  string // as /dev/sda; "" if the kernel does not name it
	ReadBytes, WriteBytes uint64
	Reads, Writes         uint64
}

// HugePages is the use of huge pages of one size, in bytes.
type HugePages struct {
	Size       string // as 2MB
	Usage, Max uint64 // Max is the highest usage on v1; 0 on v2, which does not tell it
}

// maxDevices bounds the devices of a cgroup that are told.
const maxDevices = 64

// Detail reads the details of the cgroup at path. A cgroup that is gone is fs.ErrNotExist.
func (r *Reader) Detail(cgroup string) (Detail, error) {
	if err := plain(cgroup); err != nil {
		return Detail{}, err
	}
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	read := &reading{layout: r.layout, cgroup: cgroup, buf: buf}
	parts := []func(*Detail) error{read.cpuDetail1, read.memoryDetail1, read.maxPids1, read.blkio1}
	if r.layout.version() == 2 {
		parts = []func(*Detail) error{read.cpuDetail2, read.memoryDetail2, read.maxPids2, read.io2}
	}
	var d Detail
	for _, part := range append(parts, read.huge) {
		if err := part(&d); err != nil {
			return Detail{}, fmt.Errorf("read details of cgroup %s: %w", cgroup, err)
		}
	}
	return d, nil
}

func (r *reading) cpuDetail1(d *Detail) error {
	user, ok, err := r.number(r.layout.v1["cpuacct"], "cpuacct.usage_user")
	if !ok || err != nil {
		return err
	}
	system, _, err := r.number(r.layout.v1["cpuacct"], "cpuacct.usage_sys")
	if err != nil {
		return err
	}
	d.CPU = &CPUDetail{User: user, System: system}
	if r.layout.v1["cpu"] == "" {
		return nil
	}
	stat, err := r.fields(r.layout.v1["cpu"], "cpu.stat", "nr_periods", "nr_throttled", "throttled_time")
	if err != nil {
		return absent(err)
	}
	d.CPU.Periods, d.CPU.Throttled, d.CPU.ThrottledTime = stat[0], stat[1], stat[2]
	return nil
}

func (r *reading) memoryDetail1(d *Detail) error {
	mount := r.layout.v1["memory"]
	if mount == "" {
		return nil
	}
	stat, err := r.fields(mount, "memory.stat", "total_cache", "total_mapped_file", "total_swap", "pgfault", "pgmajfault")
	if err != nil {
		return err
	}
	m := &MemoryDetail{Cache: stat[0], Mapped: stat[1], Swap: stat[2], OwnFaults: stat[3], OwnMajorFaults: stat[4]}
	if m.Kernel, _, err = r.number(mount, "memory.kmem.usage_in_bytes"); absent(err) != nil { // gone in newer kernels
		return err
	}
	if m.LimitHits, _, err = r.number(mount, "memory.failcnt"); err != nil {
		return err
	}
	highest, _, err := r.number(mount, "memory.max_usage_in_bytes")
	m.Max, d.Memory = &highest, m
	return err
}

func (r *reading) maxPids1(d *Detail) error {
	limit, ok, err := r.number(r.layout.v1["pids"], "pids.max")
	if ok {
		d.MaxPids = unlimited(limit)
	}
	return err
}

// blkio1 reads what was not throttled too: the counters are kept for every cgroup.
func (r *reading) blkio1(d *Detail) error {
	mount := r.layout.v1["blkio"]
	if mount == "" {
		return nil
	}
	for file, to := range map[string]func(*DeviceIO) (read, write *uint64){
		"blkio.throttle.io_service_bytes_recursive": func(d *DeviceIO) (_, _ *uint64) { return &d.ReadBytes, &d.WriteBytes },
		"blkio.throttle.io_serviced_recursive":      func(d *DeviceIO) (_, _ *uint64) { return &d.Reads, &d.Writes },
	} {
		text, err := r.read(mount, file)
		if err != nil {
			return absent(err)
		}
		for line := range bytes.Lines(text) {
			words := strings.Fields(string(line)) // 8:0 Read 4096
			if len(words) != 3 || words[1] != "Read" && words[1] != "Write" {
				continue
			}
			n, err := strconv.ParseUint(words[2], 10, 64)
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			if dev := d.device(words[0]); dev != nil {
				read, write := to(dev)
				if words[1] == "Read" {
					*read = n
				} else {
					*write = n
				}
			}
		}
	}
	return nil
}

func (r *reading) cpuDetail2(d *Detail) error {
	stat, err := r.fields(r.layout.unified, "cpu.stat", "user_usec", "system_usec", "nr_periods", "nr_throttled", "throttled_usec")
	if err != nil {
		return err
	}
	d.CPU = &CPUDetail{User: stat[0] * 1000, System: stat[1] * 1000, Periods: stat[2], Throttled: stat[3], ThrottledTime: stat[4] * 1000}
	return nil
}

func (r *reading) memoryDetail2(d *Detail) error {
	stat, err := r.fields(r.layout.unified, "memory.stat", "file", "file_mapped", "kernel", "pgfault", "pgmajfault")
	if err != nil {
		return absent(err)
	}
	m := &MemoryDetail{Cache: stat[0], Mapped: stat[1], Kernel: stat[2], OwnFaults: stat[3], OwnMajorFaults: stat[4]}
	if m.Swap, _, err = r.number(r.layout.unified, "memory.swap.current"); absent(err) != nil {
		return err
	}
	events, err := r.fields(r.layout.unified, "memory.events", "max")
	if err != nil {
		return err
	}
	m.LimitHits, d.Memory = events[0], m
	highest, _, err := r.number(r.layout.unified, "memory.peak")
	if err == nil {
		m.Max = &highest
	}
	return absent(err)
}

func (r *reading) maxPids2(d *Detail) error {
	limit, ok, err := r.number(r.layout.unified, "pids.max")
	if ok {
		d.MaxPids = unlimited(limit)
	}
	return absent(err)
}

// io2 reads lines such as "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0".
func (r *reading) io2(d *Detail) error {
	text, err := r.read(r.layout.unified, "io.stat")
	if err != nil {
		return absent(err)
	}
	for line := range bytes.Lines(text) {
		words := strings.Fields(string(line))
		if len(words) < 2 {
			continue
		}
		dev := d.device(words[0])
		if dev == nil {
			continue
		}
		for _, word := range words[1:] {
			name, value, _ := strings.Cut(word, "=")
			to := map[string]*uint64{"rbytes": &dev.ReadBytes, "wbytes": &dev.WriteBytes, "rios": &dev.Reads, "wios": &dev.Writes}[name]
			if to == nil {
				continue
			}
			if *to, err = strconv.ParseUint(value, 10, 64); err != nil {
				return fmt.Errorf("io.stat: %w", err)
			}
		}
	}
	return nil
}

// device finds or adds the device "major:minor"; nil for what is none, or one too many.
func (d *Detail) device(number string) *DeviceIO {
	first, second, _ := strings.Cut(number, ":")
	major, err1 := strconv.ParseUint(first, 10, 32)
	minor, err2 := strconv.ParseUint(second, 10, 32)
	if err1 != nil || err2 != nil {
		return nil
	}
	for i := range d.Devices {
		if d.Devices[i].Major == uint32(major) && d.Devices[i].Minor == uint32(minor) {
			return &d.Devices[i]
		}
	}
	if len(d.Devices) == maxDevices {
		return nil
	}
	d.Devices = append(d.Devices, DeviceIO{Major: uint32(major), Minor: uint32(minor), Name: deviceName(number)})
	return &d.Devices[len(d.Devices)-1]
}

// deviceName is one readlink of sysfs, where the kernel names each block device.
func deviceName(number string) string {
	to, err := os.Readlink("/sys/dev/block/" + number)
	if err != nil {
		return ""
	}
	return "/dev/" + filepath.Base(to)
}

// huge reads huge pages by the sizes that were found when the Reader was opened.
func (r *reading) huge(d *Detail) error {
	mount, usage, highest := r.layout.v1["hugetlb"], ".usage_in_bytes", ".max_usage_in_bytes"
	if r.layout.version() == 2 {
		mount, usage, highest = r.layout.unified, ".current", ""
	}
	if mount == "" {
		return nil
	}
	for _, size := range r.layout.pages {
		h := HugePages{Size: size}
		var err error
		if h.Usage, _, err = r.number(mount, "hugetlb."+size+usage); err != nil {
			return absent(err)
		}
		if highest != "" {
			if h.Max, _, err = r.number(mount, "hugetlb."+size+highest); err != nil {
				return absent(err)
			}
		}
		d.Huge = append(d.Huge, h)
	}
	return nil
}

// pageSizes are the huge page sizes of the node, as cgroup files name them.
func pageSizes() (sizes []string) {
	dirs, _ := os.ReadDir("/sys/kernel/mm/hugepages")
	for _, d := range dirs {
		kb, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(d.Name(), "hugepages-"), "kB"), 10, 64)
		switch {
		case err != nil:
		case kb >= 1<<20:
			sizes = append(sizes, fmt.Sprintf("%dGB", kb>>20))
		case kb >= 1<<10:
			sizes = append(sizes, fmt.Sprintf("%dMB", kb>>10))
		default:
			sizes = append(sizes, fmt.Sprintf("%dKB", kb))
		}
	}
	return sizes
}

// unlimited is the limit, or 0 for none.
func unlimited(n uint64) *uint64 {
	if n >= noLimit {
		n = 0
	}
	return &n
}

// Processes is what the processes of a cgroup hold open.
type Processes struct {
	Count       uint64
	Descriptors uint64
	Sockets     uint64
	Limit       *uint64 // soft limit of open files of the first process; nil without one
}

// Bounds of one look at a cgroup's processes: a fork bomb or a proxy with a million connections must not
// take the daemon's time. What is beyond is not counted.
const (
	maxProcesses   = 512
	maxDescriptors = 16384
)

// Open files are looked at one by one, so this belongs off the path of a call. A cgroup that is gone is
// fs.ErrNotExist; a process that ended meanwhile counts for nothing.
func (r *Reader) Processes(cgroup string) (Processes, error) {
	if err := plain(cgroup); err != nil {
		return Processes{}, err
	}
	mount := r.layout.v1["pids"]
	if r.layout.version() == 2 {
		mount = r.layout.unified
	}
	if mount == "" {
		return Processes{}, fmt.Errorf("count processes of cgroup %s: no pids controller", cgroup)
	}
	data, err := os.ReadFile(mount + cgroup + "/cgroup.procs")
	if errors.Is(err, unix.ENODEV) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return Processes{}, fmt.Errorf("count processes of cgroup %s: %w", cgroup, err)
	}
	pids := strings.Fields(string(data))
	p := Processes{Count: uint64(len(pids))}
	for i, pid := range pids[:min(len(pids), maxProcesses)] {
		if i == 0 {
			p.Limit = openFiles("/proc/" + pid + "/limits")
		}
		p.descriptors("/proc/" + pid + "/fd")
	}
	return p, nil
}

func (p *Processes) descriptors(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	left := int(maxDescriptors - min(p.Descriptors, maxDescriptors))
	if left == 0 {
		return
	}
	names, _ := f.Readdirnames(left)
	p.Descriptors += uint64(len(names))
	var target [8]byte
	for _, name := range names {
		n, err := unix.Readlinkat(int(f.Fd()), name, target[:])
		if err == nil && string(target[:n]) == "socket:[" {
			p.Sockets++
		}
	}
}

// openFiles reads the soft limit of a line such as "Max open files  1024  4096  files".
func openFiles(path string) *uint64 {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			if words := strings.Fields(rest); len(words) > 0 {
				if n, err := strconv.ParseUint(words[0], 10, 64); err == nil {
					return &n
				}
			}
		}
	}
	return nil
}
