package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/audit"
	"sallyport/enforce"
	"sallyport/policy"
	"sallyport/policy/rego"
)

func newPolicySource(t *testing.T, dir string) (*policySource, string) {
	t.Helper()
	logDir := t.TempDir()
	log, err := audit.Open(audit.Options{Dir: logDir, Node: "n", BootID: "b"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	gate, err := enforce.New(enforce.Options{Log: log, Source: "local-unsigned", EnvKey: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	return &policySource{dir: dir, scratch: t.TempDir(), latest: log.Latest, gate: gate, log: slog.New(slog.DiscardHandler)}, logDir
}

func putPolicy(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at+".tmp", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(at+".tmp", at); err != nil {
			t.Fatal(err)
		}
	}
}

func permissivePolicy(revision int) map[string]string {
	return map[string]string{
		"node/policy.json": `{"default": [{"type": "insecureAcceptAnything"}]}`,
		"node/bundle.yaml": fmt.Sprintf("name: node\nrevision: %d\n", revision),
	}
}

// A policy that changes on disk is in force without a signal, and while it changes again and again not
// one act is refused that each of the versions admits.
func TestPolicyFollowsItsDirectory(t *testing.T) {
	dir := t.TempDir()
	putPolicy(t, dir, permissivePolicy(1))
	p, logDir := newPolicySource(t, dir)
	if err := p.reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	putPolicy(t, dir, permissivePolicy(2)) // before anybody watches
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	all.Go(func() { p.Run(ctx) })
	ask := func() (enforce.PodAdmission, error) {
		return p.gate.AdmitPod(t.Context(), enforce.PodRequest{Pod: enforce.Pod{Namespace: "ns", Name: "p", UID: "u"}, PodID: "id", Config: "{}"})
	}
	first := p.gate.State().NodeHash
	for range 2 {
		all.Go(func() {
			for ctx.Err() == nil {
				adm, err := ask()
				if err == nil {
					if _, err = p.gate.RedeemPod(adm); errors.Is(err, enforce.ErrExpired) {
						err = nil // asked once more by the caller
					}
				}
				if err != nil {
					t.Errorf("while the policy changes: %v", err)
					return
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	follows := func(was, what string) string {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if now := p.gate.State().NodeHash; now != was {
				return now
			}
		}
		t.Fatalf("%s: not in force", what)
		return ""
	}
	hash := follows(first, "a change before the watch")
	for revision := 3; revision < 8; revision++ {
		putPolicy(t, dir, permissivePolicy(revision))
		hash = follows(hash, fmt.Sprintf("revision %d", revision))
	}
	cancel()
	all.Wait()
	before := records(t, logDir)
	for range 3 {
		if err := p.reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := records(t, logDir); n != before {
		t.Errorf("%d records after reading the same policy again, want %d", n, before)
	}
}

func records(t *testing.T, dir string) (n int) {
	t.Helper()
	if err := audit.Read(dir, func(audit.Record) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

// A bundle whose own cases do not hold is not installed: the last good one judges on, and the case is
// named in Status and in the log. Its twin, whose cases hold, is.
func TestPolicyTriesItsOwnCases(t *testing.T) {
	dir := t.TempDir()
	p, logDir := newPolicySource(t, dir)
	load := func(files map[string]string) string {
		t.Helper()
		putPolicy(t, dir, files)
		if err := p.reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		return p.gate.State().NodeHash
	}
	const ask = "-- request.yaml --\nnamespace: pay\nimage: registry.example/app\n-- want.yaml --\n"
	good := load(map[string]string{
		"node/bundle.yaml":       "name: node\nrevision: 1\n",
		"node/requirements.yaml": "policies:\n- {name: all, images: [{glob: \"**\"}], authorities: [{static: {action: pass}}]}\n",
		"node/tests/app.txtar":   ask + "decision: allow\n",
	})
	if p.trouble() != "" || !p.gate.State().Installed {
		t.Fatalf("cases that hold: %q", p.trouble())
	}
	red := map[string]string{"node/bundle.yaml": "name: node\nrevision: 2\n", "node/tests/app.txtar": ask + "decision: deny\nrule: all\n"}
	if now := load(red); now != good || !strings.Contains(p.trouble(), "tests/app.txtar: allowed; want a denial") {
		t.Errorf("a case that does not hold: installed %t, trouble %q", now != good, p.trouble())
	}
	// A namespace's own cases are tried on its own layer; it disturbs nobody else.
	ns := map[string]string{
		"node/tests/app.txtar":                ask + "decision: allow\n",
		"namespaces/pay/bundle.yaml":          "name: pay\n",
		"namespaces/pay/requirements.yaml":    "policies:\n- {name: none, images: [{glob: \"**\"}], authorities: [{static: {action: fail}}]}\n",
		"namespaces/pay/tests/nothing.txtar":  strings.Replace(ask, "namespace: pay\n", "", 1) + "decision: deny\nrule: none\nlayer: namespace pay\n",
		"namespaces/shop/bundle.yaml":         "name: shop\n",
		"namespaces/shop/requirements.yaml":   "policies:\n- {name: none, images: [{glob: \"**\"}], authorities: [{static: {action: fail}}]}\n",
		"namespaces/shop/tests/pretend.txtar": "-- node/bundle.yaml --\n" + ask + "decision: allow\n",
	}
	load(ns)
	if _, hit := p.set.For("pay"); hit != nil {
		t.Errorf("pay, whose case holds: %v", hit)
	}
	if _, hit := p.set.For("shop"); hit == nil || hit.Rule != "policy-test" || !strings.Contains(hit.Msg, "brings a policy") {
		t.Errorf("shop, whose case brings a policy: %v, want policy-test", hit)
	}
	found := 0
	if err := audit.Read(logDir, func(r audit.Record) error {
		if r.Event.Type == "policy" && r.Event.Outcome == "refused" && len(r.Event.Hits) > 0 && r.Event.Hits[0].Rule == "policy-test" {
			found++
		}
		return nil
	}); err != nil || found != 2 {
		t.Errorf("%d records by policy-test, %v, want 2", found, err)
	}
}

// The rules of a namespace go to the confined child, the node's stay here.
func TestNamespaceRulesAreConfined(t *testing.T) {
	dir := t.TempDir()
	p, _ := newPolicySource(t, dir)
	var asked []string
	p.confine = func(namespace string, o rego.Options) (policy.ActRule, error) {
		asked = append(asked, namespace)
		return rego.Compile(o)
	}
	p.later = func(namespace string, o rego.Options) (policy.ActRule, error) {
		asked = append(asked, namespace+" later")
		return rego.Compile(o)
	}
	files := map[string]string{}
	for _, place := range []string{"node", "namespaces/pay"} {
		files[place+"/bundle.yaml"] = "name: x\nrego: [sallyport.pod]\n"
		files[place+"/policy.json"] = `{"default": [{"type": "insecureAcceptAnything"}]}`
		files[place+"/rego/a.rego"] = "package sallyport.pod\n\ndeny contains {\"rule\": \"x\", \"msg\": \"x\"} if input.pod.hostNetwork\n"
	}
	putPolicy(t, dir, files)
	if err := p.reload(t.Context()); err != nil || p.trouble() != "" {
		t.Fatal(err, p.trouble())
	}
	if strings.Join(asked, " ") != "pay later" {
		t.Errorf("at the first reading: %q, want pay alone, at first use", asked)
	}
	asked = nil
	putPolicy(t, dir, map[string]string{"namespaces/pay/bundle.yaml": "name: y\nrego: [sallyport.pod]\n"})
	if err := p.reload(t.Context()); err != nil || strings.Join(asked, " ") != "pay" {
		t.Errorf("what changed: %v, %q, want it compiled before it is in force", err, asked)
	}
}
