package sigkit

import (
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Save writes the image or index at a registry, and what refers to it, as an OCI layout into dir. at is a name with
// a tag, which the layout's entry gets.
func Save(at, dir string) error {
	tag, err := name.NewTag(at, name.Insecure)
	if err != nil {
		return err
	}
	top, err := remote.Get(tag)
	if err != nil {
		return err
	}
	out, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	if err := add(out, top, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag.TagStr()})); err != nil {
		return err
	}
	list, err := remote.Referrers(tag.Context().Digest(top.Digest.String()))
	if err != nil {
		return err
	}
	found, err := list.IndexManifest()
	if err != nil {
		return err
	}
	for _, d := range found.Manifests {
		r, err := remote.Image(tag.Context().Digest(d.Digest.String()))
		if err != nil {
			return err
		}
		if err := out.AppendImage(r); err != nil {
			return err
		}
	}
	return nil
}

func add(out layout.Path, top *remote.Descriptor, o layout.Option) error {
	if top.MediaType.IsIndex() {
		index, err := top.ImageIndex()
		if err != nil {
			return err
		}
		return out.AppendIndex(index, o)
	}
	img, err := top.Image()
	if err != nil {
		return err
	}
	return out.AppendImage(img, o)
}
