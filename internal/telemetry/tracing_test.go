package telemetry

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"sallyport/internal/span"
	"sallyport/test/otlp"
	"sallyport/test/streamclient"
)

// A trace of the kubelet's, sampled and not (W3C Trace Context).
const (
	theirs  = "4bf92f3577b34da6a3ce929d0e0e4736"
	parent  = "00f067aa0ba902b7"
	sampled = "00-" + theirs + "-" + parent + "-01"
	not     = "00-" + theirs + "-" + parent + "-00"
)

func traced(t *testing.T, o Collector) (*span.Tracer, func()) {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	tr, err := NewTracing(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	return tr.Tracer(), func() {
		cancel()
		if err := tr.Run(ctx); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	}
}

func call(tr *span.Tracer, traceparent string) {
	ctx, c := tr.Call(context.Background(), "/runtime.v1.RuntimeService/RunPodSandbox", func(name string) string {
		return map[string]string{"traceparent": traceparent}[name]
	})
	err := errors.New("argv=secret")
	inner, sp := span.Start(ctx, span.Network)
	sp.Set(span.PodID, strings.Repeat("p", 1000))
	_, deep := span.Start(inner, span.Plugin)
	deep.End(&err)
	sp.End(nil)
	c.End(2, true)
}

func named(spans []*trace.Span) map[string]*trace.Span {
	out := map[string]*trace.Span{}
	for _, s := range spans {
		out[s.Name] = s
	}
	return out
}

// Spans stand below the caller's, and stages below one another; no text of an error is among them.
func TestTraces(t *testing.T) {
	c := otlp.Start(t)
	tr, end := traced(t, Collector{Endpoint: c.Address})
	call(tr, sampled)
	call(tr, not)
	call(tr, "") // not sampled at 0 of a million
	end()
	spans := named(c.Spans())
	if len(c.Spans()) != 3 {
		t.Fatalf("%d spans, want the 3 of the sampled call", len(c.Spans()))
	}
	root, stage, deep := spans["runtime.v1.RuntimeService/RunPodSandbox"], spans["network"], spans["network plugin"]
	if hex.EncodeToString(root.TraceId) != theirs || hex.EncodeToString(root.ParentSpanId) != parent {
		t.Errorf("root = %v, want it below the caller's span", root)
	}
	if !bytes.Equal(stage.ParentSpanId, root.SpanId) || !bytes.Equal(deep.ParentSpanId, stage.SpanId) {
		t.Error("stages are not nested")
	}
	if root.Status.GetCode() != trace.Status_STATUS_CODE_ERROR || deep.Status.GetCode() != trace.Status_STATUS_CODE_ERROR || stage.Status.GetCode() == trace.Status_STATUS_CODE_ERROR {
		t.Error("what failed is not marked, or what did not is")
	}
	for _, s := range c.Spans() {
		if strings.Contains(s.String(), "secret") {
			t.Errorf("a span tells the text of an error: %v", s)
		}
		for _, a := range s.Attributes {
			if len(a.Value.GetStringValue()) > 128 {
				t.Errorf("%s has %d bytes", a.Key, len(a.Value.GetStringValue()))
			}
		}
	}
}

func TestTraceSampling(t *testing.T) {
	c := otlp.Start(t)
	tr, end := traced(t, Collector{Endpoint: c.Address, PerMillion: 1e6})
	call(tr, "")
	call(tr, not)
	end()
	if n := len(c.Spans()); n != 3 {
		t.Errorf("%d spans, want those of the call without a trace alone", n)
	}
}

func TestTraceTLS(t *testing.T) {
	dir, pair, stranger := t.TempDir(), streamclient.KeyPair(t), streamclient.KeyPair(t)
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	for name, ca := range map[string][]byte{"known": pair.Cert, "stranger": stranger.Cert} {
		c := otlp.Start(t, grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
		file := filepath.Join(dir, name)
		os.WriteFile(file, ca, 0o600)
		tr, end := traced(t, Collector{Endpoint: c.Address, CA: file})
		call(tr, sampled)
		end()
		if n := len(c.Spans()); (n == 3) != (name == "known") {
			t.Errorf("%s: %d spans came", name, n)
		}
	}
	if _, err := NewTracing(Collector{CA: filepath.Join(dir, "none")}); err == nil {
		t.Error("NewTracing(no CA file) = nil, want an error")
	}
	os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600)
	if _, err := NewTracing(Collector{CA: filepath.Join(dir, "empty")}); err == nil {
		t.Error("NewTracing(empty CA file) = nil, want an error")
	}
}

// A collector that is not there, or takes the connection and nothing else, holds up no call and no end.
func TestTraceTroubleHoldsNobodyUp(t *testing.T) {
	deaf, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	for name, address := range map[string]string{"absent": "127.0.0.1:1", "deaf": deaf.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			var said bytes.Buffer
			tr, end := traced(t, Collector{Endpoint: address, Log: slog.New(slog.NewTextHandler(&said, nil))})
			begin := time.Now()
			for range 5 * traceQueue {
				call(tr, sampled)
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("%d calls took %s", 5*traceQueue, took)
			}
			begin = time.Now()
			end()
			if took := time.Since(begin); took > traceLast+2*time.Second {
				t.Errorf("the end took %s", took)
			}
			if n := strings.Count(said.String(), "\n"); n > 1 {
				t.Errorf("%d lines of log, want at most one:\n%s", n, said.String())
			}
		})
	}
}
