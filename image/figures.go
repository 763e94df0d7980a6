package image

import "sync/atomic"

// Moved is what pulls brought in since the store was opened.
type Moved struct {
	Bytes      uint64 // compressed, of layers that were downloaded and verified
	Downloaded uint64 // layers
	Reused     uint64 // layers that were held already
}

type moved struct{ bytes, downloaded, reused atomic.Uint64 }

// Moved is a snapshot.
func (s *Store) Moved() Moved {
	return Moved{Bytes: s.moved.bytes.Load(), Downloaded: s.moved.downloaded.Load(), Reused: s.moved.reused.Load()}
}
