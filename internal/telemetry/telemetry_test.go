package telemetry

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport/test/streamclient"
)

var update = flag.Bool("update", false, "write docs/metrics.md")

func TestGeneratedDoc(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "metrics.md")
	if *update {
		if err := os.WriteFile(path, []byte(Markdown()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != Markdown() {
		t.Errorf("%s is stale (%v); run \"go test ./internal/telemetry -run Generated -update\"", path, err)
	}
}

// TestFamilies: the table is sorted, since it is searched so, and as Prometheus wants its names. No label
// could hold what a tenant chooses.
func TestFamilies(t *testing.T) {
	var names []string
	for _, f := range families {
		names = append(names, f.name)
		if f.help == "" || !slices.IsSorted(f.labels) || (f.kind == counter) != strings.HasSuffix(f.name, "_total") {
			t.Errorf("%s: %s %q %q", f.name, f.kind, f.labels, f.help)
		}
		for _, l := range f.labels {
			if slices.Contains([]string{"image", "pod", "namespace", "container", "name", "id"}, l) {
				t.Errorf("%s has label %s, which tenants choose", f.name, l)
			}
		}
	}
	if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Error("families are not sorted, or stand twice")
	}
}

func text(t *testing.T, m *Metrics) string {
	t.Helper()
	var b strings.Builder
	if err := m.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestWrite(t *testing.T) {
	m := New(func(s Scrape) {
		s.Set("sallyport_gate_decisions_total", 3, "deny", "pull")
		s.Sum("sallyport_audit_sync_seconds", 0.5, 2)
	})
	m.Observe("ListContainers", "OK", 3*time.Millisecond)
	m.Pulled("denied", time.Second)
	m.Streamed(Stream{Kind: "exec", Failed: true, Took: time.Second, In: 3, Out: 5})
	m.OOMKilled()
	got := text(t, m)
	for _, want := range []string{
		"# HELP sallyport_cri_seconds CRI calls", "# TYPE sallyport_cri_seconds histogram\n",
		`sallyport_gate_decisions_total{outcome="deny",verb="pull"} 3`,
		`sallyport_cri_seconds_count{code="OK",method="ListContainers"} 1`,
		`sallyport_cri_seconds_bucket{code="OK",method="ListContainers",le="0.0025"} 0`,
		`sallyport_cri_seconds_bucket{code="OK",method="ListContainers",le="0.005"} 1`,
		`sallyport_cri_seconds_bucket{code="OK",method="ListContainers",le="+Inf"} 1`,
		`sallyport_pull_seconds_sum{outcome="denied"} 1`,
		`sallyport_stream_seconds_count{kind="exec",outcome="error"} 1`,
		`sallyport_stream_bytes_total{direction="in",kind="exec"} 3`, `sallyport_stream_bytes_total{direction="out",kind="exec"} 5`,
		"sallyport_audit_sync_seconds_sum 0.5\nsallyport_audit_sync_seconds_count 2\n", "sallyport_oom_kills_total 1\n", "sallyport_audit_failures_total 0\n", "go_goroutines ", "process_open_fds ",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("metrics lack %q", want)
		}
	}
}

// A label never ends its line or its quotes, and series do not grow without end.
func TestLabelsAreBounded(t *testing.T) {
	m := New()
	m.Observe("x\"} 1\nforged 1", strings.Repeat("c", 1000), time.Second)
	for i := range 3 * maxSeries {
		m.Pulled(fmt.Sprint("outcome ", i), time.Second)
	}
	got := text(t, m)
	if strings.Contains(got, "\nforged") || !strings.Contains(got, `method="x\"} 1\nforged 1"`) {
		t.Errorf("a label wrote a line of its own:\n%.500s", got)
	}
	if strings.Contains(got, strings.Repeat("c", maxLabel+1)) {
		t.Error("a label has more bytes than the bound")
	}
	if n := strings.Count(got, "sallyport_pull_seconds_count{"); n != maxSeries {
		t.Errorf("%d series, want %d", n, maxSeries)
	}
	if want := fmt.Sprintf("sallyport_pull_seconds_count{outcome=%q} %d\n", other, 2*maxSeries+1); !strings.Contains(got, want) {
		t.Errorf("metrics lack %q", want)
	}
}

// fetch serves m and asks for a path of it.
func fetch(t *testing.T, m *Metrics, scheme string, o Listener) (*http.Response, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.Address, o.Log = l.Addr().String(), slog.New(slog.DiscardHandler)
	l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Serve(ctx, o) }()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	var resp *http.Response
	for range 100 {
		if resp, err = client.Get(scheme + "://" + o.Address + "/metrics"); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve() = %v, want nil", err)
	}
	return resp, string(body)
}

func TestServe(t *testing.T) {
	if resp, body := fetch(t, New(), "http", Listener{}); resp.StatusCode != 200 || resp.Header.Get("Content-Type") != contentType || !strings.Contains(body, "go_goroutines") {
		t.Errorf("GET /metrics = %s, %q", resp.Status, body)
	}
}

func TestServeTLS(t *testing.T) {
	dir, pair := t.TempDir(), streamclient.KeyPair(t)
	o := Listener{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	os.WriteFile(o.Cert, pair.Cert, 0o600)
	os.WriteFile(o.Key, pair.Key, 0o600)
	if resp, _ := fetch(t, New(), "https", o); resp.StatusCode != 200 {
		t.Errorf("GET /metrics = %s, want 200", resp.Status)
	}
	if resp, _ := fetch(t, New(), "http", o); resp.StatusCode != 400 {
		t.Errorf("GET /metrics without TLS = %s, want 400", resp.Status)
	}
}

func TestServeOff(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := New().Serve(ctx, Listener{}); err != nil {
		t.Errorf("Serve(\"\") = %v, want nil", err)
	}
}

func TestServeBadAddress(t *testing.T) {
	if err := New().Serve(t.Context(), Listener{Address: "256.0.0.1:1"}); err == nil || !strings.Contains(err.Error(), "serve metrics") {
		t.Errorf("Serve(bad) = %v, want an error", err)
	}
}
