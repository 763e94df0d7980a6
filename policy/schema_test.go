package policy

import (
	"testing"

	"sallyport/test/schema"
)

func TestPublishedSchema(t *testing.T) {
	schema.Compare(t, "requirements.json", "requirements.yaml of a Sallyport policy", requirementsYAML{})
	schema.Compare(t, "revocations.json", "revocations.yaml of a Sallyport policy", revocationsYAML{})
}
