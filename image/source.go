package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"sallyport/enforce"
	"sallyport/image/internal/registry"
	"sallyport/image/ref"
	"sallyport/internal/span"
)

// Source is one image at one registry, resolved once. What Image says is what Pull copies, from the
// same connection, whatever the tag points to by then. It is owned by the caller, who closes it.
type Source struct {
	repo     *registry.Repo   // constant
	image    enforce.Image    // constant
	evidence enforce.Evidence // constant
	config   parsedConfig     // constant
	raw      []byte           // constant; the config blob
	manifest document         // constant; of the instance
	private  bool             // constant; credentials of a pod or a namespace were used
}

// Image says which bytes are meant.
func (s *Source) Image() enforce.Image { return s.image }

// Evidence is what was found about them, unverified.
func (s *Source) Evidence() enforce.Evidence { return s.evidence }

// Config is what the image asks for.
func (s *Source) Config() Config { return s.config.config }

// Close ends the connection.
func (s *Source) Close() error { s.repo.Close(); return nil }

// Resolve opens n at the first endpoint that serves it and reads manifest, config and every kind of
// evidence that we know, whatever policy needs today; nothing is stored. The tag is resolved once: the
// digests in Source.Image are computed here from the bytes received. Errors are ErrNotFound,
// ErrUnauthorized, ErrUnavailable or ErrInvalid, each with the name. Evidence that cannot be read,
// other than because there is none, makes Evidence incomplete and is no error.
func (s *Store) Resolve(ctx context.Context, n ref.Name, c Credentials) (*Source, error) {
	if n.IsZero() {
		return nil, errors.New("resolve image: no name")
	}
	if dir, ok := s.local[n.Repository()]; ok {
		return s.resolveLocal(ctx, dir, n)
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	ctx, sp := span.Start(ctx, span.Resolve)
	src, err := s.resolve(ctx, canonical(n), c)
	sp.End(&err)
	if err != nil {
		if ctx.Err() == context.DeadlineExceeded && !errors.Is(err, ErrUnavailable) {
			err = fmt.Errorf("%w: no answer within %s", ErrUnavailable, s.timeout)
		}
		return nil, fmt.Errorf("resolve %s: %w", n, err)
	}
	return src, nil
}

// ResolveLayout is Resolve for an image that an operator brings as an OCI layout in the directory dir,
// with its evidence as referrers in the same layout: it is to be known as n. It reads no network; what
// is pulled from it passes the same gate, and is hashed as it is read.
func (s *Store) ResolveLayout(ctx context.Context, dir string, n ref.Name) (*Source, error) {
	if n.IsZero() {
		return nil, errors.New("resolve layout: no name")
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	n = canonical(n)
	repo, top, err := registry.OpenLayout(dir, n, maxManifest)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", n, err)
	}
	src := &Source{repo: repo}
	if err := s.read(ctx, src, n, top); err != nil {
		repo.Close()
		return nil, fmt.Errorf("resolve %s in %s: %w", n, dir, err)
	}
	return src, nil
}

// resolveLocal is Resolve for a repository of Options.Local. A tag is a file name: it begins with no dot
// and holds no slash (ref.Parse).
func (s *Store) resolveLocal(ctx context.Context, dir string, n ref.Name) (*Source, error) {
	if n.Tag() == "" || !n.Digest().IsZero() {
		return nil, fmt.Errorf("resolve %s: %w: images of this repository are known by tag alone", n, ErrNotFound)
	}
	at := filepath.Join(dir, n.Tag())
	if _, err := os.Stat(at); err != nil {
		return nil, fmt.Errorf("resolve %s: %w", n, ErrNotFound)
	}
	return s.ResolveLayout(ctx, at, n)
}

func (s *Store) resolve(ctx context.Context, n ref.Name, c Credentials) (*Source, error) {
	repo, top, err := s.registries.Open(ctx, n, registry.Credentials(c), maxManifest)
	if err != nil {
		return nil, err
	}
	src := &Source{repo: repo, private: repo.Tenant()}
	if err := s.read(ctx, src, n, top); err != nil {
		repo.Close()
		return nil, err
	}
	return src, nil
}

// read walks from the top document to the config, hashing each, while the evidence comes in.
func (s *Store) read(ctx context.Context, src *Source, n ref.Name, top registry.Manifest) error {
	src.image = enforce.Image{Name: n, Top: ref.DigestOf(top.Bytes)}
	if d := n.Digest(); !d.IsZero() && d != src.image.Top {
		return fmt.Errorf("%w: the registry answered with bytes of %s", registry.ErrDigest, src.image.Top)
	}
	doc, err := parseDocument(top.Bytes, top.ContentType)
	if err != nil {
		return err
	}
	col := newCollector(ctx, src.repo)
	defer col.stop()
	col.about(src.image.Top)
	inst := top
	src.image.Instance = src.image.Top
	if doc.isIndex() {
		desc, err := choose(top.Bytes, doc, s.platform)
		if err != nil {
			return err
		}
		if inst, err = src.repo.Manifest(ctx, desc.Digest.String(), desc.Size); err != nil {
			return fmt.Errorf("read instance: %w", err)
		}
		src.image.Instance = desc.Digest
		col.about(src.image.Instance)
		if doc, err = parseDocument(inst.Bytes, desc.MediaType); err != nil {
			return err
		}
		if doc.isIndex() {
			return fmt.Errorf("%w: instance %s is an index", ErrInvalid, desc.Digest)
		}
	}
	src.manifest = doc
	if src.image.Artifact = doc.artifact(); src.image.Artifact != "" {
		src.image.ID = src.image.Instance
	} else if err := s.readConfig(ctx, src, doc); err != nil {
		return err
	}
	_, sp := span.Start(ctx, span.Evidence) // what of it the documents above did not cover
	found := col.result()
	sp.End(nil)
	found.TopManifest, found.InstanceManifest, found.Fetched = top.Bytes, inst.Bytes, time.Now().UTC()
	src.evidence = found
	return nil
}

// readConfig reads what an image asks for.
func (s *Store) readConfig(ctx context.Context, src *Source, doc document) (err error) {
	if src.raw, err = src.repo.SmallBlob(ctx, doc.Config.Digest, doc.Config.Size); err != nil {
		return fmt.Errorf("read config: %w", err)
	}
	if src.config, err = parseConfig(src.raw); err != nil {
		return err
	}
	if err := s.checkPlatform(src.config, doc); err != nil {
		return err
	}
	src.image.ID = doc.Config.Digest
	src.image.OS, src.image.Arch = src.config.os, src.config.arch
	return nil
}

func (s *Store) checkPlatform(c parsedConfig, doc document) error {
	if c.os != s.platform.OSChoice || c.arch != s.platform.ArchitectureChoice {
		return fmt.Errorf("%w: it is for %.20q/%.20q, this node is %s/%s", ErrInvalid, c.os, c.arch, s.platform.OSChoice, s.platform.ArchitectureChoice)
	}
	if len(c.diffIDs) != len(doc.Layers) {
		return fmt.Errorf("%w: config has %d diff IDs, manifest has %d layers", ErrInvalid, len(c.diffIDs), len(doc.Layers))
	}
	return nil
}
