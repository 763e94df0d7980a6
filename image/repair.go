package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"sallyport/enforce"
	"sallyport/image/ref"
	"sallyport/internal/durable"
)

// What a power cut leaves of a store whose files were all synced should be whole; disks and file systems
// differ. So a file in Root says how the last daemon left it, and after an unclean stop of the machine
// Open looks at every record: are its manifest, its config and its evidence there and what their digests
// say, and is what layers need there? Contents of layers are not read at the start: the boot has made
// all of them unchecked (bytes.go), and the first background pass comes soon.

// errTorn is a record that is no JSON: it was not written to its end.
var errTorn = errors.New("it is not whole")

const (
	stateClean = "clean\n"
	stateOpen  = "open " // and the boot ID
	scrubSoon  = time.Minute
	checkers   = 16 // records looked at at once: small reads that wait for a cold disk
)

// takeState reads how the last daemon left the store, and decides whether to look at what it holds. A
// daemon that was killed loses nothing that it wrote: only another boot does. A file that is missing or
// says anything else counts as an unclean stop. The lock is held.
func (s *Store) takeState() error {
	boot, err := os.ReadFile(bootIDFile)
	if err != nil {
		return fmt.Errorf("read boot ID: %w", err)
	}
	s.state = stateOpen + strings.TrimSpace(string(boot)) + "\n"
	b, err := os.ReadFile(s.path("state"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	s.unclean = string(b) != stateClean && string(b) != s.state
	if s.unclean {
		return nil // until the check is done: one that is cut short is done again
	}
	return s.openState()
}

// openState notes durably that a daemon of this boot writes to the store.
func (s *Store) openState() error {
	return durable.WriteFile(s.path("state"), []byte(s.state), 0o600)
}

// repair looks at every record after an unclean stop of the machine, and takes away what is broken, so
// that it is pulled anew. An image that a container uses stays for it, without a name that Status answers.
func (s *Store) repair() error {
	if !s.unclean {
		return nil
	}
	begun := time.Now()
	var recs []*record
	for _, id := range s.index.ids() {
		recs = append(recs, s.index.records(id)...)
	}
	found := make([]error, len(recs))
	g := new(errgroup.Group)
	g.SetLimit(checkers)
	for i, r := range recs {
		g.Go(func() error { found[i] = s.stands(r); return nil })
	}
	g.Wait()
	broken := 0
	for i, err := range found {
		if err != nil {
			broken++
			s.takeAway(recs[i], err)
		}
	}
	if n := len(recs) + s.torn; n > 0 {
		s.log.Warn("the machine stopped uncleanly; stored images were checked", "records", n, "broken", broken+s.torn, "took", time.Since(begun))
		err := s.gate.Record(context.Background(), enforce.Event{Type: "image", Outcome: "checked", Detail: map[string]string{
			"why": "unclean stop", "records": strconv.Itoa(n), "broken": strconv.Itoa(broken + s.torn)}})
		if err != nil {
			return err
		}
	}
	return s.openState()
}

// missing is a layer of which a part is not there.
type missing struct {
	layer
	cause error
}

func (m missing) Error() string { return fmt.Sprintf("stored layer %s: %v", m.DiffID, m.cause) }
func (m missing) Unwrap() error { return ErrCorrupt }

// stands looks whether what a record names is in storage: small files by their digests, layers by their
// metadata.
func (s *Store) stands(r *record) error {
	if err := s.verifyRecord(r); err != nil {
		return err
	}
	if _, err := s.readEvidence(r); err != nil {
		return err
	}
	for _, l := range r.Layers {
		if l.Title != "" {
			continue // verifyArtifact has seen it
		}
		if err := s.layerStands(l.Chain); err != nil {
			return missing{l, err}
		}
	}
	return nil
}

// layerStands looks for what mounting a layer, hashing it and building on it need.
func (s *Store) layerStands(chain ref.Digest) error {
	if st, err := os.Lstat(s.diffDir(chain)); err != nil {
		return err
	} else if !st.IsDir() {
		return errors.New("its root is no directory")
	}
	for _, file := range []string{
		s.path("storage", "overlay-layers", chain.Hex()+".tar-split.gz"),
		s.path("storage", "overlay", chain.Hex(), "link"),
	} {
		if st, err := os.Lstat(file); err != nil {
			return err
		} else if !st.Mode().IsRegular() || st.Size() == 0 {
			return fmt.Errorf("file %s is empty", filepath.Base(file))
		}
	}
	return nil
}

// takeAway removes the image of a record that is broken, unless it went with an earlier one.
func (s *Store) takeAway(r *record, cause error) {
	if s.index.instance(r.ID, r.Instance) == nil {
		return
	}
	s.notice(context.Background(), r, fmt.Errorf("after an unclean stop: %w", cause))
	var m missing
	if errors.As(cause, &m) {
		s.condemn(m.layer)
		return
	}
	s.index.problem(fmt.Sprintf("%s: %v", r.Name, cause))
	s.index.markStale(r.Name)
	s.users.drop(r.ID)
	if err := s.Remove(r.ID.String()); err != nil { // in use: it stays, Lookup refuses it, a pull mends it
		s.index.problem(fmt.Sprintf("%s: %v", r.Name, err))
	}
}

// dropTorn removes what is left of a record that an unclean stop tore, or whose image it took.
func (s *Store) dropTorn(image, dir string) {
	s.torn++
	if err := os.RemoveAll(dir); err != nil {
		s.index.problem(fmt.Sprintf("remove %s: %v", dir, err))
	}
	os.Remove(image) // if this was its last record; sweep then sees that none is left
}

// firstScrub is how long the first background pass waits: a start has enough to read, but what survived an
// unclean stop is to be known soon.
func (s *Store) firstScrub() time.Duration {
	if s.unclean {
		return min(scrubSoon, s.scrubEvery)
	}
	return min(scrubFirst, s.scrubEvery)
}
