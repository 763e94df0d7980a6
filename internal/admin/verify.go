package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"sallyport/enforce"
	"sallyport/image"
	"sallyport/image/ref"
	"sallyport/internal/admin/wire"
)

// verify judges an image by the way of a pull, up to the verdict: resolve at the registry with the
// credentials of the namespace or the node, fetch the evidence, ask every layer. Nothing is copied, and what it leaves is a
// record of the question.
func (s *Server) verify(ctx context.Context, r wire.Verify) (wire.Verified, error) {
	name, err := ref.Parse(r.Image)
	if err != nil {
		return wire.Verified{}, asked{http.StatusBadRequest, err}
	}
	if r.Stored {
		return s.verifyStored(ctx, r)
	}
	src, err := s.o.Images.Resolve(ctx, name, image.Credentials{Namespace: r.Namespace})
	if err != nil {
		if errors.Is(err, image.ErrNotFound) || errors.Is(err, image.ErrUnauthorized) {
			err = asked{http.StatusNotFound, err}
		}
		return wire.Verified{}, err
	}
	defer src.Close()
	return s.examine(ctx, r.Namespace, src.Image(), src.Evidence())
}

// verifyStored judges what create would judge: the stored image under that name, by its stored evidence.
// Of an image that the name means several times, the first that is denied is the answer.
func (s *Server) verifyStored(ctx context.Context, r wire.Verify) (out wire.Verified, err error) {
	found, err := s.o.Images.Lookup(r.Image, "")
	if err != nil {
		if errors.Is(err, image.ErrNotFound) {
			err = asked{http.StatusNotFound, err}
		}
		return out, err
	}
	for _, c := range found {
		if out, err = s.examine(ctx, r.Namespace, c.Image, c.Evidence); err != nil || !out.Allowed {
			return out, err
		}
		if !c.UsableIn(r.Namespace) {
			out.Allowed = false
			out.Layers = append(out.Layers, wire.Opinion{Layer: "gate", Hits: []wire.Hit{{Rule: "image-access",
				Msg: fmt.Sprintf("the image was pulled with credentials, and namespace %q has not proved access to it", r.Namespace)}}})
			return out, nil
		}
	}
	return out, nil
}

func (s *Server) examine(ctx context.Context, namespace string, img enforce.Image, ev enforce.Evidence) (wire.Verified, error) {
	o, err := s.o.Gate.ExaminePull(ctx, enforce.PullRequest{Namespace: namespace, Image: img, Evidence: ev})
	if err != nil {
		return wire.Verified{}, err
	}
	out := wire.Verified{Allowed: o.Allowed, Audit: o.Seq, Image: img.Name.String(), Top: img.Top.String(), Instance: img.Instance.String(),
		Evidence: wire.Evidence{Bundles: len(ev.Bundles), Simple: len(ev.Simple), Complete: ev.Complete, Missing: ev.Missing, Fetched: ev.Fetched}}
	for _, p := range o.Parts {
		out.Layers = append(out.Layers, wire.Opinion{Layer: p.Layer, Hash: p.Hash, Allowed: p.Allowed, Rules: p.Rules, Hits: hits(p.Hits),
			Warnings: hits(p.Warnings), Used: p.Used, Found: p.Found, Reasons: p.Reasons, Until: p.Until})
	}
	return out, nil
}

func hits(in []enforce.Hit) (out []wire.Hit) {
	for _, h := range in {
		out = append(out, wire.Hit{Rule: h.Rule, Msg: h.Msg})
	}
	return out
}
