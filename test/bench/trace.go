package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"sallyport/test/node"
)

// spans is a collector of traces that keeps what it is sent.
type spans struct {
	collector.UnimplementedTraceServiceServer
	mu  sync.Mutex   // guards all
	all []*otlp.Span // guarded by mu
}

// Export takes spans (OTLP).
func (s *spans) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, res := range r.ResourceSpans {
		for _, scope := range res.ScopeSpans {
			s.all = append(s.all, scope.Spans...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// traced starts pods on a node that sends traces, and prints where the time of one goes: medians, by
// stage below its call.
func (b *bench) traced() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	got := &spans{}
	srv := grpc.NewServer()
	collector.RegisterTraceServiceServer(srv, got)
	go srv.Serve(l)
	defer srv.Stop()
	if err := b.node.StopDaemon(); err != nil {
		return err
	}
	o := b.node.Options
	o.Config = fmt.Sprintf("[tracing]\nenable = true\nendpoint = %q\nsampling_rate_per_million = 1000000\n", l.Addr())
	if b.node, err = node.New(b.ctx, o); err != nil {
		return err
	}
	for i := range b.pods {
		s, err := b.start(b.node.Pod("bench", fmt.Sprintf("traced-%d", i)))
		if err != nil {
			return err
		}
		if err := b.stop(s); err != nil {
			return err
		}
	}
	if err := b.node.StopDaemon(); err != nil { // which sends what it holds
		return err
	}
	got.mu.Lock()
	defer got.mu.Unlock()
	b.tree(got.all)
	return nil
}

// tree adds a figure for each stage, in the order in which stages begin.
func (b *bench) tree(all []*otlp.Span) {
	byID := map[string]*otlp.Span{}
	for _, s := range all {
		byID[string(s.SpanId)] = s
	}
	type stage struct {
		took  []time.Duration
		begin time.Duration // the least, after the call began
	}
	stages := map[string]*stage{}
	for _, s := range all {
		name, root := label(s), s
		for p := byID[string(s.ParentSpanId)]; p != nil; p = byID[string(p.ParentSpanId)] {
			name, root = label(p)+"\n"+name, p
		}
		if stages[name] == nil {
			stages[name] = &stage{begin: time.Hour}
		}
		st := stages[name]
		st.took = append(st.took, time.Duration(s.EndTimeUnixNano-s.StartTimeUnixNano))
		st.begin = min(st.begin, time.Duration(s.StartTimeUnixNano-root.StartTimeUnixNano))
	}
	calls := []string{"RunPodSandbox", "CreateContainer", "StartContainer", "StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox"}
	var names []string
	for name := range stages {
		if call, _, _ := strings.Cut(name, "\n"); slices.Contains(calls, call) {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, c string) int {
		x, _, _ := strings.Cut(a, "\n")
		y, _, _ := strings.Cut(c, "\n")
		return cmp.Or(cmp.Compare(slices.Index(calls, x), slices.Index(calls, y)), cmp.Compare(stages[a].begin, stages[c].begin), cmp.Compare(len(a), len(c)))
	})
	for _, name := range names {
		parts := strings.Split(name, "\n")
		b.add(strings.Repeat("  ", len(parts)-1)+parts[len(parts)-1], "", stages[name].took)
	}
}

// label is a span's name with what tells it from others of the same stage.
func label(s *otlp.Span) string {
	name := path.Base(s.Name)
	for _, a := range s.Attributes {
		if a.Key == "sallyport.verb" || a.Key == "sallyport.plugin" {
			name += " " + a.Value.GetStringValue()
		}
	}
	return name
}
