// Package rejudge asks the gate again about containers that run: when policy, trust or revocations change,
// when an override ends, and on a timer. It uses stored evidence and no network. What the gate would no
// longer admit is a finding, in the audit log and in List; the layer that denies says whether its
// containers are also stopped, after which grace, how fast and how many before it halts.
//
// Time alone stops nothing: an image whose scan has grown too old since it was fetched, a fault, or a
// policy that has ended is reported, and no more.
package rejudge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"sallyport/audit"
	"sallyport/enforce"
	"sallyport/sandbox"
)

const (
	tick      = 2 * time.Second  // how often changes and graces are looked at
	retry     = 10 * time.Second // until a container that could not be stopped yet is looked at again
	stopGrace = 30 * time.Second // between a container's stop signal and its end
)

// Options are the parts of a Judge; all are needed.
type Options struct {
	Gate    *enforce.Gate
	Pods    *sandbox.Pods
	Request func(*sandbox.Container) (enforce.RunRequest, error) // to judge a container once more, from what is stored
	Every   time.Duration                                        // between two passes without a change
	Log     *slog.Logger
}

// Finding is what speaks against a container that runs. It is immutable.
type Finding struct {
	Hits     []enforce.Hit
	Override string    // that covers it; "" for none
	Aged     bool      // time or a fault alone speaks against it: it is never stopped for that
	Since    time.Time // of the first pass that found it so
	Due      time.Time // when it is stopped; zero: it is reported alone
	tried    time.Time // when a stop was due and last tried
	stopping bool      // it is on record and under way
}

// State is what a Judge says of itself.
type State struct {
	Findings int // containers that would not be admitted now
	Stopped  int // since the daemon started
	Halted   string
}

// Judge judges again. It may be used concurrently.
type Judge struct {
	o Options // constant

	mu       sync.Mutex // guards the fields below; not held over judging, recording or stopping
	findings map[string]Finding
	brakes   map[string]*brake // by layer
	stopped  int
}

// New wires a Judge; Run runs it.
func New(o Options) (*Judge, error) {
	if o.Gate == nil || o.Pods == nil || o.Request == nil || o.Log == nil || o.Every <= 0 {
		return nil, errors.New("make judge: gate, pods, request, period or log is missing")
	}
	return &Judge{o: o, findings: map[string]Finding{}, brakes: map[string]*brake{}}, nil
}

// Run judges until ctx ends.
func (j *Judge) Run(ctx context.Context) error {
	t := time.NewTicker(tick)
	defer t.Stop()
	last, seen := time.Time{}, ""
	for {
		now := time.Now()
		if key := j.changes(); key != seen || now.Sub(last) >= j.o.Every {
			j.pass(ctx, func(string) bool { return true })
			last, seen = now, key
		} else {
			j.pass(ctx, func(id string) bool { return j.due(id, now) }) // what is stopped was judged a moment ago
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// changes differs when something changed by which containers were judged: policy, or overrides in force.
func (j *Judge) changes() string {
	return fmt.Sprint(j.o.Gate.Generation(), j.o.Gate.State().Overrides)
}

// due reports whether a container is to be stopped by now.
func (j *Judge) due(id string, now time.Time) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	f := j.findings[id]
	return !f.Due.IsZero() && !now.Before(f.Due) && now.Sub(f.tried) >= retry
}

// pass judges those containers that run and that which names, and stops those whose time has come.
func (j *Judge) pass(ctx context.Context, which func(id string) bool) {
	running, alive := 0, map[string]bool{}
	all := j.o.Pods.Containers()
	for _, c := range all {
		if c.Status().State == sandbox.Running {
			running++
			alive[c.ID()] = true
		}
	}
	for _, c := range all {
		if ctx.Err() != nil {
			return
		}
		if alive[c.ID()] && which(c.ID()) {
			j.judge(ctx, c, running)
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for id := range j.findings {
		if !alive[id] {
			delete(j.findings, id)
		}
	}
}

// judge asks about one container, records what changed, and stops it if that is due.
func (j *Judge) judge(ctx context.Context, c *sandbox.Container, running int) {
	var o enforce.Opinion
	req, err := j.o.Request(c)
	if err != nil {
		o.Parts = []enforce.Part{{Layer: "gate", Hits: []enforce.Hit{{Layer: "gate", Rule: "not-judged", Msg: err.Error()}}, Aged: true}}
	} else {
		o = j.o.Gate.ExamineRun(ctx, req)
	}
	now := time.Now()
	j.mu.Lock()
	old, had := j.findings[c.ID()]
	j.mu.Unlock()
	if old.stopping {
		return
	}
	if o.Allowed {
		if had {
			j.note(ctx, c, "cleared", nil, nil)
			j.set(c.ID(), nil)
		}
		return
	}
	f, by := found(o, old, now)
	if !had || describe(old) != describe(f) {
		if !j.note(ctx, c, "denied", f.Hits, map[string]string{"override": f.Override, "stop": stamp(f.Due)}) {
			return // without a record it is not known; the next pass finds it again
		}
	}
	due := !f.Due.IsZero() && !now.Before(f.Due)
	if due {
		f.tried = now
	}
	j.set(c.ID(), &f)
	if due {
		j.stop(ctx, c, by, running)
	}
}

// found makes the finding of an opinion, and names the part by which the container is stopped: of the
// layers that deny for more than time, one that says stop.
func found(o enforce.Opinion, old Finding, now time.Time) (Finding, enforce.Part) {
	f := Finding{Hits: o.Hits(), Override: o.Override, Aged: true, Since: now}
	var by enforce.Part
	for _, p := range o.Parts {
		if p.Allowed || p.Aged {
			continue
		}
		f.Aged = false
		if p.Rejudge.Stop && (!by.Rejudge.Stop || p.Rejudge.Grace < by.Rejudge.Grace) {
			by = p
		}
	}
	if !old.Since.IsZero() && old.Aged == f.Aged && old.Override == f.Override {
		f.Since = old.Since // the grace runs on, whatever else is found meanwhile
	}
	if by.Rejudge.Stop && f.Override == "" {
		f.Due = f.Since.Add(by.Rejudge.Grace)
	}
	return f, by
}

// describe is what of a finding is worth a record.
func describe(f Finding) string {
	var rules []string
	for _, h := range f.Hits {
		rules = append(rules, h.Layer+" "+h.Rule)
	}
	slices.Sort(rules)
	return fmt.Sprintf("%q %q %t %t", rules, f.Override, f.Aged, f.Due.IsZero())
}

func (j *Judge) set(id string, f *Finding) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if f == nil {
		delete(j.findings, id)
		return
	}
	j.findings[id] = *f
}

// stop ends a container if its layer's brake lets go, once that is on record.
func (j *Judge) stop(ctx context.Context, c *sandbox.Container, by enforce.Part, running int) {
	j.mu.Lock()
	b := j.brakes[by.Layer]
	if b == nil || b.hash != by.Hash {
		b = &brake{hash: by.Hash}
		j.brakes[by.Layer] = b
	}
	free, alarm := b.release(time.Now(), by.Rejudge, running)
	j.mu.Unlock()
	if alarm {
		j.o.Log.Error("re-judging halts: the most containers that the policy lets it stop were stopped", "layer", by.Layer, "max", by.Rejudge.Max)
		_ = j.record(ctx, audit.Event{Outcome: "halted", Detail: map[string]string{"layer": by.Layer, "max": fmt.Sprint(by.Rejudge.Max)}})
	}
	if !free || !j.note(ctx, c, "stopped", by.Hits, map[string]string{"layer": by.Layer}) {
		return // no record, no stop
	}
	j.mu.Lock()
	j.stopped++
	f := j.findings[c.ID()]
	f.stopping = true
	j.findings[c.ID()] = f
	j.mu.Unlock()
	j.o.Log.Warn("stop a container that is no longer admitted", "id", c.ID(), "namespace", c.Pod().Config().Namespace, "layer", by.Layer)
	go func() { // Stop goes on by itself; its error is for the log
		if err := c.Stop(ctx, stopGrace); err != nil {
			j.o.Log.Error("stop a container that is no longer admitted", "id", c.ID(), "err", err)
			f.stopping = false
			j.set(c.ID(), &f)
		}
	}()
}

// note records what became of a container, and reports whether it could.
func (j *Judge) note(ctx context.Context, c *sandbox.Container, outcome string, hits []enforce.Hit, detail map[string]string) bool {
	pod, img := c.Pod().Config(), c.Image()
	ev := audit.Event{Outcome: outcome, Verb: "run", Namespace: pod.Namespace, Pod: pod.Name, PodID: c.Pod().ID(), Container: c.Config().Name, ID: c.ID(),
		Image: img.Name.String(), Top: img.Top.String(), Instance: img.Instance.String(), ImageID: img.ID.String(), SpecHash: c.SpecHash(), Detail: map[string]string{}}
	for _, h := range hits {
		ev.Hits = append(ev.Hits, audit.Hit(h))
	}
	for k, v := range detail {
		if v != "" {
			ev.Detail[k] = v
		}
	}
	return j.record(ctx, ev)
}

func (j *Judge) record(ctx context.Context, ev audit.Event) bool {
	ev.Type = "rejudge"
	if err := j.o.Gate.Record(ctx, ev); err != nil {
		j.o.Log.Error("record re-judging", "err", err)
		return false
	}
	return true
}

// Finding is what speaks against a container; false for none.
func (j *Judge) Finding(containerID string) (Finding, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	f, ok := j.findings[containerID]
	return f, ok
}

// State is a snapshot.
func (j *Judge) State() State {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := State{Findings: len(j.findings), Stopped: j.stopped}
	var halted []string
	for layer, b := range j.brakes {
		if b.halted {
			halted = append(halted, layer)
		}
	}
	slices.Sort(halted)
	if len(halted) > 0 {
		s.Halted = fmt.Sprintf("re-judging halted after the most containers that policy %q lets it stop; change the policy to go on", strings.Join(halted, ", "))
	}
	return s
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
