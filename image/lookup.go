package image

import (
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/opencontainers/go-digest"

	"sallyport/enforce"
	"sallyport/image/ref"
)

// List is every verified image. It touches no disk.
func (s *Store) List() []Image {
	ids := s.index.ids()
	out := make([]Image, 0, len(ids))
	for _, id := range ids {
		if im, ok := s.snapshot(id); ok {
			out = append(out, im)
		}
	}
	return out
}

// Status is the image that a name, an image ID or the beginning of one means. A name that is marked
// stale is answered as if there were no image. It touches no disk.
func (s *Store) Status(nameOrID string) (Image, bool) {
	if n, err := ref.Parse(nameOrID); err == nil && s.index.isStale(canonical(n)) {
		return Image{}, false
	}
	id, ok := s.index.find(nameOrID)
	if !ok {
		return Image{}, false
	}
	return s.snapshot(id)
}

// MarkStale makes Status deny the image by this name until it is pulled again: its stored evidence is
// missing or too old for some policy, and the kubelet pulls only what is absent. List and look-ups by
// ID still show it.
func (s *Store) MarkStale(n ref.Name) { s.index.markStale(canonical(n)) }

func (s *Store) snapshot(id ref.Digest) (Image, bool) {
	recs := s.index.records(id)
	if len(recs) == 0 {
		return Image{}, false
	}
	im := Image{ID: id, Config: recs[0].Config, Size: recs[0].Size, Pulled: recs[0].Pulled}
	for _, r := range recs {
		if r.Name.Tag() != "" {
			im.Tags = append(im.Tags, r.Name.String())
		}
		im.Digests = append(im.Digests, r.Name.WithDigest(r.Top).String())
		if r.Instance != r.Top {
			im.Digests = append(im.Digests, r.Name.WithDigest(r.Instance).String())
		}
		im.Pinned = im.Pinned || s.pinned[r.Name.String()]
		if r.Pulled.After(im.Pulled) {
			im.Pulled = r.Pulled
		}
	}
	sort.Strings(im.Digests)
	im.Digests = slices.Compact(im.Digests)
	return im, true
}

// Lookup returns what is known of a stored image for a create, without network: the record that
// userSpecified names (what the pod's author wrote), or if that is empty and idOrName is no name, every
// record of the image, all of which must be admitted. The stored manifest and config are hashed again
// and the layer chain is walked against the diff IDs; a difference is ErrCorrupt. No such image, or no
// record of that name, is ErrNotFound.
func (s *Store) Lookup(idOrName, userSpecified string) ([]Candidate, error) {
	id, ok := s.index.find(idOrName)
	if !ok {
		return nil, fmt.Errorf("look up image %.200q: %w: pull it first", idOrName, ErrNotFound)
	}
	if userSpecified == "" {
		if _, err := ref.Parse(idOrName); err == nil {
			userSpecified = idOrName
		}
	}
	recs := s.index.records(id)
	var asked ref.Name
	// CRI clients may write the image ID where a name belongs; then no name was asked for.
	if _, err := ref.ParseDigest("sha256:" + trimID(userSpecified)); userSpecified != "" && err != nil {
		n, err := ref.Parse(userSpecified)
		if err != nil {
			return nil, fmt.Errorf("look up image %s: %w", id, err)
		}
		asked = canonical(n)
		r := s.index.pick(id, asked)
		if r == nil {
			return nil, fmt.Errorf("look up image %s: %w: it was never pulled and verified as %s; pull it by that name", id, ErrNotFound, n)
		}
		recs = []*record{r}
	}
	if len(recs) == 0 {
		return nil, fmt.Errorf("look up image %s: %w", id, ErrNotFound)
	}
	out := make([]Candidate, 0, len(recs))
	checked := map[ref.Digest]bool{}
	for _, r := range recs {
		if !checked[r.Instance] {
			if err := s.verifyRecord(r); err != nil {
				s.index.markStale(r.Name) // a pull writes it anew
				return nil, fmt.Errorf("look up %s: %w", r.Name, err)
			}
			checked[r.Instance] = true
		}
		ev, err := s.loadEvidence(r)
		if err != nil {
			s.index.markStale(r.Name)
			return nil, err
		}
		name := r.Name
		if !asked.Digest().IsZero() {
			name = asked
		}
		out = append(out, Candidate{
			Image:    enforce.Image{Name: name, Top: r.Top, Instance: r.Instance, ID: r.ID, OS: r.OS, Arch: r.Arch, Artifact: r.Artifact},
			Evidence: ev, Config: r.Config, Private: r.Private, Proved: r.Proved,
		})
	}
	return out, nil
}

func diffIDs(r *record) []ref.Digest {
	out := make([]ref.Digest, len(r.Layers))
	for i, l := range r.Layers {
		out[i] = l.DiffID
	}
	return out
}

func (s *Store) verifyRecord(r *record) error {
	if r.Artifact != "" {
		return s.verifyArtifact(r)
	}
	return s.verify(r.ID, r.Instance, diffIDs(r))
}

// verify hashes the stored manifest and config again and walks the layer chain: each stored layer must
// have the diff ID that the config says and the parent that the chain says.
func (s *Store) verify(id, instance ref.Digest, want []ref.Digest) error {
	m, err := s.storage.ImageBigData(id.Hex(), manifestKey(instance))
	if err != nil {
		return fmt.Errorf("%w: stored manifest %s: %w", ErrCorrupt, instance, err)
	}
	if got := ref.DigestOf(m); got != instance {
		return fmt.Errorf("%w: stored manifest %s hashes to %s; remove the image and pull it again", ErrCorrupt, instance, got)
	}
	raw, err := s.storage.ImageBigData(id.Hex(), id.String())
	if err != nil {
		return fmt.Errorf("%w: stored config %s: %w", ErrCorrupt, id, err)
	}
	if got := ref.DigestOf(raw); got != id {
		return fmt.Errorf("%w: stored config %s hashes to %s; remove the image and pull it again", ErrCorrupt, id, got)
	}
	var doc struct {
		Config descriptor `json:"config"`
	}
	if err := json.Unmarshal(m, &doc); err != nil || doc.Config.Digest != id {
		return fmt.Errorf("%w: stored manifest %s is not of config %s", ErrCorrupt, instance, id)
	}
	c, err := parseConfig(raw)
	if err != nil {
		return fmt.Errorf("%w: stored config: %w", ErrCorrupt, err)
	}
	if !slices.Equal(c.diffIDs, want) {
		return fmt.Errorf("%w: the record names other layers than the config", ErrCorrupt)
	}
	im, err := s.storage.Image(id.Hex())
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	chains := chainIDs(c.diffIDs)
	top := ""
	for i, diff := range c.diffIDs {
		l, err := s.storage.Layer(chains[i].Hex())
		if err != nil {
			return fmt.Errorf("%w: layer %s: %w", ErrCorrupt, chains[i], err)
		}
		if l.UncompressedDigest != digest.Digest(diff.String()) || l.Parent != top {
			return fmt.Errorf("%w: stored layer %s has diff ID %s, the config says %s; remove the image and pull it again", ErrCorrupt, chains[i], l.UncompressedDigest, diff)
		}
		top = l.ID
	}
	if im.TopLayer != top {
		return fmt.Errorf("%w: stored image starts at layer %.80q, the config at %.80q", ErrCorrupt, im.TopLayer, top)
	}
	return nil
}

// FsInfo sums what is known of the unpacked layers. It touches no disk.
func (s *Store) FsInfo() FsInfo {
	bytes, inodes := s.index.usage()
	return FsInfo{Mountpoint: s.path("storage"), UsedBytes: bytes, Inodes: inodes, Timestamp: time.Now()}
}
