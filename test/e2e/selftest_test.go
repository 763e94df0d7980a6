package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/audit"
	"sallyport/internal/admin/wire"
	"sallyport/policy"
)

// A node that enforces passes its self-test, which leaves nothing behind; one whose policy only warns
// fails it, and says so in PolicyEnforced until it passes again.
func TestSelfTest(t *testing.T) {
	w := start(t, nil, "")
	test := func() map[string]wire.Probe {
		t.Helper()
		var out wire.SelfTest
		if err := w.operator().Do(w.ctx, wire.CallTest, wire.Empty{}, &out); err != nil {
			t.Fatal(err)
		}
		got, passed := map[string]wire.Probe{}, true
		for _, p := range out.Probes {
			got[p.Name] = p
			passed = passed && p.OK
		}
		if len(got) != 5 || out.Passed != passed {
			t.Fatalf("selftest = %+v, want five probes", out)
		}
		list, err := w.Images.ListImages(w.ctx, &cri.ListImagesRequest{})
		if err != nil || len(list.Images) != 0 {
			t.Errorf("images after a self-test: %v, %v, want none", list, err)
		}
		return got
	}
	why := map[string]string{"unsigned": "found none", "tampered": "does not match any digest in statement", "expired": "ended at 2020-01-01"}
	good := func(when string) {
		t.Helper()
		for name, p := range test() {
			if !p.OK || !strings.Contains(p.Msg, why[name]) {
				t.Errorf("%s: %s = %+v, want it ok for %q", when, name, p, why[name])
			}
		}
		if c := w.condition("PolicyEnforced"); !c.Status {
			t.Errorf("%s: PolicyEnforced = %v, want true", when, c)
		}
	}
	good("healthy")

	open := w.policy()
	open["node/bundle.yaml"] = strings.Replace(open["node/bundle.yaml"], "revision: 1\n", "revision: 2\nmode: warn\n", 1)
	if err := w.SetPolicy(open); err != nil {
		t.Fatal(err)
	}
	if err := w.Reload(); err != nil {
		t.Fatal(err)
	}
	got := test()
	for _, name := range []string{"unsigned", "tampered", "expired"} {
		if p := got[name]; p.Got != "admit" || p.OK {
			t.Errorf("a policy that only warns: %s = %+v, want it admitted and that to be wrong", name, p)
		}
	}
	if !got["signed"].OK || !got["pod"].OK {
		t.Errorf("a policy that only warns: %+v, want signed and pod right", got)
	}
	if c := w.condition("PolicyEnforced"); c.Status || c.Reason != "SelfTestFailed" || !strings.Contains(c.Message, "unsigned, tampered, expired") {
		t.Errorf("PolicyEnforced = %v, want SelfTestFailed", c)
	}
	if c := w.condition(cri.RuntimeReady); !c.Status {
		t.Errorf("RuntimeReady = %v, want true", c)
	}

	mended := w.policy()
	mended["node/bundle.yaml"] = strings.Replace(mended["node/bundle.yaml"], "revision: 1\n", "revision: 3\n", 1)
	if err := w.SetPolicy(mended); err != nil {
		t.Fatal(err)
	}
	if err := w.Reload(); err != nil {
		t.Fatal(err)
	}
	good("mended")
	outcomes := ""
	audit.Read(filepath.Join(w.Path("root"), "audit"), func(r audit.Record) error {
		if r.Event.Type == "selftest" {
			outcomes += r.Event.Outcome + " "
		}
		return nil
	})
	if outcomes != "passed failed passed " {
		t.Errorf("records of self-tests: %q", outcomes)
	}
}

// The self-test's namespace pulls nothing that the node admits elsewhere and runs no pod, and its
// repository is no registry's.
func TestSelfTestWidensNothing(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{})
	own, other := w.Pod(policy.ProbeNamespace, "x"), w.Pod("default", "x")
	if _, err := w.Pull(w.ctx, image, own); err == nil || !strings.Contains(err.Error(), `denied by rule "no-rule"`) {
		t.Errorf("pull of another image in the self-test's namespace = %v, want no-rule", err)
	}
	if _, err := w.Pull(w.ctx, image, other); err != nil {
		t.Errorf("the same in another namespace: %v", err)
	}
	if _, err := w.RunPod(w.ctx, own); err == nil || !strings.Contains(err.Error(), `denied by rule "selftest-namespace"`) {
		t.Errorf("pod in the self-test's namespace = %v, want selftest-namespace", err)
	}
	if _, err := w.RunPod(w.ctx, other); err != nil {
		t.Errorf("the same in another namespace: %v", err)
	}
	if _, err := w.Pull(w.ctx, policy.ProbeRepository+":signed", own); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("pull of a probe while there is no self-test = %v, want not found", err)
	}
}
