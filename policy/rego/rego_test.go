package rego

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/policy"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

const privileged = `package sallyport.run

deny contains {"rule": "no-privileged", "msg": sprintf("container %s is privileged", [input.container.name])} if {
	input.container.privileged
}
`

func compile(t *testing.T, modules map[string]string, data string, packages ...string) (policy.ActRule, error) {
	t.Helper()
	o := Options{Modules: modules, Packages: packages}
	if data != "" {
		o.Data = []byte(data)
	}
	return Compile(o)
}

func mustCompile(t *testing.T, module string, packages ...string) policy.ActRule {
	t.Helper()
	r, err := compile(t, map[string]string{"rego/a.rego": module}, "", packages...)
	if err != nil {
		t.Fatalf("Compile() = %v", err)
	}
	return r
}

func run(privileged bool) policy.Act {
	return policy.Act{Verb: policy.VerbRun, Now: now, Namespace: "pay", Container: &policy.Container{Name: "app", Privileged: privileged}}
}

func TestJudgeActDenies(t *testing.T) {
	r := mustCompile(t, privileged, "sallyport.run")
	deny, warn, err := r.JudgeAct(context.Background(), run(true), nil)
	if err != nil || len(warn) != 0 || len(deny) != 1 || deny[0].Rule != "no-privileged" || deny[0].Msg != "container app is privileged" {
		t.Errorf("JudgeAct(privileged) = %v, %v, %v, want one hit of no-privileged", deny, warn, err)
	}
	deny, warn, err = r.JudgeAct(context.Background(), run(false), nil)
	if err != nil || len(deny)+len(warn) != 0 {
		t.Errorf("JudgeAct(not privileged) = %v, %v, %v, want silence", deny, warn, err)
	}
	act := run(true)
	act.Verb = policy.VerbPod
	if deny, _, err = r.JudgeAct(context.Background(), act, nil); err != nil || len(deny) != 0 {
		t.Errorf("JudgeAct(pod) = %v, %v, want silence: no package for it", deny, err)
	}
	act.Verb = "rum"
	if _, _, err = r.JudgeAct(context.Background(), act, nil); err == nil {
		t.Error("JudgeAct(unknown verb) = nil, want an error")
	}
}

func TestCompileRefuses(t *testing.T) {
	tests := []struct {
		name, module, data, want string
		packages                 []string
	}{
		{name: "unknown package", module: strings.Replace(privileged, "sallyport.run", "sallyport.rum", 1), want: "unknown package sallyport.rum"},
		{name: "foreign package", module: strings.Replace(privileged, "sallyport.run", "salyport.run", 1), want: "unknown package salyport.run"},
		{name: "package of lower level", module: strings.Replace(privileged, "sallyport.run", "sallyport.run.more", 1), want: "unknown package sallyport.run.more"},
		{name: "not listed", module: privileged, want: "not listed in bundle.yaml"},
		{name: "listed and missing", module: privileged, packages: []string{"sallyport.run", "sallyport.pod"}, want: `lists the Rego package "sallyport.pod"`},
		{name: "complete deny", module: "package sallyport.run\n\ndeny if input.container.privileged\n", packages: []string{"sallyport.run"}, want: "rego/a.rego:3: deny is no partial set"},
		{name: "deny is an object", module: "package sallyport.run\n\ndeny[input.container.name] := \"x\"\n", packages: []string{"sallyport.run"}, want: "deny is no partial set"},
		{name: "deny below deny", module: "package sallyport.run\n\ndeny.more contains \"x\" if input.container.privileged\n", packages: []string{"sallyport.run"}, want: "deny is no partial set"},
		{name: "deny is a function", module: "package sallyport.run\n\ndeny(x) if x\n\nwarn contains {\"rule\": \"a\", \"msg\": \"b\"} if deny(input.container.privileged)\n", packages: []string{"sallyport.run"}, want: "deny is no partial set"},
		{name: "misspelt deny", module: strings.Replace(privileged, "deny contains", "deney contains", 1), packages: []string{"sallyport.run"}, want: "defines neither deny nor warn"},
		{name: "misspelt second deny", module: privileged + strings.Replace(strings.SplitN(privileged, "\n", 2)[1], "deny contains", "deney contains", 1), packages: []string{"sallyport.run"}, want: "nothing uses rule deney"},
		{name: "misspelt field", module: strings.Replace(privileged, "container.privileged", "container.priviledged", 1), packages: []string{"sallyport.run"}, want: "rego/a.rego:4: undefined ref: input.container.priviledged"},
		{name: "misspelt field of the spec", module: "package sallyport.run\n\ndeny contains {\"rule\": \"a\", \"msg\": \"b\"} if input.spec.proces.user.uid == 0\n", packages: []string{"sallyport.run"}, want: "undefined ref: input.spec.proces"},
		{name: "misspelt data", module: "package sallyport.run\n\ndeny contains {\"rule\": \"a\", \"msg\": \"b\"} if data.blocked_name[input.container.name]\n", data: `{"blocked_names": {"x": true}}`, packages: []string{"sallyport.run"}, want: "rego/a.rego:3: nothing defines data.blocked_name, neither a rule nor data.json"},
		{name: "data hides package", module: privileged, data: `{"sallyport": {}}`, packages: []string{"sallyport.run"}, want: `"sallyport" is the name of a package`},
		{name: "data is no object", module: privileged, data: `[]`, packages: []string{"sallyport.run"}, want: "rego/data.json"},
		{name: "network", module: "package sallyport.run\n\ndeny contains {\"rule\": \"a\", \"msg\": \"b\"} if http.send({\"method\": \"get\", \"url\": input.container.name}).status_code == 200\n", packages: []string{"sallyport.run"}, want: "undefined function http.send"},
		{name: "host", module: "package sallyport.run\n\ndeny contains {\"rule\": \"a\", \"msg\": \"b\"} if opa.runtime().env.HOME == input.container.name\n", packages: []string{"sallyport.run"}, want: "undefined function opa.runtime"},
		{name: "chance", module: "package sallyport.run\n\ndeny contains {\"rule\": \"a\", \"msg\": \"b\"} if rand.intn(input.container.name, 2) == 1\n", packages: []string{"sallyport.run"}, want: "undefined function rand.intn"},
		{name: "syntax", module: "package sallyport.run\n\ndeny contains\n", packages: []string{"sallyport.run"}, want: "rego/a.rego:4: unexpected eof"},
		{name: "no package", module: "\n", want: "rego/a.rego"},
		{name: "annotation opens the schema", module: "package sallyport.run\n\n# METADATA\n# schemas:\n#   - input: {type: object}\ndeny contains {\"rule\": \"a\", \"msg\": \"b\"} if input.container.priviledged\n", packages: []string{"sallyport.run"}, want: "undefined ref: input.container.priviledged"},
		{name: "tests outside a test file", module: strings.Replace(privileged, "sallyport.run", "sallyport.run_test", 1), want: "tests stand in files"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := compile(t, map[string]string{"rego/a.rego": tt.module}, tt.data, tt.packages...)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("Compile() = %v, want one line with %q", err, tt.want)
			}
		})
	}
}

func TestCompileTestFiles(t *testing.T) {
	test := "package sallyport.run_test\n\ntest_a if data.sallyport.run.deny with input as {\"container\": {\"name\": \"a\", \"privileged\": true}}\n"
	if _, err := compile(t, map[string]string{"rego/a.rego": privileged, "rego/a_test.rego": test}, "", "sallyport.run"); err != nil {
		t.Errorf("Compile(with a test file) = %v", err)
	}
	if _, err := compile(t, map[string]string{"rego/a.rego": privileged, "rego/b_test.rego": privileged}, "", "sallyport.run"); err == nil {
		t.Error("Compile(rules in a test file) = nil, want an error: they would not be compiled")
	}
}

func TestJudgeActFaults(t *testing.T) {
	tests := []struct{ name, module, want string }{
		{"builtin error", "deny contains {\"rule\": \"a\", \"msg\": \"b\"} if to_number(input.container.name) > 1", "to_number"},
		{"wrong element", "deny contains \"text\" if input.container.privileged", `want {"rule": name, "msg": text}`},
		{"no msg", "deny contains {\"rule\": \"a\"} if input.container.privileged", `want {"rule": name, "msg": text}`},
		{"more than rule and msg", "deny contains {\"rule\": \"a\", \"msg\": \"b\", \"level\": \"low\"} if input.container.privileged", "nothing else"},
		{"empty rule", "deny contains {\"rule\": \"\", \"msg\": \"b\"} if input.container.privileged", `want {"rule": name`},
		{"runaway", "deny contains {\"rule\": \"a\", \"msg\": \"b\"} if {\n\tl := split(\"" + strings.Repeat("a,", 3000) + "\", \",\")\n\tsome i, j, k\n\tl[i] != l[j]\n\tl[j] != l[k]\n\tl[k] == input.container.name\n}", "did not answer in 200ms"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := mustCompile(t, "package sallyport.run\n\n"+tt.module+"\n", "sallyport.run")
			began := time.Now()
			deny, _, err := r.JudgeAct(context.Background(), run(true), nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("JudgeAct() = %v, %v, want an error with %q", deny, err, tt.want)
			}
			if d := time.Since(began); d > 5*time.Second {
				t.Errorf("JudgeAct() took %s", d)
			}
		})
	}
}

// The time is that of the judgement, so that a decision replays.
func TestJudgeActTime(t *testing.T) {
	r := mustCompile(t, "package sallyport.run\n\ndeny contains {\"rule\": \"a\", \"msg\": sprintf(\"%d\", [time.now_ns() - input.time_ns])}\n", "sallyport.run")
	deny, _, err := r.JudgeAct(context.Background(), run(false), nil)
	if err != nil || len(deny) != 1 || deny[0].Msg != "0" {
		t.Errorf("JudgeAct() = %v, %v, want a difference of 0", deny, err)
	}
}

func TestJudgeActBounds(t *testing.T) {
	r := mustCompile(t, "package sallyport.run\n\ndeny contains {\"rule\": sprintf(\"r%d\\nx\", [i]), \"msg\": input.container.name} if some i, _ in split(input.namespace, \",\")\n", "sallyport.run")
	act := run(false)
	act.Namespace, act.Container.Name = strings.Repeat("a,", 200), strings.Repeat("x", 5000)
	deny, _, err := r.JudgeAct(context.Background(), act, nil)
	if err != nil || len(deny) != maxResults || len(deny[0].Msg) > maxMsg+3 || strings.Contains(deny[0].Rule, "\n") {
		t.Errorf("JudgeAct() = %d hits, first of %d bytes, %v", len(deny), len(deny[0].Msg), err)
	}
	act.Spec = json.RawMessage(`{"hostname": "` + strings.Repeat("x", maxInput) + `"}`)
	if _, _, err = r.JudgeAct(context.Background(), act, nil); err == nil || !strings.Contains(err.Error(), "more than the limit") {
		t.Errorf("JudgeAct(huge spec) = %v, want a refusal by size", err)
	}
}

// A field that omitempty leaves out of the spec is there for a rule all the same.
func TestAbsentFieldsArePresent(t *testing.T) {
	r := mustCompile(t, `package sallyport.run

deny contains {"rule": "nnp", "msg": "b"} if input.spec.process.noNewPrivileges == false
deny contains {"rule": "seccomp", "msg": "b"} if input.spec.linux.seccomp.defaultAction != "SCMP_ACT_ERRNO"
deny contains {"rule": "limit", "msg": "b"} if input.spec.linux.resources.memory.limit == null
deny contains {"rule": "labels", "msg": "b"} if not "team" in object.keys(input.pod.labels)
deny contains {"rule": "mounts", "msg": "b"} if count(input.spec.mounts) == 0
`, "sallyport.run")
	for name, spec := range map[string]string{"nothing": "", "empty": "{}", "half": `{"process": {}, "linux": {"resources": {}}}`} {
		act := run(false)
		act.Spec = json.RawMessage(spec)
		deny, _, err := r.JudgeAct(context.Background(), act, nil)
		if err != nil || len(deny) != 5 {
			t.Errorf("%s: JudgeAct() = %v, %v, want 5 hits", name, deny, err)
		}
	}
	act := run(false)
	act.Pod = &policy.Pod{Labels: map[string]string{"team": "a"}}
	act.Spec = json.RawMessage(`{"process": {"noNewPrivileges": true}, "mounts": [{"destination": "/a"}], "linux": {"resources": {"memory": {"limit": 5}}, "seccomp": {"defaultAction": "SCMP_ACT_ERRNO"}}}`)
	if deny, _, err := r.JudgeAct(context.Background(), act, nil); err != nil || len(deny) != 0 {
		t.Errorf("JudgeAct(all present) = %v, %v, want silence", deny, err)
	}
	for _, spec := range []string{`{"proces": {}}`, `{} {}`, `{"windows": {}}`, `[]`} {
		act.Spec = json.RawMessage(spec)
		if _, _, err := r.JudgeAct(context.Background(), act, nil); err == nil {
			t.Errorf("JudgeAct(spec %s) = nil, want an error", spec)
		}
	}
}

// Rules are shared by every request of a node.
func TestJudgeActConcurrently(t *testing.T) {
	r := mustCompile(t, privileged, "sallyport.run")
	var wg sync.WaitGroup
	for i := range 4 * parallel {
		wg.Go(func() {
			deny, _, err := r.JudgeAct(context.Background(), run(i%2 == 0), nil)
			if err != nil || (len(deny) == 1) != (i%2 == 0) {
				t.Errorf("JudgeAct(%d) = %v, %v", i, deny, err)
			}
		})
	}
	wg.Wait()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for range 20 { // whether a slot is free or not, a cancelled judgement has no answer
		if _, _, err := r.JudgeAct(ctx, run(false), nil); err == nil {
			t.Error("JudgeAct(cancelled) = nil, want an error")
		}
	}
}

func BenchmarkJudgeAct(b *testing.B) {
	r, err := Compile(Options{Modules: map[string]string{"rego/a.rego": privileged}, Packages: []string{"sallyport.run"}})
	if err != nil {
		b.Fatal(err)
	}
	var names []string
	for range 350 {
		names = append(names, `"sched_setaffinity"`)
	}
	act := run(false)
	act.Spec = json.RawMessage(`{"process": {"noNewPrivileges": true, "args": ["a"]}, "mounts": [{"destination": "/a"}], "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"action": "SCMP_ACT_ALLOW", "names": [` + strings.Join(names, ",") + `]}]}}}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := r.JudgeAct(context.Background(), act, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	for b.Loop() {
		if _, err := Compile(Options{Modules: map[string]string{"rego/a.rego": privileged}, Packages: []string{"sallyport.run"}}); err != nil {
			b.Fatal(err)
		}
	}
}
