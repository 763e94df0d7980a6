package stats

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// With a period the files are read at each pass and at no call; without one at each call.
func TestCollectorPeriod(t *testing.T) {
	r := tree(t, map[string]string{"cpu.stat": "usage_usec 1\n", "memory.current": "4096\n", "memory.max": "max\n",
		"memory.stat": "inactive_file 0\n", "memory.events": "oom_kill 2\nmax 1\n", "pids.current": "1\n", "pids.max": "max\n"})
	usage := func(c *Collector) uint64 {
		t.Helper()
		f, err := c.Read("/c")
		if err != nil {
			t.Fatal(err)
		}
		return f.CPU.Usage
	}
	burn := func(usec string) {
		t.Helper()
		if err := os.WriteFile(r.layout.unified+"/c/cpu.stat", []byte("usage_usec "+usec+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	asked := NewCollector(r, 0)
	if a := usage(asked); a != 1000 {
		t.Errorf("usage = %d, want 1000", a)
	}
	burn("2")
	if a := usage(asked); a != 2000 {
		t.Errorf("usage without a period = %d, want what the file says now", a)
	}
	c := NewCollector(r, time.Minute)
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx, func() []Source { return []Source{{Cgroup: "/c"}, {Cgroup: "/gone"}} }) }()
		synctest.Wait()
		burn("3")
		if a := usage(c); a != 2000 {
			t.Errorf("usage within a period = %d, want that of the last pass", a)
		}
		if _, _, kills, err := c.ReadDeep("/c"); err != nil || kills == nil || *kills != 2 {
			t.Errorf("ReadDeep() = %v, %v, want 2 kills", kills, err)
		}
		burn("4")
		time.Sleep(time.Minute)
		synctest.Wait()
		burn("5")
		if a := usage(c); a != 4000 {
			t.Errorf("usage after a pass = %d, want 4000", a)
		}
		if f, d, _, err := c.ReadDeep("/c"); err != nil || d == nil || f.CPU.Usage != 4000 {
			t.Errorf("ReadDeep() after a pass = %v, %v, %v, want the pass's figures with details", f.CPU, d, err)
		}
		if _, err := c.Read("/gone"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Read(gone) = %v, want fs.ErrNotExist", err)
		}
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	})
	c.Forget("/c")
	if a := usage(c); a != 5000 {
		t.Errorf("usage after Forget = %d, want what the file says now", a)
	}
	c.pass(t.Context(), nil)
	if len(c.cgroups) != 0 {
		t.Errorf("%d cgroups are remembered that nobody lists", len(c.cgroups))
	}
}

// A figure is that of a pod's own network, with the time of its reading.
func TestCollectorNetwork(t *testing.T) {
	path := netns(t)
	c := NewCollector(nil, time.Minute)
	first, at, err := c.Network(path)
	if err != nil || len(first) != 2 {
		t.Fatalf("Network() = %v, %v, want two interfaces", first, err)
	}
	if _, again, _ := c.Network(path); !again.Equal(at) {
		t.Error("Network() read again within the period")
	}
	c.pass(t.Context(), []Source{{NetNS: path}})
	if _, later, _ := c.Network(path); !later.After(at) {
		t.Error("Network() tells nothing of the new pass")
	}
	if _, _, err := c.Network("/nowhere"); err == nil || !strings.Contains(err.Error(), "/nowhere") {
		t.Errorf("Network(nowhere) = %v, want an error that names it", err)
	}
}
