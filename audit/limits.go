package audit

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// Limits of an event, so that hostile text cannot fill the log. What is cut ends in a mark that says
// how much is missing.
const (
	maxText  = 512  // bytes of a field
	maxMsg   = 1024 // bytes of a hit's message: as much as the user sees
	maxList  = 64   // entries of a list or map
	maxHits  = 32   // hits, and warnings
	maxInput = 1 << 20
)

// bounded returns a copy of e within the limits; e itself is not changed.
func bounded(e Event) Event {
	for _, s := range []*string{&e.Type, &e.Verb, &e.Outcome, &e.Namespace, &e.Pod, &e.PodID, &e.Container, &e.ID,
		&e.Image, &e.Top, &e.Instance, &e.ImageID, &e.Source, &e.SpecHash, &e.InputHash} {
		*s = cut(*s, maxText)
	}
	for _, l := range []*[]string{&e.Argv, &e.Rules, &e.Identities, &e.Weakenings} {
		*l = cutList(*l)
	}
	e.Hits, e.Warnings = cutHits(e.Hits), cutHits(e.Warnings)
	e.Policies, e.Detail = cutMap(e.Policies), cutMap(e.Detail)
	return e
}

func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	keep := limit
	for keep > 0 && !utf8.RuneStart(s[keep]) {
		keep--
	}
	return fmt.Sprintf("%s…[%d bytes cut]", s[:keep], len(s)-keep)
}

func cutList(l []string) []string {
	if len(l) == 0 {
		return nil
	}
	out := make([]string, 0, min(len(l), maxList)+1)
	for _, s := range l[:min(len(l), maxList)] {
		out = append(out, cut(s, maxText))
	}
	if n := len(l) - maxList; n > 0 {
		out = append(out, fmt.Sprintf("…[%d entries cut]", n))
	}
	return out
}

func cutHits(l []Hit) []Hit {
	if len(l) == 0 {
		return nil
	}
	out := make([]Hit, 0, min(len(l), maxHits)+1)
	for _, h := range l[:min(len(l), maxHits)] {
		out = append(out, Hit{Layer: cut(h.Layer, maxText), Rule: cut(h.Rule, maxText), Msg: cut(h.Msg, maxMsg), Mode: cut(h.Mode, maxText)})
	}
	if n := len(l) - maxHits; n > 0 {
		out = append(out, Hit{Msg: fmt.Sprintf("…[%d entries cut]", n)})
	}
	return out
}

func cutMap(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	keys := slices.Sorted(maps.Keys(m))
	out := make(map[string]string, min(len(m), maxList)+1)
	for _, k := range keys[:min(len(m), maxList)] {
		out[cut(strings.ToValidUTF8(k, "\uFFFD"), maxText)] = cut(m[k], maxText)
	}
	if n := len(m) - maxList; n > 0 {
		out["…"] = fmt.Sprintf("[%d entries cut]", n)
	}
	return out
}
