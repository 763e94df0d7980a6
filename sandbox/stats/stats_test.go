package stats

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/test/roottest"
)

// cgroup makes a real cgroup in every hierarchy that the figures come from, and removes it.
func cgroup(tb testing.TB, r *Reader, name string) string {
	tb.Helper()
	roottest.Need(tb)
	path := fmt.Sprintf("/sallyport-stats-%d-%s", os.Getpid(), name)
	for _, mount := range mounts(r) {
		if err := os.Mkdir(mount+path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			tb.Fatal(err)
		}
		tb.Cleanup(func() {
			for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
				err := os.Remove(mount + path)
				if err == nil || errors.Is(err, fs.ErrNotExist) || time.Now().After(deadline) {
					break
				}
			}
		})
	}
	return path
}

func mounts(r *Reader) []string {
	if r.Version() == 2 {
		return []string{r.layout.unified}
	}
	var all []string
	for _, m := range r.layout.v1 {
		all = append(all, m)
	}
	return all
}

func open(tb testing.TB) *Reader {
	tb.Helper()
	r, err := Open()
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// A real process in a real cgroup: it burns a processor, holds memory and has a child.
func TestRead(t *testing.T) {
	r := open(t)
	path := cgroup(t, r, "read")
	if r.Version() == 1 {
		if err := os.WriteFile(r.layout.v1["memory"]+path+"/memory.limit_in_bytes", []byte("67108864"), 0); err != nil {
			t.Fatal(err)
		}
	} else if err := os.WriteFile(r.layout.unified+path+"/memory.max", []byte("67108864"), 0); err != nil {
		t.Fatal(err)
	}
	var join strings.Builder
	for _, m := range mounts(r) {
		fmt.Fprintf(&join, "echo 0 > %s%s/cgroup.procs; ", m, path)
	}
	cmd := exec.Command("sh", "-c", join.String()+`a=$(head -c 8000000 /dev/zero | tr '\0' x); sleep 60 & while :; do :; done`)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		procs, _ := os.ReadFile(mounts(r)[0] + path + "/cgroup.procs")
		for _, pid := range strings.Fields(string(procs)) {
			exec.Command("kill", "-9", pid).Run()
		}
		cmd.Process.Kill()
		cmd.Wait()
	})
	var first Figures
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		var err error
		if first, err = r.Read(path); err != nil {
			t.Fatal(err)
		}
		if *first.Pids == 2 && first.Memory.RSS > 7e6 && first.CPU.Usage > 1e7 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("figures = %d pids, %+v, %+v", *first.Pids, first.Memory, first.CPU)
		}
	}
	if m := first.Memory; m.WorkingSet > m.Usage || m.Available == nil || *m.Available != 67108864-m.WorkingSet || m.Faults == 0 {
		t.Errorf("memory = %+v (available %v)", m, m.Available)
	}
	r.Forget(path)
	begin, err := r.Read(path)
	if err != nil || begin.CPU.NanoCores != nil {
		t.Fatalf("Read() = %v, %v, want no rate at the first", begin.CPU.NanoCores, err)
	}
	time.Sleep(minWindow + 50*time.Millisecond)
	end, err := r.Read(path)
	if err != nil || end.CPU.NanoCores == nil {
		t.Fatalf("Read() = %+v, %v, want a rate", end.CPU, err)
	}
	want := float64(end.CPU.Usage-begin.CPU.Usage) / end.At.Sub(begin.At).Seconds()
	if got := float64(*end.CPU.NanoCores); got < want*0.99 || got > want*1.01 || got == 0 {
		t.Errorf("rate = %v, want %v", got, want)
	}
	if kills, err := r.OOMKills(path); err != nil || kills != 0 {
		t.Errorf("OOMKills() = %d, %v, want 0", kills, err)
	}
}

func TestOOMKills(t *testing.T) {
	r := open(t)
	path := cgroup(t, r, "oom")
	mount, file := r.layout.v1["memory"], "/memory.limit_in_bytes"
	if r.Version() == 2 {
		mount, file = r.layout.unified, "/memory.max"
	}
	if err := os.WriteFile(mount+path+file, []byte("4194304"), 0); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf(`echo 0 > %s%s/cgroup.procs; a=$(head -c 100000000 /dev/zero | tr '\0' x)`, mount, path)
	exec.Command("sh", "-c", script).Run()
	if kills, err := r.OOMKills(path); err != nil || kills == 0 {
		t.Errorf("OOMKills() = %d, %v, want some", kills, err)
	}
}

func TestReadGone(t *testing.T) {
	r := open(t)
	r.last["/sallyport-none"] = sample{usage: 1}
	if _, err := r.Read("/sallyport-none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read() = %v, want not exist", err)
	}
	if len(r.last) != 0 {
		t.Error("a cgroup that is gone is remembered")
	}
	if all := r.ReadAll([]string{"/sallyport-none"}); len(all) != 0 {
		t.Errorf("ReadAll() = %v, want nothing", all)
	}
}

func TestReadRefuses(t *testing.T) {
	r := open(t)
	for _, path := range []string{"", "/", "a", "/a/../..", "/a/", "//a", "/a\x00b"} {
		if _, err := r.Read(path); err == nil || !strings.Contains(err.Error(), "not a plain absolute path") {
			t.Errorf("Read(%q) = %v, want a refusal", path, err)
		}
		if _, err := r.OOMKills(path); err == nil || !strings.Contains(err.Error(), "not a plain absolute path") {
			t.Errorf("OOMKills(%q) = %v, want a refusal", path, err)
		}
	}
}

// tree writes the files of a cgroup as the kernel would, and returns a reader of it.
func tree(t *testing.T, files map[string]string) *Reader {
	t.Helper()
	mount := t.TempDir()
	for name, text := range files {
		path := filepath.Join(mount, "c", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &Reader{layout: layout{unified: mount}, last: map[string]sample{}}
}

// The files of cgroup v2, as a 6.1 kernel writes them.
func TestReadV2(t *testing.T) {
	const psi = "some avg10=1.50 avg60=2.00 avg300=3.25 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.50 total=4\n"
	r := tree(t, map[string]string{
		"cpu.stat":            "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n",
		"memory.current":      "1000\n",
		"memory.max":          "5000\n",
		"memory.stat":         "anon 300\nfile 700\ninactive_file 400\npgfault 12\npgmajfault 3\n",
		"memory.swap.current": "50\n",
		"memory.swap.max":     "max\n",
		"memory.events":       "low 0\noom 2\noom_kill 2\n",
		"pids.current":        "4\n",
		"cpu.pressure":        psi, "memory.pressure": psi, "io.pressure": psi,
	})
	f, err := r.Read("/c")
	if err != nil {
		t.Fatal(err)
	}
	pids, available := uint64(4), uint64(4400)
	p := Pressure{Some: Stall{1.5, 2, 3.25, 7000}, Full: Stall{0, 0, 0.5, 4000}}
	want := Figures{
		At: f.At, CPU: &CPU{Usage: 1500000}, Pids: &pids, Swap: &Swap{Usage: 50}, PSI: &PSI{p, p, p},
		Memory: &Memory{Usage: 1000, WorkingSet: 600, Available: &available, RSS: 300, Faults: 12, MajorFaults: 3},
	}
	if !reflect.DeepEqual(f, want) {
		t.Errorf("Read() = %+v, want %+v", f, want)
	}
	if kills, err := r.OOMKills("/c"); err != nil || kills != 2 {
		t.Errorf("OOMKills() = %d, %v, want 2", kills, err)
	}
}

// Controllers that are not enabled leave their part out; damage is an error that names the file.
func TestReadV2Partly(t *testing.T) {
	f, err := tree(t, map[string]string{"cpu.stat": "usage_usec 1\n"}).Read("/c")
	if err != nil || f.Memory != nil || f.Swap != nil || f.Pids != nil || f.PSI != nil || f.CPU == nil {
		t.Errorf("Read() = %+v, %v, want the CPU alone", f, err)
	}
	for file, text := range map[string]string{"cpu.stat": "usage_usec x\n", "pids.current": "\n", "cpu.pressure": "some avg10=x\n"} {
		files := map[string]string{"cpu.stat": "usage_usec 1\n", "memory.pressure": "", "io.pressure": "", "cpu.pressure": ""}
		files[file] = text
		if _, err := tree(t, files).Read("/c"); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("Read() with a damaged %s = %v, want an error that names it", file, err)
		}
	}
}

// A file larger than the buffer is read whole.
func TestReadLarge(t *testing.T) {
	r := tree(t, map[string]string{"cpu.stat": strings.Repeat("x 1\n", 10000) + "usage_usec 9\n"})
	if f, err := r.Read("/c"); err != nil || f.CPU.Usage != 9000 {
		t.Errorf("Read() = %+v, %v, want 9000", f.CPU, err)
	}
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Reader{last: map[string]sample{}}
		tell := func(usage uint64) int64 {
			if n := r.rate("/c", time.Now(), usage); n != nil {
				return int64(*n)
			}
			return -1
		}
		steps := []struct {
			name  string
			after time.Duration
			usage uint64
			want  int64 // -1 is none
		}{
			{"first", 0, 1000, -1},
			{"too soon", time.Second / 2, 9000, -1},
			{"from the first", time.Second * 3 / 2, 5000, 2000},
			{"too soon: as before", time.Second / 2, 9999, 2000},
			{"idle", 2 * time.Second, 5000, 0},
			{"made anew", 2 * time.Second, 10, -1},
			{"again", 10 * time.Second, 1010, 100},
		}
		for _, s := range steps {
			time.Sleep(s.after)
			if got := tell(s.usage); got != s.want {
				t.Errorf("%s: rate = %d, want %d", s.name, got, s.want)
			}
		}
	})
}

func TestLayout(t *testing.T) {
	const v2 = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"
	const hybrid = `31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
99 31 0:36 / /mnt/pids rw - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
`
	for _, tc := range []struct {
		name, mountinfo string
		want            layout
		version         int
	}{
		{"v2", v2, layout{v1: map[string]string{}, unified: "/sys/fs/cgroup"}, 2},
		{"hybrid", hybrid, layout{v1: map[string]string{
			"cpu": "/sys/fs/cgroup/cpu,cpuacct", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct", "memory": "/sys/fs/cgroup/memory", "pids": "/sys/fs/cgroup/pids"}}, 1},
		{"none", "1 2 0:1 / / rw - ext4 /dev/vda rw\n", layout{v1: map[string]string{}}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := findLayout(tc.mountinfo)
			if !reflect.DeepEqual(got, tc.want) || got.version() != tc.version {
				t.Errorf("findLayout() = %+v (version %d), want %+v (%d)", got, got.version(), tc.want, tc.version)
			}
		})
	}
}

func BenchmarkReadAll100(b *testing.B) {
	r := open(b)
	var paths []string
	for i := range 100 {
		paths = append(paths, cgroup(b, r, fmt.Sprint(i)))
	}
	for b.Loop() {
		if all := r.ReadAll(paths); len(all) != 100 {
			b.Fatalf("ReadAll() = %d, want 100", len(all))
		}
	}
}
