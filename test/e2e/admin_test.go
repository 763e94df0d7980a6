package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/internal/admin/wire"
)

// operator is a client of the node's admin socket.
func (w *world) operator() *wire.Client {
	return wire.New(filepath.Join("/run", filepath.Base(w.Scratch), "admin.sock"))
}

// The operator's socket is root's alone; ps names what was judged, policy/status what judges.
func TestOperatorsDoor(t *testing.T) {
	w := start(t, nil, "")
	st, err := os.Stat(filepath.Join("/run", filepath.Base(w.Scratch), "admin.sock"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("admin socket: mode %v, %v, want 0600", st.Mode(), err)
	}
	app := w.push("signed/app", v1.Config{})
	_, id, _ := w.running(app, "ps", "/bin/sleep", "1000")
	var ps wire.Ps
	if err := w.operator().Do(w.ctx, wire.CallPs, wire.Empty{}, &ps); err != nil {
		t.Fatal(err)
	}
	if len(ps.Containers) != 1 {
		t.Fatalf("ps = %+v, want one container", ps)
	}
	c := ps.Containers[0]
	if c.ID != id || c.Namespace != "default" || c.State != "running" || !strings.HasPrefix(c.Image, app+"@sha256:") || c.Audit == 0 || c.SpecHash == "" {
		t.Errorf("ps = %+v", c)
	}
	var p wire.Policy
	if err := w.operator().Do(w.ctx, wire.CallPolicy, wire.Empty{}, &p); err != nil {
		t.Fatal(err)
	}
	if len(p.Layers) != 2 || p.Layers[0].Name != "node" || p.Layers[1].Name != "namespace strict" || p.Layers[0].Revision != 1 || p.Layers[0].Kept || len(p.Problems) != 0 {
		t.Errorf("policy/status = %+v", p)
	}
	broken := w.policy()
	broken["node/bundle.yaml"] = "name: [\n"
	if err := w.SetPolicy(broken); err != nil {
		t.Fatal(err)
	}
	if err := w.Daemon.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		p = wire.Policy{}
		if err := w.operator().Do(w.ctx, wire.CallPolicy, wire.Empty{}, &p); err != nil {
			t.Fatal(err)
		}
		if len(p.Problems) > 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if len(p.Layers) != 2 || !p.Layers[0].Kept || len(p.Problems) == 0 || !strings.Contains(p.Problems[0].Msg, "bundle.yaml") {
		t.Errorf("policy/status of a broken policy = %+v", p)
	}
}

// verify answers what a pull would, names rule and finding, and pulls nothing; --stored does it without
// the registry.
func TestOperatorVerifies(t *testing.T) {
	w := start(t, nil, "")
	signed := w.push("signed/app", v1.Config{})
	w.push("open/other", v1.Config{Labels: map[string]string{"other": "1"}})
	w.copyTag("open/other", "signed/other")
	ask := func(in wire.Verify) (out wire.Verified) {
		t.Helper()
		if err := w.operator().Do(w.ctx, wire.CallVerify, in, &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	hits := func(v wire.Verified) (rules []string) {
		for _, l := range v.Layers {
			for _, h := range l.Hits {
				rules = append(rules, h.Rule)
			}
		}
		return rules
	}
	if v := ask(wire.Verify{Image: signed, Namespace: "default"}); !v.Allowed || v.Audit == 0 || v.Evidence.Bundles != 1 || len(v.Layers) != 1 || len(v.Layers[0].Used) != 1 {
		t.Errorf("verify signed = %+v", v)
	}
	if v := ask(wire.Verify{Image: w.host + "/signed/other:v1", Namespace: "default"}); v.Allowed || !slices.Equal(hits(v), []string{"release-key"}) {
		t.Errorf("verify unsigned = %+v, want a denial by release-key", v)
	}
	if v := ask(wire.Verify{Image: signed, Namespace: "strict"}); v.Allowed || !slices.Equal(hits(v), []string{"other-key"}) {
		t.Errorf("verify in strict = %+v, want a denial by other-key", v)
	}
	if r, err := w.Images.ListImages(w.ctx, &cri.ListImagesRequest{}); err != nil || len(r.Images) != 0 {
		t.Errorf("images after verify = %v, %v, want none", r, err)
	}
	var refused *wire.Refused
	for _, in := range []wire.Verify{{Image: "busybox"}, {Image: w.host + "/open/none:v1"}, {Image: signed, Stored: true}} {
		if err := w.operator().Do(w.ctx, wire.CallVerify, in, &wire.Verified{}); !errors.As(err, &refused) || refused.Status >= 500 {
			t.Errorf("verify %+v = %v, want a refusal", in, err)
		}
	}
	w.pulled(signed, w.Pod("default", "x"))
	w.registry.Close()
	if v := ask(wire.Verify{Image: signed, Namespace: "default", Stored: true}); !v.Allowed || v.Evidence.Fetched.IsZero() {
		t.Errorf("verify stored = %+v", v)
	}
	if v := ask(wire.Verify{Image: signed, Namespace: "strict", Stored: true}); v.Allowed || !slices.Equal(hits(v), []string{"other-key"}) {
		t.Errorf("verify stored in strict = %+v", v)
	}
	var all, one wire.StoredImages
	if err := w.operator().Do(w.ctx, wire.CallStored, wire.Stored{}, &all); err != nil || len(all.IDs) != 1 || len(all.Images) != 0 {
		t.Fatalf("image/stored = %+v, %v, want one ID", all, err)
	}
	if err := w.operator().Do(w.ctx, wire.CallStored, wire.Stored{ID: all.IDs[0]}, &one); err != nil || len(one.Images) != 1 {
		t.Fatalf("image/stored of %s = %+v, %v", all.IDs[0], one, err)
	}
	if im := one.Images[0]; im.Name != signed || !strings.HasPrefix(signed, im.Repository+":") || len(im.Bundles) == 0 || len(im.Bundles[0].JSON) == 0 || !im.Complete {
		t.Errorf("image/stored of %s = %+v", all.IDs[0], im)
	}
	if err := w.operator().Do(w.ctx, wire.CallStored, wire.Stored{ID: strings.Repeat("a", 64)}, &one); !errors.As(err, &refused) || refused.Status != 404 {
		t.Errorf("image/stored of an unknown ID = %v, want a refusal", err)
	}
}
