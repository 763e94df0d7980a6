package admin

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"sallyport/image"
	"sallyport/internal/admin/wire"
)

// maxSent bounds the bundles of one answer, in bytes: base64 takes a third more, and MaxAnswer is 64 MiB.
const maxSent = 32 << 20

// stored lists the IDs of all stored images, or tells the names and the evidence of one. Evidence is sent
// as it came from the registry: nobody judges it here.
func (s *Server) stored(_ context.Context, r wire.Stored) (out wire.StoredImages, err error) {
	if r.ID == "" {
		for _, im := range s.o.Images.List() {
			out.IDs = append(out.IDs, im.ID.String())
		}
		slices.Sort(out.IDs)
		return out, nil
	}
	found, err := s.o.Images.Lookup(r.ID, "")
	if err != nil {
		if errors.Is(err, image.ErrNotFound) {
			err = asked{http.StatusNotFound, err}
		}
		return out, err
	}
	sent := 0
	for _, c := range found {
		im := wire.StoredImage{Repository: c.Image.Name.Repository(), Name: c.Image.Name.String(), Instance: c.Image.Instance.String(), Simple: len(c.Evidence.Simple), Complete: c.Evidence.Complete}
		for _, b := range c.Evidence.Bundles {
			if sent += len(b.JSON); sent > maxSent {
				im.Complete = false
				break
			}
			im.Bundles = append(im.Bundles, wire.Bundle{ArtifactType: b.ArtifactType, JSON: b.JSON})
		}
		out.Images = append(out.Images, im)
	}
	return out, nil
}
