package sandbox

import (
	"context"
	"time"
)

// undo is what takes back the steps done so far, last first, unless disarmed.
type undo struct {
	steps []func()
}

func (u *undo) add(f func()) { u.steps = append(u.steps, f) }
func (u *undo) disarm()      { u.steps = nil }
func (u *undo) run() {
	for i := len(u.steps) - 1; i >= 0; i-- {
		u.steps[i]()
	}
	u.steps = nil
}

// aftermath bounds undoing and removing, which must go on when the caller's context has ended.
const aftermath = 90 * time.Second

func after(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), aftermath)
}

// slot admits one lifecycle operation at a time. A waiter may give up; nothing else is locked meanwhile.
type slot chan struct{}

func newSlot() slot { return make(slot, 1) }

// take waits for the slot or for the end of ctx, whose cause it returns.
func (s slot) take(ctx context.Context) error {
	select {
	case s <- struct{}{}:
		return nil
	default:
	}
	select {
	case s <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s slot) give() { <-s }
