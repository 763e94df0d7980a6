package image

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"sallyport/enforce"
	"sallyport/image/ref"
)

// addEvidence stores what is new in fresh with the record of the same name, if that is still about the
// same image.
func (s *Store) addEvidence(r *record, fresh enforce.Evidence) error {
	s.recordMu.Lock()
	defer s.recordMu.Unlock()
	now := s.index.pick(r.ID, r.Name)
	if now == nil || now.Name != r.Name || now.Top != r.Top || now.Instance != r.Instance {
		return nil // removed, or pulled anew
	}
	stored, err := s.loadEvidence(now)
	if err != nil {
		return err
	}
	whole, more := merge(stored, fresh)
	if !more {
		return nil
	}
	whole.Fetched = time.Now().UTC()
	text, err := json.Marshal(whole)
	if err != nil {
		return err
	}
	next := *now
	next.Evidence = ref.DigestOf(text)
	if err := s.save(&next, text); err != nil {
		return err
	}
	s.index.put(&next)
	return nil
}

// merge is stored and whatever of fresh it has not, within the bounds of evidence: where both do not fit,
// what is stored stays. more says whether anything was added. A fetch that was cut short makes nothing
// incomplete that was whole.
func merge(stored, fresh enforce.Evidence) (out enforce.Evidence, more bool) {
	out = stored
	out.Bundles, out.Simple = slices.Clone(stored.Bundles), slices.Clone(stored.Simple)
	size, count := 0, len(out.Bundles)+len(out.Simple)
	for _, b := range out.Bundles {
		size += len(b.JSON)
	}
	for _, v := range out.Simple {
		size += len(v.Payload)
	}
	room := func(n int) bool {
		if count == maxReferrers+maxSignatures || size+n > maxEvidence {
			return false
		}
		count, size = count+1, size+n
		return true
	}
	for _, b := range fresh.Bundles {
		has := slices.ContainsFunc(out.Bundles, func(a enforce.Bundle) bool { return a.Subject == b.Subject && bytes.Equal(a.JSON, b.JSON) })
		if !has && room(len(b.JSON)) {
			out.Bundles, more = append(out.Bundles, b), true
		}
	}
	for _, v := range fresh.Simple {
		has := slices.ContainsFunc(out.Simple, func(a enforce.Simple) bool {
			return a.Subject == v.Subject && a.MediaType == v.MediaType && bytes.Equal(a.Payload, v.Payload) && maps.Equal(a.Annotations, v.Annotations)
		})
		if !has && room(len(v.Payload)) {
			out.Simple, more = append(out.Simple, v), true
		}
	}
	if fresh.Complete && !stored.Complete {
		out.Complete, out.Missing, more = true, "", true
	}
	sortEvidence(&out)
	return out, more
}
