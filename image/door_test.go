package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.podman.io/storage"
	"golang.org/x/sys/unix"

	"sallyport/enforce"
	"sallyport/test/sigkit"
)

// TestPullNeedsItsAdmission tries every other thing.
func TestPullNeedsItsAdmission(t *testing.T) {
	f := newFake(t, sigkit.Referrers)
	e := newEnv(t, f.host)
	push(t, f.host+"/a:v1", build(t, sigkit.ImageOptions{NoBusybox: true}))
	push(t, f.host+"/b:v1", build(t, sigkit.ImageOptions{NoBusybox: true, Files: map[string]string{"/b": "b"}}))
	push(t, f.host+"/a:v2", build(t, sigkit.ImageOptions{NoBusybox: true})) // same bytes, another name
	a, b, a2 := e.mustResolve(f.host+"/a:v1"), e.mustResolve(f.host+"/b:v1"), e.mustResolve(f.host+"/a:v2")
	ctx := context.Background()
	f.asked("")
	_, err := e.Pull(ctx, a, enforce.PullAdmission{})
	wantErr(t, err, enforce.ErrForged, f.host+"/a:v1")
	_, err = e.Pull(ctx, b, e.admit(a, "team"))
	wantErr(t, err, ErrGrant, f.host+"/b:v1")
	_, err = e.Pull(ctx, a2, e.admit(a, "team"))
	wantErr(t, err, ErrGrant, f.host+"/a:v2")
	other := newGate(t)
	adm, err := other.AdmitPull(ctx, enforce.PullRequest{Namespace: "team", Image: a.Image(), Evidence: a.Evidence()})
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.Pull(ctx, a, adm)
	wantErr(t, err, enforce.ErrForged)
	if n := f.asked(""); n != 0 {
		t.Errorf("%d requests were made without an admission, want 0", n)
	}
	if len(e.List()) != 0 || len(e.leftovers()) != 0 {
		t.Errorf("something was stored: %v %v", e.List(), e.leftovers())
	}
	adm = e.admit(a, "team")
	if _, err := e.Pull(ctx, a, adm); err != nil {
		t.Fatal(err)
	}
	_, err = e.Pull(ctx, a, adm)
	wantErr(t, err, enforce.ErrRedeemed)
}

// TestMountNeedsItsGrant: only a redeemed run mounts, and each container its own image.
func TestMountNeedsItsGrant(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	e := newEnv(t, host)
	push(t, host+"/a:v1", build(t, sigkit.ImageOptions{NoBusybox: true}))
	push(t, host+"/b:v1", build(t, sigkit.ImageOptions{NoBusybox: true, Files: map[string]string{"/b": "b"}}))
	a, b := e.mustPull(host+"/a:v1"), e.mustPull(host+"/b:v1")
	ctx := context.Background()
	_, err := e.Mount(ctx, enforce.Grant{})
	wantErr(t, err, ErrGrant)
	pull, err := e.gate.RedeemPull(e.admit(e.mustResolve(host+"/a:v1"), "team"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.Mount(ctx, pull)
	wantErr(t, err, ErrGrant)
	first := e.run(e.lookup(a.ID.String(), ""), "c1")
	if _, err = e.Mount(ctx, first); err != nil {
		t.Fatal(err)
	}
	_, err = e.Mount(ctx, e.run(e.lookup(b.ID.String(), ""), "c1"))
	wantErr(t, err, ErrGrant, "c1")
	if _, err := e.Mount(ctx, first); err != nil {
		t.Errorf("Mount() again: %v", err)
	}
	if got, err := e.Containers(); err != nil || len(got) != 1 || got[0] != "c1" {
		t.Errorf("Containers() = %v, %v", got, err)
	}
	if err := e.Release("c1"); err != nil {
		t.Fatal(err)
	}
	if got, _ := e.Containers(); len(got) != 0 {
		t.Errorf("after Release Containers() = %v", got)
	}
}

func TestSecondDaemon(t *testing.T) {
	e := newEnv(t)
	_, err := Open(e.opts)
	if err == nil {
		t.Fatal("a second store opens on the same root")
	}
	wantErr(t, err, ErrLocked, fmt.Sprintf("process %d", os.Getpid()), e.opts.Root)
	for _, dir := range []string{e.opts.Root, e.opts.RunRoot} {
		if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %v, %v; want 0700", dir, st.Mode(), err)
		}
	}
	e.reopen() // the twin
}

func TestBadConfiguration(t *testing.T) {
	e := newEnv(t)
	bad := filepath.Join(t.TempDir(), "registries.conf")
	if err := os.WriteFile(bad, []byte("[[registry"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := e.opts
	o.RegistriesConf = bad
	if _, err := Open(o); err == nil || !strings.Contains(err.Error(), bad) {
		t.Errorf("Open() with a broken registries.conf = %v, want its path", err)
	}
	o = e.opts
	o.Gate = nil
	if _, err := Open(o); err == nil {
		t.Error("Open() without a gate succeeds")
	}
}

// TestBlocked: registries.conf blocks a registry by name.
func TestBlocked(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	push(t, host+"/a:v1", build(t, sigkit.ImageOptions{NoBusybox: true}))
	e := newEnv(t, host)
	if _, err := e.resolve(host+"/a:v1", Credentials{}); err != nil {
		t.Fatal(err)
	}
	text := "[[registry]]\nlocation = \"" + host + "\"\ninsecure = true\nblocked = true\n"
	if err := os.WriteFile(e.opts.RegistriesConf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	e.reopen()
	if _, err := e.resolve(host+"/a:v1", Credentials{}); err == nil || !strings.Contains(err.Error(), "blocked") {
		t.Errorf("Resolve() from a blocked registry = %v", err)
	}
}

// TestDropIn: a file of registries.conf.d counts as registries.conf does. Twin: the same without it.
func TestDropIn(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	push(t, host+"/a:v1", build(t, sigkit.ImageOptions{NoBusybox: true}))
	e := newEnv(t, host)
	e.opts.RegistriesConfDir = t.TempDir()
	e.reopen()
	if _, err := e.resolve(host+"/a:v1", Credentials{}); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("[[registry]]\nlocation = %q\nblocked = true\n", host)
	if err := os.WriteFile(filepath.Join(e.opts.RegistriesConfDir, "50-block.conf"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	e.reopen()
	if _, err := e.resolve(host+"/a:v1", Credentials{}); err == nil || !strings.Contains(err.Error(), "blocked") {
		t.Errorf("Resolve() from a registry that a drop-in blocks = %v", err)
	}
}

// TestMirror: a mirror is asked first, without the credentials of the registry, and the registry itself
// where the mirror has nothing.
func TestMirror(t *testing.T) {
	mirror, real := newFake(t, sigkit.Referrers), newFake(t, sigkit.Referrers)
	img := build(t, sigkit.ImageOptions{NoBusybox: true})
	push(t, mirror.host+"/cache/a:v1", img)
	push(t, real.host+"/a:v1", img)
	push(t, real.host+"/a:v2", img)
	e := newEnv(t)
	text := fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n[[registry.mirror]]\nlocation = %q\ninsecure = true\n", real.host, mirror.host+"/cache")
	if err := os.WriteFile(e.opts.RegistriesConf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	e.reopen()
	real.asked("")
	if im := e.mustPull(real.host + "/a:v1"); im.Tags[0] != real.host+"/a:v1" {
		t.Errorf("Tags = %v, want the name that was asked for", im.Tags)
	}
	if n := real.asked(""); n != 0 {
		t.Errorf("the registry was asked %d times, want 0", n)
	}
	e.mustPull(real.host + "/a:v2")
	if n := real.asked("/manifests/v2"); n != 1 {
		t.Errorf("the registry was asked for v2 %d times, want 1", n)
	}
}

// TestCrash leaves what a crash at each step leaves, and restarts.
func TestCrash(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	name := host + "/a:v1"
	push(t, name, build(t, sigkit.ImageOptions{NoBusybox: true, Pad: 1000}))
	record := func(e *env, im Image) string {
		r := e.index.records(im.ID)[0]
		return e.path("images", r.ID.Hex(), r.key())
	}
	for _, tc := range []struct {
		name string
		left func(e *env, im Image) error
		has  int
	}{
		{"before the record", func(e *env, im Image) error { return os.RemoveAll(filepath.Dir(record(e, im))) }, 0},
		{"between evidence and record", func(e *env, im Image) error { return os.Remove(filepath.Join(record(e, im), "record.json")) }, 0},
		{"before the image", func(e *env, im Image) error {
			if err := os.RemoveAll(filepath.Dir(record(e, im))); err != nil {
				return err
			}
			_, err := e.storage.DeleteImage(im.ID.Hex(), false)
			return err
		}, 0},
		{"during the download", func(e *env, im Image) error { return os.WriteFile(e.path("tmp", "pull-1"), []byte("x"), 0o600) }, 1},
		{"while storage wrote its list", func(e *env, im Image) error {
			return os.WriteFile(e.path("storage", "overlay-images", ".tmp-images.json1"), []byte("x"), 0o600)
		}, 1},
		{"while the record was written", func(e *env, im Image) error {
			return os.WriteFile(filepath.Join(record(e, im), ".tmp-1"), []byte("x"), 0o600)
		}, 1},
		{"nowhere", func(*env, Image) error { return nil }, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := newEnv(t, host)
			im := e.mustPull(name)
			if err := tc.left(e, im); err != nil {
				t.Fatal(err)
			}
			e.reopen()
			if len(e.List()) != tc.has || len(e.leftovers()) > 0 || len(e.Problems()) > 0 {
				t.Errorf("after restart: %v, left %v, problems %v", e.List(), e.leftovers(), e.Problems())
			}
			e.mustPull(name)
		})
	}
}

// TestFullDisk: a pull that does not fit fails by name and leaves nothing.
func TestFullDisk(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	push(t, host+"/big:v1", build(t, sigkit.ImageOptions{NoBusybox: true, Pad: 12 << 20}))
	push(t, host+"/small:v1", build(t, sigkit.ImageOptions{NoBusybox: true}))
	e := newEnv(t, host)
	small := filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(small, unix.MNT_DETACH) })
	e.Close()
	e.opts.Root = filepath.Join(small, "root")
	e.open()
	t.Cleanup(func() { unmountBelow(t, small) })
	_, err := e.pull(host+"/big:v1", "team")
	if err == nil {
		t.Fatal("12 MiB fit in 8")
	}
	wantErr(t, err, unix.ENOSPC, host+"/big:v1")
	if len(e.List()) != 0 || len(e.leftovers()) != 0 {
		t.Errorf("left behind: %v %v", e.List(), e.leftovers())
	}
	e.mustPull(host + "/small:v1")
}

// TestConcurrentPullsAndRemovals: many at once end in a whole state.
func TestConcurrentPullsAndRemovals(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	e := newEnv(t, host)
	for i := range 3 {
		push(t, fmt.Sprintf("%s/a%d:v1", host, i), build(t, sigkit.ImageOptions{NoBusybox: true, Files: map[string]string{"/n": fmt.Sprint(i % 2)}}))
	}
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			name := fmt.Sprintf("%s/a%d:v1", host, i%3)
			src := e.mustResolve(name)
			im, err := e.Pull(context.Background(), src, e.admit(src, []string{"team", "other"}[i%2]))
			if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, storage.ErrImageUnknown) && !errors.Is(err, ErrCorrupt) {
				t.Errorf("Pull(%s): %v", name, err)
			}
			if i%4 == 3 {
				if err := e.Remove(im.ID.String()); err != nil {
					t.Errorf("Remove(): %v", err)
				}
			}
		})
	}
	wg.Wait()
	for i := range 3 {
		im := e.mustPull(fmt.Sprintf("%s/a%d:v1", host, i))
		e.lookup(im.ID.String(), fmt.Sprintf("%s/a%d:v1", host, i))
	}
	if l := e.leftovers(); len(l) > 0 {
		t.Errorf("left behind: %v", l)
	}
}
