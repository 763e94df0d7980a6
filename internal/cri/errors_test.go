package cri

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport/enforce"
	"sallyport/image"
	"sallyport/sandbox"
	"sallyport/sandbox/stream"
)

func TestStatuses(t *testing.T) {
	denied := &enforce.Denied{Verb: "run", Subject: "r.example/app:v1", Hits: []enforce.Hit{{Layer: "node", Rule: "release", Msg: "no signature"}}, Seq: 7}
	for _, tt := range []struct {
		name         string
		err          error
		pull, other  codes.Code
		prefix, text string
	}{
		{"denied", fmt.Errorf("x: %w", denied), codes.Unknown, codes.PermissionDenied, "SignatureValidationFailed: r.example/app:v1 denied by rule \"release\"", "audit #7"},
		{"denied and late", errors.Join(context.DeadlineExceeded, denied), codes.Unknown, codes.PermissionDenied, "SignatureValidationFailed: ", "release"},
		{"audit fault", fmt.Errorf("%w: disk full", enforce.ErrAudit), codes.Unavailable, codes.Unavailable, "audit log", "disk full"},
		{"audit fault and late", fmt.Errorf("%w: %w", enforce.ErrAudit, context.DeadlineExceeded), codes.Unavailable, codes.Unavailable, "audit log", ""},
		{"registry down", fmt.Errorf("pull x: %w", image.ErrUnavailable), codes.Unknown, codes.Unknown, "RegistryUnavailable: pull x", ""},
		{"credentials", fmt.Errorf("pull x: %w", image.ErrUnauthorized), codes.Unknown, codes.Unknown, "pull x", ""},
		{"corrupt", fmt.Errorf("pull x: %w", image.ErrCorrupt), codes.Unknown, codes.Unknown, "pull x", "RootfsDigestMismatch"},
		{"no image", fmt.Errorf("pull x: %w", image.ErrNotFound), codes.NotFound, codes.NotFound, "pull x", ""},
		{"no container", fmt.Errorf("find: %w", sandbox.ErrNotFound), codes.NotFound, codes.NotFound, "find", ""},
		{"exec timed out", fmt.Errorf("exec: %w", sandbox.ErrTimeout), codes.DeadlineExceeded, codes.DeadlineExceeded, "exec", ""},
		{"expired", enforce.ErrExpired, codes.Unavailable, codes.Unavailable, "admission expired", ""},
		{"too many streams", fmt.Errorf("offer stream: %w", stream.ErrTooMany), codes.ResourceExhausted, codes.ResourceExhausted, "offer stream", "stream-limit"},
		{"forged", enforce.ErrForged, codes.Internal, codes.Internal, "admission", ""},
		{"other", errors.New("line one\nline two"), codes.Unknown, codes.Unknown, "line one line two", ""},
	} {
		p, o := status.Convert(pullStatus(tt.err)), status.Convert(toStatus(tt.err))
		if p.Code() != tt.pull || o.Code() != tt.other {
			t.Errorf("%s: codes = %s, %s, want %s, %s", tt.name, p.Code(), o.Code(), tt.pull, tt.other)
		}
		if !strings.HasPrefix(p.Message(), tt.prefix) || !strings.Contains(p.Message(), tt.text) || strings.Contains(p.Message(), "\n") {
			t.Errorf("%s: message = %q, want prefix %q and %q on one line", tt.name, p.Message(), tt.prefix, tt.text)
		}
	}
	if pullStatus(nil) != nil || toStatus(nil) != nil {
		t.Error("no error became one")
	}
	if m := status.Convert(toStatus(errors.New(strings.Repeat("x", 1<<20)))).Message(); len(m) > maxMessage {
		t.Errorf("message of %d bytes, want at most %d", len(m), maxMessage)
	}
}

func TestFit(t *testing.T) {
	for _, tt := range []struct{ out, err int }{{0, 0}, {10, 20}, {16 << 20, 0}, {0, 16 << 20}, {16 << 20, 16 << 20}, {16 << 20, 5}, {9 << 20, 8<<20 + 1}} {
		o, e := fit(make([]byte, tt.out), make([]byte, tt.err))
		if len(o)+len(e) > maxMessageBytes-1<<10 {
			t.Errorf("fit(%d, %d) = %d, %d: too much", tt.out, tt.err, len(o), len(e))
		}
		if tt.out+tt.err < maxMessageBytes-1<<10 && (len(o) != tt.out || len(e) != tt.err) {
			t.Errorf("fit(%d, %d) = %d, %d: cut without need", tt.out, tt.err, len(o), len(e))
		}
		if tt.err == 5 && len(e) != 5 {
			t.Errorf("fit(%d, %d) cut the short one to %d", tt.out, tt.err, len(e))
		}
	}
}
