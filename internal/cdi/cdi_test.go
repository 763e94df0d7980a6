package cdi

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport/test/roottest"
)

const acme = `{"cdiVersion": "1.0.0", "kind": "acme.example/gpu",
 "containerEdits": {"env": ["ACME=1"], "hooks": [{"hookName": "createContainer", "path": "/opt/acme/hook"}]},
 "devices": [
  {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/null"}], "mounts": [{"hostPath": "/srv", "containerPath": "/lib/acme", "options": ["ro", "nosuid"]}]}},
  {"name": "1", "containerEdits": {"deviceNodes": [{"path": "/dev/gpu1", "type": "c", "major": 200, "minor": 1, "permissions": "rw"}], "additionalGids": [44]}},
  {"name": "tmpfs", "containerEdits": {"mounts": [{"hostPath": "tmpfs", "containerPath": "/t", "type": "tmpfs"}]}},
  {"name": "rdt", "containerEdits": {"intelRdt": {"closID": "x"}}}]}`

func write(t *testing.T, dir, text string) string {
	t.Helper()
	file := filepath.Join(dir, "acme.json")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func open(t *testing.T, dir string) *Registry {
	t.Helper()
	os.Chmod(dir, 0o755)
	r, err := Open([]string{dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// A device is what its file says; what all devices of a file need comes once; nodes are known by the
// device that brings them.
func TestEdits(t *testing.T) {
	roottest.Need(t)
	dir := t.TempDir()
	write(t, dir, acme)
	e, nodes, err := open(t, dir).Edits([]string{"acme.example/gpu=0", "acme.example/gpu=1"})
	if err != nil {
		t.Fatal(err)
	}
	if len(nodes) != 2 || nodes[0].CDI != "acme.example/gpu=0" || nodes[0].Node.Path != "/dev/gpu0" || nodes[0].Node.Major != 1 || nodes[0].Node.Minor != 3 || nodes[1].CDI != "acme.example/gpu=1" {
		t.Errorf("nodes = %+v", nodes)
	}
	if len(e.Devices) != 2 || len(e.DeviceRules) != 2 || e.DeviceRules[1].Access != "rw" || !slices.Equal(e.Groups, []uint32{44}) || len(e.Hooks.CreateContainer) != 1 ||
		len(e.Env) != 1 || e.Env[0].Name != "ACME" || len(e.Mounts) != 1 || !e.Mounts[0].ReadOnly || e.Mounts[0].Source != "/srv" {
		t.Errorf("Edits() = %+v", e)
	}
}

// TestRefused: unknown names, files that others can write, and what containers cannot have.
func TestRefused(t *testing.T) {
	roottest.Need(t)
	dir := t.TempDir()
	file := write(t, dir, acme)
	r := open(t, dir)
	for _, name := range []string{"acme.example/gpu=7", "other.example/gpu=0", "gpu", "", "../x=y"} {
		if _, _, err := r.Edits([]string{name}); !errors.Is(err, ErrUnknown) || strings.Contains(err.Error(), "\n") {
			t.Errorf("Edits(%q) = %v, want ErrUnknown", name, err)
		}
	}
	for _, name := range []string{"tmpfs", "rdt"} {
		if _, _, err := r.Edits([]string{"acme.example/gpu=" + name}); err == nil {
			t.Errorf("Edits(%s) = nil, want an error", name)
		}
	}
	for _, c := range []struct {
		path string
		mode os.FileMode
	}{{file, 0o666}, {dir, 0o775}} {
		st, err := os.Stat(c.path)
		if err != nil {
			t.Fatal(err)
		}
		os.Chmod(c.path, c.mode)
		if _, _, err := r.Edits([]string{"acme.example/gpu=0"}); err == nil || !strings.Contains(err.Error(), "others than root") {
			t.Errorf("Edits() with %s of mode %v = %v, want it refused", c.path, c.mode, err)
		}
		os.Chmod(c.path, st.Mode())
		if _, _, err := r.Edits([]string{"acme.example/gpu=0"}); err != nil {
			t.Errorf("Edits() of the twin = %v", err)
		}
	}
}

// A file that comes or goes is noticed without anybody asking for it.
func TestFollowsChanges(t *testing.T) {
	roottest.Need(t)
	dir := t.TempDir()
	r := open(t, dir)
	known := func() bool { _, _, err := r.Edits([]string{"acme.example/gpu=1"}); return err == nil }
	if known() {
		t.Fatal("a device is known without a file")
	}
	file := write(t, dir, acme)
	for _, want := range []bool{true, false} {
		for i := 0; known() != want; i++ {
			if i == 200 {
				t.Fatalf("known = %v after 2 s, want %v", !want, want)
			}
			time.Sleep(10 * time.Millisecond)
		}
		os.Remove(file)
	}
}

func TestAsked(t *testing.T) {
	got, err := Asked([]string{"a.example/x=1"}, map[string]string{"cdi.k8s.io/b": "b.example/x=1,a.example/x=1", "other": "nonsense"})
	if want := []string{"a.example/x=1", "b.example/x=1"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("Asked() = %v, %v, want %v", got, err, want)
	}
	if _, err := Asked(nil, map[string]string{"cdi.k8s.io/b": "nonsense"}); err == nil {
		t.Error("Asked(nonsense) = nil, want an error")
	}
	if _, err := Asked(make([]string, maxDevices+1), nil); err != nil {
		t.Errorf("Asked(the same again) = %v, want one", err)
	}
	many := make([]string, maxDevices+1)
	for i := range many {
		many[i] = "a.example/x=" + strings.Repeat("1", i+1)
	}
	if _, err := Asked(many, nil); err == nil {
		t.Error("Asked(too many) = nil, want an error")
	}
}
