package span

import (
	"context"
	"testing"
)

// Without a trace a stage is nothing: no context is made, no memory taken.
func TestFreeWithoutTrace(t *testing.T) {
	ctx := context.WithValue(t.Context(), t, t)
	n := testing.AllocsPerRun(1000, func() {
		inner, s := Start(ctx, Verdict)
		s.Set(Verb, "run")
		Note(inner, Rule, "release")
		if s.End(nil); inner != ctx {
			t.Error("Start() made a context that nobody needs")
		}
	})
	if n != 0 {
		t.Errorf("a stage that nobody traces allocates %v times", n)
	}
	var off *Tracer
	if inner, c := off.Call(ctx, "/x/Y", nil); inner != ctx || c != nil {
		t.Error("a nil Tracer traces")
	} else {
		c.End(0, false)
	}
}

func BenchmarkUntraced(b *testing.B) {
	ctx := b.Context()
	for b.Loop() {
		_, s := Start(ctx, Verdict)
		s.End(nil)
	}
}
