package registry

import (
	"context"
	"net/http"

	"github.com/distribution/reference"

	"sallyport/image/ref"
)

// Head asks what digest name has now, at the first endpoint that answers. The zero digest means that the
// registry has the name and does not say. What it says is not verified: it serves to ask whether
// anything changed.
func (s *Registries) Head(ctx context.Context, n ref.Name, c Credentials) (ref.Digest, error) {
	named, err := reference.ParseNormalizedNamed(n.String())
	if err != nil {
		return ref.Digest{}, err
	}
	now := s.now.Load()
	sources, err := s.endpoints(now, named)
	if err != nil {
		return ref.Digest{}, err
	}
	var errs []error
	for _, src := range sources {
		repo, err := s.connect(ctx, endpoint{now: now, src: src, named: named}, c)
		if err == nil {
			var d ref.Digest
			d, err = repo.head(ctx, n.Tag())
			repo.Close()
			if err == nil {
				return d, nil
			}
		}
		errs = append(errs, err)
	}
	return ref.Digest{}, summary(errs)
}

func (r *Repo) head(ctx context.Context, tag string) (ref.Digest, error) {
	res, err := r.get(ctx, http.MethodHead, "manifests/"+tag, accept)
	if err != nil {
		return ref.Digest{}, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return ref.Digest{}, answered(r.host, res)
	}
	d, err := ref.ParseDigest(res.Header.Get("Docker-Content-Digest"))
	if err != nil {
		return ref.Digest{}, nil
	}
	return d, nil
}
