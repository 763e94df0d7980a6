package span

import (
	"context"
	"slices"
	"strings"
	"sync"
)

// Progress follows one call through its stages, traced or not, so that whoever waits for it can be told
// where it is. It may be used concurrently. A nil Progress follows nothing.
type Progress struct {
	mu   sync.Mutex // guards open
	open []Stage    // that have begun and not ended, in that order
}

type progressKey struct{}

// Follow gives a context whose stages the Progress knows.
func Follow(ctx context.Context) (context.Context, *Progress) {
	p := new(Progress)
	return context.WithValue(ctx, progressKey{}, p), p
}

func progressOf(ctx context.Context) *Progress {
	p, _ := ctx.Value(progressKey{}).(*Progress)
	return p
}

// At names the stages that the call is in, the outermost first; some run side by side. It is "between
// stages" where it is in none.
func (p *Progress) At() string {
	if p == nil {
		return "between stages"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.open) == 0 {
		return "between stages"
	}
	names := make([]string, len(p.open))
	for i, s := range p.open {
		names[i] = string(s)
	}
	return strings.Join(slices.Compact(names), ", ")
}

func (p *Progress) begin(s Stage) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = append(p.open, s)
}

func (p *Progress) end(s Stage) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.open) - 1; i >= 0; i-- {
		if p.open[i] == s {
			p.open = slices.Delete(p.open, i, i+1)
			return
		}
	}
}
