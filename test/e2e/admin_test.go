package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

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
