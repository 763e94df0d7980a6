package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/audit"
	"sallyport/internal/admin/wire"
	"sallyport/test/node"
	"sallyport/test/sigkit"
)

// findings waits until ps shows so many containers with findings.
func (w *world) findings(want int) (out []wire.Container) {
	w.t.Helper()
	for range 150 {
		var ps wire.Ps
		if err := w.operator().Do(w.ctx, wire.CallPs, wire.Empty{}, &ps); err != nil {
			w.t.Fatal(err)
		}
		out = nil
		for _, c := range ps.Containers {
			if c.State == "running" && len(c.Findings) > 0 {
				out = append(out, c)
			}
		}
		if len(out) == want {
			return out
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.t.Fatalf("ps shows %d containers with findings, want %d: %+v", len(out), want, out)
	return nil
}

// What runs is judged again when the policy changes, without the registry: by default it is reported and
// runs on; where the policy says stop, as many are stopped as it says, and then it halts and says so.
func TestRunningContainersAreJudgedAgain(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("signed/app", v1.Config{})
	podID, pod := w.pod("default", "old")
	var ids []string
	for _, name := range []string{"one", "two"} {
		id, err := w.Create(w.ctx, podID, pod, node.Container(name, image, w.pulled(image, pod), "/bin/sh", "-c", "trap \"exit 0\" TERM; while :; do sleep 0.1; done"))
		if err == nil {
			err = w.Start(w.ctx, id)
		}
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	w.registry.Close()
	time.Sleep(3 * time.Second) // a pass at least
	w.findings(0)
	running := func() (n int) {
		for _, id := range ids {
			if w.state(id).State == cri.ContainerState_CONTAINER_RUNNING {
				n++
			}
		}
		return n
	}
	other, err := sigkit.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	old := w.key
	install := func(key *sigkit.Key, rejudge string) {
		t.Helper()
		w.key = key
		p := w.policy()
		p["node/bundle.yaml"] += rejudge
		if err := w.SetPolicy(p); err != nil {
			t.Fatal(err)
		}
		if err := w.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	install(other, "")
	for _, c := range w.findings(2) {
		if c.Findings[0].Rule != "release-key" || c.Aged || !c.Due.IsZero() {
			t.Errorf("finding = %+v, want release-key, reported", c)
		}
	}
	install(old, "")
	w.findings(0)
	if n := running(); n != 2 {
		t.Fatalf("%d of 2 run after a report", n)
	}
	install(other, "rejudge: {action: stop, grace: 1s, maxContainers: 1, percentPerMinute: 100}\n")
	for range 300 {
		if running() == 1 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	condition := ""
	for range 200 {
		r, err := w.Runtime.Status(w.ctx, &cri.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range r.Status.Conditions {
			if c.Type == "PolicyEnforced" && !c.Status {
				condition = c.Message
			}
		}
		if strings.Contains(condition, "re-judging halted") {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if !strings.Contains(condition, "re-judging halted") || running() != 1 {
		t.Errorf("%d run, condition %q, want 1 and the halt", running(), condition)
	}
	outcomes := map[string]int{}
	audit.Read(filepath.Join(w.Path("root"), "audit"), func(r audit.Record) error {
		if r.Event.Type == "rejudge" {
			outcomes[r.Event.Outcome]++
		}
		return nil
	})
	if outcomes["denied"] != 4 || outcomes["cleared"] != 2 || outcomes["stopped"] != 1 || outcomes["halted"] != 1 {
		t.Errorf("records of re-judging: %v", outcomes)
	}
}
