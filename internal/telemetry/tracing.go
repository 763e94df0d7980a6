package telemetry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc/credentials"

	"sallyport/internal/span"
)

const (
	traceQueue = 4096             // spans that wait for the collector; what comes after is dropped
	traceSend  = 5 * time.Second  // for one batch
	traceLast  = 2 * time.Second  // for what waits when the daemon ends
	traceQuiet = 10 * time.Minute // between two warnings that the collector takes nothing
)

// Collector says where traces go.
type Collector struct {
	Endpoint   string // host:port of an OTLP collector (gRPC)
	CA         string // PEM file of who signs its certificate; "" sends in the clear
	PerMillion int    // calls traced of a million that come without a trace of their own
	Version    string // of the daemon
	Log        *slog.Logger
}

// Tracing sends spans to a collector. A collector that is slow, absent or broken costs dropped spans and
// nothing else: no call waits for it.
type Tracing struct {
	provider *sdk.TracerProvider // constant
	log      *slog.Logger        // constant
	warned   atomic.Int64        // when it was last said that the collector takes nothing, Unix seconds
}

// NewTracing wires the exporter; it connects when there is something to send.
func NewTracing(o Collector) (*Tracing, error) {
	options := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(o.Endpoint), otlptracegrpc.WithTimeout(traceSend), otlptracegrpc.WithInsecure()}
	if o.CA != "" {
		pem, err := os.ReadFile(o.CA)
		if err != nil {
			return nil, fmt.Errorf("trace: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("trace: %s holds no certificate", o.CA)
		}
		options[2] = otlptracegrpc.WithTLSCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}))
	}
	exporter, err := otlptracegrpc.New(context.Background(), options...) // it does not connect yet
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	t := &Tracing{log: o.Log}
	t.provider = sdk.NewTracerProvider(
		sdk.WithBatcher(exporter, sdk.WithMaxQueueSize(traceQueue), sdk.WithExportTimeout(traceSend)),
		sdk.WithSampler(sdk.ParentBased(sdk.TraceIDRatioBased(float64(o.PerMillion)/1e6))),
		sdk.WithResource(resource.NewSchemaless(attribute.String("service.name", "sallyport"), attribute.String("service.version", o.Version))))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(t.trouble))
	return t, nil
}

// Tracer begins the spans of calls.
func (t *Tracing) Tracer() *span.Tracer { return span.NewTracer(t.provider) }

// trouble says now and then that the collector takes nothing.
func (t *Tracing) trouble(err error) {
	now, last := time.Now().Unix(), t.warned.Load()
	if now-last < int64(traceQuiet/time.Second) || !t.warned.CompareAndSwap(last, now) {
		return
	}
	t.log.Warn("traces are not sent; calls go on without them", "err", err)
}

// Run waits for ctx to end and then sends what still waits, for a moment.
func (t *Tracing) Run(ctx context.Context) error {
	<-ctx.Done()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), traceLast)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.trouble(err)
	}
	return nil
}
