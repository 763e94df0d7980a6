package cri

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/enforce"
	"sallyport/image"
	"sallyport/sandbox/stats"
)

// TestInParts: each item once and in order, no empty message, none larger than it must be.
func TestInParts(t *testing.T) {
	for _, tt := range []struct {
		name  string
		sizes []int // bytes of each item's ID
		want  []int // items of each part
	}{
		{"none", nil, nil},
		{"one", []int{10}, []int{1}},
		{"small ones together", []int{10, 10, 10}, []int{3}},
		{"split", []int{partBytes / 2, partBytes / 3, partBytes / 2, 1}, []int{2, 2}},
		{"one too large goes alone", []int{2 * partBytes, 1, 3 * partBytes}, []int{1, 1, 1}},
	} {
		var items []*v1.Container
		for _, n := range tt.sizes {
			items = append(items, &v1.Container{Id: strings.Repeat("x", n)})
		}
		var got []int
		var all []*v1.Container
		err := inParts(items, sizeOf, func(part []*v1.Container) error {
			got, all = append(got, len(part)), append(all, part...)
			if size := proto.Size(&v1.StreamContainersResponse{Containers: part}); len(part) > 1 && size > partBytes+len(part)*8 {
				t.Errorf("%s: a part of %d bytes", tt.name, size)
			}
			return nil
		})
		if err != nil || !slices.Equal(got, tt.want) || !slices.Equal(all, items) {
			t.Errorf("%s: parts of %v, %v, want %v", tt.name, got, err, tt.want)
		}
	}
	gone, calls := errors.New("client has gone"), 0
	err := inParts([]*v1.Container{{Id: strings.Repeat("x", partBytes)}, {Id: "y"}}, sizeOf, func([]*v1.Container) error { calls++; return gone })
	if !errors.Is(err, gone) || calls != 1 {
		t.Errorf("inParts() = %v after %d calls, want the client's error after one", err, calls)
	}
}

// TestMetricTable: names are unique and sorted as Prometheus wants them, labels have names, and an
// empty sample gives nothing but when it was seen.
func TestMetricTable(t *testing.T) {
	names := []string{}
	for _, m := range metrics {
		names = append(names, m.name)
		if m.help == "" || m.counter != (strings.HasSuffix(m.name, "_total") && m.name != "container_fs_inodes_total" || m.name == "container_memory_failcnt") {
			t.Errorf("%s: help %q, counter %t", m.name, m.help, m.counter)
		}
	}
	if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Error("metrics are not sorted, or named twice")
	}
	empty := &sample{labels: make([]string, len(baseLabels)), now: time.Now()}
	if out := empty.out(metrics); len(out) != 1 || out[0].Name != "container_last_seen" {
		t.Errorf("metrics of an empty sample = %v", out)
	}
}

// TestMetricGroups: each metric is in a group, and a group can be told alone.
func TestMetricGroups(t *testing.T) {
	for _, m := range metrics {
		if groupOf(m.name) == "" {
			t.Errorf("%s is in no group", m.name)
		}
	}
	if got := chosen([]string{"all"}); len(got) != len(metrics) {
		t.Errorf("chosen(all) = %d metrics, want %d", len(got), len(metrics))
	}
	if got := chosen(nil); len(got) != 0 {
		t.Errorf("chosen() = %d metrics, want none", len(got))
	}
	all := 0
	for _, g := range podGroups {
		got := chosen([]string{g.name})
		if all += len(got); len(got) == 0 {
			t.Errorf("group %s has no metric", g.name)
		}
	}
	if all != len(metrics) {
		t.Errorf("groups have %d metrics together, want %d", all, len(metrics))
	}
	for _, m := range chosen([]string{"oom"}) {
		if m.name != "container_oom_events_total" {
			t.Errorf("chosen(oom) has %s", m.name)
		}
	}
}

func TestPullOutcome(t *testing.T) {
	for want, err := range map[string]error{"ok": nil, "denied": fmt.Errorf("x: %w", &enforce.Denied{}), "unavailable": fmt.Errorf("x: %w", image.ErrUnavailable),
		"not-found": image.ErrNotFound, "timeout": context.DeadlineExceeded, "other": errors.New("registry.example/app is odd")} {
		if got := pullOutcome(err); got != want {
			t.Errorf("pullOutcome(%v) = %q, want %q", err, got, want)
		}
	}
}

// TestMetricLabels: every point has the labels that its metric describes, and none is longer than the
// bound, whatever a pod calls its interfaces.
func TestMetricLabels(t *testing.T) {
	n := uint64(1)
	long := strings.Repeat("l", 2*maxLabel)
	m := &sample{labels: []string{long, "b", "c", "d", "e", "f"}, now: time.Now(), started: time.Now(), kills: &n,
		figures: &stats.Figures{CPU: &stats.CPU{}, Memory: &stats.Memory{}, Pids: &n, PSI: &stats.PSI{}},
		detail: &stats.Detail{CPU: &stats.CPUDetail{}, Memory: &stats.MemoryDetail{Max: &n}, MaxPids: &n,
			Devices: []stats.DeviceIO{{Name: "/dev/a"}, {Name: "/dev/b"}}, Huge: []stats.HugePages{{Size: "2MB"}}},
		opened: &opened{stats.Processes{Limit: &n}, time.Unix(7, 0)}, network: []stats.Interface{{Name: "eth0"}, {Name: long}}}
	want := map[string]int{}
	for _, d := range metrics {
		want[d.name] = len(baseLabels) + len(d.labels)
	}
	seen := map[string]bool{}
	for _, out := range m.out(metrics) {
		if len(out.LabelValues) != want[out.Name] {
			t.Errorf("%s: labels %q, want %d", out.Name, out.LabelValues, want[out.Name])
		}
		for _, l := range out.LabelValues {
			if len(l) > maxLabel {
				t.Errorf("%s: a label of %d bytes", out.Name, len(l))
			}
		}
		key := fmt.Sprint(out.Name, out.LabelValues)
		if seen[key] {
			t.Errorf("%s: twice", key)
		}
		seen[key] = true
		if out.Name == "container_file_descriptors" && out.Timestamp != time.Unix(7, 0).UnixNano() {
			t.Errorf("%s: timestamp %d, want when it was counted", out.Name, out.Timestamp)
		}
	}
}

// TestOpenedFiles: a container is looked at once by a call and then in the background, while somebody
// asks.
func TestOpenedFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads := 0
		o := &openedFiles{of: map[string]*opened{}, read: func(string) (stats.Processes, error) { reads++; return stats.Processes{Count: uint64(reads)}, nil }}
		first := o.look("a", "/a")
		if again := o.look("a", "/a"); again != first || reads != 1 {
			t.Errorf("second look() = %v after %d reads, want the first's", again, reads)
		}
		time.Sleep(openedIdle + time.Second)
		o.pass(t.Context(), nil)
		if len(o.of) != 0 {
			t.Errorf("%d containers are remembered that nobody asks for", len(o.of))
		}
		o.read = func(string) (stats.Processes, error) { return stats.Processes{}, errors.New("gone") }
		if got := o.look("a", "/a"); got != nil {
			t.Errorf("look() of a gone one = %v, want nil", got)
		}
	})
}

// TestNetworkOut: eth0 is the default interface wherever it stands; without one it is the first.
func TestNetworkOut(t *testing.T) {
	at := time.Unix(1, 0)
	out := networkOut([]stats.Interface{{Name: "net1", RxBytes: 1}, {Name: "eth0", RxBytes: 2, TxErrors: 3}}, at)
	if out.DefaultInterface.Name != "eth0" || out.DefaultInterface.RxBytes.Value != 2 || out.DefaultInterface.TxErrors.Value != 3 ||
		len(out.Interfaces) != 1 || out.Interfaces[0].Name != "net1" || out.Timestamp != at.UnixNano() {
		t.Errorf("networkOut() = %v", out)
	}
	if out := networkOut([]stats.Interface{{Name: "a"}, {Name: "b"}}, at); out.DefaultInterface.Name != "a" || len(out.Interfaces) != 1 {
		t.Errorf("networkOut() without eth0 = %v", out)
	}
}
