package sandbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Errors of subscriptions.
var (
	ErrSlow = errors.New("reader is too slow: events were dropped; list everything and subscribe again")
	ErrMany = errors.New("too many subscriptions")
)

const (
	eventQueue       = 1024 // events that wait for one reader: a full node's pods stopping at once
	maxSubscriptions = 16
)

// EventKind is what happened to a pod or container. The order is that of a life.
type EventKind int

// The kinds of events.
const (
	EventCreated EventKind = iota + 1
	EventStarted
	EventStopped
	EventDeleted
)

// Event is one step in the life of a pod, or of a container of it. Each step of an object that List
// shows is told once and in order; it may say what came before if a step was passed over. Status of Pod
// and Container answers also for those that were removed meanwhile.
type Event struct {
	Kind      EventKind
	At        time.Time // when it was told
	Pod       *Pod
	Container *Container // nil: the event is about the pod
}

// events passes on what happens, to readers that never make it wait.
type events struct {
	mu   sync.Mutex             // guards the rest, and told of every pod and container; nothing blocks under it
	subs map[*Subscription]bool // guarded
}

// Subscription is one reader's queue. Next belongs to one goroutine; the rest may be used concurrently.
type Subscription struct {
	events  *events       // constant
	queue   chan Event    // sent to under events.mu, never blocking
	dropped chan struct{} // closed under events.mu, when the queue was full
}

// Subscribe begins to note events, from now on. Close ends it. ErrMany if there are too many readers.
func (p *Pods) Subscribe() (*Subscription, error) {
	e := &p.events
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.subs) >= maxSubscriptions {
		return nil, fmt.Errorf("subscribe to events: %w: %d", ErrMany, maxSubscriptions)
	}
	s := &Subscription{events: e, queue: make(chan Event, eventQueue), dropped: make(chan struct{})}
	if e.subs == nil {
		e.subs = map[*Subscription]bool{}
	}
	e.subs[s] = true
	return s, nil
}

// Next waits for the next event. It is ErrSlow once the queue was full: what followed is lost.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	select {
	case <-s.dropped:
		return Event{}, ErrSlow
	default:
	}
	select {
	case <-s.dropped:
		return Event{}, ErrSlow
	case ev := <-s.queue:
		return ev, nil
	case <-ctx.Done():
		return Event{}, context.Cause(ctx)
	}
}

// Dropped is closed when the reader was too slow.
func (s *Subscription) Dropped() <-chan struct{} { return s.dropped }

// Close ends the subscription. It may be called again.
func (s *Subscription) Close() {
	s.events.mu.Lock()
	defer s.events.mu.Unlock()
	delete(s.events.subs, s)
}

// advance tells the steps after *told up to kind. The caller holds mu.
func (e *events) advance(told *EventKind, kind EventKind, ev Event, never EventKind) {
	for *told < kind {
		*told++
		if *told == never {
			continue
		}
		ev.Kind, ev.At = *told, time.Now()
		for s := range e.subs {
			select {
			case s.queue <- ev:
			default:
				delete(e.subs, s)
				close(s.dropped)
			}
		}
	}
}

// tell passes on what has become of the container since the last call. It is cheap and never waits for
// a reader.
func (c *Container) tell() {
	if !c.claimed.Load() {
		return // nobody knows it
	}
	c.mu.Lock()
	gone := c.gone
	c.mu.Unlock()
	st, kind, never := c.Status(), EventCreated, EventKind(0)
	switch {
	case gone:
		kind = EventDeleted
	case st.State == Exited:
		kind = EventStopped
	case st.State == Running:
		kind = EventStarted
	}
	if st.Started.IsZero() {
		never = EventStarted
	}
	e := &c.pod.pods.events
	e.mu.Lock()
	defer e.mu.Unlock()
	e.advance(&c.told, kind, Event{Pod: c.pod, Container: c}, never)
}

// tell passes on what has become of the pod. A ready pod is a started one.
func (p *Pod) tell() {
	if !p.claimed.Load() {
		return
	}
	p.pods.mu.Lock()
	gone := p.pods.pods[p.id] != p
	p.pods.mu.Unlock()
	kind := EventStarted
	switch {
	case gone:
		kind = EventDeleted
	case p.Status().State == Stopped:
		kind = EventStopped
	}
	e := &p.pods.events
	e.mu.Lock()
	defer e.mu.Unlock()
	e.advance(&p.told, kind, Event{Pod: p}, 0)
}
