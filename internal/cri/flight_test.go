package cri

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/internal/span"
)

func TestFlightOutlivesItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var undone, made atomic.Int32
		g := newFlights(time.Minute, func(string) { undone.Add(1) })
		work := func(ctx context.Context) (string, error) {
			_, sp := span.Start(ctx, span.Network)
			defer sp.End(nil)
			made.Add(1)
			time.Sleep(10 * time.Second)
			return "id", nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		if _, err := g.do(ctx, "k", "h", work); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `at stage "network"; a retry joins it`) {
			t.Fatalf("do() = %v, want DeadlineExceeded and the stage", err)
		}
		if left := time.Second - time.Since(begin); left <= 0 || left > lead {
			t.Errorf("answered %s before the deadline, want in time and not early", left)
		}
		got, err := g.do(t.Context(), "k", "h", work)
		if got != "id" || err != nil || made.Load() != 1 {
			t.Errorf("retry: do() = %q, %v after %d runs, want the one result", got, err, made.Load())
		}
		time.Sleep(2 * parked)
		synctest.Wait()
		if undone.Load() != 0 {
			t.Error("a taken result was undone")
		}
	})
}

func TestFlightUnclaimedIsUndone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var undone atomic.Int32
		g := newFlights(time.Minute, func(string) { undone.Add(1) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		g.do(ctx, "k", "h", func(context.Context) (string, error) { time.Sleep(2 * time.Second); return "id", nil })
		time.Sleep(parked)
		if undone.Load() != 0 {
			t.Error("undone before the time was over")
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if undone.Load() != 1 || len(g.all) != 0 {
			t.Errorf("undone %d times, %d flights left; want 1, 0", undone.Load(), len(g.all))
		}
	})
}

func TestFlightOtherHashCancels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var undone []string
		g := newFlights(time.Minute, func(id string) { undone = append(undone, id) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		g.do(ctx, "k", "old", func(ctx context.Context) (string, error) { <-ctx.Done(); return "first", nil })
		got, err := g.do(t.Context(), "k", "new", func(context.Context) (string, error) { return "second", nil })
		if got != "second" || err != nil || len(undone) != 1 || undone[0] != "first" {
			t.Errorf("do() = %q, %v, undone %v; want second and first undone", got, err, undone)
		}
	})
}

func TestFlightIsOneForMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFlights(time.Minute, func(int32) { t.Error("undone") })
		var made atomic.Int32
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				got, err := g.do(t.Context(), "k", "h", func(context.Context) (int32, error) {
					time.Sleep(time.Second)
					return made.Add(1), nil
				})
				if got != 1 || err != nil {
					t.Errorf("do() = %d, %v, want 1", got, err)
				}
			})
		}
		wg.Wait()
	})
}

func TestFlightHasALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFlights[int](time.Minute, nil)
		_, err := g.do(t.Context(), "k", "h", func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("do() = %v, want DeadlineExceeded", err)
		}
	})
}

func TestFlightPanicIsAnError(t *testing.T) {
	g := newFlights[int](time.Minute, nil)
	_, err := g.do(t.Context(), "k", "h", func(context.Context) (int, error) { panic("boom") })
	if !errors.Is(err, errPanic) {
		t.Errorf("do() = %v, want errPanic", err)
	}
	if v, err := g.do(t.Context(), "k", "h", func(context.Context) (int, error) { return 7, nil }); v != 7 || err != nil {
		t.Errorf("do() after a panic = %d, %v, want 7", v, err)
	}
}
