package cri

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"sallyport/internal/span"
)

const (
	turnsEach = 4 // for each CPU, where the configuration names no number
	turnsMin  = 8 // however few CPUs
	heavy     = 4 // turns that one call takes on a node under pressure
	// A turn ends after so long: what takes longer waits for something that hangs, and must keep nobody.
	turnHeld  = 10 * time.Second
	stalled   = 20.0                   // percent of the last 10 s in which all work waited for memory or the disk
	lookAgain = 500 * time.Millisecond // a pressure file is an average over 10 s
	pressures = "/proc/pressure"
)

// turns lets so many pods and containers be made at once; others wait, in the order in which they came. On a
// node on which everything waits for memory or the disk each takes several turns, so that fewer go at once:
// more would make all of them late and none of them sooner. It may be used concurrently.
type turns struct {
	most int64               // constant
	free *semaphore.Weighted // constant
	dir  string              // constant; of the kernel's pressure files

	mu     sync.Mutex // guards the rest; held over reading two small files
	looked time.Time
	slow   bool
}

// newTurns gives most turns; 0 takes a number by the CPUs.
func newTurns(most int, dir string) *turns {
	if most <= 0 {
		most = max(turnsMin, turnsEach*runtime.NumCPU())
	}
	return &turns{most: int64(most), free: semaphore.NewWeighted(int64(most)), dir: dir}
}

// take waits for a turn, or for the end of ctx. The returned function gives it back.
func (t *turns) take(ctx context.Context) (give func(), err error) {
	n := int64(1)
	if t.pressed() {
		n = min(heavy, t.most)
	}
	ctx, sp := span.Start(ctx, span.Turn)
	defer sp.End(&err)
	if err := t.free.Acquire(ctx, n); err != nil {
		return nil, fmt.Errorf("wait for a turn, of %d: %w", t.most, err)
	}
	release := sync.OnceFunc(func() { t.free.Release(n) })
	late := time.AfterFunc(turnHeld, release)
	return func() { late.Stop(); release() }, nil
}

// pressed reports whether the node stalls. A kernel without pressure files never does.
func (t *turns) pressed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.looked) < lookAgain {
		return t.slow
	}
	t.looked, t.slow = time.Now(), false
	for _, name := range []string{"memory", "io"} {
		data, err := os.ReadFile(t.dir + "/" + name)
		t.slow = t.slow || err == nil && fullAvg10(data) >= stalled
	}
	return t.slow
}

// fullAvg10 is the share of the last 10 s, in percent, in which no task got on (Documentation/accounting/psi.rst).
func fullAvg10(pressure []byte) float64 {
	for line := range bytes.Lines(pressure) {
		rest, ok := strings.CutPrefix(string(line), "full avg10=")
		if !ok {
			continue
		}
		word, _, _ := strings.Cut(rest, " ")
		n, err := strconv.ParseFloat(word, 64)
		if err != nil {
			return 0
		}
		return n
	}
	return 0
}
