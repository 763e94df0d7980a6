package image

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"golang.org/x/sync/errgroup"

	"sallyport/enforce"
	"sallyport/image/internal/registry"
	"sallyport/image/ref"
)

const (
	scrubFirst  = 10 * time.Minute // after a start, which has enough to read
	refreshGap  = 5 * time.Second  // between two images whose evidence is asked for
	refreshLook = time.Minute      // between two looks at what is due
)

// Run tends the store until ctx ends, off the path of any call: it measures writable layers, hashes stored
// layers at a set pace, takes over changed registry settings, and asks registries for newer evidence.
func (s *Store) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.measureLoop(ctx) })
	g.Go(func() error { return s.registries.Watch(ctx, s.log) })
	if s.scrubPace > 0 {
		g.Go(func() error { return s.scrubLoop(ctx) })
	}
	if s.refreshEvery > 0 {
		g.Go(func() error { return s.refreshLoop(ctx) })
	}
	return g.Wait()
}

func (s *Store) scrubLoop(ctx context.Context) error {
	wait := s.firstScrub()
	for sleep(ctx, wait) {
		wait = s.scrubEvery
		s.scrub(ctx)
	}
	return nil
}

// sleep waits and reports whether ctx still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// scrub hashes every stored layer once, at the set pace. What is found changed is withdrawn and recorded;
// it does not wait for its next use. Who waits for a layer does not wait for the pace: CheckOnce hashes on
// its own.
func (s *Store) scrub(ctx context.Context) {
	seen := map[ref.Digest]bool{}
	for _, id := range s.index.ids() {
		for _, r := range s.index.records(id) {
			for _, l := range r.Layers {
				if seen[l.Chain] || ctx.Err() != nil {
					continue
				}
				seen[l.Chain] = true
				err := s.hashLayer(ctx, r.Instance, l, s.scrubPace)
				if errors.Is(err, ErrCorrupt) && s.index.instance(r.ID, r.Instance) != nil { // it was not removed meanwhile
					s.condemn(l)
					s.notice(ctx, r, err)
				}
			}
		}
	}
}

// notice records what nobody asked for.
func (s *Store) notice(ctx context.Context, r *record, err error) {
	_ = s.gate.Record(ctx, enforce.Event{Type: "image", Outcome: "corrupt", Image: r.Name.String(), Top: r.Top.String(),
		Instance: r.Instance.String(), ImageID: r.ID.String(), Detail: map[string]string{"found": err.Error()}})
	s.log.Error("a stored image was changed on disk", "image", r.Name.String(), "err", err)
}

// refreshLoop asks for newer evidence about each record now and then: evidence ages while images stay.
func (s *Store) refreshLoop(ctx context.Context) error {
	tried := map[string]time.Time{}
	for sleep(ctx, refreshLook) {
		names := map[string]bool{}
		for _, id := range s.index.ids() {
			for _, r := range s.index.records(id) {
				key := r.ID.Hex() + r.key()
				names[key] = true
				last := tried[key]
				if last.IsZero() {
					last = r.Pulled
				}
				if time.Since(last) < s.due(key) {
					continue
				}
				if !sleep(ctx, refreshGap) {
					return nil
				}
				tried[key] = time.Now()
				if err := s.refresh(ctx, r); err != nil {
					s.log.Debug("refresh evidence", "image", r.Name.String(), "err", err)
				}
			}
		}
		for key := range tried {
			if !names[key] {
				delete(tried, key)
			}
		}
	}
	return nil
}

// due is refreshEvery, three quarters to five quarters of it by name, so that the images of a node, and
// the nodes of a fleet that were pulled to at once, do not ask at once.
func (s *Store) due(key string) time.Duration {
	h := fnv.New32a()
	h.Write([]byte(key))
	h.Write(s.key[:8])
	return s.refreshEvery*3/4 + time.Duration(h.Sum32()%1000)*s.refreshEvery/2000
}

// refresh fetches the evidence about one record again, by digest, with the node's own credentials or none,
// and adds what is new to what is stored. It removes nothing, whatever the registry says, and unmarks a
// stale name if there was something to add.
func (s *Store) refresh(ctx context.Context, r *record) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	repo, _, err := s.registries.Open(ctx, r.Name.WithDigest(r.Top), registry.Credentials{}, maxManifest)
	if err != nil {
		return fmt.Errorf("refresh evidence of %s: %w", r.Name, err)
	}
	defer repo.Close()
	col := newCollector(ctx, repo)
	defer col.stop()
	col.about(r.Top)
	if r.Instance != r.Top {
		col.about(r.Instance)
	}
	if err := s.addEvidence(r, col.result()); err != nil {
		return fmt.Errorf("refresh evidence of %s: %w", r.Name, err)
	}
	return nil
}
