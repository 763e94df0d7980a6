package bundle

import (
	"context"
	"strings"

	"sallyport/policy"
)

// casesDir holds a bundle's own cases, *.txtar (docs/policy.md).
const casesDir = "tests/"

// Staged is a bundle that compiled and is not in force yet.
type Staged struct {
	Layer     *policy.Layer
	Namespace string            // "" is the node
	HasFloor  bool              // Layer.Floor is its own
	Cases     map[string][]byte // file to text
}

// tried returns c if its own cases hold. A bundle that fails what it promises itself is refused like
// one that does not compile: the last good one goes on judging.
func (p place) tried(c *compiled, f files) (*compiled, error) {
	if p.with.try == nil {
		return c, nil
	}
	s := Staged{Layer: &c.layer, Namespace: strings.TrimPrefix(p.name, "namespace "), HasFloor: c.hasFloor, Cases: map[string][]byte{}}
	if p.kind == Node {
		s.Namespace = ""
	}
	for name, text := range f {
		if strings.HasPrefix(name, casesDir) && strings.HasSuffix(name, ".txtar") {
			s.Cases[name] = text
		}
	}
	if len(s.Cases) == 0 {
		return c, nil
	}
	if err := p.with.try(context.Background(), s); err != nil {
		return nil, &Refused{RuleTest, err.Error()}
	}
	return c, nil
}
