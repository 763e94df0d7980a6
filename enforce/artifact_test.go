package enforce_test

import (
	"fmt"
	"testing"

	"sallyport/enforce"
	"sallyport/image/ref"
)

// TestArtifactID: the image ID of an artifact is the digest of its manifest, which alone names it, since
// many share a config; and what a manifest is, it says itself.
func TestArtifactID(t *testing.T) {
	g := gate(t)
	img, _ := image(t)
	config := ref.DigestOf([]byte("{}"))
	manifest := func(kind string) []byte {
		return fmt.Appendf(nil, `{"schemaVersion":2,"config":{"mediaType":%q,"digest":%q}}`, kind, config)
	}
	const ociConfig = "application/vnd.oci.image.config.v1+json"
	for _, tt := range []struct {
		name, kind, artifact string
		shared               bool // the ID is the config's digest
		want                 string
	}{
		{"artifact", "application/vnd.oci.empty.v1+json", "a/b", false, ""},
		{"artifact under its config's digest", "application/vnd.oci.empty.v1+json", "a/b", true, "digest-mismatch"},
		{"artifact that is said to be an image", "application/vnd.oci.empty.v1+json", "", true, "digest-mismatch"},
		{"image", ociConfig, "", true, ""},
		{"image that is said to be an artifact", ociConfig, "a/b", true, "digest-mismatch"},
		{"image under its manifest's digest", ociConfig, "", false, "digest-mismatch"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := manifest(tt.kind)
			im := enforce.Image{Name: img.Name, Top: ref.DigestOf(m), Instance: ref.DigestOf(m), ID: ref.DigestOf(m), Artifact: tt.artifact}
			if tt.shared {
				im.ID = config
			}
			_, err := g.AdmitPull(t.Context(), enforce.PullRequest{Namespace: "shop", Image: im,
				Evidence: enforce.Evidence{TopManifest: m, InstanceManifest: m, Complete: true}})
			if tt.want == "" {
				if err != nil {
					t.Errorf("AdmitPull() = %v", err)
				}
				return
			}
			rule(t, err, tt.want)
		})
	}
}
