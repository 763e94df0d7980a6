package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"sallyport/internal/cri"
	"sallyport/internal/span"
	"sallyport/internal/telemetry"
	"sallyport/policy"
	"sallyport/sandbox"
)

// networkGap is how long an answer of the network plugins is told again: they are programs.
const networkGap = 10 * time.Second

// scrape tells what the rooms say of themselves.
func (d *daemon) scrape(s telemetry.Scrape) {
	s.Set("sallyport_build_info", 1, version)
	d.scrapeGate(s)
	d.policy.scrape(s)
	if d.pods == nil || d.streams == nil { // not open yet
		return
	}
	if d.judge != nil {
		st := d.judge.State()
		s.Set("sallyport_rejudge_findings", float64(st.Findings))
		s.Set("sallyport_rejudge_halted", number(st.Halted != ""))
		s.Set("sallyport_rejudge_stopped_total", float64(st.Stopped))
	}
	if last, ok := d.test.Last(); ok {
		s.Set("sallyport_selftest_passed", number(last.Passed))
		s.Set("sallyport_selftest_timestamp_seconds", float64(last.Time.Unix()))
	}
	m := d.images.Moved()
	s.Set("sallyport_pull_bytes_total", float64(m.Bytes))
	s.Set("sallyport_pull_layers_total", float64(m.Downloaded), "downloaded")
	s.Set("sallyport_pull_layers_total", float64(m.Reused), "reused")
	s.Set("sallyport_registry_settings_problems", float64(len(d.images.SettingsProblems())))
	for kind, n := range d.streams.Open() {
		s.Set("sallyport_streams_open", float64(n), kind)
	}
	s.Set("sallyport_network_ready", number(d.networkReady()))
	pods, containers := map[string]int{"ready": 0, "notready": 0}, map[string]int{"created": 0, "running": 0, "exited": 0}
	for _, p := range d.pods.List() {
		if p.Status().State == sandbox.Ready {
			pods["ready"]++
		} else {
			pods["notready"]++
		}
	}
	for _, c := range d.pods.Containers() {
		switch c.Status().State {
		case sandbox.Created:
			containers["created"]++
		case sandbox.Running:
			containers["running"]++
		default:
			containers["exited"]++
		}
	}
	for state, n := range pods {
		s.Set("sallyport_pods", float64(n), state)
	}
	for state, n := range containers {
		s.Set("sallyport_containers", float64(n), state)
	}
}

func (d *daemon) scrapeGate(s telemetry.Scrape) {
	st := d.gate.State()
	for name, n := range st.Decisions {
		verb, outcome, _ := strings.Cut(name, " ")
		s.Set("sallyport_gate_decisions_total", float64(n), outcome, verb)
	}
	for name, n := range st.Denials {
		verb, rule, _ := strings.Cut(name, " ")
		s.Set("sallyport_gate_denials_total", float64(n), rule, verb)
	}
	for name, n := range st.Shadow {
		verb, difference, _ := strings.Cut(name, " ")
		s.Set("sallyport_gate_shadow_total", float64(n), difference, verb)
	}
	s.Set("sallyport_policy_enforced", number(st.Installed && st.AuditErr == nil))
	if st.Installed {
		s.Set("sallyport_policy_revision", float64(st.Revision))
	}
	if !st.NotAfter.IsZero() {
		s.Set("sallyport_policy_expiry_timestamp_seconds", float64(st.NotAfter.Unix()), "node")
	}
	s.Set("sallyport_audit_failing", number(st.AuditErr != nil))
	a := d.audit.Figures()
	s.Set("sallyport_audit_records_total", float64(a.Records))
	s.Set("sallyport_audit_failures_total", float64(a.Failures))
	s.Sum("sallyport_audit_sync_seconds", a.SyncTime.Seconds(), a.Syncs)
}

// scrape tells of the policy files. It does not wait for a reload, and tells nothing during one.
func (p *policySource) scrape(s telemetry.Scrape) {
	if !p.mu.TryLock() {
		return
	}
	defer p.mu.Unlock()
	if p.set == nil {
		s.Set("sallyport_policy_problems", number(p.problem != ""))
		return
	}
	problems := len(p.set.Problems())
	if problems == 0 && p.problem != "" { // the files as they lie were refused whole
		problems = 1
	}
	s.Set("sallyport_policy_problems", float64(problems))
	names := p.set.Namespaces()
	s.Set("sallyport_policy_namespaces", float64(len(names)))
	var first time.Time
	for _, name := range names {
		if l, _ := p.set.For(name); l != nil && ends(l).Before(ends(&policy.Layer{NotAfter: first})) {
			first = l.NotAfter
		}
	}
	if !first.IsZero() {
		s.Set("sallyport_policy_expiry_timestamp_seconds", float64(first.Unix()), "namespaces")
	}
}

// ends is when a layer ends; one without an end does so at the end of time.
func ends(l *policy.Layer) time.Time {
	if l.NotAfter.IsZero() {
		return time.Unix(1<<40, 0)
	}
	return l.NotAfter
}

// networkReady asks the network plugins, seldom.
func (d *daemon) networkReady() bool {
	d.networkMu.Lock()
	defer d.networkMu.Unlock()
	if now := time.Now(); now.Sub(d.networkAt) >= networkGap {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		d.networkOK, d.networkAt = d.cni.Status(ctx) == nil, now
	}
	return d.networkOK
}

func number(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// countOOM counts containers that ended for lack of memory, until ctx ends. What was missed because
// events came too fast is not counted.
func (d *daemon) countOOM(ctx context.Context) error {
	for {
		sub, err := d.pods.Subscribe()
		if err != nil {
			return err
		}
		for err == nil {
			var ev sandbox.Event
			if ev, err = sub.Next(ctx); err == nil && ev.Kind == sandbox.EventStopped && ev.Container != nil && ev.Container.Status().Reason == "OOMKilled" {
				d.figures.OOMKilled()
			}
		}
		sub.Close()
		if !errors.Is(err, sandbox.ErrSlow) {
			return nil // ctx ended
		}
	}
}

func (d *daemon) streamed(e cri.StreamEnd) { d.figures.Streamed(telemetry.Stream(e)) }

func (d *daemon) openTracing() (err error) {
	if t := d.c.Tracing; t.Enable {
		d.tracing, err = telemetry.NewTracing(telemetry.Collector{Endpoint: t.Endpoint, CA: t.CA, PerMillion: t.Rate, Version: version, Log: d.log})
	}
	return err
}

// tracer is nil where traces are off.
func (d *daemon) tracer() *span.Tracer {
	if d.tracing == nil {
		return nil
	}
	return d.tracing.Tracer()
}
