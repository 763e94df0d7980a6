package cri

import (
	"fmt"
	"testing"

	"sallyport/sandbox"
)

// TestShown: an item is made once for a state, and what is gone is not kept for ever.
func TestShown(t *testing.T) {
	var s shown[int]
	made := 0
	build := func() int { made++; return made }
	for _, tt := range []struct {
		id    string
		state sandbox.State
		want  int
	}{{"a", sandbox.Created, 1}, {"a", sandbox.Created, 1}, {"a", sandbox.Running, 2}, {"b", sandbox.Running, 3}, {"a", sandbox.Running, 2}} {
		if got := s.item(tt.id, tt.state, build); got != tt.want {
			t.Errorf("item(%s, %s) = %d, want %d", tt.id, tt.state, got, tt.want)
		}
	}
	for i := range 2 * spare {
		s.item(fmt.Sprint(i), sandbox.Running, build)
		s.tidy(1)
	}
	if len(s.of) > spare+1 {
		t.Errorf("%d items are kept of one object, want %d at most", len(s.of), spare+1)
	}
}
