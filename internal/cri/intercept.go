package cri

import (
	"context"
	"fmt"
	"path"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport/enforce"
)

// recover turns a panic of one call into code Internal and a record in the audit log: one broken
// request must not end a node's daemon, and must not go unseen.
func (s *Server) recover(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		s.o.Log.Error("panic in a CRI call", "method", info.FullMethod, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		ev := enforce.Event{Type: "daemon", Outcome: "panic", Detail: map[string]string{"method": info.FullMethod, "panic": fmt.Sprintf("%.500v", p)}}
		if rerr := s.o.Gate.Record(context.WithoutCancel(ctx), ev); rerr != nil {
			s.o.Log.Error("record panic", "err", rerr)
		}
		resp, err = nil, status.Errorf(codes.Internal, "%s: internal fault, see the daemon's log", path.Base(info.FullMethod))
	}()
	return next(ctx, req)
}

// header is what the caller sent beside its request; "" for nothing.
func header(ctx context.Context, name string) string {
	if v := metadata.ValueFromIncomingContext(ctx, name); len(v) > 0 {
		return v[0]
	}
	return ""
}

// observe counts, logs what was slow or failed, and names the calls that nobody serves.
func (s *Server) observe(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	begin := time.Now()
	ctx, call := s.o.Tracer.Call(ctx, info.FullMethod, func(name string) string { return header(ctx, name) })
	resp, err := next(ctx, req)
	call.End(uint32(status.Code(err)), err != nil)
	took, method, code := time.Since(begin), path.Base(info.FullMethod), status.Code(err)
	if s.o.Observe != nil {
		s.o.Observe(method, code.String(), took)
	}
	switch {
	case err != nil && code != codes.NotFound && code != codes.Unimplemented:
		s.o.Log.Warn("CRI call failed", "method", method, "code", code.String(), "took", took.Round(time.Millisecond), "err", status.Convert(err).Message())
	case s.o.Slow > 0 && took > s.o.Slow:
		s.o.Log.Warn("CRI call was slow", "method", method, "took", took.Round(time.Millisecond))
	default:
		s.o.Log.Debug("CRI call", "method", method, "code", code.String(), "took", took.Round(time.Microsecond))
	}
	return resp, err
}
