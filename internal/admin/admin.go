// Package admin is the operator's door: a Unix socket of its own, mode 0600, on which root asks the
// running daemon what it enforces and why (docs/operations.md). Its calls stand in one table, each with
// what it may do: read, or act through the gate like any other client. wire has the protocol.
//
// Who connects is asked of the kernel (SO_PEERCRED): only the user that the daemon runs as is served,
// whatever the mode of the socket has become. Requests are bounded in size, time and number, and are
// decoded strictly.
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"sallyport/enforce"
	"sallyport/image"
	"sallyport/internal/admin/wire"
	"sallyport/internal/rejudge"
	"sallyport/internal/selftest"
	"sallyport/sandbox"
)

const (
	maxCalls   = 16               // at once; more are answered 503
	maxHeader  = 8 << 10          // bytes
	readLimit  = 10 * time.Second // for a whole request
	drainLimit = 5 * time.Second  // for calls in flight when the daemon ends
)

// Options are the parts of a Server; all but Inspect are needed.
type Options struct {
	Gate   *enforce.Gate
	Images *image.Store
	Pods   *sandbox.Pods
	Judge  *rejudge.Judge
	Policy func() wire.Policy // what policy is in force now; must be fast
	Test   *selftest.Tester
	Log    *slog.Logger

	Inspect http.Handler // what is no call of the table: internal/inspect; nil: 404
}

// Server answers the operator. It is safe for concurrent use.
type Server struct {
	o     Options       // constant
	slots chan struct{} // has an element for each call in flight
}

// New wires a server; Serve runs it.
func New(o Options) (*Server, error) {
	if o.Gate == nil || o.Images == nil || o.Pods == nil || o.Judge == nil || o.Policy == nil || o.Test == nil || o.Log == nil {
		return nil, errors.New("make admin server: gate, images, pods, judge, policy, self-test or log is missing")
	}
	return &Server{o: o, slots: make(chan struct{}, maxCalls)}, nil
}

// Serve answers calls on l until ctx ends, then lets those in flight finish for a few seconds. It
// closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: readLimit,
		ReadTimeout:       readLimit,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.o.Log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainLimit)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			srv.Close()
		}
	})
	if err := srv.Serve(own(l, s.o.Log)); !errors.Is(err, http.ErrServerClosed) && stop() {
		return fmt.Errorf("serve admin: %w", err)
	}
	<-stopped
	return nil
}
