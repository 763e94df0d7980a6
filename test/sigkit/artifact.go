package sigkit

import (
	"maps"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Artifact is an OCI artifact of a type with one blob for each file, whose title annotation is the file's
// name.
func Artifact(kind string, files map[string]string) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.MediaType(kind))
	for _, name := range slices.Sorted(maps.Keys(files)) {
		var err error
		if img, err = mutate.Append(img, mutate.Addendum{
			Layer:       static.NewLayer([]byte(files[name]), "application/octet-stream"),
			Annotations: map[string]string{"org.opencontainers.image.title": name},
		}); err != nil {
			return nil, err
		}
	}
	return img, nil
}
