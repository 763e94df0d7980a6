package sandbox

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"
)

// heard takes the next n events, as "<kind> pod" or "<kind> <container>".
func heard(t *testing.T, s *Subscription, n int) (out []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for range n {
		ev, err := s.Next(ctx)
		if err != nil {
			t.Fatalf("Next() after %v = %v", out, err)
		}
		what := "pod"
		if ev.Container != nil {
			what = ev.Container.Config().Name
		}
		if ev.At.IsZero() || ev.Pod == nil {
			t.Errorf("event %+v has no time or no pod", ev)
		}
		out = append(out, fmt.Sprint(map[EventKind]string{EventCreated: "created ", EventStarted: "started ", EventStopped: "stopped ", EventDeleted: "deleted "}[ev.Kind], what))
	}
	return out
}

// TestEvents: each step is told once and in order, also of a container that ends at once; a daemon that
// starts again does not tell old steps.
func TestEvents(t *testing.T) {
	n := newNode(t)
	s, err := n.Subscribe()
	must(t, err)
	defer s.Close()
	p := n.pod(podConfig("web"))
	p.Publish()
	c, err := n.create(p, script("quick", "exit 0"))
	must(t, err)
	c.Publish()
	must(t, c.Start(t.Context()))
	waitExit(t, c)
	must(t, c.Remove(t.Context()))
	never, err := n.create(p, script("never", "exit 0"))
	must(t, err)
	never.Publish()
	must(t, never.Stop(t.Context(), 0))
	got := heard(t, s, 8)
	want := []string{"created pod", "started pod", "created quick", "started quick", "stopped quick", "deleted quick", "created never", "stopped never"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("events = %q, want %q", got, want)
	}
	s.Close()

	n.Close()
	n.start()
	s, err = n.Subscribe()
	must(t, err)
	defer s.Close()
	p, err = n.Pod(p.ID())
	must(t, err)
	must(t, p.Remove(t.Context()))
	if got, want := heard(t, s, 3), []string{"stopped pod", "deleted never", "deleted pod"}; !reflect.DeepEqual(got, want) {
		t.Errorf("events after a restart = %q, want %q", got, want)
	}
}

// TestEventsOfUnpublished: what no client knows of is not told.
func TestEventsOfUnpublished(t *testing.T) {
	p := &Pods{}
	pod := &Pod{pods: p, id: "p"}
	pod.status.Store(&PodStatus{State: Ready})
	c := &Container{pod: pod}
	c.status.Store(&ContainerStatus{State: Running})
	s, err := p.Subscribe()
	must(t, err)
	c.tell()
	pod.tell()
	if len(s.queue) != 0 {
		t.Errorf("%d events of objects that were never published", len(s.queue))
	}
	c.claimed.Store(true)
	c.tell()
	if len(s.queue) != 1 {
		t.Errorf("%d events of a published one, want 1 (never started)", len(s.queue))
	}
}

// TestSlowReader: a reader that does not read is dropped and told so, and nobody waits for it.
func TestSlowReader(t *testing.T) {
	p := &Pods{}
	slow, err := p.Subscribe()
	must(t, err)
	good, err := p.Subscribe()
	must(t, err)
	for range eventQueue + 1 {
		var told EventKind
		p.events.mu.Lock()
		p.events.advance(&told, EventCreated, Event{Pod: &Pod{}}, 0)
		p.events.mu.Unlock()
		heard(t, good, 1)
	}
	if _, err := slow.Next(t.Context()); !errors.Is(err, ErrSlow) {
		t.Errorf("Next() of a slow reader = %v, want ErrSlow", err)
	}
	if len(p.events.subs) != 1 {
		t.Errorf("%d subscriptions, want the good one", len(p.events.subs))
	}
}

func TestSubscriptionsAreBounded(t *testing.T) {
	p := &Pods{}
	var last *Subscription
	for range maxSubscriptions {
		s, err := p.Subscribe()
		must(t, err)
		last = s
	}
	if _, err := p.Subscribe(); !errors.Is(err, ErrMany) {
		t.Errorf("Subscribe() = %v, want ErrMany", err)
	}
	last.Close()
	if _, err := p.Subscribe(); err != nil {
		t.Errorf("Subscribe() after a Close = %v", err)
	}
}
