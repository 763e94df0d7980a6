package cri

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"sallyport/enforce"
	"sallyport/image"

	"sallyport/sandbox"
	"sallyport/sandbox/spec"
)

// matchID: crictl filters by the start of an ID, the kubelet by all of it. An empty filter matches all.
func matchID(filter, id string) bool { return strings.HasPrefix(id, filter) }

// Lengths of IDs in characters: those of pods and containers, and the fewest that people may type (a
// list shows 13).
const (
	fullID  = 64
	shortID = 4
)

// unique is the one of all whose ID starts with id, as crictl lets people type it; the kubelet sends
// whole IDs, and a whole one never stands for another. none is the error where there is no such thing.
func unique[T interface{ ID() string }](id string, all []T, none error) (T, error) {
	var found, zero T
	n := 0
	for _, x := range all {
		if len(id) >= shortID && len(id) < fullID && strings.HasPrefix(x.ID(), id) {
			found = x
			n++
		}
	}
	switch n {
	case 0:
		return zero, none
	case 1:
		return found, nil
	}
	return zero, fmt.Errorf("%w: %d IDs start with %q; type more of it", errInvalid, n, id)
}

// selects: every label of the selector must be there with that value.
func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

func isNotFound(err error) bool {
	return errors.Is(err, sandbox.ErrNotFound) || errors.Is(err, image.ErrNotFound)
}

// digestOf names values by content: equal digests mean equal requests. What cannot be encoded has a
// digest that equals no other.
func digestOf(values ...any) string {
	h := sha256.New()
	for _, v := range values {
		b, err := json.Marshal(v)
		if err != nil {
			return err.Error()
		}
		h.Write(append(b, 0))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// hits are refusals of the builder as the gate records them.
func hits(refusals []spec.Refusal) (out []enforce.Hit) {
	for _, r := range refusals {
		out = append(out, enforce.Hit{Layer: "floor", Rule: "floor-" + r.Knob, Msg: r.Msg})
	}
	return out
}
