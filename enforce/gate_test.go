package enforce_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/audit"
	"sallyport/enforce"
	"sallyport/enforce/enforcetest"
	"sallyport/image/ref"
	"sallyport/policy"
	"sallyport/policy/baseline"
	"sallyport/sandbox/spec"
	"sallyport/test/roottest"
)

// run is a request that every floor from baseline down admits; tests change one fact of it.
func run(t testing.TB) enforce.RunRequest {
	t.Helper()
	out, err := spec.Build(spec.Input{
		Pod:   spec.PodConfig{Namespace: "shop", Name: "web", UID: "u1"},
		PodID: "p1", ID: "c1",
		Container: spec.ContainerConfig{Name: "app", Command: []string{"/bin/app"}, Env: []spec.EnvVar{{Name: "TOKEN", Value: []byte("s3cret")}},
			Security: spec.ContainerSecurity{Namespaces: spec.NamespaceOptions{PID: spec.NamespaceContainer, User: spec.UserNamespace{Mode: spec.NamespaceNode}}}},
		Namespaces: spec.Namespaces{Network: "/var/run/netns/p1", IPC: "/run/sallyport/pods/p1/ns/ipc", UTS: "/run/sallyport/pods/p1/ns/uts"},
		Floor:      baseline.ForLevel(baseline.Baseline),
		Host:       spec.Host{CgroupVersion: 1, Controllers: []string{"pids", "memory", "cpu"}, Bounding: baseline.Capabilities(), Seccomp: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	img, ev := image(t)
	return enforce.RunRequest{
		Pod: policy.Pod{Namespace: "shop", Name: "web", UID: "u1"}, PodID: "p1",
		Container: policy.Container{Name: "app", ID: "c1"}, Image: img, Evidence: ev,
		Spec: string(out.JSON), Config: `{"name":"app"}`,
	}
}

func image(t testing.TB) (enforce.Image, enforce.Evidence) {
	t.Helper()
	name, err := ref.Parse("registry.example/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	id := ref.DigestOf([]byte("config"))
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"config":{"digest":%q}}`, id)
	d := ref.DigestOf(manifest)
	return enforce.Image{Name: name, Top: d, Instance: d, ID: id, OS: "linux", Arch: "amd64"},
		enforce.Evidence{TopManifest: manifest, InstanceManifest: manifest, Complete: true}
}

func gate(t testing.TB) *enforce.Gate {
	return enforcetest.Gate(t, baseline.ForLevel(baseline.Baseline))
}

// rule requires that err is a denial by exactly this rule.
func rule(t *testing.T, err error, want string) *enforce.Denied {
	t.Helper()
	var d *enforce.Denied
	if !errors.As(err, &d) {
		t.Fatalf("got %v, want a denial by rule %q", err, want)
	}
	for _, h := range d.Hits {
		if h.Rule == want {
			return d
		}
	}
	t.Fatalf("denied by %v, want rule %q", d.Hits, want)
	return nil
}

func TestRedeemOnce(t *testing.T) {
	g := gate(t)
	adm, err := g.AdmitRun(t.Context(), run(t))
	if err != nil {
		t.Fatal(err)
	}
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 100 {
		copied := adm
		wg.Go(func() {
			if _, err := g.Redeem(copied); err == nil {
				won.Add(1)
			} else if !errors.Is(err, enforce.ErrRedeemed) {
				t.Errorf("Redeem() = %v, want ErrRedeemed", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d of 100 copies were redeemed, want 1", won.Load())
	}
}

func TestRedeemZero(t *testing.T) {
	g := gate(t)
	for name, redeem := range map[string]func() (enforce.Grant, error){
		"pull":   func() (enforce.Grant, error) { return g.RedeemPull(enforce.PullAdmission{}) },
		"pod":    func() (enforce.Grant, error) { return g.RedeemPod(enforce.PodAdmission{}) },
		"run":    func() (enforce.Grant, error) { return g.Redeem(enforce.RunAdmission{}) },
		"update": func() (enforce.Grant, error) { return g.RedeemUpdate(enforce.UpdateAdmission{}) },
		"exec":   func() (enforce.Grant, error) { return g.RedeemExec(enforce.ExecAdmission{}) },
		"attach": func() (enforce.Grant, error) { return g.RedeemAttach(enforce.AttachAdmission{}) },
		"ports":  func() (enforce.Grant, error) { return g.RedeemPortForward(enforce.PortForwardAdmission{}) },
	} {
		if got, err := redeem(); !errors.Is(err, enforce.ErrForged) || got.Valid() {
			t.Errorf("%s: redeeming the zero admission = %v, %v, want ErrForged", name, got.Valid(), err)
		}
	}
}

func TestRedeemOfAnotherGate(t *testing.T) {
	adm, err := gate(t).AdmitRun(t.Context(), run(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gate(t).Redeem(adm); !errors.Is(err, enforce.ErrForged) {
		t.Errorf("Redeem() at another gate = %v, want ErrForged", err)
	}
}

func TestRedeemAfterPolicyChange(t *testing.T) {
	floor := baseline.ForLevel(baseline.Baseline)
	node := enforcetest.AnyImage(t, floor)
	shop := enforcetest.Layer(t, "namespace shop", "policies: [{name: a, images: [{glob: '**'}], authorities: [{static: {action: pass}}]}]", floor)
	for name, tc := range map[string]struct {
		next enforce.Policies
		want error
	}{
		"same":            {enforce.Policies{Node: node}, nil},
		"other node":      {enforce.Policies{Node: enforcetest.AnyImage(t, baseline.ForLevel(baseline.Privileged))}, enforce.ErrExpired},
		"namespace added": {enforce.Policies{Node: node, For: func(string) (*policy.Layer, *policy.Hit) { return shop, nil }}, enforce.ErrExpired},
		"another namespace's added": {enforce.Policies{Node: node, For: func(ns string) (*policy.Layer, *policy.Hit) {
			if ns == "other" {
				return shop, nil
			}
			return nil, nil
		}}, nil},
		"policy gone": {enforce.Policies{}, enforce.ErrExpired},
	} {
		g, _ := enforcetest.With(t, enforce.Policies{Node: node})
		adm, err := g.AdmitRun(t.Context(), run(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Install(t.Context(), tc.next); err != nil {
			t.Fatal(err)
		}
		if _, err := g.Redeem(adm); !errors.Is(err, tc.want) {
			t.Errorf("%s: Redeem() = %v, want %v", name, err, tc.want)
		}
	}
}

// TestGrantIsWhatWasJudged: the grant carries the very bytes, and the record their hash.
func TestGrantIsWhatWasJudged(t *testing.T) {
	g, dir := enforcetest.With(t, enforce.Policies{Node: enforcetest.AnyImage(t, baseline.ForLevel(baseline.Baseline))})
	r := run(t)
	adm, err := g.AdmitRun(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := g.Redeem(adm)
	if err != nil {
		t.Fatal(err)
	}
	if got.Spec() != r.Spec || got.Config() != r.Config || got.Subject() != "c1" || got.Image() != r.Image || got.Namespace() != "shop" {
		t.Error("the grant is not what was judged")
	}
	rec, err := audit.Find(dir, got.Receipt().Seq())
	if err != nil {
		t.Fatal(err)
	}
	if want := ref.DigestOf([]byte(r.Spec)).Hex(); rec.Event.SpecHash != want || rec.Event.Outcome != "allow" || rec.Event.ID != "c1" {
		t.Errorf("record = %s %s %s, want allow c1 %s", rec.Event.Outcome, rec.Event.ID, rec.Event.SpecHash, want)
	}
	input, err := audit.Input(dir, rec.Event.InputHash)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(input, []byte("s3cret")) || !bytes.Contains(input, []byte("TOKEN=hmac:")) {
		t.Errorf("the recorded input must name TOKEN and hide its value; got %s", input)
	}
}

// TestRunDenials: each changes one fact of a request that is admitted.
func TestRunDenials(t *testing.T) {
	other := ref.DigestOf([]byte("other"))
	for _, tc := range []struct {
		name, rule string
		change     func(*enforce.RunRequest)
	}{
		{"empty namespace", "run-facts", func(r *enforce.RunRequest) { r.Pod.Namespace = "" }},
		{"no container ID", "run-facts", func(r *enforce.RunRequest) { r.Container.ID = "" }},
		{"no config", "run-facts", func(r *enforce.RunRequest) { r.Config = "" }},
		{"manifest swapped in the store", "digest-mismatch", func(r *enforce.RunRequest) { r.Evidence.TopManifest = []byte(`{"x":1}`) }},
		{"instance swapped in the store", "digest-mismatch", func(r *enforce.RunRequest) { r.Evidence.InstanceManifest = []byte(`{"x":1}`) }},
		{"image ID of another config", "digest-mismatch", func(r *enforce.RunRequest) { r.Image.ID = other }},
		{"no digests", "digest-mismatch", func(r *enforce.RunRequest) { r.Image.Top = ref.Digest{} }},
		{"name asks for another digest", "digest-mismatch", func(r *enforce.RunRequest) { r.Image.Name = r.Image.Name.WithDigest(other) }},
		{"evidence incomplete", "evidence-incomplete", func(r *enforce.RunRequest) { r.Evidence.Complete = false; r.Evidence.Missing = "registry answered 503" }},
		{"refusal while building", "floor-seccomp", func(r *enforce.RunRequest) { r.Refusals = []policy.Hit{{Rule: "floor-seccomp", Msg: "Unconfined"}} }},
		{"no_new_privs of another process", "B01 canonical form", func(r *enforce.RunRequest) { r.Spec += " " }},
		{"capability added after building", "B08 capabilities", func(r *enforce.RunRequest) {
			r.Spec = strings.Replace(r.Spec, `"bounding":["CAP_`, `"bounding":["CAP_SYS_ADMIN","CAP_`, 1)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := gate(t)
			if _, err := g.AdmitRun(t.Context(), run(t)); err != nil {
				t.Fatalf("the allowed twin is refused: %v", err)
			}
			r := run(t)
			tc.change(&r)
			if adm, err := g.AdmitRun(t.Context(), r); err == nil {
				t.Fatalf("admitted %v", adm)
			} else {
				rule(t, err, tc.rule)
			}
		})
	}
}

func TestLayersOnlyTighten(t *testing.T) {
	floor := baseline.ForLevel(baseline.Baseline)
	const pass, fail = "pass", "fail"
	layer := func(name, action string) *policy.Layer {
		return enforcetest.Layer(t, name, "policies: [{name: r-"+action+", images: [{glob: '**'}], authorities: [{static: {action: "+action+"}}]}]", floor)
	}
	for _, tc := range []struct{ node, ns, rule string }{
		{pass, "", ""}, {pass, pass, ""}, {pass, fail, "r-fail"}, {fail, pass, "r-fail"}, {fail, "", "r-fail"}, {pass, "refused", "policy-broken"}, {"", pass, "no-policy"},
	} {
		p := enforce.Policies{For: func(string) (*policy.Layer, *policy.Hit) {
			switch tc.ns {
			case "":
				return nil, nil
			case "refused":
				return nil, &policy.Hit{Layer: "namespace shop", Rule: "policy-broken", Msg: "broken"}
			}
			return layer("namespace shop", tc.ns), nil
		}}
		if tc.node != "" {
			p.Node = layer("node", tc.node)
		}
		g, _ := enforcetest.With(t, p)
		_, err := g.AdmitRun(t.Context(), run(t))
		if tc.rule == "" {
			if err != nil {
				t.Errorf("node %s, namespace %s: %v, want admitted", tc.node, tc.ns, err)
			}
			continue
		}
		rule(t, err, tc.rule)
	}
}

// TestPullWithoutNamespace is judged by the node policy alone.
func TestPullWithoutNamespace(t *testing.T) {
	asked := 0
	g, _ := enforcetest.With(t, enforce.Policies{Node: enforcetest.AnyImage(t, baseline.Floor{}),
		For: func(string) (*policy.Layer, *policy.Hit) { asked++; return nil, &policy.Hit{Rule: "unlisted"} }})
	img, ev := image(t)
	if _, err := g.AdmitPull(t.Context(), enforce.PullRequest{Image: img, Evidence: ev}); err != nil {
		t.Errorf("AdmitPull() without a namespace = %v, want admitted by the node policy", err)
	}
	if asked != 0 {
		t.Error("a namespace's policy was asked about a pull without one")
	}
	_, err := g.AdmitPull(t.Context(), enforce.PullRequest{Namespace: "shop", Image: img, Evidence: ev})
	rule(t, err, "unlisted")
}

// Where there is no node policy because it is broken, a pull without a namespace is told that, and not
// to install what is there.
func TestBrokenPolicyIsNamedToAll(t *testing.T) {
	g, _ := enforcetest.With(t, enforce.Policies{For: func(string) (*policy.Layer, *policy.Hit) {
		return nil, &policy.Hit{Layer: "node", Rule: "policy-broken", Msg: "requirements.yaml: line 3"}
	}})
	img, ev := image(t)
	for _, namespace := range []string{"", "shop"} {
		_, err := g.AdmitPull(t.Context(), enforce.PullRequest{Namespace: namespace, Image: img, Evidence: ev})
		rule(t, err, "policy-broken")
	}
}

func TestPodFloor(t *testing.T) {
	g := gate(t)
	pod := func(change func(*policy.Pod)) error {
		p := policy.Pod{Namespace: "shop", Name: "web", UID: "u1"}
		change(&p)
		_, err := g.AdmitPod(t.Context(), enforce.PodRequest{Pod: p, PodID: "p1", Config: "{}"})
		return err
	}
	if err := pod(func(*policy.Pod) {}); err != nil {
		t.Fatalf("a pod that asks nothing: %v", err)
	}
	rule(t, pod(func(p *policy.Pod) { p.HostNetwork = true }), "P01 host network")
	rule(t, pod(func(p *policy.Pod) { p.Privileged = true }), "P05 privileged")
	rule(t, pod(func(p *policy.Pod) { p.Sysctls = map[string]string{"kernel.core_pattern": "|/x"} }), "P06 sysctls")
	rule(t, pod(func(p *policy.Pod) { p.UID = "" }), "pod-facts")
}

func execRequest(t *testing.T, argv ...string) enforce.ExecRequest {
	r := run(t)
	process, err := spec.BuildExec(spec.ExecInput{Spec: []byte(r.Spec), Args: argv})
	if err != nil {
		t.Fatal(err)
	}
	return enforce.ExecRequest{Pod: r.Pod, PodID: r.PodID, Container: r.Container, Process: string(process), Spec: r.Spec,
		Exec: policy.Exec{Argv: argv, Probe: true}}
}

// TestProbesAreCounted: the first use is a record, repeats are not; another command is.
func TestProbesAreCounted(t *testing.T) {
	g, dir := enforcetest.With(t, enforce.Policies{Node: enforcetest.AnyImage(t, baseline.ForLevel(baseline.Baseline))})
	records := func() (n int) {
		if err := audit.Read(dir, func(r audit.Record) error {
			if r.Event.Verb == "exec" {
				n++
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for range 20 {
		adm, err := g.AdmitExec(t.Context(), execRequest(t, "/bin/true"))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := g.RedeemExec(adm); err != nil || got.Spec() == "" {
			t.Fatalf("RedeemExec() = %v, %v", got, err)
		}
	}
	if got := records(); got != 1 {
		t.Errorf("20 equal probes left %d records, want 1", got)
	}
	if _, err := g.AdmitExec(t.Context(), execRequest(t, "/bin/false")); err != nil {
		t.Fatal(err)
	}
	if got := records(); got != 2 {
		t.Errorf("another command left %d records in all, want 2", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if got := records(); got != 3 {
		t.Errorf("after the summary there are %d records, want 3", got)
	}
}

func TestExecStaysConfined(t *testing.T) {
	g := gate(t)
	ok := execRequest(t, "/bin/true")
	if _, err := g.AdmitExec(t.Context(), ok); err != nil {
		t.Fatal(err)
	}
	more := ok
	more.Process = strings.Replace(more.Process, `"noNewPrivileges":true`, `"noNewPrivileges":false`, 1)
	if more.Process == ok.Process {
		more.Process = strings.Replace(more.Process, `"bounding":[`, `"bounding":["CAP_SYS_ADMIN",`, 1)
	}
	_, err := g.AdmitExec(t.Context(), more)
	rule(t, err, "X03 same confinement")
	empty := ok
	empty.Exec.Argv = nil
	empty.Exec.Probe = false
	_, err = g.AdmitExec(t.Context(), empty)
	rule(t, err, "exec-facts")
}

// TestNoRecordNoRun: a log that cannot be written admits nothing, of no verb.
func TestNoRecordNoRun(t *testing.T) {
	dir := t.TempDir()
	log, err := audit.Open(audit.Options{Dir: dir, Node: "n", BootID: "b"})
	if err != nil {
		t.Fatal(err)
	}
	g, err := enforce.New(enforce.Options{Log: log, Source: "test", EnvKey: bytes.Repeat([]byte{7}, 32)})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Install(t.Context(), enforce.Policies{Node: enforcetest.AnyImage(t, baseline.ForLevel(baseline.Baseline))}); err != nil {
		t.Fatal(err)
	}
	first := execRequest(t, "/bin/true")
	if _, err := g.AdmitExec(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	log.Close()
	img, ev := image(t)
	for name, admit := range map[string]func() error{
		"run": func() error { _, err := g.AdmitRun(t.Context(), run(t)); return err },
		"pull": func() error {
			_, err := g.AdmitPull(t.Context(), enforce.PullRequest{Image: img, Evidence: ev})
			return err
		},
		"pod": func() error {
			_, err := g.AdmitPod(t.Context(), enforce.PodRequest{Pod: policy.Pod{Namespace: "shop", Name: "web", UID: "u1"}, PodID: "p", Config: "{}"})
			return err
		},
		"update": func() error {
			_, err := g.AdmitUpdate(t.Context(), enforce.UpdateRequest{Pod: policy.Pod{Namespace: "shop"}, Container: policy.Container{ID: "c1"}, Resources: []byte("{}")})
			return err
		},
		"exec":        func() error { _, err := g.AdmitExec(t.Context(), execRequest(t, "/bin/other")); return err },
		"attach":      func() error { _, err := g.AdmitAttach(t.Context(), attachRequest()); return err },
		"portforward": func() error { _, err := g.AdmitPortForward(t.Context(), portsRequest(80)); return err },
	} {
		if err := admit(); !errors.Is(err, enforce.ErrAudit) {
			t.Errorf("%s with a closed log = %v, want ErrAudit", name, err)
		}
	}
	if g.AuditError() == nil {
		t.Error("AuditError() = nil after a failure to record")
	}
	if _, err := g.AdmitExec(t.Context(), first); !errors.Is(err, enforce.ErrAudit) {
		t.Errorf("a repeated probe with a failed log = %v, want ErrAudit", err)
	}
}

// TestEqualDenialsAreOneRecord: the kubelet asks again and again; the text stays the same.
func TestEqualDenialsAreOneRecord(t *testing.T) {
	g, dir := enforcetest.With(t, enforce.Policies{})
	var texts []string
	for range 10 {
		_, err := g.AdmitRun(t.Context(), run(t))
		texts = append(texts, rule(t, err, "no-policy").Error())
	}
	for _, s := range texts {
		if s != texts[0] || len(s) > 1024 || strings.ContainsAny(s, "\n\t") {
			t.Fatalf("texts differ or are no events: %q and %q", texts[0], s)
		}
	}
	n := 0
	if err := audit.Read(dir, func(r audit.Record) error {
		if r.Event.Verb == "run" {
			n++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if n != 1 {
		t.Errorf("10 equal denials left %d records, want 1", n)
	}
	if got := g.State().Denials; len(got) != 1 || slices.Max(slices.Collect(maps.Values(got))) != 10 {
		t.Errorf("State().Denials = %v, want each of them counted by its rule", got)
	}
}

func TestDeniedTextIsOneBoundedLine(t *testing.T) {
	d := &enforce.Denied{Verb: policy.VerbPull, Subject: "reg.example/a:v1", Seq: 7,
		Hits: []policy.Hit{{Layer: "node", Rule: "r\n", Msg: strings.Repeat("ö\u202e\x1b[31m\n", 900)}, {Rule: "more"}}}
	got := d.Error()
	if len(got) > 1024 || strings.ContainsAny(got, "\n\x1b\u202e") {
		t.Errorf("Error() has %d bytes or control characters: %q", len(got), got)
	}
	if !strings.HasPrefix(got, "reg.example/a:v1 denied by rule") || !strings.HasSuffix(got, `; and 1 more (audit #7); run "sallyport explain 7"`) {
		t.Errorf("Error() = %q", got)
	}
}

type panicking struct{}

func (panicking) JudgeImage(context.Context, policy.ImageInput) (policy.ImageFinding, error) {
	panic("rule")
}

type slow struct{}

func (slow) JudgeImage(ctx context.Context, _ policy.ImageInput) (policy.ImageFinding, error) {
	<-ctx.Done()
	return policy.ImageFinding{Matched: true}, nil
}

// TestEngineFaultsDeny: a panic or a timeout denies whatever the mode, and is judged again next time.
func TestEngineFaultsDeny(t *testing.T) {
	for name, tc := range map[string]struct {
		rule policy.ImageRule
		want string
	}{"panic": {panicking{}, "panic"}, "timeout": {slow{}, "verify"}} {
		layer := &policy.Layer{Name: "node", Hash: "h", Mode: policy.Warn, Images: []policy.ImageRule{tc.rule}, Floor: baseline.ForLevel(baseline.Baseline)}
		g, _ := enforcetest.With(t, enforce.Policies{Node: layer})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := g.AdmitRun(ctx, run(t))
		if name == "timeout" && errors.Is(err, enforce.ErrAudit) {
			continue // the caller's own deadline ended the record too: nothing was admitted
		}
		rule(t, err, tc.want)
	}
}

// TestWarnDoesNotCoverMismatch: a mode governs rules, not bytes.
func TestWarnDoesNotCoverMismatch(t *testing.T) {
	layer := enforcetest.Layer(t, "node", "policies: [{name: a, images: [{glob: '**'}], authorities: [{static: {action: fail}}]}]", baseline.ForLevel(baseline.Baseline))
	layer.Mode = policy.Warn
	g, _ := enforcetest.With(t, enforce.Policies{Node: layer})
	if _, err := g.AdmitRun(t.Context(), run(t)); err != nil {
		t.Fatalf("warn mode refuses: %v", err)
	}
	r := run(t)
	r.Evidence.TopManifest = []byte("{}")
	_, err := g.AdmitRun(t.Context(), r)
	rule(t, err, "digest-mismatch")
}

// TestCacheForgetsNothing: the verdict of one name, namespace or evidence is not another's.
func TestCacheForgetsNothing(t *testing.T) {
	var asked atomic.Int32
	layer := &policy.Layer{Name: "node", Hash: "h", Images: []policy.ImageRule{counting{&asked}}, Floor: baseline.ForLevel(baseline.Baseline)}
	g, _ := enforcetest.With(t, enforce.Policies{Node: layer})
	img, ev := image(t)
	pull := func(img enforce.Image, ev enforce.Evidence) {
		if _, err := g.AdmitPull(t.Context(), enforce.PullRequest{Image: img, Evidence: ev}); err != nil {
			t.Fatal(err)
		}
	}
	pull(img, ev)
	pull(img, ev)
	if asked.Load() != 1 {
		t.Errorf("the same image was judged %d times, want 1", asked.Load())
	}
	other := img
	other.Name, _ = ref.Parse("registry.example/other:v1")
	pull(other, ev)
	ev.Bundles = []enforce.Bundle{{Subject: img.Top, JSON: []byte("x")}}
	pull(img, ev)
	ev.Bundles[0].JSON = []byte("y")
	pull(img, ev)
	ev.Simple = []enforce.Simple{{Subject: img.Top, Payload: []byte("p")}}
	pull(img, ev)
	if asked.Load() != 5 {
		t.Errorf("five different questions were judged %d times", asked.Load())
	}
}

type counting struct{ n *atomic.Int32 }

func (c counting) JudgeImage(context.Context, policy.ImageInput) (policy.ImageFinding, error) {
	c.n.Add(1)
	return policy.ImageFinding{Matched: true}, nil
}

// TestInstallNeedsARecord: a policy that cannot be recorded is not put in force.
func TestInstallNeedsARecord(t *testing.T) {
	log, err := audit.Open(audit.Options{Dir: t.TempDir(), Node: "n", BootID: "b"})
	if err != nil {
		t.Fatal(err)
	}
	g, err := enforce.New(enforce.Options{Log: log, EnvKey: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	log.Close()
	if err := g.Install(t.Context(), enforce.Policies{Node: enforcetest.AnyImage(t, baseline.Floor{})}); !errors.Is(err, enforce.ErrAudit) {
		t.Errorf("Install() = %v, want ErrAudit", err)
	}
	if g.State().Installed {
		t.Error("the policy is in force without a record")
	}
}

func TestNewRefusesHalfAGate(t *testing.T) {
	if _, err := enforce.New(enforce.Options{EnvKey: make([]byte, 32)}); err == nil {
		t.Error("New() without a log: no error")
	}
	log, err := audit.Open(audit.Options{Dir: t.TempDir(), Node: "n", BootID: "b"})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if _, err := enforce.New(enforce.Options{Log: log, EnvKey: make([]byte, 8)}); err == nil {
		t.Error("New() with a short key: no error")
	}
}

// TestRecoversFromFullDisk: what failed for want of space is admitted once there is space again.
func TestRecoversFromFullDisk(t *testing.T) {
	roottest.Need(t)
	dir := filepath.Join(t.TempDir(), "small")
	mountSmall(t, dir)
	log, err := audit.Open(audit.Options{Dir: filepath.Join(dir, "audit"), Node: "n", BootID: "b"})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	g, err := enforce.New(enforce.Options{Log: log, EnvKey: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Install(t.Context(), enforce.Policies{Node: enforcetest.AnyImage(t, baseline.ForLevel(baseline.Baseline))}); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	if _, err := g.AdmitRun(t.Context(), run(t)); !errors.Is(err, enforce.ErrAudit) {
		t.Fatalf("AdmitRun() on a full disk = %v, want ErrAudit", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		if _, err = g.AdmitRun(t.Context(), run(t)); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("AdmitRun() after the disk has room again = %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
