package admin

import (
	"context"
	"errors"
	"net/http"

	"sallyport/internal/admin/wire"
	"sallyport/internal/selftest"
)

// selfTest probes the daemon through its own CRI socket.
func (s *Server) selfTest(ctx context.Context, _ wire.Empty) (wire.SelfTest, error) {
	out, err := s.o.Test.Ask(ctx)
	if errors.Is(err, selftest.ErrBusy) {
		err = asked{http.StatusServiceUnavailable, err}
	}
	return out, err
}
