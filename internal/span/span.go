// Package span marks the stages of a call for traces. A room says where a stage begins and ends; whether
// anybody listens it does not know. Where the call is not traced, a stage costs one look into its context.
//
// What a span can say is closed: the names are constants, and so are the keys. Arguments, environment,
// annotations and texts of errors have no way into a trace.
package span

import (
	"context"
	"path"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Stage is the name of a span.
type Stage string

// The stages.
const (
	Resolve    Stage = "resolve image"
	Evidence   Stage = "fetch evidence"
	Verdict    Stage = "verdict"
	Verify     Stage = "verify image"
	Audit      Stage = "audit record"
	Pull       Stage = "pull layers"
	Fetch      Stage = "fetch layer"
	Unpack     Stage = "unpack layer"
	Mount      Stage = "mount rootfs"
	Namespaces Stage = "make namespaces"
	Network    Stage = "network"
	Plugin     Stage = "network plugin"
	Monitor    Stage = "monitor and runtime create"
	Runtime    Stage = "runtime"
	Exec       Stage = "runtime exec"
	Turn       Stage = "wait for a turn"
)

// Key is what a span tells beside its name and times.
type Key string

// The keys.
const (
	Verb       Key = "sallyport.verb"         // of the gate, the runtime or a network plugin
	Rule       Key = "sallyport.rule"         // that denied
	Digest     Key = "sallyport.digest"       // of a manifest or layer
	PluginName Key = "sallyport.plugin"       // of the network
	PodID      Key = "sallyport.pod.id"       // as crictl shows it
	Container  Key = "sallyport.container.id" // likewise
)

// maxValue bounds a value in bytes.
const maxValue = 128

// Span is a stage that has begun. A nil Span is one that nobody traces or follows.
type Span struct {
	of     trace.Span // constant; nil: not traced
	follow *Progress  // constant; nil: not followed
	stage  Stage      // constant
}

// Start begins a stage of the call that ctx belongs to.
func Start(ctx context.Context, stage Stage) (context.Context, *Span) {
	parent, follow := trace.SpanFromContext(ctx), progressOf(ctx)
	if !parent.IsRecording() && follow == nil {
		return ctx, nil
	}
	s := &Span{follow: follow, stage: stage}
	follow.begin(stage)
	if parent.IsRecording() {
		ctx, s.of = parent.TracerProvider().Tracer("sallyport").Start(ctx, string(stage))
	}
	return ctx, s
}

// Set tells one thing. An empty value is left out.
func (s *Span) Set(key Key, value string) {
	if s == nil || s.of == nil || value == "" {
		return
	}
	if len(value) > maxValue {
		value = value[:maxValue]
	}
	s.of.SetAttributes(attribute.String(string(key), strings.ToValidUTF8(value, "?")))
}

// Note tells one thing of the stage that ctx is in.
func Note(ctx context.Context, key Key, value string) {
	if of := trace.SpanFromContext(ctx); of.IsRecording() {
		(&Span{of: of}).Set(key, value)
	}
}

// End ends the stage. It failed if err points to an error; the error's text is not told.
func (s *Span) End(err *error) {
	if s == nil {
		return
	}
	s.follow.end(s.stage)
	if s.of == nil {
		return
	}
	if err != nil && *err != nil {
		s.of.SetStatus(codes.Error, "")
	}
	s.of.End()
}

// Tracer begins the spans of calls. A nil Tracer begins none.
type Tracer struct{ to trace.Tracer }

// NewTracer sends spans to a provider.
func NewTracer(to trace.TracerProvider) *Tracer { return &Tracer{to.Tracer("sallyport")} }

// Call begins the span of one gRPC call, below the span that its caller names in the header traceparent
// (W3C Trace Context), which header gives.
func (t *Tracer) Call(ctx context.Context, method string, header func(name string) string) (context.Context, *Call) {
	if t == nil {
		return ctx, nil
	}
	ctx = propagation.TraceContext{}.Extract(ctx, carrier(header))
	method = strings.TrimPrefix(method, "/")
	ctx, s := t.to.Start(ctx, method, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		attribute.String("rpc.system", "grpc"), attribute.String("rpc.service", path.Dir(method)), attribute.String("rpc.method", path.Base(method))))
	return ctx, &Call{s}
}

// Call is the span of a call. A nil Call is one that nobody traces.
type Call struct{ of trace.Span }

// End ends the span with the call's gRPC code. failed says whether the code is a failure.
func (c *Call) End(code uint32, failed bool) {
	if c == nil {
		return
	}
	c.of.SetAttributes(attribute.Int64("rpc.grpc.status_code", int64(code)))
	if failed {
		c.of.SetStatus(codes.Error, "")
	}
	c.of.End()
}

// carrier reads the headers of a call; nothing is ever set in them.
type carrier func(string) string

func (c carrier) Get(name string) string { return c(name) }
func (carrier) Set(string, string)       {}
func (carrier) Keys() []string           { return nil }
