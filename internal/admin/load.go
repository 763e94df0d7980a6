package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"

	"sallyport/enforce"
	"sallyport/image"
	"sallyport/image/ref"
	"sallyport/internal/admin/wire"
)

// load pulls an image from an OCI layout on this node: the same gate, hashes and verification record as
// for a pull from a registry, without a network.
func (s *Server) load(ctx context.Context, r wire.Load) (wire.Loaded, error) {
	name, err := ref.Parse(r.Name)
	if err == nil && !filepath.IsAbs(r.Layout) {
		err = fmt.Errorf("layout %q is no absolute path", r.Layout)
	}
	if err != nil {
		return wire.Loaded{}, asked{http.StatusBadRequest, err}
	}
	src, err := s.o.Images.ResolveLayout(ctx, r.Layout, name)
	if err != nil {
		return wire.Loaded{}, asked{http.StatusNotFound, err}
	}
	defer src.Close()
	img, ev := src.Image(), src.Evidence()
	adm, err := s.o.Gate.AdmitPull(ctx, enforce.PullRequest{Namespace: r.Namespace, Image: img, Evidence: ev})
	var denied *enforce.Denied
	if errors.As(err, &denied) {
		return wire.Loaded{}, asked{http.StatusForbidden, err}
	}
	if err != nil {
		return wire.Loaded{}, err
	}
	stored, err := s.o.Images.Pull(ctx, src, adm)
	if errors.Is(err, image.ErrInvalid) {
		err = asked{http.StatusBadRequest, err}
	}
	if err != nil {
		return wire.Loaded{}, err
	}
	return wire.Loaded{ID: stored.ID.String(), Image: img.Name.String(), Top: img.Top.String(), Instance: img.Instance.String(),
		Evidence: wire.Evidence{Bundles: len(ev.Bundles), Simple: len(ev.Simple), Complete: ev.Complete, Missing: ev.Missing, Fetched: ev.Fetched}}, nil
}
