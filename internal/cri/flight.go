package cri

import (
	"context"
	"fmt"
	"sync"
	"time"

	"sallyport/internal/span"
)

// parked is how long a finished result waits for the retry of a call that timed out, before it is
// undone. The kubelet retries within its sync period and back-off, at most five minutes (kubelet,
// MaxContainerBackOff).
const parked = 5 * time.Minute

// flights runs work that outlives the call which asked for it. Of one key there is one flight at a
// time; calls with the same key and hash share it, and the first to take the result ends it. A call
// with the same key and another hash cancels the flight, undoes what it made and starts its own.
// Safe for concurrent use.
type flights[T any] struct {
	limit time.Duration // constant; of one flight
	undo  func(T)       // constant; removes a result that nobody took

	mu  sync.Mutex            // guards all; never held while waiting or undoing
	all map[string]*flight[T] // guarded by mu
}

type flight[T any] struct {
	hash   string             // constant
	cancel context.CancelFunc // constant
	done   chan struct{}      // closed once value and err are set
	at     *span.Progress     // constant; where the work is
	value  T
	err    error
	taken  bool // guarded by flights.mu; the result has an owner
}

func newFlights[T any](limit time.Duration, undo func(T)) *flights[T] {
	return &flights[T]{limit: limit, undo: undo, all: map[string]*flight[T]{}}
}

// do returns what work made, or ctx's error if the call ends first: then the work goes on.
func (g *flights[T]) do(ctx context.Context, key, hash string, work func(context.Context) (T, error)) (T, error) {
	early, cancel := nearEnd(ctx)
	defer cancel()
	for {
		f, old := g.join(ctx, key, hash, work)
		if old != nil {
			old.cancel()
			select {
			case <-old.done:
				g.drop(key, old)
				continue
			case <-ctx.Done():
				var none T
				return none, fmt.Errorf("wait for an earlier request of the same name: %w", ctx.Err())
			}
		}
		select {
		case <-f.done:
			g.take(key, f)
			return f.value, f.err
		case <-early.Done():
			var none T
			err := ctx.Err()
			if err == nil {
				err = context.DeadlineExceeded
			}
			return none, fmt.Errorf("not done yet, at stage %q; a retry joins it: %w", f.at.At(), err)
		}
	}
}

// lead is how long before its deadline a call is answered: an answer that comes later is thrown away, and
// its caller would not be told at what stage the work is.
const lead = 200 * time.Millisecond

// nearEnd is a context that ends with ctx, or shortly before its deadline.
func nearEnd(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, deadline.Add(-min(lead, time.Until(deadline)/10)))
}

// join returns the flight of key and hash, started if there is none, or the other one in the way.
func (g *flights[T]) join(ctx context.Context, key, hash string, work func(context.Context) (T, error)) (f, other *flight[T]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f, ok := g.all[key]; ok {
		if f.hash != hash {
			return nil, f
		}
		return f, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.limit)
	ctx, at := span.Follow(ctx)
	f = &flight[T]{hash: hash, cancel: cancel, done: make(chan struct{}), at: at}
	g.all[key] = f
	go g.run(ctx, key, f, work)
	return f, nil
}

func (g *flights[T]) run(ctx context.Context, key string, f *flight[T], work func(context.Context) (T, error)) {
	defer f.cancel()
	defer close(f.done)
	defer func() {
		if p := recover(); p != nil {
			f.err = fmt.Errorf("%w: %v", errPanic, p)
		}
		time.AfterFunc(parked, func() { g.drop(key, f) })
	}()
	f.value, f.err = work(ctx)
}

// take makes the caller an owner of f's result; more callers of the same flight share it.
func (g *flights[T]) take(key string, f *flight[T]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f.taken = true
	if g.all[key] == f {
		delete(g.all, key)
	}
}

// drop forgets a finished flight and undoes its result if nobody owns it.
func (g *flights[T]) drop(key string, f *flight[T]) {
	g.mu.Lock()
	unowned := !f.taken && f.err == nil
	f.taken = true
	if g.all[key] == f {
		delete(g.all, key)
	}
	g.mu.Unlock()
	if unowned && g.undo != nil {
		g.undo(f.value)
	}
}
