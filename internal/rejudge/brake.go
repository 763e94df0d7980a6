package rejudge

import (
	"time"

	"sallyport/policy"
)

// brake holds one layer to the number and pace of stops that it allows itself, so that a slip in a policy
// does not end a node. It begins anew with another policy.
type brake struct {
	hash   string
	total  int
	recent []time.Time // stops of the last minute
	halted bool
}

// release reports whether one container more may be stopped now, and counts it; alarm is true once, when
// the most were stopped and one more is due.
func (b *brake) release(now time.Time, r policy.Rejudge, running int) (free, alarm bool) {
	if b.total >= r.Max {
		alarm, b.halted = !b.halted, true
		return false, alarm
	}
	kept := b.recent[:0]
	for _, t := range b.recent {
		if now.Sub(t) < time.Minute {
			kept = append(kept, t)
		}
	}
	b.recent = kept
	if len(b.recent) >= max(1, running*r.Percent/100) {
		return false, false
	}
	b.recent = append(b.recent, now)
	b.total++
	return true, false
}
