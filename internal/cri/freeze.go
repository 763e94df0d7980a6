package cri

import (
	"context"

	"sallyport/enforce"
	"sallyport/sandbox"
)

// Freeze pauses or resumes a container, as do says (enforce.Pause, enforce.Resume), once the gate admits
// it. No CRI call does: it is for the operator's door.
func (s *Server) Freeze(ctx context.Context, c *sandbox.Container, do string) error {
	adm, err := s.o.Gate.AdmitFreeze(ctx, enforce.FreezeRequest{Pod: podFacts(c.Pod().Config()), PodID: c.Pod().ID(),
		Container: containerFacts(c.Config(), c.ID(), nil), Do: do})
	if err != nil {
		return err
	}
	return c.Freeze(ctx, adm)
}
