package cri

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"sallyport/enforce"
	"sallyport/image"
	"sallyport/image/ref"
	"sallyport/sandbox"
	"sallyport/sandbox/spec"
)

// volumes finds what the gate judges of the images that mounts of a container show. The mount N of
// resolved that shows an image is the one asked for at its destination.
func (s *Server) volumes(ctx context.Context, asked []spec.Mount, resolved []enforce.Mount, namespace string) (out []enforce.Volume, err error) {
	for n, r := range resolved {
		i := slices.IndexFunc(asked, func(m spec.Mount) bool { return m.Image != nil && m.Destination == r.Destination })
		if r.Kind != "image" || i < 0 {
			continue
		}
		found, err := s.o.Images.Lookup(asked[i].Image.Image, asked[i].Image.UserSpecified)
		if err == nil && len(found) == 0 {
			err = image.ErrNotFound
		}
		if err != nil {
			return nil, fmt.Errorf("%w at %s: %w", sandbox.ErrImageVolume, r.Destination, err)
		}
		for _, c := range found {
			v := volume(n, c, namespace)
			changed, err := s.wholeBytes(ctx, c.Image)
			if err != nil {
				return nil, fmt.Errorf("%w at %s: %w", sandbox.ErrImageVolume, r.Destination, err)
			}
			v.Refusals = append(v.Refusals, changed...)
			out = append(out, v)
		}
	}
	return out, nil
}

func volume(n int, c image.Candidate, namespace string) enforce.Volume {
	v := enforce.Volume{Mount: n, Image: c.Image, Evidence: c.Evidence}
	if !c.UsableIn(namespace) {
		v.Refusals = []enforce.Hit{noAccess(c, namespace)}
	}
	return v
}

func noAccess(c image.Candidate, namespace string) enforce.Hit {
	return enforce.Hit{Layer: "gate", Rule: "image-access", Msg: fmt.Sprintf(
		"%s was pulled with credentials and namespace %s has not pulled it itself; set imagePullPolicy: Always", c.Image.Name, namespace)}
}

// volumesOf finds what the gate judges anew of the image volumes of a container that exists: the very
// instances that are mounted, with the evidence as stored now.
func (s *Server) volumesOf(c *sandbox.Container) (out []enforce.Volume, err error) {
	for _, v := range c.Volumes() {
		found, err := s.o.Images.Lookup(v.Image.ID.String(), v.Image.Name.String())
		if err != nil {
			return nil, fmt.Errorf("%w: %w", sandbox.ErrImageVolume, err)
		}
		i := slices.IndexFunc(found, func(f image.Candidate) bool { return f.Image.Instance == v.Image.Instance })
		if i < 0 {
			return nil, fmt.Errorf("%w: the store no longer holds %s as it was judged; pull it again", sandbox.ErrImageVolume, v.Image.Name)
		}
		out = append(out, volume(v.Mount, found[i], c.Pod().Config().Namespace))
	}
	return out, nil
}

// stale are the names whose stored evidence was not enough for a request that was denied.
func stale(req enforce.RunRequest, err error) (names []ref.Name) {
	var denied *enforce.Denied
	if !errors.As(err, &denied) || !denied.Refetch {
		return nil
	}
	if denied.Volume == "" {
		return []ref.Name{req.Image.Name}
	}
	for _, v := range req.Volumes {
		if req.Resolved[v.Mount].Destination == denied.Volume {
			names = append(names, v.Image.Name)
		}
	}
	return names
}
