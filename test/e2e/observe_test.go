package e2e

import (
	"context"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc/metadata"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/test/node"
	"sallyport/test/otlp"
	"sallyport/test/streamclient"
)

// scraped waits until every one of wants stands in what the daemon tells Prometheus, and returns it.
func scraped(t *testing.T, address string, wants ...string) string {
	t.Helper()
	var text string
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		missing := ""
		if r, err := http.Get("http://" + address + "/metrics"); err == nil {
			b, _ := io.ReadAll(r.Body)
			r.Body.Close()
			text = string(b)
		}
		for _, want := range wants {
			if !regexp.MustCompile("(?m)^" + want + "$").MatchString(text) {
				missing = want
			}
		}
		if missing == "" {
			return text
		}
		if time.Now().After(end) {
			t.Fatalf("metrics lack %s:\n%s", missing, text)
		}
	}
}

// TestPrometheus: what the daemon did is told, and no label names an image, pod or namespace.
func TestPrometheus(t *testing.T) {
	const address = "127.0.0.1:19440"
	w := start(t, nil, "[metrics]\naddress = \""+address+"\"\n")
	image := w.push("open/observed", v1.Config{})
	podID, id, pod := w.running(image, "observed-pod", "/bin/sleep", "1000")
	if _, err := w.Pull(w.ctx, w.push("closed/app", v1.Config{}), pod); err == nil {
		t.Fatal("an image that no rule admits was pulled")
	}
	eats := node.Container("eats", image, w.pulled(image, pod), "/bin/sh", "-c", "x=x; while true; do x=$x$x; done")
	eats.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 16 << 20, MemorySwapLimitInBytes: 16 << 20}
	eater, err := w.Create(w.ctx, podID, pod, eats)
	if err == nil {
		err = w.Start(w.ctx, eater)
	}
	if err != nil {
		t.Fatal(err)
	}
	a := streamclient.Ask{Stdin: true, Stdout: true}
	c := w.stream(t, streamclient.WebSocketV5, id, a, "/bin/cat")
	io.WriteString(c.Stdin, "12345")
	out := drained(c.Stdout)
	scraped(t, address, `sallyport_streams_open\{kind="exec"\} 1`)
	c.Stdin.Close()
	if code, err := c.Wait(); err != nil || code != 0 || <-out != "12345" {
		t.Errorf("Wait() = %d, %v, want 0 and the input again", code, err)
	}
	text := scraped(t, address,
		`sallyport_streams_open\{kind="exec"\} 0`,
		`sallyport_stream_seconds_count\{kind="exec",outcome="ok"\} 1`,
		`sallyport_stream_bytes_total\{direction="in",kind="exec"\} 5`,
		`sallyport_stream_bytes_total\{direction="out",kind="exec"\} 5`,
		`sallyport_oom_kills_total 1`,
		`sallyport_containers\{state="running"\} 1`, `sallyport_containers\{state="exited"\} 1`, `sallyport_pods\{state="ready"\} 1`,
		`sallyport_pull_seconds_count\{outcome="denied"\} 1`, `sallyport_pull_seconds_count\{outcome="ok"\} 2`,
		`sallyport_pull_layers_total\{source="downloaded"\} 1`, `sallyport_pull_layers_total\{source="reused"\} 1`, `sallyport_pull_bytes_total [1-9].*`,
		`sallyport_gate_decisions_total\{outcome="deny",verb="pull"\} 1`, `sallyport_gate_denials_total\{rule="[^"]+",verb="pull"\} 1`,
		`sallyport_policy_enforced 1`, `sallyport_policy_revision 1`, `sallyport_policy_namespaces 1`, `sallyport_policy_problems 0`,
		`sallyport_network_ready 1`, `sallyport_audit_failing 0`, `sallyport_audit_failures_total 0`, `sallyport_audit_records_total [1-9].*`, `sallyport_audit_sync_seconds_count [1-9].*`,
		`sallyport_cri_seconds_count\{code="OK",method="RunPodSandbox"\} 1`, `sallyport_cri_seconds_count\{code="Unknown",method="PullImage"\} 1`)
	for _, name := range []string{"observed", "default", "closed", w.host} {
		if strings.Contains(text, name) {
			t.Errorf("metrics name %q", name)
		}
	}
}

// TestCollectionPeriod: figures are those of the last pass, and only the chosen groups are told.
func TestCollectionPeriod(t *testing.T) {
	w := start(t, nil, "[stats]\ncollection_period = \"1s\"\nincluded_pod_metrics = [\"cpu\", \"network\"]\n")
	_, id, _ := w.running(w.push("open/app", v1.Config{}), "periodic", "/bin/sleep", "1000")
	seen := map[int64]bool{}
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		r, err := w.Runtime.ContainerStats(w.ctx, &cri.ContainerStatsRequest{ContainerId: id})
		if err != nil {
			t.Fatal(err)
		}
		seen[r.Stats.Cpu.Timestamp] = true
	}
	if n := len(seen); n < 3 || n > 7 {
		t.Errorf("4 s of calls saw %d readings, want one a second", n)
	}
	p, err := w.Runtime.PodSandboxStats(w.ctx, &cri.PodSandboxStatsRequest{PodSandboxId: w.podOf(id)})
	if err != nil || p.Stats.Linux.Network.GetDefaultInterface().GetName() != "eth0" || len(p.Stats.Linux.Containers) != 1 {
		t.Errorf("PodSandboxStats() = %v, %v, want eth0 and one container", p, err)
	}
	descs, err := w.Runtime.ListMetricDescriptors(w.ctx, &cri.ListMetricDescriptorsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range descs.Descriptors {
		if !strings.HasPrefix(d.Name, "container_cpu_") && !strings.HasPrefix(d.Name, "container_network_") {
			t.Errorf("%s is told, want cpu and network alone", d.Name)
		}
	}
	m, err := w.Runtime.ListPodSandboxMetrics(w.ctx, &cri.ListPodSandboxMetricsRequest{})
	if err != nil || len(m.PodMetrics) != 1 || len(m.PodMetrics[0].Metrics) < 8 || len(m.PodMetrics[0].ContainerMetrics) != 1 {
		t.Fatalf("ListPodSandboxMetrics() = %v, %v", m, err)
	}
	for _, x := range m.PodMetrics[0].ContainerMetrics[0].Metrics {
		if !strings.HasPrefix(x.Name, "container_cpu_") {
			t.Errorf("container metric %s, want cpu alone", x.Name)
		}
	}
}

// TestTracesNest: the stages of a pod's start stand below the kubelet's span, and nothing that a pod's
// owner wrote is in them.
func TestTracesNest(t *testing.T) {
	c := otlp.Start(t)
	w := start(t, nil, "[tracing]\nenable = true\nendpoint = \""+c.Address+"\"\n")
	const theirs = "4bf92f3577b34da6a3ce929d0e0e4736"
	image := w.push("open/app", v1.Config{Env: []string{"IMAGE_SECRET=topsecret"}})
	w.ctx = metadata.AppendToOutgoingContext(w.ctx, "traceparent", "00-"+theirs+"-00f067aa0ba902b7-01")
	podID, pod := w.pod("default", "traced")
	ctr := node.Container("main", image, w.pulled(image, pod), "/bin/sh", "-c", "sleep 1000 # topsecret")
	ctr.Envs = []*cri.KeyValue{{Key: "TOKEN", Value: []byte("topsecret")}}
	id, err := w.Create(w.ctx, podID, pod, ctr)
	if err == nil {
		err = w.Start(w.ctx, id)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Runtime.ExecSync(w.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/topsecret"}}); err == nil {
		t.Error("a command that is not there ran")
	}
	w.Pull(w.ctx, w.push("closed/app", v1.Config{}), pod)
	calls := map[string][]string{ // stages below each call, at any depth
		"RunPodSandbox":   {"verdict", "audit record", "make namespaces", "network", "network plugin"},
		"PullImage":       {"resolve image", "fetch evidence", "verdict", "verify image", "audit record", "pull layers", "fetch layer", "unpack layer"},
		"CreateContainer": {"verdict", "verify image", "audit record", "mount rootfs", "monitor and runtime create"},
		"StartContainer":  {"runtime"},
		"ExecSync":        {"verdict", "runtime exec"},
	}
	missing := ""
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if missing = lacks(c.Spans(), calls); missing == "" {
			break
		}
	}
	if missing != "" {
		t.Errorf("no stage %s", missing)
	}
	rule := false
	for _, s := range c.Spans() {
		if hex.EncodeToString(s.TraceId) != theirs {
			t.Errorf("span %s is of another trace", s.Name)
		}
		if text := s.String(); strings.Contains(text, "topsecret") || strings.Contains(text, "TOKEN") || strings.Contains(text, w.host) {
			t.Errorf("a span tells too much: %s", text)
		}
		for _, a := range s.Attributes {
			rule = rule || a.Key == "sallyport.rule"
		}
	}
	if !rule {
		t.Error("no span names the rule that denied")
	}
}

// lacks names a stage that no call of the method has below it.
func lacks(spans []*trace.Span, calls map[string][]string) string {
	parents := map[string]*trace.Span{}
	for _, s := range spans {
		parents[string(s.SpanId)] = s
	}
	have := map[string]bool{}
	for _, s := range spans {
		top := s
		for parents[string(top.ParentSpanId)] != nil {
			top = parents[string(top.ParentSpanId)]
		}
		have[path.Base(top.Name)+" > "+s.Name] = true
	}
	for method, stages := range calls {
		for _, stage := range stages {
			if !have[method+" > "+stage] {
				return method + " > " + stage
			}
		}
	}
	return ""
}

// TestInspect: what CRI-O's users ask their runtime over HTTP, on the operator's socket.
func TestInspect(t *testing.T) {
	w := start(t, map[string]string{
		"node/bundle.yaml":    "name: node\nrevision: 1\nrego: [sallyport.update]\nnamespaces:\n  unlisted: allow\n",
		"node/rego/exec.rego": "package sallyport.update\n\ndeny contains {\"rule\": \"never-paused\", \"msg\": \"no\"} if input.pod.name == \"steady\"\n",
		"node/hardening.yaml": "level: baseline\n",
	}, "[inspect]\nheap = true\n")
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join("/run", filepath.Base(w.Scratch), "admin.sock"))
	}}}
	t.Cleanup(client.CloseIdleConnections)
	get := func(path string) (int, string) {
		t.Helper()
		r, err := client.Get("http://localhost" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		return r.StatusCode, string(b)
	}
	image := w.push("open/app", v1.Config{Env: []string{"SECRET=topsecret"}})
	podID, id, _ := w.running(image, "inspected", "/bin/sh", "-c", "while true; do date +%N > /tmp/x; done # topsecret")
	_, steady, _ := w.running(image, "steady", "/bin/sleep", "1000")
	for _, tt := range []struct {
		path string
		code int
		want string
	}{
		{"/info", 200, `"storage_driver":"overlay"`},
		{"/config", 200, "heap = true"},
		{"/containers/" + id, 200, `"sandbox":"` + podID + `"`},
		{"/containers/" + id[:12], 404, "give the whole ID"},
		{"/metrics", 200, "sallyport_policy_enforced 1"},
		{"/debug/goroutines", 403, "inspect.goroutines is off"},
		{"/debug/heap", 200, ""},
		{"/nowhere", 404, ""},
		{"/unpause/" + id, 409, "nothing to do"},
		{"/pause/" + id[:12], 404, "give the whole ID"},
		{"/pause/" + steady, 403, `denied by rule "never-paused"`},
		{"/pause/" + id, 200, "200 OK"},
		{"/containers/" + id, 200, `"paused":true`},
		{"/pause/" + id, 409, "nothing to do"},
		{"/unpause/" + id, 200, "200 OK"},
		{"/containers/" + id, 200, `"paused":false`},
	} {
		code, text := get(tt.path)
		if code != tt.code || !strings.Contains(text, tt.want) {
			t.Errorf("GET %s = %d, %.300q, want %d and %q", tt.path, code, text, tt.code, tt.want)
		}
		if strings.Contains(text, "topsecret") {
			t.Errorf("GET %s tells environment or arguments", tt.path)
		}
	}
	if r, err := client.Post("http://localhost/info", "", nil); err != nil || r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST /info = %v, %v, want 405", r, err)
	}
}
