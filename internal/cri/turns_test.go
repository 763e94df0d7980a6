package cri

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// So many are made at once and no more; on a node that stalls a quarter of that, and one at least.
func TestTurns(t *testing.T) {
	const calm, stalls = "some avg10=90.00 avg60=0 avg300=0 total=1\nfull avg10=19.90 avg60=99.00 avg300=0 total=1\n", "some avg10=90.00 avg60=0 avg300=0 total=1\nfull avg10=20.00 avg60=0 avg300=0 total=1\n"
	for _, tt := range []struct {
		name, memory, io string
		most             int
		want             int64
	}{
		{"calm", calm, calm, 8, 8},
		{"memory", stalls, calm, 8, 2},
		{"disk", calm, stalls, 8, 2},
		{"few turns", calm, stalls, 2, 1},
		{"no pressure files", "", "", 8, 8},
		{"nonsense", "full avg10=", "full avg10=x", 8, 8},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range map[string]string{"memory": tt.memory, "io": tt.io} {
				if text == "" {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			turns := newTurns(tt.most, dir)
			var now, most atomic.Int64
			var wg sync.WaitGroup
			for range 40 {
				wg.Go(func() {
					give, err := turns.take(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					n := now.Add(1)
					for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
					}
					time.Sleep(5 * time.Millisecond)
					now.Add(-1)
					give()
				})
			}
			wg.Wait()
			if most.Load() != tt.want {
				t.Errorf("%d at once, want %d", most.Load(), tt.want)
			}
		})
	}
}

// Who waits for a turn gives up with its context, and takes nothing.
func TestTurnGivenUp(t *testing.T) {
	turns := newTurns(1, t.TempDir())
	give, err := turns.take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := turns.take(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "wait for a turn") {
		t.Errorf("take() = %v, want DeadlineExceeded", err)
	}
	give()
	if give, err = turns.take(t.Context()); err != nil {
		t.Fatal(err)
	}
	give()
}

// A turn that is held for long is given on: what hangs keeps nobody from being made.
func TestTurnOfWhatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1, t.TempDir())
		hangs, err := turns.take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		for range 2 { // the second finds that the late end of the first gives no second turn
			give, err := turns.take(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			hangs()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := turns.take(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a turn was given twice: %v", err)
			}
			cancel()
			give()
		}
		if took := time.Since(begin); took < turnHeld || took > turnHeld+5*time.Second {
			t.Errorf("the next turn came after %s, want %s", took, turnHeld)
		}
	})
}
