package audit

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

// ErrNotFound says that the log holds no such record or input.
var ErrNotFound = errors.New("not in the audit log")

// Record is an event as it stands in the log.
type Record struct {
	Seq   uint64 `json:"seq"`
	Node  string `json:"node"`
	Boot  string `json:"boot"`
	Event Event  `json:"event"`
	Head  string `json:"head"` // hex of the chain's hash after this record
}

// Report says what Verify found in a log that is whole.
type Report struct {
	Segments int
	Records  uint64
	Inputs   int
	First    uint64    // sequence number of the oldest record; 0: there is none
	Last     uint64    // of the newest
	Latest   time.Time // latest time of any record
	Head     string    // hex of the chain's hash after the last frame
	Removed  uint64    // records before First, whose segments were removed by retention
	Torn     int64     // bytes of an incomplete last frame: being written, or left by a crash; never acknowledged
}

// Verify reads the whole log in dir and checks every checksum, the hash chain, the numbering and the
// inputs. A mismatch is an error that wraps ErrTampered and names file, offset and the last good
// record. The log may be in use; nothing is written. What a chain cannot show is that its newest end
// was cut off, or all of it rewritten: that takes heads that left the node.
func Verify(dir string) (Report, error) {
	var r Report
	s, err := walk(dir, func(s *scan, e envelope) error {
		switch {
		case e.Event != nil:
			var event Event
			if err := json.Unmarshal(e.Event, &event); err != nil {
				return fmt.Errorf("record %d: %w: %w", e.Seq, err, ErrTampered)
			}
			if r.First == 0 {
				r.First = e.Seq
			}
			r.Records++
		case e.Input != "":
			r.Inputs++
			_, err := unpack(e)
			return err
		default:
			if r.Segments == 0 {
				r.Removed = e.Segment.First - 1
			}
			r.Segments++
		}
		return nil
	})
	if err != nil {
		return Report{}, fmt.Errorf("verify audit log: %w", err)
	}
	r.Last, r.Latest, r.Torn = s.chain.seq, s.chain.latest, s.tornLen
	r.Head = hex.EncodeToString(s.chain.head[:])
	return r, nil
}

// Read calls visit with every record in order, each verified against what stands before it. An error
// of visit ends the walk and is returned. The log may be in use.
func Read(dir string, visit func(Record) error) error {
	_, err := walk(dir, func(s *scan, e envelope) error {
		if e.Event == nil {
			return nil
		}
		r, err := s.record(e)
		if err != nil {
			return err
		}
		return visit(r)
	})
	if err != nil {
		return fmt.Errorf("read audit log: %w", err)
	}
	return nil
}

// Find returns one record. It is ErrNotFound if the log holds none with that number.
func Find(dir string, seq uint64) (Record, error) {
	var found Record
	_, err := walk(dir, func(s *scan, e envelope) error {
		if e.Event == nil || e.Seq != seq {
			return nil
		}
		var err error
		if found, err = s.record(e); err != nil {
			return err
		}
		return errFound
	})
	switch {
	case errors.Is(err, errFound):
		return found, nil
	case err != nil:
		return Record{}, fmt.Errorf("read audit log: %w", err)
	}
	return Record{}, fmt.Errorf("read audit record %d: %w", seq, ErrNotFound)
}

func (s *scan) record(e envelope) (Record, error) {
	r := Record{Seq: e.Seq, Node: s.chain.header.Node, Boot: s.chain.header.Boot, Head: hex.EncodeToString(s.chain.head[:])}
	if err := json.Unmarshal(e.Event, &r.Event); err != nil {
		return Record{}, fmt.Errorf("record %d: %w: %w", e.Seq, err, ErrTampered)
	}
	return r, nil
}

// walk reads every frame of the log in dir, oldest first.
func walk(dir string, visit func(*scan, envelope) error) (*scan, error) {
	ordinals, err := segments(dir)
	if err != nil {
		return nil, err
	}
	if len(ordinals) == 0 {
		return nil, fmt.Errorf("%s: no segment: %w", dir, os.ErrNotExist)
	}
	s := &scan{dir: dir}
	s.visit = func(e envelope) error { return visit(s, e) }
	for _, ordinal := range ordinals {
		if _, err := s.segment(ordinal, ordinal == ordinals[len(ordinals)-1]); err != nil {
			return s, err
		}
	}
	return s, nil
}
