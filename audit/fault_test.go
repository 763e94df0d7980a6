package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"sallyport/test/roottest"
)

// TestSyncFails: a failed sync gives no receipt, poisons the log, and Reopen goes on from what was
// acknowledged, whether or not the bytes had reached the disk.
func TestSyncFails(t *testing.T) {
	fail := map[string]func(*Log){
		"write fails before": func(l *Log) {
			l.write = func(*os.File, []byte) error { return syscall.EIO }
		},
		"write fails half way": func(l *Log) {
			l.write = func(f *os.File, p []byte) error { f.Write(p[:len(p)/2]); return syscall.ENOSPC }
		},
		"sync fails before": func(l *Log) {
			l.sync = func(*os.File) error { return syscall.EIO }
		},
		"sync fails after": func(l *Log) {
			l.sync = func(f *os.File) error { return errors.Join(datasync(f), syscall.EIO) }
		},
	}
	for name, inject := range fail {
		for _, segmentBytes := range []int64{0, 1} { // 1: the failure hits the start of a segment
			t.Run(fmt.Sprintf("%s/%d", name, segmentBytes), func(t *testing.T) {
				dir := t.TempDir()
				o := testOptions(dir)
				o.SegmentBytes = segmentBytes
				l := openTest(t, o)
				appendTest(t, l, "before")
				inject(l)
				for range 2 {
					if r, err := l.Append(t.Context(), Event{Type: "decision"}); !errors.Is(err, ErrFailed) || r.Valid() {
						t.Fatalf("Append() on a failing disk = %v, %v, want ErrFailed and no receipt", r, err)
					}
				}
				if f := l.Figures(); f.Failures != 1 || f.Records != 1 {
					t.Errorf("Figures() = %+v, want 1 record and 1 failure", f)
				}
				// The disk works again, but nobody has said so.
				l.write, l.sync = writeAll, datasync
				if r, err := l.Append(t.Context(), Event{Type: "decision"}); !errors.Is(err, ErrFailed) || r.Valid() {
					t.Fatalf("Append() after a failure = %v, %v, want ErrFailed until Reopen", r, err)
				}
				if _, err := l.PutInput([]byte("x")); !errors.Is(err, ErrFailed) {
					t.Errorf("PutInput() after a failure = %v, want ErrFailed", err)
				}
				if err := l.Reopen(); err != nil {
					t.Fatal(err)
				}
				if r := appendTest(t, l, "after"); r.Seq() != 2 {
					t.Errorf("Seq() after Reopen = %d, want 2", r.Seq())
				}
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				if r, err := Verify(dir); err != nil || r.Last != 2 || r.Torn != 0 {
					t.Errorf("Verify() = %+v, %v", r, err)
				}
			})
			t.Run(fmt.Sprintf("%s/%d/restart", name, segmentBytes), func(t *testing.T) {
				dir := t.TempDir()
				o := testOptions(dir)
				o.SegmentBytes = segmentBytes
				l := openTest(t, o)
				appendTest(t, l, "before")
				inject(l)
				if _, err := l.Append(t.Context(), Event{Type: "decision"}); !errors.Is(err, ErrFailed) {
					t.Fatal(err)
				}
				if err := l.Close(); !errors.Is(err, ErrFailed) {
					t.Errorf("Close() = %v, want the failure", err)
				}
				l = openTest(t, o)
				appendTest(t, l, "after")
				first, err := Find(dir, 1)
				if err != nil || first.Event.Hits[0].Rule != "before" {
					t.Errorf("Find(1) = %+v, %v: the acknowledged record is gone", first, err)
				}
				if _, err := Verify(dir); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestReopenFails: while the disk does not work Reopen says so, and there are no receipts.
func TestReopenFails(t *testing.T) {
	l := openTest(t, testOptions(t.TempDir()))
	if err := l.Reopen(); err != nil {
		t.Errorf("Reopen() of a healthy log = %v", err)
	}
	l.sync = func(*os.File) error { return syscall.EIO }
	for range 3 {
		if _, err := l.Append(t.Context(), Event{Type: "decision"}); !errors.Is(err, syscall.EIO) {
			t.Errorf("Append() = %v, want EIO", err)
		}
		if err := l.Reopen(); !errors.Is(err, ErrFailed) || !errors.Is(l.Err(), ErrFailed) {
			t.Errorf("Reopen() = %v, Err() = %v, want ErrFailed", err, l.Err())
		}
	}
	l.sync = datasync
	if err := l.Reopen(); err != nil || l.Err() != nil {
		t.Errorf("Reopen() = %v, Err() = %v", err, l.Err())
	}
	appendTest(t, l, "after")
}

// TestNoReceiptBeforeSync: while a sync hangs nobody has a receipt, callers who give up get an error,
// and the others get theirs once it is done.
func TestNoReceiptBeforeSync(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l, err := Open(testOptions(dir))
		if err != nil {
			t.Fatal(err)
		}
		release := make(chan struct{})
		l.sync = func(f *os.File) error { <-release; return datasync(f) }
		type answer struct {
			receipt Receipt
			err     error
		}
		answers := make(chan answer, 3)
		ctx, cancel := context.WithCancel(t.Context())
		for _, c := range []context.Context{t.Context(), t.Context(), ctx} {
			go func() {
				r, err := l.Append(c, Event{Type: "decision"})
				answers <- answer{r, err}
			}()
		}
		synctest.Wait()
		if len(answers) != 0 {
			t.Fatal("Append returned before the sync")
		}
		if !l.Latest().IsZero() {
			t.Error("Latest() counts a record that is not on disk")
		}
		cancel()
		if a := <-answers; !errors.Is(a.err, context.Canceled) || a.receipt.Valid() {
			t.Errorf("cancelled Append() = %v, %v", a.receipt, a.err)
		}
		close(release)
		for range 2 {
			if a := <-answers; a.err != nil || !a.receipt.Valid() {
				t.Errorf("Append() = %v, %v", a.receipt, a.err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestFullDisk fills a small file system: the log fails, keeps what it acknowledged, and goes on when
// there is room again.
func TestFullDisk(t *testing.T) {
	roottest.Need(t)
	mount := t.TempDir()
	if err := unix.Mount("tmpfs", mount, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mount, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(mount, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(mount, "audit")
	l := openTest(t, testOptions(dir))
	var last Receipt
	var err error
	for range 10000 {
		var r Receipt
		if r, err = l.Append(t.Context(), Event{Type: "decision", Argv: []string{string(bytes.Repeat([]byte("x"), 400))}}); err != nil {
			break
		}
		last = r
	}
	if !errors.Is(err, syscall.ENOSPC) || !errors.Is(err, ErrFailed) {
		t.Fatalf("Append() on a full disk = %v, want ENOSPC", err)
	}
	if _, err := l.Append(t.Context(), Event{Type: "decision"}); !errors.Is(err, ErrFailed) {
		t.Errorf("Append() = %v, want ErrFailed", err)
	}
	if r, err := Verify(dir); err != nil || r.Last != last.Seq() {
		t.Errorf("Verify() of the full log = %+v, %v, want last %d", r, err, last.Seq())
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	if r := appendTest(t, l, "after"); r.Seq() != last.Seq()+1 {
		t.Errorf("Seq() = %d, want %d", r.Seq(), last.Seq()+1)
	}
	if _, err := Verify(dir); err != nil {
		t.Error(err)
	}
}

func BenchmarkAppend(b *testing.B) {
	e := Event{Type: "decision", Verb: "run", Outcome: "allow", Image: "registry.example/pay/app@sha256:0123",
		Policies: map[string]string{"node": "sha256:0123"}, Rules: []string{"payments-release"}}
	b.Run("serial", func(b *testing.B) {
		l := openTest(b, testOptions(b.TempDir()))
		for b.Loop() {
			if _, err := l.Append(b.Context(), e); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("128 writers", func(b *testing.B) {
		l := openTest(b, testOptions(b.TempDir()))
		b.SetParallelism(64) // times GOMAXPROCS, 2 where this was measured
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := l.Append(context.Background(), e); err != nil {
					b.Error(err)
				}
			}
		})
	})
}
