package audit

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func testOptions(dir string) Options { return Options{Dir: dir, Node: "node-1", BootID: "boot-1"} }

func openTest(tb testing.TB, o Options) *Log {
	tb.Helper()
	l, err := Open(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	return l
}

// fastDir is a directory on a tmpfs, for tests that open thousands of logs and test no disk.
func fastDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sallyport-audit-*")
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func appendTest(tb testing.TB, l *Log, rule string) Receipt {
	tb.Helper()
	r, err := l.Append(tb.Context(), Event{Type: "decision", Verb: "run", Outcome: "deny", Hits: []Hit{{Layer: "node", Rule: rule, Msg: "why"}}})
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// fill makes a closed log of n records and returns its only segment.
func fill(tb testing.TB, dir string, n int) string {
	tb.Helper()
	l := openTest(tb, testOptions(dir))
	for i := range n {
		appendTest(tb, l, fmt.Sprintf("rule-%d", i))
	}
	if err := l.Close(); err != nil {
		tb.Fatal(err)
	}
	return segmentPath(dir, 1)
}

func TestAppendAndRead(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, testOptions(dir))
	when := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	first, err := l.Append(t.Context(), Event{Type: "decision", Time: when, Outcome: "allow", Image: "registry.example/app"})
	if err != nil {
		t.Fatal(err)
	}
	second := appendTest(t, l, "signed")
	if first.Seq() != 1 || second.Seq() != 2 || !first.Valid() {
		t.Errorf("Seq() = %d, %d, want 1, 2", first.Seq(), second.Seq())
	}
	var got []Record
	if err := Read(dir, func(r Record) error { got = append(got, r); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].Event.Image != "registry.example/app" || !got[0].Event.Time.Equal(when) || got[1].Event.Hits[0].Rule != "signed" {
		t.Errorf("Read() = %+v", got)
	}
	if head := second.Head(); got[1].Head != hex.EncodeToString(head[:]) || got[0].Node != "node-1" || got[0].Boot != "boot-1" {
		t.Errorf("Read() head, node, boot = %s, %s, %s", got[1].Head, got[0].Node, got[0].Boot)
	}
	if r, err := Find(dir, 2); err != nil || r.Event.Hits[0].Rule != "signed" {
		t.Errorf("Find(2) = %+v, %v", r, err)
	}
	if _, err := Find(dir, 3); !errors.Is(err, ErrNotFound) {
		t.Errorf("Find(3) = %v, want ErrNotFound", err)
	}
	report, err := Verify(dir)
	if err != nil || report.Records != 2 || report.First != 1 || report.Last != 2 || report.Head != got[1].Head {
		t.Errorf("Verify() = %+v, %v", report, err)
	}
}

func TestZeroReceipt(t *testing.T) {
	if (Receipt{}).Valid() {
		t.Error("Receipt{}.Valid() = true")
	}
}

func TestAppendRefuses(t *testing.T) {
	l := openTest(t, testOptions(t.TempDir()))
	if _, err := l.Append(t.Context(), Event{}); err == nil {
		t.Error("Append(no type) = nil error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := l.Append(ctx, Event{Type: "daemon"}); !errors.Is(err, context.Canceled) || r.Valid() {
		t.Errorf("Append(cancelled) = %v, %v", r, err)
	}
	if _, err := Open(Options{Dir: t.TempDir()}); err == nil {
		t.Error("Open(no boot ID) = nil error")
	}
}

func TestSecondOpenerIsRefused(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, testOptions(dir))
	if _, err := Open(testOptions(dir)); !errors.Is(err, ErrLocked) {
		t.Errorf("second Open() = %v, want ErrLocked", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	openTest(t, testOptions(dir))
}

func TestClosed(t *testing.T) {
	l := openTest(t, testOptions(t.TempDir()))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), Event{Type: "daemon"}); !errors.Is(err, ErrClosed) {
		t.Errorf("Append() after Close = %v, want ErrClosed", err)
	}
	if _, err := l.PutInput([]byte("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("PutInput() after Close = %v, want ErrClosed", err)
	}
	if err := l.Reopen(); !errors.Is(err, ErrClosed) {
		t.Errorf("Reopen() after Close = %v, want ErrClosed", err)
	}
}

// TestContinues: sequence, chain and latest time go on over restarts, reboots and segments.
func TestContinues(t *testing.T) {
	dir := t.TempDir()
	o := testOptions(dir)
	o.SegmentBytes = 600
	future := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for round := range 6 {
		o.BootID = fmt.Sprintf("boot-%d", round/2)
		l := openTest(t, o)
		if round > 0 && !l.Latest().Equal(future) {
			t.Errorf("round %d: Latest() = %v, want %v", round, l.Latest(), future)
		}
		for range 5 {
			appendTest(t, l, "r")
		}
		if round == 0 {
			if _, err := l.Append(t.Context(), Event{Type: "daemon", Time: future}); err != nil {
				t.Fatal(err)
			}
		}
		l.Close()
	}
	report, err := Verify(dir)
	if err != nil || report.Last != 31 || report.Records != 31 || report.Segments < 4 || !report.Latest.Equal(future) {
		t.Errorf("Verify() = %+v, %v", report, err)
	}
	if r, err := Find(dir, 31); err != nil || r.Boot != "boot-2" {
		t.Errorf("Find(31) = %+v, %v", r, err)
	}
}

// TestTornAtEveryByte cuts the log at every byte of its last frame, as a crash might.
func TestTornAtEveryByte(t *testing.T) {
	path := fill(t, t.TempDir(), 3)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	start := frames(t, whole)[3]
	for size := start; size < len(whole); size++ {
		for _, zeros := range []int{0, len(whole) - size} { // or a file system that filled it up
			if zeros > 0 && size > len(whole)-1 {
				continue
			}
			dir := fastDir(t)
			data := append(bytes.Clone(whole[:size]), make([]byte, zeros)...)
			if err := os.WriteFile(segmentPath(dir, 1), data, 0o600); err != nil {
				t.Fatal(err)
			}
			if r, err := Verify(dir); err != nil || r.Last != 2 || r.Torn != int64(len(data)-start) {
				t.Fatalf("cut at %d+%d: Verify() = %+v, %v", size, zeros, r, err)
			}
			l, err := Open(testOptions(dir))
			if err != nil {
				t.Fatalf("cut at %d+%d: Open() = %v", size, zeros, err)
			}
			appendTest(t, l, "after")
			l.Close()
			var rules []string
			err = Read(dir, func(r Record) error {
				rules = append(rules, r.Event.Outcome)
				return nil
			})
			want := "deny deny recovered deny"
			if len(data) == start {
				want = "deny deny deny" // nothing was torn: there are just two records
			}
			if got := strings.Join(rules, " "); err != nil || got != want {
				t.Fatalf("cut at %d+%d: records %q, %v, want %q", size, zeros, got, err, want)
			}
			if len(data) > start {
				torn, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("torn-%010d-%d", 1, start)))
				if err != nil || !bytes.Equal(torn, data[start:]) {
					t.Fatalf("cut at %d+%d: torn bytes kept: %q, %v", size, zeros, torn, err)
				}
			}
		}
	}
}

// TestTornInTheMiddle: only the newest segment may end torn.
func TestTornInTheMiddle(t *testing.T) {
	dir := t.TempDir()
	o := testOptions(dir)
	o.SegmentBytes = 600
	l := openTest(t, o)
	for range 6 {
		appendTest(t, l, "r")
	}
	l.Close()
	info, err := os.Stat(segmentPath(dir, 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(segmentPath(dir, 1), info.Size()-3); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(dir); !errors.Is(err, ErrTampered) || !strings.Contains(err.Error(), "torn") {
		t.Errorf("Verify() = %v, want ErrTampered for the torn frame", err)
	}
}

// TestTornHeader: a crash while a segment is begun leaves the log usable.
func TestTornHeader(t *testing.T) {
	whole, err := os.ReadFile(fill(t, t.TempDir(), 0))
	if err != nil {
		t.Fatal(err)
	}
	for size := range len(whole) {
		dir := fastDir(t)
		fill(t, dir, 2)
		if err := os.WriteFile(segmentPath(dir, 2), whole[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Open(testOptions(dir))
		if err != nil {
			t.Fatalf("header cut at %d: Open() = %v", size, err)
		}
		appendTest(t, l, "after")
		l.Close()
		if r, err := Verify(dir); err != nil || r.Segments != 2 {
			t.Fatalf("header cut at %d: Verify() = %+v, %v", size, r, err)
		}
	}
}

// frames returns the offset of every frame.
func frames(tb testing.TB, data []byte) []int {
	tb.Helper()
	var out []int
	for at := 0; at < len(data); {
		out = append(out, at)
		at += frameHeader + int(binary.BigEndian.Uint32(data[at:]))
	}
	return out
}

// TestEveryBitFlip flips one bit of each byte of a log, the last frame included: Verify and Open both
// find it, and Open does not cut.
func TestEveryBitFlip(t *testing.T) {
	path := fill(t, t.TempDir(), 3)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lastFrame := frames(t, whole)[3]
	dir := fastDir(t)
	path = segmentPath(dir, 1)
	for at := range whole {
		for _, bit := range []byte{1, 0x20, 0x80} {
			data := bytes.Clone(whole)
			data[at] ^= bit
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := Verify(dir)
			if at >= lastFrame && at < lastFrame+4 && err == nil && r.Torn > 0 {
				continue // the last frame's length: as if it had not been written to its end
			}
			if !errors.Is(err, ErrTampered) {
				t.Fatalf("bit %#x of byte %d flipped: Verify() = %+v, %v, want ErrTampered", bit, at, r, err)
			}
			if l, err := Open(testOptions(dir)); !errors.Is(err, ErrTampered) {
				l.Close()
				t.Fatalf("bit %#x of byte %d flipped: Open() = %v, want ErrTampered", bit, at, err)
			}
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, data) {
				t.Fatalf("byte %d flipped: Open() changed the log (%v)", at, err)
			}
		}
	}
}

// reseal makes the checksum of the frame at offset at fit.
func reseal(data []byte, at int) {
	size := int(binary.BigEndian.Uint32(data[at:]))
	payload := data[at+frameHeader : at+frameHeader+size]
	binary.BigEndian.PutUint32(data[at+4:], crc32.Checksum(payload, castagnoli))
}

// TestForgery: changes whose checksums fit are found by the chain.
func TestForgery(t *testing.T) {
	tests := []struct {
		name   string
		change func(data []byte, at []int) []byte
	}{
		{"record changed", func(d []byte, at []int) []byte {
			d = bytes.Replace(d, []byte(`"deny"`), []byte(`"soso"`), 1)
			reseal(d, at[1])
			return d
		}},
		{"header changed", func(d []byte, at []int) []byte {
			d = bytes.Replace(d, []byte(`boot-1`), []byte(`boot-2`), 1)
			reseal(d, at[0])
			return d
		}},
		{"record removed", func(d []byte, at []int) []byte { return append(d[:at[1]:at[1]], d[at[2]:]...) }},
		{"record doubled", func(d []byte, at []int) []byte {
			return append(d[:at[2]:at[2]], append(bytes.Clone(d[at[1]:at[2]]), d[at[2]:]...)...)
		}},
		{"records swapped", func(d []byte, at []int) []byte {
			out := append(bytes.Clone(d[:at[1]]), d[at[2]:at[3]]...)
			return append(append(out, d[at[1]:at[2]]...), d[at[3]:]...)
		}},
		{"renumbered", func(d []byte, at []int) []byte {
			d = bytes.Replace(d, []byte(`"seq":3`), []byte(`"seq":4`), 1)
			reseal(d, at[3])
			return d
		}},
		{"start cut off", func(d []byte, at []int) []byte { return d[at[1]:] }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := fill(t, dir, 3)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, tt.change(bytes.Clone(data), frames(t, data)), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Verify(dir); !errors.Is(err, ErrTampered) {
				t.Errorf("Verify() = %v, want ErrTampered", err)
			}
			if _, err := Open(testOptions(dir)); !errors.Is(err, ErrTampered) {
				t.Errorf("Open() = %v, want ErrTampered", err)
			}
		})
	}
}

// TestSegmentsBelongTogether: a missing, exchanged or renamed segment is found.
func TestSegmentsBelongTogether(t *testing.T) {
	build := func(t *testing.T) string {
		dir := t.TempDir()
		o := testOptions(dir)
		o.SegmentBytes = 1
		l := openTest(t, o)
		for range 4 {
			appendTest(t, l, "r")
		}
		l.Close()
		return dir
	}
	dir := build(t)
	if err := os.Remove(segmentPath(dir, 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(dir); !errors.Is(err, ErrTampered) {
		t.Errorf("a segment is missing: Verify() = %v, want ErrTampered", err)
	}
	dir = build(t)
	other := build(t)
	if err := os.Rename(segmentPath(other, 3), segmentPath(dir, 3)); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(dir); !errors.Is(err, ErrTampered) {
		t.Errorf("a segment is another log's: Verify() = %v, want ErrTampered", err)
	}
	dir = build(t)
	if err := os.Remove(segmentPath(dir, 1)); err != nil {
		t.Fatal(err)
	}
	if r, err := Verify(dir); err != nil || r.Removed == 0 && r.First != 1 {
		t.Errorf("the oldest was removed by retention: Verify() = %+v, %v", r, err)
	}
	if err := os.Rename(segmentPath(dir, 2), filepath.Join(dir, "x.log")); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(dir); !errors.Is(err, ErrTampered) {
		t.Errorf("a segment is misnamed: Verify() = %v, want ErrTampered", err)
	}
}

func TestInputs(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, testOptions(dir))
	data := bytes.Repeat([]byte(`{"spec":1}`), 1000)
	hash, err := l.PutInput(data)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := l.PutInput(data); err != nil || again != hash {
		t.Errorf("PutInput() again = %s, %v", again, err)
	}
	if _, err := l.Append(t.Context(), Event{Type: "decision", InputHash: hash}); err != nil {
		t.Fatal(err)
	}
	// The receipt covers the input: it can be read at once.
	if got, err := Input(dir, hash); err != nil || !bytes.Equal(got, data) {
		t.Errorf("Input() = %d bytes, %v", len(got), err)
	}
	if _, err := Input(dir, "00"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Input(unknown) = %v, want ErrNotFound", err)
	}
	if _, err := l.PutInput(make([]byte, maxInput+1)); err == nil {
		t.Error("PutInput(too long) = nil error")
	}
	if r, err := Verify(dir); err != nil || r.Inputs != 1 {
		t.Errorf("Verify() = %+v, %v, want one input", r, err)
	}
	if _, err := l.PutInput([]byte("never referred to")); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if r, err := Verify(dir); err != nil || r.Inputs != 2 {
		t.Errorf("Verify() after Close = %+v, %v, want two inputs", r, err)
	}
}

func TestLimits(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, testOptions(dir))
	long := strings.Repeat("\x01", 1<<16)
	many := make([]string, 200)
	hits := make([]Hit, 200)
	detail := make(map[string]string)
	for i := range many {
		many[i], hits[i] = long, Hit{Layer: long, Rule: long, Msg: long}
		detail[fmt.Sprint(i)] = long
	}
	e := Event{Type: long, Image: long, Argv: many, Hits: hits, Warnings: hits, Rules: many, Identities: many,
		Policies: detail, Weakenings: many, Detail: detail}
	if _, err := l.Append(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	r, err := Find(dir, 1)
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Event.Image; len(got) > maxText+40 || !strings.Contains(got, "65024 bytes cut]") {
		t.Errorf("Image = %d bytes, ends %q", len(got), got[len(got)-30:])
	}
	if got := r.Event.Argv; len(got) != maxList+1 || got[maxList] != "…[136 entries cut]" {
		t.Errorf("Argv has %d entries, the last %q", len(got), got[len(got)-1])
	}
	if got := r.Event.Hits; len(got) != maxHits+1 || len(got[0].Msg) > maxMsg+40 {
		t.Errorf("Hits has %d entries", len(got))
	}
	if got := r.Event.Detail; len(got) != maxList+1 {
		t.Errorf("Detail has %d entries", len(got))
	}
	if len(e.Argv[0]) != 1<<16 {
		t.Error("Append changed the caller's event")
	}
}

// TestCutKeepsRunes: a cut never splits a character.
func TestCutKeepsRunes(t *testing.T) {
	if got := cut("ab€d", 4); got != "ab…[4 bytes cut]" {
		t.Errorf("cut() = %q", got)
	}
	if got := cut("abcd", 4); got != "abcd" {
		t.Errorf("cut() = %q", got)
	}
}

func TestConcurrentAppends(t *testing.T) {
	dir := t.TempDir()
	o := testOptions(dir)
	o.SegmentBytes = 20000
	l := openTest(t, o)
	syncs := 0
	l.sync = func(f *os.File) error { syncs++; return datasync(f) } // called by one batch at a time
	const writers, each = 64, 20
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := make(map[uint64]bool)
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if i%5 == 0 {
					if _, err := l.PutInput([]byte(fmt.Sprint(w, i))); err != nil {
						t.Error(err)
					}
				}
				r, err := l.Append(context.Background(), Event{Type: "decision", ID: fmt.Sprint(w, i)})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if seen[r.Seq()] {
					t.Errorf("sequence number %d twice", r.Seq())
				}
				seen[r.Seq()] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	report, err := Verify(dir)
	if err != nil || report.Records != writers*each || report.Segments < 2 || report.Inputs < writers {
		t.Errorf("Verify() = %+v, %v", report, err)
	}
	if syncs > writers*each/2 {
		t.Errorf("%d syncs for %d records: they are not committed in groups", syncs, writers*each)
	}
}
