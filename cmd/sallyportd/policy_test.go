package main

import (
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/audit"
	"sallyport/enforce"
	"sallyport/policy/bundle/layout"
	"sallyport/test/sigkit"
)

// Signed policy is judged by what its signers signed; when they are withdrawn, a running daemon denies as
// a fresh one would.
func TestPolicySourceSigned(t *testing.T) {
	dir, state, logDir := t.TempDir(), t.TempDir(), t.TempDir()
	log, err := audit.Open(audit.Options{Dir: logDir, Node: "n", BootID: "b"})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	gate, err := enforce.New(enforce.Options{Log: log, Source: "signed", EnvKey: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	p := &policySource{dir: dir, state: state, latest: log.Latest, scratch: t.TempDir(), gate: gate, log: slog.New(slog.DiscardHandler)}
	var key [3]*sigkit.Key
	for i := range key {
		if key[i], err = sigkit.NewKey(); err != nil {
			t.Fatal(err)
		}
	}
	root, alice, bob := key[0], key[1], key[2]
	check := func(files map[string]string, err error) map[string]string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	plain := map[string]string{"node/bundle.yaml": "name: node\nrevision: 1\n", "node/policy.json": `{"default": [{"type": "insecureAcceptAnything"}]}`}
	policy := func(rev uint64, by *sigkit.Key) map[string]string {
		return check(sigkit.SignedPolicy("node", layout.Config{Node: true, Revision: rev}, map[string]string{
			"bundle.yaml": "name: node\nrevision: " + string('0'+rune(rev)) + "\n", "policy.json": plain["node/policy.json"]}, by))
	}
	roots := func(version int, node *sigkit.Key) map[string]string {
		return check(sigkit.PolicyRoot{Version: version, Root: root, Node: node}.Files())
	}
	for _, tt := range []struct {
		name  string
		files []map[string]string
		rule  string // that denies; "": the policy judges
		want  string // in what is wrong with the files
	}{
		{"no root", []map[string]string{policy(1, alice)}, "policy-root", "root.json"},
		{"plain files", []map[string]string{roots(1, alice), plain}, "policy-unsigned", "plain directory"},
		{"signed by a stranger", []map[string]string{roots(1, alice), policy(1, bob)}, "policy-signature", "signed by nobody"},
		{"signed", []map[string]string{roots(1, alice), policy(1, alice)}, "", ""},
		{"plain files later", []map[string]string{roots(1, alice), plain}, "", "plain directory"},
		{"signers withdrawn", []map[string]string{roots(2, bob), policy(1, alice)}, "policy-signature", "signed by nobody"},
		{"by the new ones", []map[string]string{roots(2, bob), policy(2, bob)}, "", ""},
		{"the old revision", []map[string]string{roots(2, bob), policy(1, bob)}, "", "older than 2"},
	} {
		for _, sub := range []string{"node", "roots", "root.json"} {
			os.RemoveAll(filepath.Join(dir, sub))
		}
		all := map[string]string{}
		for _, f := range tt.files {
			maps.Copy(all, f)
		}
		for name, text := range all {
			os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755)
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err := gate.AdmitPod(t.Context(), enforce.PodRequest{Pod: enforce.Pod{Namespace: "ns", Name: "p", UID: "u"}, PodID: "id", Config: "{}"})
		rule := ""
		if d, ok := err.(*enforce.Denied); ok {
			rule = d.Hits[0].Rule
		}
		if rule != tt.rule && (tt.rule != "" || strings.HasPrefix(rule, "policy-")) {
			t.Errorf("%s: denied by %q (%v), want %q", tt.name, rule, err, tt.rule)
		}
		if got := p.trouble(); !strings.Contains(got, tt.want) || (tt.want == "") != (got == "") {
			t.Errorf("%s: trouble %q, want %q", tt.name, got, tt.want)
		}
	}
	rules := map[string]bool{}
	audit.Read(logDir, func(r audit.Record) error {
		if r.Event.Type == "policy" && r.Event.Outcome == "refused" {
			rules[r.Event.Hits[0].Layer+" "+r.Event.Hits[0].Rule] = true
		}
		if r.Event.Type == "policy" && r.Event.Outcome == "loaded" && r.Event.Source != "signed" {
			t.Errorf("record of an installed policy says source %q", r.Event.Source)
		}
		return nil
	})
	for _, want := range []string{"node policy-root", "node policy-unsigned", "node policy-signature", "node policy-rollback"} {
		if !rules[want] {
			t.Errorf("no record of a refusal by %s: %v", want, rules)
		}
	}
}

// The judged time is never behind what was recorded: a clock set back revives no root.
func TestLater(t *testing.T) {
	a, b := time.Unix(1, 0), time.Unix(2, 0)
	if later(a, b) != b || later(b, a) != b {
		t.Error("later() is not the later one")
	}
	p := &policySource{state: "/s", latest: func() time.Time { return time.Now().Add(time.Hour) }}
	if now := p.options().Signed.Now; time.Until(now) < time.Minute {
		t.Errorf("judged time %v, want that of the log", now)
	}
}
