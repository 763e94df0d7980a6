package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport/internal/durable"
)

const segmentSuffix = ".log"

func segmentPath(dir string, ordinal uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%010d%s", ordinal, segmentSuffix))
}

// segments lists the ordinals of dir's segments in ascending order. A gap is an error.
func segments(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []uint64
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), segmentSuffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(name, 10, 64)
		if err != nil || n == 0 || segmentPath(dir, n) != filepath.Join(dir, e.Name()) {
			return nil, fmt.Errorf("%s: not the name of a segment: %w", filepath.Join(dir, e.Name()), ErrTampered)
		}
		out = append(out, n)
	}
	slices.Sort(out)
	for i := 1; i < len(out); i++ {
		if out[i] != out[i-1]+1 {
			return nil, fmt.Errorf("%s: segment %d is missing: %w", dir, out[i-1]+1, ErrTampered)
		}
	}
	return out, nil
}

// scan is a walk over the frames of segments, oldest first.
type scan struct {
	dir   string
	chain chain
	begun bool                 // chain is anchored
	visit func(envelope) error // may be nil
	buf   []byte
	// after a torn last frame: where it starts and how long it is
	tornAt, tornLen int64
}

// segment reads one segment. last says that it is the newest, whose last frame may be torn.
func (s *scan) segment(ordinal uint64, last bool) (size int64, err error) {
	path := segmentPath(s.dir, ordinal)
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<16)
	for offset := int64(0); ; {
		payload, err := readFrame(r, s.buf)
		s.buf = payload
		if err == io.EOF && offset > 0 {
			return offset, nil
		}
		if last && (errors.Is(err, errTorn) || err == io.EOF) {
			info, err := f.Stat()
			if err != nil {
				return 0, err
			}
			s.tornAt, s.tornLen = offset, info.Size()-offset
			if err := s.onlyTorn(f); err != nil {
				return 0, fmt.Errorf("%s: offset %d, after record %d: %w: %w", path, offset, s.chain.seq, err, ErrTampered)
			}
			return offset, nil
		}
		var e envelope
		if err == nil {
			e, err = s.chain.accept(payload, !s.begun)
		}
		if err == nil && (e.Segment != nil) != (offset == 0) {
			err = fmt.Errorf("segment header is not where it should be")
		}
		if err == nil && e.Segment != nil && e.Segment.Ordinal != ordinal {
			err = fmt.Errorf("header says segment %d", e.Segment.Ordinal)
		}
		if err != nil {
			var pathErr *os.PathError
			if errors.As(err, &pathErr) {
				return 0, err // the disk's trouble, not a change
			}
			return 0, fmt.Errorf("%s: offset %d, after record %d: %w: %w", path, offset, s.chain.seq, err, ErrTampered)
		}
		s.begun = true
		if e.Event != nil {
			s.note(e)
		}
		if s.visit != nil {
			if err := s.visit(e); err != nil {
				return 0, err
			}
		}
		offset += frameHeader + int64(len(payload))
	}
}

// onlyTorn refuses a torn end that holds another frame: then a length was changed, and what follows
// must not be cut off as if it had never been acknowledged.
func (s *scan) onlyTorn(f *os.File) error {
	if s.tornLen > frameHeader+maxFrame {
		return fmt.Errorf("%d bytes that are no frame", s.tornLen)
	}
	end := make([]byte, s.tornLen)
	if _, err := f.ReadAt(end, s.tornAt); err != nil && err != io.EOF {
		return err
	}
	// Text inside JSON has its quotes escaped, so this is the start of a payload.
	if at := bytes.LastIndex(end, []byte(`{"prev":"`)); at > frameHeader {
		return fmt.Errorf("frame has the wrong length: another one begins inside")
	}
	return nil
}

// note keeps the latest time of any record.
func (s *scan) note(e envelope) {
	var t struct {
		Time time.Time `json:"time"`
	}
	if json.Unmarshal(e.Event, &t) == nil {
		s.chain.latest = later(s.chain.latest, t.Time)
	}
}

// keepTorn moves what a crash left of the last frame out of the segment, into a file beside it, so that
// nothing is dropped unseen.
func (s *scan) keepTorn(ordinal uint64) error {
	path := segmentPath(s.dir, ordinal)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	torn := make([]byte, s.tornLen) // at most one frame: onlyTorn
	if _, err := f.ReadAt(torn, s.tornAt); err != nil && err != io.EOF {
		return err
	}
	if len(torn) > 0 {
		name := fmt.Sprintf("torn-%010d-%d", ordinal, s.tornAt)
		if err := durable.WriteFile(filepath.Join(s.dir, name), torn, 0o600); err != nil {
			return err
		}
	}
	if err := f.Truncate(s.tornAt); err != nil {
		return err
	}
	return f.Sync()
}
