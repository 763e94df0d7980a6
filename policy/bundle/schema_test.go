package bundle

import (
	"testing"

	"sallyport/test/schema"
)

func TestPublishedSchema(t *testing.T) {
	schema.Compare(t, "bundle.json", "bundle.yaml of a Sallyport policy", manifestYAML{})
}
