package fetch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"

	"sallyport/image/ref"
	"sallyport/policy/bundle/layout"
)

// RootType is the artifact type of a manifest whose layers are root.json and the files of roots/, each
// under its name in TitleAnnotation.
const (
	RootType        = "application/vnd.sallyport.policy.root.v1"
	TitleAnnotation = "org.opencontainers.image.title"
)

// Bounds of one collection.
const (
	maxEntries   = 4096      // of the index: policies, their signatures, a root
	maxRootFiles = 256       // of a root
	maxRootFile  = 1 << 20   // bytes
	maxDelivery  = 256 << 20 // bytes of one look
)

// rootFile are the names that a root may bring.
var rootFile = regexp.MustCompile(`\A(root\.json|roots/[0-9]{1,9}\.(json|[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}\.sigstore\.json))\z`)

// Delivery is what one look brought. Nothing in it is verified but that bytes have the digests that name
// them.
type Delivery struct {
	// Places are the files by the place where they belong: "node", "namespaces/<name>", or "" for root.json
	// and roots/. Without files a place stays as it was brought before.
	Places map[string]map[string][]byte
	// Partial says that something else is there that could not be brought: places that are not named stay.
	Partial bool

	units     map[ref.Digest]bool // manifests of the policies in it
	revisions map[string]uint64   // by place
}

func (d *Delivery) empty() bool { return len(d.Places) == 0 }

// reader is what a collection asks a repository for.
type reader interface {
	Manifest(ctx context.Context, d ref.Digest) ([]byte, error)
	Blob(ctx context.Context, d ref.Digest, limit int64) ([]byte, error)
	Bundles(ctx context.Context, d ref.Digest) ([]ref.Digest, error)
}

// document is what is read of an index or a manifest here; policy/bundle/layout reads it strictly.
type document struct {
	MediaType    string       `json:"mediaType"`
	ArtifactType string       `json:"artifactType"`
	Config       *descriptor  `json:"config"`
	Layers       []descriptor `json:"layers"`
	Manifests    []descriptor `json:"manifests"`
	Subject      *descriptor  `json:"subject"`
}

type descriptor struct {
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Digest       ref.Digest        `json:"digest"`
	Size         int64             `json:"size"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

// collection is one look under way.
type collection struct {
	repo   reader
	left   int64                       // bytes that may still be brought
	known  map[ref.Digest]bool         // policies that were brought before
	signed map[ref.Digest][]ref.Digest // signatures that the index lists, by their subject
	out    Delivery
}

// collect brings what an index, or the manifest of one policy, leads to. What is broken is left out and
// told in the error; the rest is delivered all the same.
func collect(ctx context.Context, repo reader, top []byte, known map[ref.Digest]bool) (Delivery, error) {
	c := &collection{repo: repo, left: maxDelivery, known: known, signed: map[ref.Digest][]ref.Digest{},
		out: Delivery{Places: map[string]map[string][]byte{}, units: map[ref.Digest]bool{}, revisions: map[string]uint64{}}}
	doc, err := parse(top)
	if err != nil {
		return Delivery{}, err
	}
	if doc.Config != nil {
		return c.out, c.policy(ctx, top)
	}
	if len(doc.Manifests) > maxEntries {
		return Delivery{}, fmt.Errorf("read index: more than %d manifests", maxEntries)
	}
	var policies, roots [][]byte
	var errs []error
	fail := func(d ref.Digest, err error) {
		c.out.Partial = true
		if len(errs) < 5 {
			errs = append(errs, fmt.Errorf("%s: %w", d, err))
		}
	}
	seen := map[ref.Digest]bool{}
	for _, entry := range doc.Manifests {
		if entry.Digest.IsZero() || seen[entry.Digest] {
			continue
		}
		seen[entry.Digest] = true
		text, err := c.manifest(ctx, entry.Digest)
		if err != nil {
			fail(entry.Digest, err)
			continue
		}
		m, err := parse(text)
		switch {
		case err != nil:
			fail(entry.Digest, err)
		case m.Subject != nil:
			c.signed[m.Subject.Digest] = append(c.signed[m.Subject.Digest], entry.Digest)
		case m.ArtifactType == RootType:
			roots = append(roots, text)
		case m.Config != nil && m.Config.MediaType == layout.ConfigType:
			policies = append(policies, text)
		}
	}
	for _, text := range policies {
		if err := c.policy(ctx, text); err != nil {
			fail(ref.DigestOf(text), err)
		}
	}
	if len(roots) > 1 {
		fail(ref.DigestOf(roots[1]), errors.New("a second root"))
	} else if len(roots) == 1 {
		if err := c.root(ctx, roots[0]); err != nil {
			fail(ref.DigestOf(roots[0]), err)
		}
	}
	return c.out, errors.Join(errs...)
}

func parse(text []byte) (document, error) {
	var doc document
	if err := json.Unmarshal(text, &doc); err != nil {
		return doc, fmt.Errorf("read manifest: %w", err)
	}
	if doc.Manifests != nil && (doc.Layers != nil || doc.Config != nil) { // CVE-2021-41190
		return doc, errors.New("read manifest: it is an index and a manifest at once")
	}
	if doc.Manifests == nil && doc.Config == nil {
		return doc, errors.New("read manifest: neither an index nor a manifest")
	}
	return doc, nil
}

func (c *collection) take(b []byte, err error) ([]byte, error) {
	if c.left -= int64(len(b)); err == nil && c.left < 0 {
		return nil, fmt.Errorf("more than %d bytes in all", maxDelivery)
	}
	return b, err
}

func (c *collection) manifest(ctx context.Context, d ref.Digest) ([]byte, error) {
	return c.take(c.repo.Manifest(ctx, d))
}

func (c *collection) blob(ctx context.Context, d descriptor, limit int64) ([]byte, error) {
	if d.Digest.IsZero() || d.Size < 0 || d.Size > min(limit, max(c.left, 0)) {
		return nil, fmt.Errorf("blob %s of %d bytes, want at most %d", d.Digest, d.Size, min(limit, max(c.left, 0)))
	}
	return c.take(c.repo.Blob(ctx, d.Digest, d.Size))
}

// policy brings one policy as an OCI layout, with its signatures, to each place that its config names.
func (c *collection) policy(ctx context.Context, text []byte) error {
	at := ref.DigestOf(text)
	m, err := parse(text)
	if err != nil {
		return err
	}
	if m.Config.MediaType != layout.ConfigType {
		return fmt.Errorf("its config is of type %.80q, want %s", m.Config.MediaType, layout.ConfigType)
	}
	config, err := c.blob(ctx, *m.Config, layout.MaxDocument)
	if err != nil {
		return err
	}
	blobs := [][]byte{config}
	who, err := layout.ParseConfig(config)
	if err != nil {
		return err
	}
	var files map[string][]byte
	if !c.known[at] {
		for _, l := range m.Layers[:min(len(m.Layers), 2)] { // more than one is refused below
			b, err := c.blob(ctx, l, layout.MaxTotal*2)
			if err != nil {
				return err
			}
			blobs = append(blobs, b)
		}
		if files, err = layout.Join(text, blobs...); err != nil {
			return err
		}
		if files, err = c.signatures(ctx, at, files); err != nil {
			return err
		}
	}
	c.out.units[at] = true
	for _, p := range places(who) { // of two policies for one place the newer
		if before, twice := c.out.revisions[p]; !twice || who.Revision > before {
			c.out.revisions[p], c.out.Places[p] = who.Revision, files
		}
	}
	return nil
}

// signatures puts the Sigstore bundles about the policy at beside it: those that the index lists, and
// those that refer to it. One that cannot be read is left out: it would only have proved more.
func (c *collection) signatures(ctx context.Context, at ref.Digest, files map[string][]byte) (map[string][]byte, error) {
	found, err := c.repo.Bundles(ctx, at)
	if err != nil && len(c.signed[at]) == 0 {
		return nil, fmt.Errorf("list signatures: %w", err)
	}
	all := slices.Concat(c.signed[at], found)
	n := 0
	for i, d := range all {
		if slices.Contains(all[:i], d) || n == layout.MaxSignatures {
			continue
		}
		b, err := c.signature(ctx, d)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			continue
		}
		after, err := layout.Attach(files, b)
		if err != nil {
			return nil, err
		}
		files = after
		n++
	}
	return files, nil
}

func (c *collection) signature(ctx context.Context, d ref.Digest) ([]byte, error) {
	text, err := c.manifest(ctx, d)
	if err != nil {
		return nil, err
	}
	m, err := parse(text)
	if err != nil {
		return nil, err
	}
	if len(m.Layers) != 1 {
		return nil, errors.New("not one layer")
	}
	return c.blob(ctx, m.Layers[0], layout.MaxSignature)
}

// root brings root.json and the files of roots/.
func (c *collection) root(ctx context.Context, text []byte) error {
	m, err := parse(text)
	if err != nil {
		return err
	}
	if len(m.Layers) == 0 || len(m.Layers) > maxRootFiles {
		return fmt.Errorf("read root: %d files, want 1 to %d", len(m.Layers), maxRootFiles)
	}
	files := map[string][]byte{}
	for _, l := range m.Layers {
		name := l.Annotations[TitleAnnotation]
		if !rootFile.MatchString(name) || files[name] != nil {
			return fmt.Errorf("read root: file %.80q; want root.json and files of roots/, each once", name)
		}
		if files[name], err = c.blob(ctx, l, maxRootFile); err != nil {
			return err
		}
	}
	c.out.Places[""] = files
	return nil
}

// where lists where a delivery brings something, sorted.
func (d *Delivery) where() []string { return slices.Sorted(maps.Keys(d.Places)) }
