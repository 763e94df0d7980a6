package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/durable"
)

// Why there is no receipt. Both are wrapped, with the file or the cause.
var (
	// ErrTampered: the log on disk is not what was written. Nothing is appended to such a log.
	ErrTampered = errors.New("audit log was changed or is damaged")
	// ErrFailed: a write or a sync failed. What the kernel then holds of the file is unknown, so there
	// are no more receipts until Reopen succeeds.
	ErrFailed = errors.New("audit log failed")
	// ErrLocked: another process has the log open for writing.
	ErrLocked = errors.New("in use by another process")
	// ErrClosed: the log was closed.
	ErrClosed = errors.New("audit log is closed")
)

// SegmentBytes is the default size at which a new segment is started.
const SegmentBytes = 64 << 20

// openBytes is how much of the newest part of a log Open reads and verifies; Verify reads all of it.
const openBytes = 64 << 20

// Options say where a log is and whose it is.
type Options struct {
	Dir          string // made if absent, 0700
	Node         string // name of the node, in every segment's header
	BootID       string // /proc/sys/kernel/random/boot_id
	SegmentBytes int64  // 0: SegmentBytes
}

// Log is a log that is open for appending. It is safe for concurrent use; no lock is held while the
// disk is written or synced.
type Log struct {
	opts Options  // constant
	lock *os.File // constant; holds the flock

	write func(*os.File, []byte) error // constant but in tests, which make it fail
	sync  func(*os.File) error         // likewise; fdatasync

	mu     sync.Mutex
	tail   chain           // guarded by mu; after everything enqueued
	size   int64           // guarded by mu; of the segment, after everything enqueued
	inputs map[string]bool // guarded by mu; those in this segment
	open   *batch          // guarded by mu; the batch that takes frames, nil if none does
	last   *batch          // guarded by mu; the newest batch, for its successor to wait for
	failed error           // guarded by mu; wraps ErrFailed or ErrClosed
	durab  chain           // guarded by mu; after everything synced
	synced int64           // guarded by mu; size of the segment at durab
	told   Figures         // guarded by mu; Records is not kept here

	file *os.File // owned by the batch whose turn it is
}

// batch is what is written and synced in one go.
type batch struct {
	buf     []byte        // guarded by Log.mu until the batch is sealed
	rotate  bool          // buf starts a new segment; likewise
	started bool          // run was called; guarded by Log.mu
	after   chain         // the chain after buf; likewise
	size    int64         // of the segment after buf; likewise
	turn    chan struct{} // constant; closed when the batch before it is done, nil if there is none
	done    chan struct{} // constant; closed when err is set
	err     error         // written before done is closed
}

// Open opens the log in o.Dir for appending, makes it if there is none, and locks it: a second opener
// gets ErrLocked. It verifies the newest 64 MiB. A torn last frame, as a crash leaves it, was never
// acknowledged: it is moved to a file named torn-*, and that is recorded. Any other mismatch is
// ErrTampered: then the log can only be read. The caller closes the log.
func Open(o Options) (*Log, error) {
	l, err := open(o)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	return l, nil
}

func open(o Options) (*Log, error) {
	if o.Dir == "" || o.BootID == "" {
		return nil, fmt.Errorf("no directory or no boot ID given")
	}
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = SegmentBytes
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := durable.SyncDir(filepath.Dir(filepath.Clean(o.Dir))); err != nil {
		return nil, err
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	l := &Log{opts: o, lock: lock, inputs: make(map[string]bool), write: writeAll, sync: datasync}
	if err := l.recover(); err != nil {
		if l.file != nil {
			l.file.Close()
		}
		lock.Close()
		return nil, err
	}
	return l, nil
}

const exclusive = unix.LOCK_EX | unix.LOCK_NB

func lockDir(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), exclusive); err != nil {
		lock.Close()
		if err == unix.EWOULDBLOCK {
			return nil, fmt.Errorf("%s: %w", dir, ErrLocked)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return lock, nil
}

// recover brings the log to a state that can be appended to: reads its newest part, cuts a torn frame,
// starts a segment where there is none of this boot. Only Open calls it.
func (l *Log) recover() error {
	ordinals, err := segments(l.opts.Dir)
	if err != nil {
		return err
	}
	if len(ordinals) == 0 {
		return l.startSegment()
	}
	newestOrdinal := ordinals[len(ordinals)-1]
	if err := dropCache(segmentPath(l.opts.Dir, newestOrdinal)); err != nil {
		return err
	}
	s := &scan{dir: l.opts.Dir}
	for _, ordinal := range newest(l.opts.Dir, ordinals) {
		if l.synced, err = s.segment(ordinal, ordinal == newestOrdinal); err != nil {
			return err
		}
	}
	if !s.begun && newestOrdinal != 1 {
		return fmt.Errorf("%s: empty, and the segments before it are gone: %w", segmentPath(l.opts.Dir, newestOrdinal), ErrTampered)
	}
	if s.tornLen > 0 || s.tornAt == 0 && l.synced == 0 {
		if err := s.keepTorn(newestOrdinal); err != nil {
			return err
		}
	}
	l.tail = s.chain
	switch {
	case l.synced == 0: // not even its header was written: it is no segment yet
		if err := os.Remove(segmentPath(l.opts.Dir, newestOrdinal)); err != nil {
			return err
		}
		err = l.startSegment()
	case s.chain.header.Boot != l.opts.BootID || s.chain.header.Node != l.opts.Node:
		err = l.startSegment()
	default:
		l.size, l.durab = l.synced, l.tail
		l.file, err = os.OpenFile(segmentPath(l.opts.Dir, newestOrdinal), os.O_WRONLY|os.O_APPEND, 0)
	}
	if err == nil && s.tornLen > 0 {
		_, err = l.Append(context.Background(), Event{Type: "daemon", Outcome: "recovered", Detail: map[string]string{
			"what":  "last frame was torn by a crash; it had not been acknowledged",
			"bytes": fmt.Sprint(s.tornLen), "segment": fmt.Sprint(newestOrdinal), "offset": fmt.Sprint(s.tornAt)}})
	}
	return err
}

// dropCache makes the next read of path come from the disk. After a failed sync the kernel marks pages
// clean that never got there, and a new process would otherwise build on them.
func dropCache(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return err
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("drop cache of %s: %w", path, err)
	}
	return nil
}

// newest returns the newest of ordinals that hold openBytes together.
func newest(dir string, ordinals []uint64) []uint64 {
	var sum int64
	for i := len(ordinals) - 1; i >= 0; i-- {
		info, err := os.Stat(segmentPath(dir, ordinals[i]))
		if err != nil {
			return ordinals // reading it will say why
		}
		// The newest may be empty after a crash; the one before it then anchors the chain.
		if sum += info.Size(); sum > openBytes && i < len(ordinals)-1 {
			return ordinals[i:]
		}
	}
	return ordinals
}

// startSegment makes the first segment of this process on disk. Only recover calls it.
func (l *Log) startSegment() error {
	b := &batch{done: make(chan struct{})}
	if err := l.rotateInto(b); err != nil {
		return err
	}
	b.after, b.size = l.tail, l.size
	if err := l.commit(b); err != nil {
		return err
	}
	l.durab, l.synced = b.after, b.size
	return nil
}

// rotateInto puts the header of a new segment into b. The caller holds mu, or is alone.
func (l *Log) rotateInto(b *batch) error {
	h := segmentHeader{Format: formatName, Ordinal: l.tail.header.Ordinal + 1, First: l.tail.seq + 1,
		Node: cut(l.opts.Node, maxText), Boot: cut(l.opts.BootID, maxText), Latest: l.tail.latest}
	buf, err := l.tail.appendFrame(nil, envelope{Segment: &h})
	if err != nil {
		return err
	}
	l.tail.header = h
	b.buf, b.rotate = buf, true
	l.size = int64(len(buf))
	clear(l.inputs)
	return nil
}

// Append writes e and returns when it is on disk. Many callers share one sync. If e.Time is zero it is
// set to now; strings are cut to limits. An error means that there is no receipt, not that there is no
// record: after a cancelled ctx or a failed sync it may have reached the disk. After ErrFailed only
// Reopen helps.
func (l *Log) Append(ctx context.Context, e Event) (Receipt, error) {
	if err := ctx.Err(); err != nil {
		return Receipt{}, fmt.Errorf("append audit record: %w", err)
	}
	if e.Type == "" {
		return Receipt{}, fmt.Errorf("append audit record: event has no type")
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Time = e.Time.UTC().Round(0)
	event, err := json.Marshal(bounded(e))
	if err != nil {
		return Receipt{}, fmt.Errorf("append audit record: %w", err)
	}
	l.mu.Lock()
	b, err := l.enqueue(envelope{Seq: l.tail.seq + 1, Event: event})
	if err != nil {
		l.mu.Unlock()
		return Receipt{}, fmt.Errorf("append audit record: %w", err)
	}
	l.tail.seq++
	l.tail.latest = later(l.tail.latest, e.Time)
	b.after = l.tail
	l.start(b)
	receipt := Receipt{seq: l.tail.seq, head: l.tail.head}
	l.mu.Unlock()
	select {
	case <-b.done:
	case <-ctx.Done():
		return Receipt{}, fmt.Errorf("append audit record: wait for the disk: %w", ctx.Err())
	}
	if b.err != nil {
		return Receipt{}, fmt.Errorf("append audit record: %w", b.err)
	}
	return receipt, nil
}

// Latest is the latest time of any record that is on disk.
func (l *Log) Latest() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durab.latest
}

// Err is nil while the log takes records, else why it does not.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// Close waits for what was appended, unlocks and closes the log. Later calls return ErrClosed. It
// returns the log's failure, if it had failed.
func (l *Log) Close() error {
	l.mu.Lock()
	last, failed := l.last, l.failed
	if errors.Is(failed, ErrClosed) {
		l.mu.Unlock()
		return failed
	}
	l.failed = ErrClosed
	l.start(last)
	l.mu.Unlock()
	if last != nil {
		<-last.done
		if failed == nil {
			failed = last.err
		}
	}
	if err := errors.Join(failed, l.file.Close(), l.lock.Close()); err != nil {
		return fmt.Errorf("close audit log: %w", err)
	}
	return nil
}
