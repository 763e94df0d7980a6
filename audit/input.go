package audit

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// PutInput stores data, a redacted input of a decision, once per segment, and returns its SHA-256 in
// hex for Event.InputHash. It does not wait for the disk: input and record go there in order, so that
// the receipt of a record appended later covers both. data is at most 1 MiB, and is not kept.
func (l *Log) PutInput(data []byte) (hash string, err error) {
	if len(data) > maxInput {
		return "", fmt.Errorf("store audit input: %d bytes, at most %d are stored", len(data), maxInput)
	}
	sum := sha256.Sum256(data)
	hash = hex.EncodeToString(sum[:])
	l.mu.Lock()
	known, failed := l.inputs[hash], l.failed
	l.mu.Unlock()
	if known && failed == nil {
		return hash, nil
	}
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.BestSpeed)
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return "", fmt.Errorf("store audit input: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b, err := l.enqueue(envelope{Input: hash, Deflate: packed.Bytes()})
	if err != nil {
		return "", fmt.Errorf("store audit input: %w", err)
	}
	if len(b.buf) > maxInput {
		l.start(b) // no record came along to take them
	}
	l.inputs[hash] = true
	return hash, nil
}

// errFound ends a walk early.
var errFound = errors.New("found")

// Input returns the input with that hash from the log in dir. It reads the log from its start.
func Input(dir, hash string) ([]byte, error) {
	var data []byte
	_, err := walk(dir, func(_ *scan, e envelope) error {
		if e.Input != hash || hash == "" {
			return nil
		}
		var err error
		if data, err = unpack(e); err != nil {
			return err
		}
		return errFound
	})
	switch {
	case errors.Is(err, errFound):
		return data, nil
	case err != nil:
		return nil, fmt.Errorf("read audit input: %w", err)
	}
	return nil, fmt.Errorf("read audit input %s: %w", cut(hash, 64), ErrNotFound)
}

// unpack returns what an input frame holds, never more than maxInput.
func unpack(e envelope) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(e.Deflate)), maxInput))
	if err != nil {
		return nil, fmt.Errorf("unpack input: %w: %w", err, ErrTampered)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != e.Input {
		return nil, fmt.Errorf("input %s has another hash: %w", e.Input, ErrTampered)
	}
	return data, nil
}
