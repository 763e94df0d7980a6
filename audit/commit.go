package audit

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/durable"
	"sallyport/internal/failpoint"
)

// enqueue appends e to the batch that is next to be written: whoever comes while an earlier batch is on
// its way to the disk joins. The caller holds mu, and starts the batch or leaves that to the next.
func (l *Log) enqueue(e envelope) (*batch, error) {
	if l.failed != nil {
		return nil, l.failed
	}
	b := l.open
	if l.size >= l.opts.SegmentBytes {
		b = l.newBatch()
		if err := l.rotateInto(b); err != nil {
			return nil, err
		}
	} else if b == nil {
		b = l.newBatch()
	}
	before := len(b.buf)
	buf, err := l.tail.appendFrame(b.buf, e)
	if err == nil {
		b.buf = buf
		l.size += int64(len(buf) - before)
	}
	b.after, b.size = l.tail, l.size
	l.open, l.last = b, b
	return b, err
}

// start sends b on its way to the disk. The caller holds mu.
func (l *Log) start(b *batch) {
	if b != nil && !b.started {
		b.started = true
		go l.run(b)
	}
}

func (l *Log) newBatch() *batch {
	b := &batch{done: make(chan struct{})}
	l.start(l.last) // b waits for it
	if l.last != nil {
		b.turn = l.last.done
	}
	return b
}

// run brings b to disk when its turn has come.
func (l *Log) run(b *batch) {
	if b.turn != nil {
		<-b.turn
	}
	l.mu.Lock()
	if l.open == b {
		l.open = nil // sealed
	}
	failed := l.failed
	l.mu.Unlock()
	var took time.Duration
	tried := failed == nil || errors.Is(failed, ErrClosed) // Close waits for what was enqueued before it
	if tried {
		begin := time.Now()
		err := l.commit(b)
		if took = time.Since(begin); err != nil {
			failed = fmt.Errorf("%w: %w", ErrFailed, err)
		} else {
			failed = nil
		}
	}
	l.mu.Lock()
	if tried {
		l.told.count(failed, took)
	}
	if b.err = failed; failed == nil {
		l.durab, l.synced = b.after, b.size
	} else if l.failed == nil {
		l.failed = failed
	}
	l.mu.Unlock()
	close(b.done)
}

// commit writes and syncs b. Frames are synced before anyone has a receipt for them, and a new
// segment's name before anything is in it that counts.
func (l *Log) commit(b *batch) error {
	if b.rotate {
		if err := l.nextFile(b.after.header.Ordinal); err != nil {
			return err
		}
	}
	if err := l.write(l.file, b.buf); err != nil {
		return err
	}
	failpoint.Hit("audit-written")
	if err := l.sync(l.file); err != nil {
		return err
	}
	failpoint.Hit("audit-synced")
	if b.rotate {
		return durable.SyncDir(l.opts.Dir)
	}
	return nil
}

// nextFile makes the file of a new segment the one that is written to.
func (l *Log) nextFile(ordinal uint64) error {
	f, err := os.OpenFile(segmentPath(l.opts.Dir, ordinal), os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if l.file != nil {
		l.file.Close() // everything in it was synced
	}
	failpoint.Hit("audit-segment")
	l.file = f
	return nil
}

// Reopen takes a failed log back into service once its disk works again: it cuts what was never
// acknowledged and goes on in a new segment, so that no byte of a failed sync is relied on. It returns
// nil if the log had not failed, and an error that wraps ErrFailed if the disk still does not work.
func (l *Log) Reopen() error {
	l.mu.Lock()
	last, failed := l.last, l.failed
	l.start(last)
	l.mu.Unlock()
	if failed == nil {
		return nil
	}
	if errors.Is(failed, ErrClosed) {
		return fmt.Errorf("reopen audit log: %w", ErrClosed)
	}
	if last != nil {
		<-last.done // after it nobody else touches the file: enqueue refuses
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil || errors.Is(l.failed, ErrClosed) {
		return l.failed
	}
	if err := l.restart(); err != nil {
		l.failed = fmt.Errorf("%w: reopen: %w", ErrFailed, err)
		return l.failed
	}
	l.failed = nil
	return nil
}

// restart cuts the segment at what was synced and starts the next. The caller holds mu: nothing is
// appended meanwhile anyway.
func (l *Log) restart() error {
	current := segmentPath(l.opts.Dir, l.durab.header.Ordinal)
	if err := truncate(current, l.synced); err != nil {
		return err
	}
	// A segment that was begun but never acknowledged.
	err := os.Remove(segmentPath(l.opts.Dir, l.durab.header.Ordinal+1))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l.tail, l.open, l.last = l.durab, nil, nil
	return l.startSegment()
}

func truncate(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	return f.Sync()
}

func writeAll(f *os.File, p []byte) error {
	_, err := f.Write(p)
	return err
}

func datasync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			if err != nil {
				return fmt.Errorf("sync %s: %w", f.Name(), err)
			}
			return nil
		}
	}
}
