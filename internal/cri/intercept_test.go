package cri

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport/audit"
	"sallyport/enforce"
)

// A panic ends one call, not the daemon, and is on record.
func TestPanicIsInternalAndRecorded(t *testing.T) {
	dir := t.TempDir()
	log, err := audit.Open(audit.Options{Dir: dir, Node: "n", BootID: "b"})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	gate, err := enforce.New(enforce.Options{Log: log, Source: "local-unsigned", EnvKey: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{o: Options{Gate: gate, Log: slog.New(slog.DiscardHandler)}}
	info := &grpc.UnaryServerInfo{FullMethod: "/runtime.v1.RuntimeService/Status"}
	_, err = s.recover(t.Context(), nil, info, func(context.Context, any) (any, error) { panic("boom") })
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "Status") || strings.Contains(err.Error(), "boom") {
		t.Errorf("recover() = %v, want Internal without the panic's text", err)
	}
	recorded := false
	audit.Read(dir, func(r audit.Record) error {
		recorded = recorded || r.Event.Outcome == "panic" && r.Event.Detail["panic"] == "boom"
		return nil
	})
	if !recorded {
		t.Error("the panic is not on record")
	}
	if resp, err := s.recover(t.Context(), nil, info, func(context.Context, any) (any, error) { return 1, nil }); resp != 1 || err != nil {
		t.Errorf("recover() = %v, %v, want the call's own answer", resp, err)
	}
}
