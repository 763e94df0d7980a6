package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport/sandbox/internal/proc"
	"sallyport/sandbox/spec"
)

// A restart of the daemon leaves containers untouched and takes them over; an exit in between is found.
func TestRestore(t *testing.T) {
	n := newNode(t)
	cfg := podConfig("a")
	cfg.Security.Namespaces.PID = spec.NamespacePod
	p := n.pod(cfg)
	lives := n.run(p, script("lives", "sleep 1000"))
	ends := n.run(p, script("ends", "sleep 0.5; exit 9"))
	done := n.run(p, script("done", "exit 4"))
	waitExit(t, done)
	before := lives.Status()
	n.Close()
	for { // while no daemon watches
		if _, err := os.Stat(filepath.Join(n.exitDir(), ends.ID())); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	n.start()
	if len(n.List()) != 1 || len(n.Containers()) != 3 {
		t.Fatalf("after a restart: %d pods, %d containers, want 1 and 3", len(n.List()), len(n.Containers()))
	}
	c, err := n.Container(lives.ID())
	must(t, err)
	if st := c.Status(); st.State != Running || st.Pid != before.Pid || !st.Started.Equal(before.Started) {
		t.Errorf("Status() = %+v, want %+v", st, before)
	}
	if res, err := n.exec(c, 0, "true"); err != nil || res.Code != 0 {
		t.Errorf("ExecSync() = %+v, %v", res, err)
	}
	e, err := n.Container(ends.ID())
	must(t, err)
	if st := waitExit(t, e); st.ExitCode != 9 {
		t.Errorf("exit while the daemon was away: code %d, want 9", st.ExitCode)
	}
	d, err := n.Container(done.ID())
	must(t, err)
	if st := d.Status(); st.State != Exited || st.ExitCode != 4 {
		t.Errorf("Status() = %+v, want exited with 4", st)
	}
	must(t, c.Stop(t.Context(), 0))
	if st := waitExit(t, c); st.ExitCode != 137 {
		t.Errorf("exit code %d, want 137", st.ExitCode)
	}
}

// What was cut off while it was made is removed, since nobody has its ID.
func TestRestoreHalfMade(t *testing.T) {
	n := newNode(t)
	p := n.pod(podConfig("a"))
	c := n.run(p, script("app", "sleep 1000"))
	half, err := n.create(p, script("half", "sleep 1000"))
	must(t, err)
	pid := half.Status().Pid
	n.Close()
	half.status.Store(&ContainerStatus{State: Creating})
	must(t, half.save())
	must(t, os.Mkdir(n.keyDir(hashKey("reserved and no more")), 0o700))
	n.start()
	if _, err := n.Container(half.ID()); !errors.Is(err, ErrNotFound) {
		t.Errorf("a half-made container is still there: %v", err)
	}
	if _, err := proc.Of(pid); !errors.Is(err, proc.ErrGone) {
		if err := syscall.Kill(pid, 0); err == nil {
			t.Errorf("its process lives on")
		}
	}
	if _, err := n.Container(c.ID()); err != nil {
		t.Errorf("the other container: %v", err)
	}
	r, err := mustPod(t, n, p.ID()).Reserve(t.Context(), script("half", "true"))
	if err != nil {
		t.Fatalf("Reserve() = %v, want its name to be free", err)
	}
	r.Cancel()
}

// A kill between a file and its name leaves a file that nothing names: it goes with the pod, and the node
// starts.
func TestRestoreTidies(t *testing.T) {
	n := newNode(t)
	p := n.pod(podConfig("a"))
	n.Close()
	p.status.Store(&PodStatus{State: Creating})
	must(t, p.save())
	for _, dir := range []string{p.dir(), n.opt.Root, n.opt.State} {
		must(t, os.WriteFile(filepath.Join(dir, ".tmp-1"), nil, 0o600))
	}
	n.start()
	for _, path := range []string{p.dir(), filepath.Join(n.opt.Root, ".tmp-1"), filepath.Join(n.opt.State, ".tmp-1")} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
}

// What was half-made and cannot be taken back keeps neither the node from starting nor its name for ever.
func TestRestoreStuck(t *testing.T) {
	n := newNode(t)
	p, other := n.pod(podConfig("a")), n.pod(podConfig("b"))
	c, err := n.create(other, script("app", "sleep 1000"))
	must(t, err)
	n.Close()
	p.status.Store(&PodStatus{State: Creating})
	must(t, p.save())
	c.status.Store(&ContainerStatus{State: Creating})
	must(t, c.save())
	var stuck []string
	for _, dir := range []string{p.dir(), filepath.Join(c.bundle(), "mounts")} {
		path := filepath.Join(dir, "stranger")
		must(t, os.MkdirAll(filepath.Join(path, "full"), 0o700))
		stuck = append(stuck, path)
	}
	n.start()
	if _, err := n.Pod(other.ID()); err != nil {
		t.Fatal(err)
	}
	for _, path := range stuck {
		must(t, os.RemoveAll(path))
	}
	n.sweep(t.Context(), func(o object) bool { return o.leftover })
	if got := n.List(); len(got) != 1 || got[0].ID() != other.ID() {
		t.Errorf("pods = %v, want the other alone", got)
	}
	n.run(mustPod(t, n, other.ID()), script("app", "sleep 1000"))
	n.pod(podConfig("a"))
}

// State that this boot must have and that is not there is not taken for a fresh node.
func TestRestoreLostState(t *testing.T) {
	n := newNode(t)
	n.Close()
	opt := n.opt
	opt.Root = filepath.Join(t.TempDir(), "elsewhere")
	p, err := New(opt)
	must(t, err)
	err = p.Restore(t.Context())
	if !errors.Is(err, ErrLostState) || !strings.Contains(err.Error(), "sallyport doctor") {
		t.Fatalf("Restore() with a wrong root = %v, want ErrLostState that names the doctor", err)
	}
	if _, err := os.Lstat(filepath.Join(opt.Root, "keys")); err == nil {
		t.Errorf("Restore() made state in the wrong place")
	}
	n.start() // the allowed twin: the right root
}

// After another boot, state is stale and goes.
func TestRestoreAfterBoot(t *testing.T) {
	n := newNode(t)
	c := n.run(n.pod(podConfig("a")), script("app", "true"))
	waitExit(t, c)
	must(t, mustPod(t, n, c.pod.id).Remove(t.Context()))
	n.Close()
	stale := filepath.Join(n.opt.Root, "keys", "stale")
	must(t, os.Mkdir(stale, 0o700))
	must(t, os.WriteFile(filepath.Join(stale, "record.json"), []byte(`{"version":1,"id":"`+newID()+`"}`), 0o600))
	for _, dir := range []string{n.opt.Root, n.opt.State} {
		must(t, os.WriteFile(filepath.Join(dir, "boot-id"), []byte("another-boot\n"), 0o600))
	}
	syscall.Unmount(n.opt.Root, syscall.MNT_DETACH)
	n.start()
	if _, err := os.Lstat(stale); err == nil {
		t.Errorf("state of an earlier boot is still there")
	}
}

// Records of every released version load; what is malformed does not.
func TestRecords(t *testing.T) {
	files, err := filepath.Glob("testdata/records/*.json")
	must(t, err)
	if len(files) < 2 {
		t.Fatalf("%d golden records, want a pod and a container", len(files))
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		must(t, err)
		if _, err := parseRecord(data); err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
	id := strings.Repeat("a", 64)
	for name, data := range map[string]string{
		"newer":        `{"version":2,"id":"` + id + `","pod":{}}`,
		"no version":   `{"id":"` + id + `","pod":{}}`,
		"path as ID":   `{"version":1,"id":"../../etc","pod":{}}`,
		"path as pod":  `{"version":1,"id":"` + id + `","container":{"podID":"../x"}}`,
		"neither":      `{"version":1,"id":"` + id + `"}`,
		"both":         `{"version":1,"id":"` + id + `","pod":{},"container":{"podID":"` + id + `"}}`,
		"unknown word": `{"version":1,"id":"` + id + `","pod":{},"extra":1}`,
	} {
		if _, err := parseRecord([]byte(data)); err == nil {
			t.Errorf("parseRecord(%s) = nil, want an error", name)
		}
	}
	if _, err := parseRecord([]byte(`{"version":1,"id":"` + id + `","pod":{}}`)); err != nil {
		t.Errorf("parseRecord() = %v, want nil", err)
	}
}

// State is closed to others (CVE-2024-25621). The directories above a pod's may be walked through by
// those who know a name, since the root of a pod's user namespace must reach its root filesystem; nobody
// can list or write them, and what lies in them is closed.
func TestStateIsClosed(t *testing.T) {
	n := newNode(t)
	p := n.pod(podConfig("a"))
	c := n.run(p, script("app", "sleep 1000"))
	for _, path := range []string{n.opt.Root, filepath.Dir(c.bundle()), filepath.Dir(n.podDir(p.ID()))} {
		st, err := os.Stat(path)
		must(t, err)
		if st.Mode().Perm()&0o066 != 0 {
			t.Errorf("%s has mode %o, want no reading and writing by others", path, st.Mode().Perm())
		}
	}
	for _, path := range []string{n.opt.State, n.podDir(p.ID()), c.bundle(), n.keyDir(c.key), filepath.Join(c.bundle(), "config.json")} {
		st, err := os.Stat(path)
		must(t, err)
		if st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %o, want none for others", path, st.Mode().Perm())
		}
	}
}
