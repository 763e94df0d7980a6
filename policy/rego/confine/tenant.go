package confine

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// The budget of one namespace: what it uses up, it alone goes without.
const (
	parallel  = 2               // evaluations at a time
	share     = 5               // a namespace's rules may take 1/share of one processor
	burst     = 2 * time.Second // and this much at once
	deaths    = 3               // of the child, by its rules,
	deathSpan = 5 * time.Minute // in so long,
	pause     = time.Minute     // stop them for so long
)

// tenant is what one namespace has used up.
type tenant struct {
	namespace string        // constant
	slots     chan struct{} // constant

	mu     sync.Mutex    // guards the fields
	used   time.Duration // of the burst, as of at
	at     time.Time
	died   []time.Time // when its rules ended the child, within deathSpan
	paused time.Time   // until then nothing of it runs
}

func (c *Child) tenant(namespace string) *tenant {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.tenants[namespace]
	if t == nil {
		t = &tenant{namespace: namespace, slots: make(chan struct{}, parallel)}
		c.tenants[namespace] = t
	}
	return t
}

// enter takes a slot, or says why the namespace gets none.
func (t *tenant) enter(ctx context.Context) error {
	select {
	case t.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := t.spent(time.Now()); err != nil {
		<-t.slots
		return err
	}
	return nil
}

func (t *tenant) spent(now time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Before(t.paused) {
		return fmt.Errorf("the rules of namespace %s ended their process %d times; they are asked again at %s", t.namespace, deaths, t.paused.UTC().Format(time.RFC3339))
	}
	t.used = max(0, t.used-now.Sub(t.at)/share)
	t.at = now
	if t.used > burst {
		return fmt.Errorf("the rules of namespace %s used up their time (1/%d of a processor); make them cheaper or ask later", t.namespace, share)
	}
	return nil
}

// leave gives the slot back and counts the time.
func (t *tenant) leave(took time.Duration) {
	t.mu.Lock()
	t.used += took
	t.mu.Unlock()
	<-t.slots
}

// blame counts a death of the child.
func (t *tenant) blame() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	recent := t.died[:0]
	for _, at := range t.died {
		if now.Sub(at) < deathSpan {
			recent = append(recent, at)
		}
	}
	if t.died = append(recent, now); len(t.died) >= deaths {
		t.paused, t.died = now.Add(pause), nil
	}
}
