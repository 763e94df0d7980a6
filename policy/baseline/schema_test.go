package baseline

import (
	"testing"

	"sallyport/test/schema"
)

func TestPublishedSchema(t *testing.T) {
	schema.Compare(t, "hardening.json", "hardening.yaml of a Sallyport policy", hardening{})
}
