package trial

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"sallyport/policy"
	"sallyport/policy/baseline"
	"sallyport/policy/bundle"
)

// Bounds of the cases that one bundle brings.
const (
	maxOwn   = 256
	ownLimit = 30 * time.Second // for all of them
)

// Own tries the cases that a bundle brings (tests/*.txtar) on its layer alone: what other layers say is
// not this bundle's to promise. A case brings no policy; its namespace is that of the bundle unless it
// names another. It fits bundle.Options.Try. An error names the first case that is red, and nothing but
// an error ever leaves: claims that a case states prove nothing outside of it.
func Own(ctx context.Context, s bundle.Staged) error {
	if len(s.Cases) > maxOwn {
		return fmt.Errorf("%d cases, want at most %d", len(s.Cases), maxOwn)
	}
	ctx, cancel := context.WithTimeout(ctx, ownLimit)
	defer cancel()
	for _, name := range slices.Sorted(maps.Keys(s.Cases)) {
		err := own(ctx, s, s.Cases[name])
		if ctx.Err() != nil {
			err = fmt.Errorf("the cases took longer than %s", ownLimit)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func own(ctx context.Context, s bundle.Staged, archive []byte) error {
	c, err := parse(archive)
	if err != nil {
		return err
	}
	for name := range c.files {
		if strings.HasPrefix(name, "node/") || strings.HasPrefix(name, "namespaces/") {
			return errors.New("read case: it brings a policy; a bundle's own cases are tried on the bundle")
		}
	}
	if c.request.Namespace == "" && policy.Verb(c.request.Verb) != policy.VerbPull {
		if c.request.Namespace = s.Namespace; s.Namespace == "" {
			return errors.New("read case: request.yaml: namespace: missing; only a pull may have none")
		}
	}
	act, claims, err := c.facts()
	if err != nil {
		return err
	}
	var judged []policy.Verdict
	if act.Pod != nil && s.HasFloor {
		for _, v := range baseline.CheckPod(podFacts(act.Pod), s.Layer.FloorFor(act.Namespace)) {
			judged = append(judged, policy.Refusal("floor", v.ID+" "+v.Name, v.Msg))
		}
	}
	return c.compare(policy.Decide(act, append(judged, judge(ctx, s.Layer, act, claims)...)...))
}
