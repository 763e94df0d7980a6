package image

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"sallyport/enforce"
	"sallyport/image/internal/registry"
	"sallyport/image/ref"
)

// Bounds of evidence (gate.md): whoever can push to a repository can pad it.
const (
	maxReferrers   = 256
	maxSignatures  = 128
	maxBundle      = 16 << 20
	maxPayload     = 1 << 20
	maxEvidence    = 64 << 20
	evidenceFetchs = 8 // at once
)

// collector fetches evidence about digests, concurrently and within the bounds. What goes wrong makes
// the result incomplete; it is never an error, since policy says what it means.
type collector struct {
	repo   *registry.Repo  // constant
	ctx    context.Context // constant
	cancel context.CancelFunc
	group  *errgroup.Group
	heads  sync.WaitGroup

	mu      sync.Mutex // guards the rest
	out     enforce.Evidence
	missing []string
	bytes   int64
	seen    map[ref.Digest]bool
}

func newCollector(ctx context.Context, repo *registry.Repo) *collector {
	ctx, cancel := context.WithCancel(ctx)
	g := new(errgroup.Group)
	g.SetLimit(evidenceFetchs)
	return &collector{repo: repo, ctx: ctx, cancel: cancel, group: g, seen: map[ref.Digest]bool{}}
}

func (c *collector) stop() {
	c.cancel()
	c.heads.Wait()
	c.group.Wait()
}

func (c *collector) lack(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.missing) < 4 {
		c.missing = append(c.missing, fmt.Sprintf(format, args...))
	}
}

// reserve takes size bytes of the whole budget, once for each digest.
func (c *collector) reserve(d ref.Digest, size int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen[d] {
		return false
	}
	c.seen[d] = true
	if c.bytes+size > maxEvidence {
		c.missing = append(c.missing[:min(len(c.missing), 3)], fmt.Sprintf("evidence exceeds %d bytes", maxEvidence))
		return false
	}
	c.bytes += size
	return true
}

// about starts to fetch what is said about the manifest d.
func (c *collector) about(d ref.Digest) {
	c.heads.Add(3)
	go func() { defer c.heads.Done(); c.referrers(d) }()
	go func() { defer c.heads.Done(); c.legacy(d) }()
	go func() { defer c.heads.Done(); c.attestation(d) }()
}

func isBundle(mediaType string) bool {
	return strings.HasPrefix(mediaType, "application/vnd.dev.sigstore.bundle")
}

// mayBeBundle sorts out referrers of another kind without reading them. Some registries list none, or
// the config's type, where the spec wants the manifest's artifactType.
func mayBeBundle(artifactType string) bool {
	return artifactType == "" || artifactType == "application/vnd.oci.empty.v1+json" || isBundle(artifactType)
}

// referrers fetches the Sigstore bundles whose subject is d.
func (c *collector) referrers(d ref.Digest) {
	list, err := c.repo.Referrers(c.ctx, d, maxManifest)
	if err != nil {
		c.lack("list referrers of %s: %v", d, err)
		return
	}
	list = slices.DeleteFunc(list, func(desc registry.Descriptor) bool { return !mayBeBundle(desc.ArtifactType) })
	if len(list) > maxReferrers {
		c.lack("more than %d signatures and attestations at %s", maxReferrers, d)
		list = list[:maxReferrers]
	}
	for _, desc := range list {
		c.group.Go(func() error { c.bundle(d, desc); return nil })
	}
}

// bundle fetches one referrer and the bundle in it.
func (c *collector) bundle(subject ref.Digest, desc registry.Descriptor) {
	a, err := c.repo.Artifact(c.ctx, desc.Digest.String(), maxManifest)
	if err != nil {
		c.lack("read referrer %s: %v", desc.Digest, err)
		return
	}
	if a.Subject.Digest != subject {
		return // it is said to be about ours and is not; it proves nothing
	}
	for _, l := range a.Layers {
		if !isBundle(l.MediaType) {
			continue
		}
		if l.Size < 0 || l.Size > maxBundle {
			c.lack("bundle %s has %d bytes, at most %d are read", l.Digest, l.Size, maxBundle)
			continue
		}
		if !c.reserve(desc.Digest, l.Size) {
			return
		}
		b, err := c.repo.SmallBlob(c.ctx, l.Digest, l.Size)
		if err != nil {
			c.lack("read bundle %s: %v", l.Digest, err)
			continue
		}
		kind := a.ArtifactType
		if kind == "" {
			kind = l.MediaType
		}
		c.mu.Lock()
		c.out.Bundles = append(c.out.Bundles, enforce.Bundle{Subject: subject, ArtifactType: kind, JSON: b})
		c.mu.Unlock()
		return
	}
}

// legacy fetches cosign signatures at the tag sha256-<hex>.sig.
func (c *collector) legacy(d ref.Digest) {
	a, err := c.repo.Artifact(c.ctx, strings.Replace(d.String(), ":", "-", 1)+".sig", maxManifest)
	if errors.Is(err, registry.ErrNotFound) {
		return
	}
	if err != nil {
		c.lack("read signatures of %s: %v", d, err)
		return
	}
	if len(a.Layers) > maxSignatures {
		c.lack("more than %d signatures at %s", maxSignatures, d)
		return
	}
	for _, l := range a.Layers {
		if l.MediaType != "application/vnd.dev.cosign.simplesigning.v1+json" {
			continue
		}
		if l.Size < 0 || l.Size > maxPayload {
			c.lack("signature payload %s has %d bytes, at most %d are read", l.Digest, l.Size, maxPayload)
			continue
		}
		c.group.Go(func() error {
			b, err := c.repo.SmallBlob(c.ctx, l.Digest, l.Size)
			if err != nil {
				c.lack("read signature payload %s: %v", l.Digest, err)
				return nil
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.bytes += l.Size; c.bytes <= maxEvidence {
				c.out.Simple = append(c.out.Simple, enforce.Simple{Subject: d, MediaType: l.MediaType, Payload: b, Annotations: l.Annotations})
			}
			return nil
		})
	}
}

// legacyAttestation is the media type of the envelopes at cosign's tag sha256-<hex>.att.
const legacyAttestation = "application/vnd.dsse.envelope.v1+json"

// attestation notices attestations at the tag sha256-<hex>.att, so that a denial can say why they do not
// count. Nobody verifies them, so they are not read, and a registry that fails here hides nothing.
func (c *collector) attestation(d ref.Digest) {
	a, err := c.repo.Artifact(c.ctx, strings.Replace(d.String(), ":", "-", 1)+".att", maxManifest)
	if err != nil || !slices.ContainsFunc(a.Layers, func(l registry.Descriptor) bool { return l.MediaType == legacyAttestation }) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.Bundles = append(c.out.Bundles, enforce.Bundle{Subject: d, ArtifactType: legacyAttestation})
}

// result waits for everything and returns it in an order that does not depend on the network.
func (c *collector) result() enforce.Evidence {
	c.heads.Wait()
	c.group.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	sortEvidence(&c.out)
	c.out.Complete = len(c.missing) == 0
	c.out.Missing = strings.Join(c.missing, "; ")
	return c.out
}

// evidenceCache keeps evidence of recent look-ups, by its digest, up to a number of bytes.
type evidenceCache struct {
	mu    sync.Mutex // guards all
	byID  map[ref.Digest]cachedEvidence
	order []ref.Digest // oldest first
	bytes int
}

type cachedEvidence struct {
	ev   enforce.Evidence
	size int
}

const evidenceCacheBytes = 16 << 20

func newEvidenceCache() *evidenceCache { return &evidenceCache{byID: map[ref.Digest]cachedEvidence{}} }

func (c *evidenceCache) get(d ref.Digest) (enforce.Evidence, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byID[d]
	return e.ev, ok
}

func (c *evidenceCache) put(d ref.Digest, ev enforce.Evidence, size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.byID[d]; ok || size > evidenceCacheBytes/4 {
		return
	}
	c.byID[d] = cachedEvidence{ev, size}
	c.order = append(c.order, d)
	for c.bytes += size; c.bytes > evidenceCacheBytes; {
		old := c.order[0]
		c.order = c.order[1:]
		c.bytes -= c.byID[old].size
		delete(c.byID, old)
	}
}

// loadEvidence reads the evidence of a record; its bytes must hash to what the record says.
func (s *Store) loadEvidence(r *record) (enforce.Evidence, error) {
	if ev, ok := s.evidence.get(r.Evidence); ok {
		return ev, nil
	}
	b, err := s.readEvidence(r)
	if err != nil {
		return enforce.Evidence{}, err
	}
	var ev enforce.Evidence
	if err := json.Unmarshal(b, &ev); err != nil {
		return enforce.Evidence{}, fmt.Errorf("%w: read evidence of %s: %w", ErrCorrupt, r.Name, err)
	}
	s.evidence.put(r.Evidence, ev, len(b))
	return ev, nil
}

func (s *Store) readEvidence(r *record) ([]byte, error) {
	b, err := os.ReadFile(s.path("images", r.ID.Hex(), r.key(), evidenceName(r.Evidence)))
	if err != nil {
		return nil, fmt.Errorf("%w: read evidence of %s: %w", ErrCorrupt, r.Name, err)
	}
	if ref.DigestOf(b) != r.Evidence {
		return nil, fmt.Errorf("%w: evidence of %s differs from its record; pull it again", ErrCorrupt, r.Name)
	}
	return b, nil
}

func sortEvidence(ev *enforce.Evidence) {
	slices.SortFunc(ev.Bundles, func(a, b enforce.Bundle) int {
		return cmp.Or(cmp.Compare(a.Subject.Hex(), b.Subject.Hex()), bytes.Compare(a.JSON, b.JSON))
	})
	slices.SortFunc(ev.Simple, func(a, b enforce.Simple) int {
		return cmp.Or(cmp.Compare(a.Subject.Hex(), b.Subject.Hex()), bytes.Compare(a.Payload, b.Payload),
			cmp.Compare(a.Annotations["dev.cosignproject.cosign/signature"], b.Annotations["dev.cosignproject.cosign/signature"]))
	})
}
