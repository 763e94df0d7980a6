package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/internal/admin/wire"
)

// daemon answers like the admin socket; answers are by call.
func daemon(t *testing.T, answers map[string]any) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, ok := answers[strings.TrimPrefix(r.URL.Path, "/v1/")]
		if !ok {
			w.WriteHeader(404)
			a = wire.Failure{Error: "no such call"}
		}
		json.NewEncoder(w).Encode(a)
	})}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return path
}

// typed runs the command line.
func typed(args ...string) (code int, out, errOut string) {
	var o, e bytes.Buffer
	code = run(args, &o, &e)
	return code, o.String(), e.String()
}

func TestLiveCommands(t *testing.T) {
	id := strings.Repeat("ab", 32)
	socket := daemon(t, map[string]any{
		wire.CallPs: wire.Ps{Containers: []wire.Container{{ID: id, Name: "app\x1b[2J", Namespace: "pay", Pod: "web-0", State: "running", Audit: 7, Image: "registry.example/app@sha256:1"}}},
		wire.CallPolicy: wire.Policy{Source: "signed", Dir: "/p", Layers: []wire.Layer{{Name: "node", Revision: 3, Mode: "enforce", Hash: "aa", Kept: true}},
			Problems: []wire.Problem{{Layer: "node", Msg: "bad\nfile"}}},
	})
	passing := daemon(t, map[string]any{wire.CallTest: wire.SelfTest{Passed: true, Probes: []wire.Probe{{Name: "signed", Want: "admit", Got: "admit", OK: true}}}})
	empty := daemon(t, map[string]any{wire.CallPolicy: wire.Policy{}, wire.CallTest: wire.SelfTest{Probes: []wire.Probe{{Name: "expired", Want: "deny", Got: "admit", Rule: "r"}}}})
	for _, tt := range []struct {
		args   []string
		code   int
		out    []string
		errOut string
	}{
		{[]string{"ps", "--socket", socket}, 0, []string{"ID            NAMESPACE", "abababababab  pay", "app\uFFFD[2J", "#7"}, ""},
		{[]string{"ps", "--socket", socket, "--json"}, 0, []string{`"id":"` + id}, ""},
		{[]string{"policy", "status", "--socket", socket}, 1, []string{"last good one kept", "problem: node: bad file", "source signed, /p"}, "1 problems"},
		{[]string{"policy", "status", "--socket", empty}, 1, nil, "everything is denied"},
		{[]string{"selftest", "--socket", passing}, 0, []string{"signed  admit   admit  ok"}, ""},
		{[]string{"selftest", "--socket", empty}, 1, []string{"expired  deny    admit  FAILED  r"}, "did not answer as it must"},
		{[]string{"ps", "--socket", empty}, 1, nil, "no such call"},
		{[]string{"ps", "--socket", "/nowhere/s"}, 2, nil, "does it run"},
		{[]string{"ps", "x"}, 2, nil, ""},
	} {
		code, out, errOut := typed(tt.args...)
		if code != tt.code || !strings.Contains(errOut, tt.errOut) {
			t.Errorf("%q = %d, %q, want %d, %q", tt.args, code, errOut, tt.code, tt.errOut)
		}
		for _, want := range tt.out {
			if !strings.Contains(out, want) {
				t.Errorf("%q prints\n%s\nwant %q", tt.args, out, want)
			}
		}
	}
}
