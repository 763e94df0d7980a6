package enforce

import (
	"strings"
	"sync"
	"time"

	"sallyport/audit"
)

const (
	tallyLife = 5 * time.Minute // identical records within it are one record with a count
	tallyMost = 16384           // entries; past it repeats are recorded one by one
)

// tally counts repeats of something that was recorded once. The first of them is always durable.
type tally struct {
	mu   sync.Mutex // guards seen; never held over I/O
	seen map[string]*repeated
}

type repeated struct {
	receipt audit.Receipt
	event   audit.Event
	since   time.Time
	count   int
}

func newTally() *tally { return &tally{seen: map[string]*repeated{}} }

// tallyKey puts the container first, so that forget finds it; "" for none.
func tallyKey(verb, container, hash, effective string) string {
	return container + "\x00" + verb + "\x00" + hash + "\x00" + effective
}

// again counts a repeat; ok is false if there was no first within tallyLife.
func (t *tally) again(key string, now time.Time) (repeated, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.seen[key]
	if !ok || now.Sub(r.since) >= tallyLife || now.Before(r.since) {
		return repeated{}, false
	}
	r.count++
	return *r, true
}

func (t *tally) first(key string, receipt audit.Receipt, ev audit.Event, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old, ok := t.seen[key]; ok && old.count > 0 {
		old.since, old.receipt = now, receipt // keep the count for the next summary
		return
	}
	if len(t.seen) < tallyMost {
		t.seen[key] = &repeated{receipt: receipt, event: ev, since: now}
	}
}

// expire takes out what is over and returns the summaries to be recorded.
func (t *tally) expire(now time.Time) (events []audit.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, r := range t.seen {
		if now.Sub(r.since) < tallyLife {
			continue
		}
		if r.count > 0 {
			ev := r.event
			ev.Type, ev.Time, ev.Count, ev.InputHash = "summary", now, r.count, ""
			events = append(events, ev)
		}
		delete(t.seen, key)
	}
	return events
}

// forget makes the entries of a container expire at the next summary.
func (t *tally) forget(container string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, r := range t.seen {
		if strings.HasPrefix(key, container+"\x00") {
			r.since = time.Time{}
		}
	}
}

// clear makes everything expire: the policy changed.
func (t *tally) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.seen {
		r.since = time.Time{}
	}
}
