package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"sallyport/audit"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"sallyport": main,
		"makelog":   func() { makeLog(os.Args[1]) },
		"flip":      func() { flip(os.Args[1], os.Args[2]) },
	})
}

// TestScripts runs testdata/script: what an operator types and sees.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", RequireExplicitExec: true})
}

// makeLog writes a log with a start, a denial, an allowed run with an input, an exec and a summary.
func makeLog(dir string) {
	l, err := audit.Open(audit.Options{Dir: dir, Node: "node-1", BootID: "boot-1"})
	check(err)
	hash, err := l.PutInput([]byte(`{"spec":"redacted"}`))
	check(err)
	id := "c0ffee" + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789"
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	for i, e := range []audit.Event{
		{Type: "daemon", Outcome: "start"},
		{Type: "decision", Verb: "pull", Outcome: "deny", Namespace: "pay", Image: "registry.example/pay/app:1", Top: "sha256:9f2c",
			Hits: []audit.Hit{{Layer: "namespace pay", Rule: "payments-release", Msg: "no signature by release.yml\x1b[2J; found 1, by mallory@evil.example"}}},
		{Type: "decision", Verb: "run", Outcome: "allow", Namespace: "pay", Pod: "web-0", PodID: "f00d01", Container: "app", ID: id,
			Image: "registry.example/pay/app:1", Rules: []string{"payments-release"}, Identities: []string{"release.yml (issuer github) over sha256:9f2c"},
			Policies: map[string]string{"node": "aa", "namespace pay": "bb"}, Source: "local-unsigned", SpecHash: "cc", InputHash: hash,
			Weakenings: []string{"seccomp: Unconfined asked, ours used"}, Warnings: []audit.Hit{{Layer: "node", Rule: "old-base", Msg: "base image is old"}}},
		{Type: "decision", Verb: "exec", Outcome: "allow", Namespace: "pay", Container: "app", ID: id, Argv: []string{"cat", "/proc/1/status"}},
		{Type: "summary", Verb: "exec", Outcome: "allow", Namespace: "pay", Container: "app", ID: id, Count: 299},
		{Type: "decision", Verb: "pod", Outcome: "allow", Namespace: "pay", Pod: "web-1", PodID: "f00d02"},
	} {
		e.Time = at.Add(time.Duration(i) * time.Minute)
		_, err := l.Append(context.Background(), e)
		check(err)
	}
	check(l.Close())
}

// flip changes one byte of a file: at an offset, from the end if negative.
func flip(file, offset string) {
	at, err := strconv.Atoi(offset)
	check(err)
	data, err := os.ReadFile(file)
	check(err)
	if at < 0 {
		at += len(data)
	}
	data[at] ^= 1
	check(os.WriteFile(file, data, 0o600))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
}
