package stats

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// A real process in a real cgroup: it has written, holds descriptors and a limit.
func TestDetail(t *testing.T) {
	r := open(t)
	path := cgroup(t, r, "detail")
	limit := mounts(r)[0] + path + "/pids.max"
	if r.Version() == 1 {
		limit = r.layout.v1["pids"] + path + "/pids.max"
	}
	if err := os.WriteFile(limit, []byte("77"), 0); err != nil {
		t.Fatal(err)
	}
	var join strings.Builder
	for _, m := range mounts(r) {
		fmt.Fprintf(&join, "echo 0 > %s%s/cgroup.procs; ", m, path)
	}
	ready := filepath.Join(t.TempDir(), "ready")
	cmd := exec.Command("sh", "-c", "ulimit -S -n 99; "+join.String()+"head -c 3000000 /dev/zero > "+ready+".tmp; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exec 5</dev/null 6</dev/null; mv "+ready+".tmp "+ready+"; read x")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Process.Kill(); cmd.Wait() })
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(ready); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the process is not ready")
		}
	}
	d, err := r.Detail(path)
	if err != nil {
		t.Fatal(err)
	}
	if d.MaxPids == nil || *d.MaxPids != 77 {
		t.Errorf("MaxPids = %v, want 77", d.MaxPids)
	}
	if d.CPU == nil || d.CPU.User+d.CPU.System < 1e6 {
		t.Errorf("CPU = %+v, want a millisecond at least", d.CPU)
	}
	if m := d.Memory; m == nil || m.Cache < 2e6 || m.Max == nil || *m.Max < 2e6 || m.OwnFaults == 0 {
		t.Errorf("Memory = %+v, want a cache of 3 MB and faults", m)
	}
	p, err := r.Processes(path)
	if err != nil || p.Count != 1 || p.Descriptors < 5 || p.Limit == nil || *p.Limit != 99 {
		t.Errorf("Processes() = %+v, %v, want one with 5 descriptors and a limit of 99", p, err)
	}
}

func TestDetailRefuses(t *testing.T) {
	r := open(t)
	for _, path := range []string{"", "/", "relative", "/a/../b", "/a\x00b"} {
		if _, err := r.Detail(path); err == nil {
			t.Errorf("Detail(%q) = nil error", path)
		}
		if _, err := r.Processes(path); err == nil {
			t.Errorf("Processes(%q) = nil error", path)
		}
	}
}

// Both layouts are read from files, whichever the node has.
func TestDetailOfBothVersions(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"g/cpuacct.usage_user": "7\n", "g/cpuacct.usage_sys": "8\n",
		"g/memory.stat":                "cache 1\ntotal_cache 10\ntotal_mapped_file 11\ntotal_swap 12\npgfault 13\npgmajfault 14\nfile 20\nfile_mapped 21\nkernel 22\n",
		"g/memory.kmem.usage_in_bytes": "9\n", "g/memory.failcnt": "3\n", "g/memory.max_usage_in_bytes": "99\n",
		"g/pids.max": "max\n",
		"g/blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Write 512\n8:0 Total 4608\nTotal 4608\n",
		"g/blkio.throttle.io_serviced_recursive":      "8:0 Read 2\n8:0 Write 1\nTotal 3\n",
		"g/cpu.stat":                                  "nr_periods 4\nnr_throttled 2\nthrottled_time 600\nuser_usec 5\nsystem_usec 6\nthrottled_usec 7\n",
		"g/memory.swap.current":                       "30\n", "g/memory.events": "low 0\nmax 5\noom_kill 1\n", "g/memory.peak": "98\n",
		"g/io.stat":             "8:0 rbytes=4096 wbytes=512 rios=2 wios=1 dbytes=0 dios=0\nnonsense\n",
		"g/hugetlb.2MB.current": "2097152\n", "g/hugetlb.2MB.usage_in_bytes": "2097152\n", "g/hugetlb.2MB.max_usage_in_bytes": "4194304\n",
	} {
		path := filepath.Join(dir, name)
		os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	name := deviceName("8:0")
	v1 := &Reader{layout: layout{pages: []string{"2MB"}, v1: map[string]string{"cpuacct": dir, "cpu": dir, "memory": dir, "pids": dir, "blkio": dir, "hugetlb": dir}}}
	v2 := &Reader{layout: layout{pages: []string{"2MB"}, unified: dir}}
	number := func(n uint64) *uint64 { return &n }
	io := []DeviceIO{{Major: 8, Name: name, ReadBytes: 4096, WriteBytes: 512, Reads: 2, Writes: 1}}
	for _, tt := range []struct {
		name string
		r    *Reader
		want Detail
	}{
		{"v1", v1, Detail{CPU: &CPUDetail{7, 8, 4, 2, 600}, MaxPids: number(0), Devices: io, Huge: []HugePages{{"2MB", 2 << 20, 4 << 20}},
			Memory: &MemoryDetail{Cache: 10, Mapped: 11, Kernel: 9, Swap: 12, Max: number(99), LimitHits: 3, OwnFaults: 13, OwnMajorFaults: 14}}},
		{"v2", v2, Detail{CPU: &CPUDetail{5000, 6000, 4, 2, 7000}, MaxPids: number(0), Devices: io, Huge: []HugePages{{"2MB", 2 << 20, 0}},
			Memory: &MemoryDetail{Cache: 20, Mapped: 21, Kernel: 22, Swap: 30, Max: number(98), LimitHits: 5, OwnFaults: 13, OwnMajorFaults: 14}}},
	} {
		got, err := tt.r.Detail("/g")
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: Detail() = %+v, %v, want %+v", tt.name, got, err, tt.want)
		}
	}
}

// A hostile number of devices is cut off.
func TestDevicesAreBounded(t *testing.T) {
	var d Detail
	for i := range 2 * maxDevices {
		d.device(fmt.Sprintf("8:%d", i))
	}
	if len(d.Devices) != maxDevices {
		t.Errorf("%d devices, want %d", len(d.Devices), maxDevices)
	}
	if d.device("8:x") != nil || d.device("Total") != nil {
		t.Error("device() of no number is one")
	}
}

// Stray v1 hierarchies without figures leave the node at v2.
func TestStrayHierarchy(t *testing.T) {
	l := findLayout("1 2 0:1 / /h rw - cgroup cgroup rw,hugetlb\n1 2 0:2 / /u rw - cgroup2 cgroup2 rw\n")
	if l.version() != 2 || l.unified != "/u" {
		t.Errorf("version = %d at %q, want 2 at /u", l.version(), l.unified)
	}
}
