// Package artifact reads small OCI artifacts, such as policy, with the endpoints, mirrors, blocks, TLS
// settings and credentials that the node has for images. Bytes asked for by digest hash to it; nothing
// else is verified here, and nothing is stored.
package artifact

import (
	"context"
	"fmt"
	"strings"

	"sallyport/image/internal/registry"
	"sallyport/image/ref"
)

// MaxManifest bounds a manifest or an index in bytes.
const MaxManifest = 4 << 20

// bundleType is what the artifact types of Sigstore bundles begin with, in all their versions.
const bundleType = "application/vnd.dev.sigstore.bundle"

// Errors that callers tell apart.
var (
	ErrNotFound    = registry.ErrNotFound    // the registry has no such artifact
	ErrUnavailable = registry.ErrUnavailable // the registry did not answer usefully
	ErrTooLarge    = registry.ErrTooLarge    // more bytes than asked for
)

// Options are the node's settings, as for images; "" means that there are none.
type Options struct{ RegistriesConf, AuthFile string }

// Source reads from registries. It is immutable.
type Source struct{ reg *registry.Registries }

// New reads the settings.
func New(o Options) (*Source, error) {
	reg, err := registry.New(registry.Options{Conf: o.RegistriesConf, AuthFile: o.AuthFile})
	if err != nil {
		return nil, fmt.Errorf("open artifacts: %w", err)
	}
	return &Source{reg}, nil
}

// Head is the digest that the registry says name has now; zero if it does not say.
func (s *Source) Head(ctx context.Context, name ref.Name) (ref.Digest, error) {
	return s.reg.Head(ctx, name, registry.Credentials{})
}

// Open reads the manifest or index of name and keeps to the endpoint that answered. Close the repository.
func (s *Source) Open(ctx context.Context, name ref.Name) (*Repository, []byte, error) {
	repo, m, err := s.reg.Open(ctx, name, registry.Credentials{}, MaxManifest)
	if err != nil {
		return nil, nil, err
	}
	if want := name.Digest(); !want.IsZero() && ref.DigestOf(m.Bytes) != want {
		repo.Close()
		return nil, nil, fmt.Errorf("%w: asked for %s", registry.ErrDigest, want)
	}
	return &Repository{repo}, m.Bytes, nil
}

// Repository is one repository at one endpoint. It is safe for concurrent use.
type Repository struct{ repo *registry.Repo }

// Close drops idle connections.
func (r *Repository) Close() { r.repo.Close() }

// Manifest reads the manifest d.
func (r *Repository) Manifest(ctx context.Context, d ref.Digest) ([]byte, error) {
	m, err := r.repo.Manifest(ctx, d.String(), MaxManifest)
	return m.Bytes, err
}

// Blob reads the blob d of at most limit bytes.
func (r *Repository) Blob(ctx context.Context, d ref.Digest, limit int64) ([]byte, error) {
	return r.repo.SmallBlob(ctx, d, limit)
}

// Bundles lists the manifests of Sigstore bundles that refer to d, through the referrers API or the
// fallback tag, in the registry's order.
func (r *Repository) Bundles(ctx context.Context, d ref.Digest) (out []ref.Digest, err error) {
	list, err := r.repo.Referrers(ctx, d, MaxManifest)
	for _, desc := range list {
		if strings.HasPrefix(desc.ArtifactType, bundleType) {
			out = append(out, desc.Digest)
		}
	}
	return out, err
}
