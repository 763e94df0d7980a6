// Package telemetry counts what the daemon does and shows it to Prometheus in its text format. It
// writes the format itself: the client library takes milliseconds to initialise, which every
// re-executed child of the daemon would pay. It holds no state but the counters; labels are bounded by
// the number of CRI methods, status codes and gate verbs.
package telemetry

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// contentType is the text format's (prometheus.io, Exposition formats).
const contentType = "text/plain; version=0.0.4; charset=utf-8"

// buckets are the upper bounds of the histogram, in seconds.
var buckets = [...]float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60}

// Gate is what the gate tells of itself at one moment.
type Gate struct {
	Decisions map[string]uint64 // "<verb> allow" and "<verb> deny"
	Enforced  bool              // a policy is installed and the audit log takes records
}

// Metrics are the daemon's figures. They may be used concurrently.
type Metrics struct {
	gate func() Gate // constant

	mu    sync.Mutex // guards calls and what it points to
	calls map[call]*histogram
}

type call struct{ method, code string }

type histogram struct {
	counts [len(buckets)]uint64 // by the smallest bucket that holds the value
	n      uint64
	sum    float64
}

// New wires the figures; gate is asked at every scrape and must be fast.
func New(gate func() Gate) *Metrics { return &Metrics{gate: gate, calls: map[call]*histogram{}} }

// Observe counts one CRI call.
func (m *Metrics) Observe(method, code string, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.calls[call{method, code}]
	if h == nil {
		h = &histogram{}
		m.calls[call{method, code}] = h
	}
	s := took.Seconds()
	h.n, h.sum = h.n+1, h.sum+s
	if i, _ := slices.BinarySearch(buckets[:], s); i < len(buckets) {
		h.counts[i]++
	}
}

// Write writes all figures in Prometheus' text format.
func (m *Metrics) Write(to io.Writer) error {
	w := bufio.NewWriter(to)
	g := m.gate()
	fmt.Fprint(w, "# TYPE sallyport_gate_decisions_total counter\n")
	for _, name := range sorted(g.Decisions, cmp.Compare[string]) {
		verb, outcome, _ := strings.Cut(name, " ")
		fmt.Fprintf(w, "sallyport_gate_decisions_total{outcome=%q,verb=%q} %d\n", outcome, verb, g.Decisions[name])
	}
	enforced := 0
	if g.Enforced {
		enforced = 1
	}
	fmt.Fprintf(w, "# TYPE sallyport_policy_enforced gauge\nsallyport_policy_enforced %d\n", enforced)
	m.writeCalls(w)
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	fmt.Fprintf(w, "# TYPE go_goroutines gauge\ngo_goroutines %d\n# TYPE go_memstats_heap_inuse_bytes gauge\ngo_memstats_heap_inuse_bytes %d\n",
		runtime.NumGoroutine(), mem.HeapInuse)
	return w.Flush()
}

func (m *Metrics) writeCalls(w io.Writer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fmt.Fprint(w, "# TYPE sallyport_cri_seconds histogram\n")
	byName := func(a, b call) int { return cmp.Or(cmp.Compare(a.method, b.method), cmp.Compare(a.code, b.code)) }
	for _, c := range sorted(m.calls, byName) {
		h, labels, below := m.calls[c], fmt.Sprintf("code=%q,method=%q", c.code, c.method), uint64(0)
		for i, le := range buckets {
			below += h.counts[i]
			fmt.Fprintf(w, "sallyport_cri_seconds_bucket{%s,le=\"%g\"} %d\n", labels, le, below)
		}
		fmt.Fprintf(w, "sallyport_cri_seconds_bucket{%s,le=\"+Inf\"} %d\n", labels, h.n)
		fmt.Fprintf(w, "sallyport_cri_seconds_sum{%s} %g\nsallyport_cri_seconds_count{%s} %d\n", labels, h.sum, labels, h.n)
	}
}

func sorted[K comparable, V any](m map[K]V, compare func(a, b K) int) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compare)
	return keys
}

// Serve answers GET /metrics on address until ctx ends. With address "" it only waits.
func (m *Metrics) Serve(ctx context.Context, address string) error {
	if address == "" {
		<-ctx.Done()
		return nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_ = m.Write(w) // the scraper has gone
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}
