package stats

import (
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"sallyport/test/roottest"
)

// netns makes a network namespace with a pair of interfaces.
func netns(tb testing.TB) string {
	tb.Helper()
	roottest.Need(tb)
	name := fmt.Sprintf("spt-stats-%d", os.Getpid())
	tb.Cleanup(func() { exec.Command("ip", "netns", "del", name).Run() })
	for _, args := range []string{
		"ip netns add " + name,
		"ip -n " + name + " link set lo up",
		"ip -n " + name + " link add eth0 type veth peer name eth1",
		"ip -n " + name + " link set eth0 up",
		"ip -n " + name + " link set eth1 up",
	} {
		words := strings.Fields(args)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			tb.Fatalf("%s: %v: %s", args, err, out)
		}
	}
	return "/var/run/netns/" + name
}

func TestNetwork(t *testing.T) {
	path := netns(t)
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	before := 0
	for range 50 {
		all, err := Network(path)
		if err != nil {
			t.Fatal(err)
		}
		names := map[string]bool{}
		for _, i := range all {
			names[i.Name] = true
		}
		if want := map[string]bool{"eth0": true, "eth1": true}; !reflect.DeepEqual(names, want) {
			t.Fatalf("interfaces = %v, want %v", names, want)
		}
		fds, _ := os.ReadDir("/proc/self/fd")
		if before == 0 {
			before = len(fds)
		} else if len(fds) > before {
			t.Fatalf("descriptors = %d, want %d", len(fds), before)
		}
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks { // every thread is back
		if at, err := os.Readlink("/proc/self/task/" + task.Name() + "/ns/net"); err == nil && at != home {
			t.Errorf("thread %s is in %s, want %s", task.Name(), at, home)
		}
	}
	if _, err := Network("/nonexistent"); err == nil {
		t.Error("Network() of nothing = nil error")
	}
	if _, err := Network("/proc/self/ns/uts"); err == nil {
		t.Error("Network() of another kind of namespace = nil error")
	}
}

func TestInterfaces(t *testing.T) {
	const head = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n"
	got, err := interfaces(head + "    lo:  9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n  eth0: 1296 16 2 4 0 0 0 0 816 12 3 5 0 0 0 0\n")
	want := []Interface{{Name: "eth0", RxBytes: 1296, RxPackets: 16, RxErrors: 2, RxDropped: 4, TxBytes: 816, TxPackets: 12, TxErrors: 3, TxDropped: 5}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("interfaces() = %+v, %v, want %+v", got, err, want)
	}
	for _, text := range []string{"eth0: 1 2 3\n", "eth0: x 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"} {
		if _, err := interfaces(text); err == nil {
			t.Errorf("interfaces(%q) = nil error", text)
		}
	}
}

func BenchmarkNetwork(b *testing.B) {
	path := netns(b)
	for b.Loop() {
		if _, err := Network(path); err != nil {
			b.Fatal(err)
		}
	}
}
