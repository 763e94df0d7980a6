package image

import (
	"testing"

	"sallyport/enforce"
	"sallyport/policy"
)

func newGate(t *testing.T) *enforce.Gate { return &enforce.Gate{} }

func containerOf(id string) policy.Container { return policy.Container{Name: "c", ID: id} }
