package audit

import "time"

// Figures are what a log did since it was opened.
type Figures struct {
	Records  uint64        // in the log since it was begun, on disk
	Syncs    uint64        // writes with their fdatasync; records that come together share one
	SyncTime time.Duration // of all of them
	Failures uint64        // writes or syncs that failed
}

// Figures is a snapshot.
func (l *Log) Figures() Figures {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.told
	f.Records = l.durab.seq
	return f
}

func (f *Figures) count(failed error, took time.Duration) {
	if failed != nil {
		f.Failures++
		return
	}
	f.Syncs++
	f.SyncTime += took
}
