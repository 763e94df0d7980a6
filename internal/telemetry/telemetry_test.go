package telemetry

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestServe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	m := New(func() Gate { return Gate{Decisions: map[string]uint64{"pull deny": 3}, Enforced: true} })
	m.Observe("ListContainers", "OK", 3*time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Serve(ctx, address) }()
	var resp *http.Response
	for range 100 {
		if resp, err = http.Get("http://" + address + "/metrics"); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	for _, want := range []string{`sallyport_gate_decisions_total{outcome="deny",verb="pull"} 3`, "sallyport_policy_enforced 1",
		`sallyport_cri_seconds_count{code="OK",method="ListContainers"} 1`,
		`sallyport_cri_seconds_bucket{code="OK",method="ListContainers",le="0.0025"} 0`, `sallyport_cri_seconds_bucket{code="OK",method="ListContainers",le="0.005"} 1`} {
		if !strings.Contains(string(body), want) {
			t.Errorf("/metrics lacks %q", want)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve() = %v, want nil", err)
	}
}

func TestServeOff(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := New(func() Gate { return Gate{} }).Serve(ctx, ""); err != nil {
		t.Errorf("Serve(\"\") = %v, want nil", err)
	}
}

func TestServeBadAddress(t *testing.T) {
	if err := New(func() Gate { return Gate{} }).Serve(t.Context(), "256.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "serve metrics") {
		t.Errorf("Serve(bad) = %v, want an error", err)
	}
}
