package cri

import (
	"sync"

	"sallyport/sandbox"
)

// shown remembers the items of lists, which a kubelet asks for every second: an item follows from what
// never changes in a pod or container, and from its state. Items are shared between answers and
// immutable.
type shown[T any] struct {
	mu sync.Mutex // guards of
	of map[string]shownItem[T]
}

type shownItem[T any] struct {
	state sandbox.State
	item  T
}

// spare is how many items of removed objects are kept before all are dropped.
const spare = 256

// item is the remembered item of an object in a state, or a new one.
func (s *shown[T]) item(id string, state sandbox.State, build func() T) T {
	s.mu.Lock()
	known, ok := s.of[id]
	s.mu.Unlock()
	if ok && known.state == state {
		return known.item
	}
	made := build()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = map[string]shownItem[T]{}
	}
	s.of[id] = shownItem[T]{state, made}
	return made
}

// tidy drops everything when most of it is of objects that are gone; live is how many there are.
func (s *shown[T]) tidy(live int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.of) > live+spare {
		s.of = nil
	}
}
