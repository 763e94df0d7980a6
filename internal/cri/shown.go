package cri

import (
	"cmp"
	"slices"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"sallyport/sandbox"
)

// shown remembers the items of lists, which a kubelet asks for every second, as the bytes that they are
// in the answer: an item follows from what never changes in a pod or container, and from its state.
type shown struct {
	mu sync.Mutex // guards of
	of map[string]*shownItem
}

// shownItem is immutable.
type shownItem struct {
	id      string
	state   sandbox.State
	created int64  // ns since 1970
	wire    []byte // field 1 of the list, as ListContainers, ListPodSandbox and their streams have it
}

// spare is how many items of removed objects are kept before all are dropped.
const spare = 256

// item is the remembered item of an object in a state, or a new one of the message that build makes.
func (s *shown) item(id string, state sandbox.State, created int64, build func() proto.Message) (*shownItem, error) {
	s.mu.Lock()
	known := s.of[id]
	s.mu.Unlock()
	if known != nil && known.state == state {
		return known, nil
	}
	text, err := proto.Marshal(build())
	if err != nil {
		return nil, err
	}
	made := &shownItem{id, state, created, protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), text)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = map[string]*shownItem{}
	}
	s.of[id] = made
	return made, nil
}

// tidy drops everything when most of it is of objects that are gone; live is how many there are.
func (s *shown) tidy(live int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.of) > live+spare {
		s.of = nil
	}
}

// youngest puts the youngest first, and what is as old in the order of the IDs.
func youngest(items []*shownItem) {
	slices.SortFunc(items, func(a, b *shownItem) int {
		return cmp.Or(cmp.Compare(b.created, a.created), cmp.Compare(a.id, b.id))
	})
}

// fill gives an empty list its items. They are held as bytes to be sent (protobuf keeps what it need
// not understand), so the list's own fields stay empty on this side.
func fill[L proto.Message](list L, items []*shownItem) L {
	var wire []byte
	for _, i := range items {
		wire = append(wire, i.wire...)
	}
	list.ProtoReflect().SetUnknown(wire)
	return list
}
