package audit

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

// A segment is a sequence of frames: length of the payload (uint32, big-endian), CRC-32C of the payload
// (likewise), payload (JSON, an envelope). The chain is h_i = SHA-256(0x00, h_{i-1}, payload_i) over
// all frames of all segments, h_0 = 0; each payload names h_{i-1}, so a change shows at the next frame
// even where the checksum was made to fit.
const (
	frameHeader = 8
	maxFrame    = 2 << 20 // of the payload; the limits of limits.go and maxInput stay below it
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// envelope is a frame's payload: one of Segment, Input or Event is set.
type envelope struct {
	Prev    string          `json:"prev"` // hex of the chain's hash before this frame
	Segment *segmentHeader  `json:"segment,omitempty"`
	Input   string          `json:"input,omitempty"` // SHA-256 in hex of what Deflate holds
	Deflate []byte          `json:"deflate,omitempty"`
	Seq     uint64          `json:"seq,omitempty"`
	Event   json.RawMessage `json:"event,omitempty"`
}

// segmentHeader is the first frame of every segment.
type segmentHeader struct {
	Format  string    `json:"format"`  // formatName
	Ordinal uint64    `json:"ordinal"` // of the segment, from 1 on
	First   uint64    `json:"first"`   // sequence number of the first record to come
	Node    string    `json:"node"`
	Boot    string    `json:"boot"`
	Latest  time.Time `json:"latest"` // latest time of any earlier record
}

const formatName = "sallyport-audit/1"

// chain is the state of the hash chain after a frame.
type chain struct {
	head   [sha256.Size]byte
	seq    uint64        // of the last record
	header segmentHeader // of the segment that is read or written
	latest time.Time
}

func (c *chain) extend(payload []byte) {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(c.head[:])
	h.Write(payload)
	h.Sum(c.head[:0])
}

// appendFrame appends e as a frame to buf and extends c by it.
func (c *chain) appendFrame(buf []byte, e envelope) ([]byte, error) {
	e.Prev = hex.EncodeToString(c.head[:])
	payload, err := json.Marshal(e)
	if err != nil {
		return buf, err
	}
	if len(payload) > maxFrame {
		return buf, fmt.Errorf("%d bytes, at most %d are written", len(payload), maxFrame)
	}
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(payload)))
	buf = binary.BigEndian.AppendUint32(buf, crc32.Checksum(payload, castagnoli))
	buf = append(buf, payload...)
	c.extend(payload)
	return buf, nil
}

// errTorn says that a frame was not written to its end: what a crash leaves behind.
var errTorn = errors.New("frame is torn")

// readFrame reads one frame. The payload is valid until the next call. It returns io.EOF at the end,
// errTorn if the rest of the file cannot be a whole frame, and any other error if the frame is whole
// but wrong. buf is scratch.
func readFrame(r *bufio.Reader, buf []byte) (payload []byte, err error) {
	var head [frameHeader]byte
	switch n, err := io.ReadFull(r, head[:]); {
	case n == 0 && err == io.EOF:
		return buf, io.EOF
	case err == io.ErrUnexpectedEOF:
		return buf, errTorn
	case err != nil:
		return buf, err
	}
	size := binary.BigEndian.Uint32(head[:4])
	if size == 0 && head == [frameHeader]byte{} {
		// Some file systems leave zeros where a write was cut.
		if onlyZeros(r) {
			return buf, errTorn
		}
		return buf, fmt.Errorf("frame of length 0")
	}
	if size > maxFrame {
		return buf, fmt.Errorf("frame of %d bytes, at most %d are read", size, maxFrame)
	}
	if cap(buf) < int(size) {
		buf = make([]byte, size)
	}
	buf = buf[:size]
	if _, err := io.ReadFull(r, buf); err == io.EOF || err == io.ErrUnexpectedEOF {
		return buf, errTorn
	} else if err != nil {
		return buf, err
	}
	if crc32.Checksum(buf, castagnoli) != binary.BigEndian.Uint32(head[4:]) {
		if size > 0 && buf[size-1] == 0 && onlyZeros(r) {
			return buf, errTorn // a whole payload ends in a brace
		}
		return buf, fmt.Errorf("checksum does not match")
	}
	return buf, nil
}

func onlyZeros(r io.ByteReader) bool {
	for {
		b, err := r.ReadByte()
		if err != nil {
			return err == io.EOF
		}
		if b != 0 {
			return false
		}
	}
}

// accept checks that payload is the frame that follows c, and extends c by it. first says that nothing
// is known of the chain before payload, which then must be a segment's header.
func (c *chain) accept(payload []byte, first bool) (envelope, error) {
	var e envelope
	if err := json.Unmarshal(payload, &e); err != nil {
		return e, fmt.Errorf("payload: %w", err)
	}
	if first {
		if err := c.anchor(e); err != nil {
			return e, err
		}
	}
	if e.Prev != hex.EncodeToString(c.head[:]) {
		return e, fmt.Errorf("does not follow the frame before it: that one was changed, or one is missing")
	}
	switch {
	case e.Segment != nil && e.Event == nil && e.Input == "":
		h := *e.Segment
		if h.Format != formatName {
			return e, fmt.Errorf("format %q, this program reads %q", h.Format, formatName)
		}
		if h.Ordinal != c.header.Ordinal+1 || h.First != c.seq+1 {
			return e, fmt.Errorf("segment %d from record %d, want segment %d from record %d", h.Ordinal, h.First, c.header.Ordinal+1, c.seq+1)
		}
		c.header, c.latest = h, later(c.latest, h.Latest)
	case e.Segment == nil && e.Event != nil && e.Input == "":
		if e.Seq != c.seq+1 {
			return e, fmt.Errorf("record %d, want %d", e.Seq, c.seq+1)
		}
		c.seq = e.Seq
	case e.Segment == nil && e.Event == nil && e.Input != "":
	default:
		return e, fmt.Errorf("is neither segment header, input nor record")
	}
	c.extend(payload)
	return e, nil
}

// anchor takes the oldest segment that is left as the start of the chain.
func (c *chain) anchor(e envelope) error {
	if e.Segment == nil {
		return fmt.Errorf("is not a segment header")
	}
	head, err := hex.DecodeString(e.Prev)
	if err != nil || len(head) != len(c.head) || e.Segment.Ordinal == 0 || e.Segment.First == 0 {
		return fmt.Errorf("segment header is malformed")
	}
	if e.Segment.Ordinal == 1 && ([sha256.Size]byte(head) != [sha256.Size]byte{} || e.Segment.First != 1) {
		return fmt.Errorf("first segment does not start the chain")
	}
	copy(c.head[:], head)
	c.header.Ordinal, c.seq = e.Segment.Ordinal-1, e.Segment.First-1
	return nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
