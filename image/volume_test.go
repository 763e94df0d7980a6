package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/enforce"
	"sallyport/policy"
	"sallyport/test/roottest"
	"sallyport/test/sigkit"
)

// withVolume is a redeemed admission of a container whose mount 0 shows v, in a user namespace or ("") in
// none.
func (e *env) withVolume(c, v Candidate, id, userNS string) enforce.Grant {
	e.t.Helper()
	text := standing(e.t, id)
	if userNS != "" {
		text = strings.Replace(text, `{"type":"pid"}`, fmt.Sprintf(`{"type":"pid"},{"type":"user","path":%q}`, userNS), 1)
	}
	text = strings.Replace(text, `"ro"]}]`, `"ro"]},{"destination":"/vol","type":"bind","source":"mounts/0","options":["rbind","rprivate","nosuid","nodev","ro"]}]`, 1)
	adm, err := e.gate.AdmitRun(context.Background(), enforce.RunRequest{Image: c.Image, Evidence: c.Evidence,
		Container: policy.Container{Name: "c", ID: id}, Spec: text, Config: "{}", PodID: "p1",
		Pod:      enforce.Pod{Namespace: "team", Name: "p", UID: "u", UserNamespace: userNS != ""},
		Resolved: []enforce.Mount{{Destination: "/vol", Source: "/", Kind: "image", ReadOnly: true}},
		Volumes:  []enforce.Volume{{Mount: 0, Image: v.Image, Evidence: v.Evidence}}})
	if err != nil {
		e.t.Fatal(err)
	}
	g, err := e.gate.Redeem(adm)
	if err != nil {
		e.t.Fatal(err)
	}
	return g
}

// pinUsers pins a user namespace in which ID 0 is outside on the node.
func pinUsers(t *testing.T, outside int) string {
	t.Helper()
	cmd := exec.Command(roottest.Binary(t, "busybox"), "sleep", "100")
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: outside, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	pin := filepath.Join(t.TempDir(), "user")
	if err := os.WriteFile(pin, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid), pin, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(pin, unix.MNT_DETACH) })
	return pin
}

func uid(t *testing.T, path string) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("stat %s: %v", path, err)
	}
	return st.Uid
}

func pair(t *testing.T) (e *env, a, b Candidate) {
	t.Helper()
	host, _ := newRegistry(t, sigkit.Referrers)
	e = newEnv(t, host)
	push(t, host+"/a:v1", build(t, sigkit.ImageOptions{NoBusybox: true}))
	push(t, host+"/b:v1", build(t, sigkit.ImageOptions{NoBusybox: true, Files: map[string]string{"/b": "b"}}))
	return e, e.lookup(e.mustPull(host+"/a:v1").ID.String(), ""), e.lookup(e.mustPull(host+"/b:v1").ID.String(), "")
}

// TestMountVolume: only what the grant names is mounted, read-only, and it cannot be removed meanwhile,
// also after a restart.
func TestMountVolume(t *testing.T) {
	e, a, b := pair(t)
	ctx := context.Background()
	_, err := e.MountVolume(ctx, enforce.Grant{}, 0)
	wantErr(t, err, ErrGrant)
	_, err = e.MountVolume(ctx, e.run(a, "c0"), 0)
	wantErr(t, err, ErrGrant)
	g := e.withVolume(a, b, "c1", "")
	_, err = e.MountVolume(ctx, g, 0)
	wantErr(t, err, ErrGrant, "no layer")
	if _, err := e.Mount(ctx, g); err != nil {
		t.Fatal(err)
	}
	_, err = e.MountVolume(ctx, g, 1)
	wantErr(t, err, ErrGrant)
	r, err := e.MountVolume(ctx, g, 0)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(r.Path, "b")); err != nil || string(text) != "b" {
		t.Errorf("file of the volume = %q, %v", text, err)
	}
	if err := os.WriteFile(filepath.Join(r.Path, "b"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing to the volume = %v, want EROFS", err)
	}
	if again, err := e.MountVolume(ctx, g, 0); err != nil || again != r {
		t.Errorf("MountVolume() again = %v, %v", again, err)
	}
	id := b.Image.ID.String()
	wantErr(t, e.Remove(id), ErrInUse, "c1")
	e.reopen()
	wantErr(t, e.Remove(id), ErrInUse, "c1")
	if err := e.Release("c1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(e.path("containers", "c1")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Release: %v", err)
	}
	if err := e.Remove(id); err != nil {
		t.Errorf("Remove() after Release = %v", err)
	}
}

// TestMountMapped: files of image and volume belong to the pod's own IDs, on disk they do not change,
// and no layer stays mounted beside them.
func TestMountMapped(t *testing.T) {
	e, a, b := pair(t)
	ctx := context.Background()
	const outside = 300000
	g := e.withVolume(a, b, "c1", pinUsers(t, outside))
	root, err := e.Mount(ctx, g)
	if err != nil {
		t.Fatal(err)
	}
	vol, err := e.MountVolume(ctx, g, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{root.Path, root.Path + "/etc/passwd", vol.Path, vol.Path + "/b"} {
		if got := uid(t, path); got != outside {
			t.Errorf("owner of %s = %d, want %d", path, got, outside)
		}
	}
	layers, _ := filepath.Glob(e.path("storage", "overlay", "*", "diff", "etc", "passwd"))
	if len(layers) == 0 || uid(t, layers[0]) != 0 {
		t.Errorf("layers' files %v are not root's any more", layers)
	}
	for _, dir := range []string{e.path("containers", "c1", "lower"), e.path("containers", "c1", "volumes", "0", "lower")} {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("layers are left at %s: %v", dir, err)
		}
	}
	if err := e.Release("c1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(layers[0]); err != nil {
		t.Errorf("a layer lost a file: %v", err)
	}
}

// TestLayersSurviveACrash: a daemon that died between leaves layers mounted with a pod's IDs. Release
// takes them away, and nothing can be written to a layer through one.
func TestLayersSurviveACrash(t *testing.T) {
	e, a, b := pair(t)
	g := e.withVolume(a, b, "c1", pinUsers(t, 300000))
	if _, err := e.Mount(context.Background(), g); err != nil {
		t.Fatal(err)
	}
	layers, _ := filepath.Glob(e.path("storage", "overlay", "*", "diff"))
	f, err := openPath(layers[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	spec, err := readRunSpec(g.Spec())
	if err != nil {
		t.Fatal(err)
	}
	dir := e.path("containers", "c1")
	if _, _, err := mapIDs(dir, []*os.File{f}, spec.userNS); err != nil { // and the daemon dies
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/lower/0/x", nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing through a mapped layer = %v, want EROFS", err)
	}
	if err := e.Release("c1"); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(layers[0]); err != nil || len(entries) == 0 {
		t.Errorf("the layer is empty: %v", err)
	}
}

// TestOpenUserNS: only a pinned user namespace is one.
func TestOpenUserNS(t *testing.T) {
	roottest.Need(t)
	pin := pinUsers(t, 300000)
	f, err := openUserNS(pin)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	dir := t.TempDir()
	os.WriteFile(dir+"/file", nil, 0o600)
	os.Symlink(pin, dir+"/link")
	unix.Mkfifo(dir+"/pipe", 0o600)
	os.WriteFile(dir+"/net", nil, 0o600)
	if err := unix.Mount("/proc/self/ns/net", dir+"/net", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir+"/net", unix.MNT_DETACH) })
	for _, bad := range []string{dir + "/net", dir + "/file", dir + "/link", dir + "/pipe", dir, dir + "/none", "/dev/null"} {
		if f, err := openUserNS(bad); err == nil {
			f.Close()
			t.Errorf("openUserNS(%s) succeeded", bad)
		}
	}
	if _, err := readRunSpec(`{"linux":{"namespaces":[{"type":"user"}]}}`); err == nil {
		t.Error("readRunSpec() of a user namespace without a pin succeeded")
	}
}

// TestProbeIDMap proves it where it can be, and says so where not.
func TestProbeIDMap(t *testing.T) {
	e := newEnv(t)
	if err := e.ProbeIDMap(pinUsers(t, 300000)); err != nil {
		t.Errorf("ProbeIDMap() = %v", err)
	}
	if err := e.ProbeIDMap("/dev/null"); err == nil {
		t.Error("ProbeIDMap() of no namespace succeeded")
	}
	if left, _ := os.ReadDir(e.path("tmp")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
