// Package telemetry counts what the daemon does and shows it to Prometheus. It holds no state but the
// counters; labels are bounded by the number of CRI methods, status codes and gate verbs.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Gate is what the gate tells of itself at one moment.
type Gate struct {
	Decisions map[string]uint64 // "<verb> allow" and "<verb> deny"
	Enforced  bool              // a policy is installed and the audit log takes records
}

// Metrics are the daemon's figures. They may be used concurrently.
type Metrics struct {
	registry *prometheus.Registry     // constant
	took     *prometheus.HistogramVec // constant
	gate     func() Gate              // constant
}

var (
	decisions = prometheus.NewDesc("sallyport_gate_decisions_total", "Decisions of the gate.", []string{"verb", "outcome"}, nil)
	enforced  = prometheus.NewDesc("sallyport_policy_enforced", "1 if a policy is installed and the audit log takes records.", nil, nil)
)

// New wires the figures; gate is asked at every scrape and must be fast.
func New(gate func() Gate) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), gate: gate,
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sallyport_cri_seconds", Help: "Duration of CRI calls.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
		}, []string{"method", "code"}),
	}
	m.registry.MustRegister(m.took, gateCollector{gate}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Observe counts one CRI call.
func (m *Metrics) Observe(method, code string, took time.Duration) {
	m.took.WithLabelValues(method, code).Observe(took.Seconds())
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
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// gateCollector reads the gate's own counters at every scrape.
type gateCollector struct{ gate func() Gate }

// Describe is prometheus.Collector.
func (gateCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- decisions
	ch <- enforced
}

// Collect is prometheus.Collector.
func (c gateCollector) Collect(ch chan<- prometheus.Metric) {
	g := c.gate()
	for name, n := range g.Decisions {
		verb, outcome, _ := strings.Cut(name, " ")
		ch <- prometheus.MustNewConstMetric(decisions, prometheus.CounterValue, float64(n), verb, outcome)
	}
	v := 0.0
	if g.Enforced {
		v = 1
	}
	ch <- prometheus.MustNewConstMetric(enforced, prometheus.GaugeValue, v)
}
