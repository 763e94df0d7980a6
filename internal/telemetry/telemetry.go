// Package telemetry counts what the daemon does and shows it to Prometheus in its text format, and sends
// traces of calls to an OpenTelemetry collector. It writes the text format itself: the client library
// takes milliseconds to initialise, which every re-executed child of the daemon would pay. It holds no
// state but the counters; the series of each metric are bounded.
package telemetry

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// buckets are the upper bounds of every histogram, in seconds.
var buckets = [...]float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60, 600}

const (
	maxSeries = 512     // of one metric; the largest has 43 methods and a few codes of each
	maxLabel  = 128     // bytes of a label's value; a longer one is cut off
	other     = "other" // every label of the series that takes what is too much
)

// began is about when the process started.
var began = time.Now()

// Metrics are the daemon's figures. They may be used concurrently.
type Metrics struct {
	ask []func(Scrape) // constant; asked at every scrape

	mu     sync.Mutex                    // guards series and what it points to
	series map[string]map[string]*series // by metric, then by labels as they are written
}

// Scrape takes what is asked for at one scrape. Values for labels come in the order of the table.
type Scrape struct{ now map[string]map[string]*series }

// Set gives a counter or gauge its value.
func (s Scrape) Set(name string, value float64, labels ...string) {
	one(s.now, name, labels).value = value
}

// Sum gives a summary its sum and count.
func (s Scrape) Sum(name string, sum float64, n uint64) {
	to := one(s.now, name, nil)
	to.value, to.n = sum, n
}

type series struct {
	value  float64 // of a counter or gauge; the sum of a histogram or summary
	n      uint64
	counts [len(buckets)]uint64 // by the smallest bucket that holds the value
}

// New wires the figures. Each of ask is called at every scrape and must be fast.
func New(ask ...func(Scrape)) *Metrics {
	return &Metrics{ask: append(ask, process), series: map[string]map[string]*series{}}
}

// Observe counts one CRI call.
func (m *Metrics) Observe(method, code string, took time.Duration) {
	m.observe("sallyport_cri_seconds", took, code, method)
}

// Pulled counts one pull that ended. outcome is one of a fixed list.
func (m *Metrics) Pulled(outcome string, took time.Duration) {
	m.observe("sallyport_pull_seconds", took, outcome)
}

// Streamed counts one stream that ended, with the bytes to and from the container.
func (m *Metrics) Streamed(s Stream) {
	outcome := "ok"
	if s.Failed {
		outcome = "error"
	}
	m.observe("sallyport_stream_seconds", s.Took, s.Kind, outcome)
	m.add("sallyport_stream_bytes_total", float64(s.In), "in", s.Kind)
	m.add("sallyport_stream_bytes_total", float64(s.Out), "out", s.Kind)
}

// Stream is one that ended.
type Stream struct {
	Kind    string // exec, attach or portforward
	Failed  bool
	Took    time.Duration
	In, Out int64 // bytes
}

// OOMKilled counts one container that ended for lack of memory.
func (m *Metrics) OOMKilled() { m.add("sallyport_oom_kills_total", 1) }

func (m *Metrics) add(name string, value float64, labels ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	one(m.series, name, labels).value += value
}

func (m *Metrics) observe(name string, took time.Duration, labels ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, at := one(m.series, name, labels), took.Seconds()
	s.n, s.value = s.n+1, s.value+at
	if i, _ := slices.BinarySearch(buckets[:], at); i < len(buckets) {
		s.counts[i]++
	}
}

// one finds a series. A metric that has as many as it may puts what is new with what is other.
func one(all map[string]map[string]*series, name string, values []string) *series {
	f := find(name)
	if all[name] == nil {
		all[name] = map[string]*series{}
	}
	key := labels(f, values)
	s := all[name][key]
	if s == nil && len(all[name]) >= maxSeries-1 {
		key = labels(f, slices.Repeat([]string{other}, len(f.labels)))
		s = all[name][key]
	}
	if s == nil {
		s = &series{}
		all[name][key] = s
	}
	return s
}

// find panics for a name that is not in the table: that is a fault of the program, which a test of the
// caller finds.
func find(name string) family {
	i, ok := slices.BinarySearchFunc(families, name, func(f family, name string) int { return strings.Compare(f.name, name) })
	if !ok {
		panic("telemetry: no metric " + name)
	}
	return families[i]
}

// labels are written as the text format has them: name="value",...
func labels(f family, values []string) string {
	if len(values) != len(f.labels) {
		panic("telemetry: wrong number of labels for " + f.name)
	}
	parts := make([]string, len(values))
	for i, v := range values {
		if len(v) > maxLabel {
			v = v[:maxLabel]
		}
		parts[i] = f.labels[i] + `="` + escape.Replace(strings.ToValidUTF8(v, "?")) + `"`
	}
	return strings.Join(parts, ",")
}

// escape is the text format's (prometheus.io, Exposition formats).
var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// Write writes all figures in Prometheus' text format.
func (m *Metrics) Write(to io.Writer) error {
	now := map[string]map[string]*series{}
	for _, ask := range m.ask {
		ask(Scrape{now})
	}
	w := bufio.NewWriter(to)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range families {
		all := m.series[f.name]
		if len(now[f.name]) > 0 {
			all = now[f.name]
		}
		if len(f.labels) == 0 && f.kind == counter && len(all) == 0 {
			all = map[string]*series{"": {}} // a counter that nothing happened to is 0, not absent
		}
		if len(all) == 0 {
			continue
		}
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", f.name, f.help, f.name, f.kind)
		keys := make([]string, 0, len(all))
		for key := range all {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		for _, key := range keys {
			f.write(w, key, all[key])
		}
	}
	return w.Flush()
}

func (f family) write(w io.Writer, labels string, s *series) {
	if f.kind == counter || f.kind == gauge {
		fmt.Fprintf(w, "%s%s %v\n", f.name, braces(labels), s.value)
		return
	}
	if f.kind == histogram {
		sep, below := "", uint64(0)
		if labels != "" {
			sep = ","
		}
		for i, le := range buckets {
			below += s.counts[i]
			fmt.Fprintf(w, "%s_bucket{%s%sle=\"%g\"} %d\n", f.name, labels, sep, le, below)
		}
		fmt.Fprintf(w, "%s_bucket{%s%sle=\"+Inf\"} %d\n", f.name, labels, sep, s.n)
	}
	fmt.Fprintf(w, "%s_sum%s %v\n%s_count%s %d\n", f.name, braces(labels), s.value, f.name, braces(labels), s.n)
}

func braces(labels string) string {
	if labels == "" {
		return ""
	}
	return "{" + labels + "}"
}

// process tells of the daemon's own process.
func process(s Scrape) {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	s.Set("go_goroutines", float64(runtime.NumGoroutine()))
	s.Set("go_memstats_heap_inuse_bytes", float64(mem.HeapInuse))
	s.Set("process_start_time_seconds", float64(began.UnixMilli())/1000)
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		s.Set("process_open_fds", float64(len(fds)-1)) // but the one that reads the list
	}
}
