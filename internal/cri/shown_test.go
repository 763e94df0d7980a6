package cri

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/sandbox"
)

// TestShown: an item is made once for a state, and what is gone is not kept for ever.
func TestShown(t *testing.T) {
	var s shown
	made := 0
	build := func() proto.Message { made++; return &v1.Container{Id: fmt.Sprint(made)} }
	for _, tt := range []struct {
		id    string
		state sandbox.State
		want  int
	}{{"a", sandbox.Created, 1}, {"a", sandbox.Created, 1}, {"a", sandbox.Running, 2}, {"b", sandbox.Running, 3}, {"a", sandbox.Running, 2}} {
		got, err := s.item(tt.id, tt.state, 0, build)
		if want := "\n\x03\n\x01" + fmt.Sprint(tt.want); err != nil || string(got.wire) != want {
			t.Errorf("item(%s, %s) = %q, %v, want %q", tt.id, tt.state, got.wire, err, want)
		}
	}
	for i := range 2 * spare {
		if _, err := s.item(fmt.Sprint(i), sandbox.Running, 0, build); err != nil {
			t.Fatal(err)
		}
		s.tidy(1)
	}
	if len(s.of) > spare+1 {
		t.Errorf("%d items are kept of one object, want %d at most", len(s.of), spare+1)
	}
}

// TestFill: a client reads the items, the youngest first, from each of the lists that are sent so.
func TestFill(t *testing.T) {
	var s shown
	var items []*shownItem
	for i, id := range []string{"b", "a", "c"} {
		item, err := s.item(id, sandbox.Running, int64(i/2), func() proto.Message { return &v1.Container{Id: id} })
		if err != nil {
			t.Fatal(err)
		}
		items = append(items, item)
	}
	youngest(items)
	ids := func(r interface{ GetContainers() []*v1.Container }) (s string) {
		for _, c := range r.GetContainers() {
			s += c.Id
		}
		return s
	}
	for _, list := range []proto.Message{&v1.ListContainersResponse{}, &v1.StreamContainersResponse{}} {
		wire, err := proto.Marshal(fill(list, items))
		if err != nil {
			t.Fatal(err)
		}
		back := list.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(wire, back); err != nil || ids(back.(interface{ GetContainers() []*v1.Container })) != "cab" {
			t.Errorf("%T reads back as %v, %v, want c, a, b", list, back, err)
		}
	}
	for _, list := range []proto.Message{&v1.ListPodSandboxResponse{}, &v1.StreamPodSandboxesResponse{}} {
		f := list.ProtoReflect().Descriptor().Fields().ByNumber(1)
		if f == nil || !f.IsList() || f.Message().FullName() != "runtime.v1.PodSandbox" {
			t.Errorf("field 1 of %T is %v, want the pods", list, f)
		}
	}
	if _, err := s.item("d", sandbox.Running, 0, func() proto.Message { return &v1.Container{Id: "\xff"} }); err == nil {
		t.Error("an item that cannot be sent is taken")
	}
}
