package fetch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"sallyport/image/artifact"
	"sallyport/image/ref"
)

// The pace of polling.
const (
	deadline  = 5 * time.Minute  // of one look, with everything that is brought
	firstBack = 10 * time.Second // the wait after a first failure; it doubles
	mostBack  = 4                // intervals; the longest wait
	wholeLook = 12               // looks; so often everything is asked for again, also signatures that were added
)

// Registry brings what a tag of a repository holds: an index of policies, or one policy (docs/policy.md).
// The tag is looked at every Poll, give or take a tenth so that a fleet does not come at once; as long
// as its digest stays nothing more is asked. While the registry does not answer, what was brought stays.
type Registry struct {
	Name   ref.Name         // constant; repository and tag
	Poll   time.Duration    // constant
	Source *artifact.Source // constant
	Log    *slog.Logger     // constant

	trouble atomic.Pointer[string]
}

// Trouble is why the last look failed, in part or whole, on one line; "" if it did not.
func (r *Registry) Trouble() string {
	if p := r.trouble.Load(); p != nil {
		return *p
	}
	return ""
}

// Run looks until ctx ends and gives what is new to deliver, one call at a time. What deliver refuses is
// brought again.
func (r *Registry) Run(ctx context.Context, deliver func(context.Context, Delivery) error) error {
	var k *known
	fails := 0
	for n := 0; ; n++ {
		if n%wholeLook == 0 {
			k = newKnown()
		}
		err := r.look(ctx, k, deliver)
		if ctx.Err() != nil {
			return nil
		}
		wait := r.Poll
		if err == nil {
			fails = 0
			r.trouble.Store(nil)
		} else {
			text := fmt.Sprintf("bring policy from %s: %s", r.Name, strings.ReplaceAll(err.Error(), "\n", "; "))
			if r.Trouble() != text {
				r.Log.Warn("policy not brought", "err", text)
			}
			r.trouble.Store(&text)
			wait = min(firstBack<<min(fails, 16), mostBack*r.Poll)
			fails++
			k = newKnown()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(jitter(wait)):
		}
	}
}

// Look looks once, and brings everything that is there.
func (r *Registry) Look(ctx context.Context, deliver func(context.Context, Delivery) error) error {
	return r.look(ctx, newKnown(), deliver)
}

// jitter is d, give or take a tenth.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}

// known is what was delivered before: it is not asked for again.
type known struct {
	top   ref.Digest
	units map[ref.Digest]bool // manifests of policies
}

func newKnown() *known { return &known{units: map[ref.Digest]bool{}} }

// look asks once. Part of what is there may be delivered although the error is not nil.
func (r *Registry) look(ctx context.Context, k *known, deliver func(context.Context, Delivery) error) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	if !k.top.IsZero() {
		now, err := r.Source.Head(ctx, r.Name)
		if err != nil {
			return err
		}
		if now == k.top {
			return nil
		}
	}
	repo, text, err := r.Source.Open(ctx, r.Name)
	if err != nil {
		return err
	}
	defer repo.Close()
	d, broken := collect(ctx, repo, text, k.units)
	if d.empty() {
		if broken == nil {
			broken = errors.New("it holds no policy")
		}
		return broken
	}
	if err := deliver(ctx, d); err != nil {
		return err
	}
	if broken == nil {
		k.top = ref.DigestOf(text)
		for at := range d.units {
			k.units[at] = true
		}
	}
	return broken
}
