package image

import (
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"go.podman.io/storage/pkg/reexec"
	"golang.org/x/sys/unix"

	"sallyport/enforce"
	"sallyport/image/ref"
	"sallyport/test/roottest"
	"sallyport/test/sigkit"
)

func TestMain(m *testing.M) {
	if reexec.Init() { // containers/storage unpacks in a child
		return
	}
	os.Exit(m.Run())
}

// env is a store with its gate, in directories of their own.
type env struct {
	*Store
	t    testing.TB
	gate *enforce.Gate
	opts Options
}

// newEnv opens a store that talks plain HTTP to the given loopback hosts.
func newEnv(t testing.TB, insecure ...string) *env {
	t.Helper()
	roottest.Need(t)
	dir := t.TempDir()
	conf := filepath.Join(dir, "registries.conf")
	var text strings.Builder
	for _, host := range insecure {
		text.WriteString("[[registry]]\nlocation = \"" + host + "\"\ninsecure = true\n")
	}
	if err := os.WriteFile(conf, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	e := &env{t: t, gate: newGate(t), opts: Options{Root: filepath.Join(dir, "root"), RunRoot: filepath.Join(runDir(t), "run"), RegistriesConf: conf}}
	e.opts.Gate = e.gate
	t.Cleanup(func() { unmountBelow(t, dir) })
	e.open()
	return e
}

func (e *env) open() {
	e.t.Helper()
	s, err := Open(e.opts)
	if err != nil {
		e.t.Fatal(err)
	}
	e.Store = s
	e.t.Cleanup(func() { s.Close() })
}

// reopen is a restart of the daemon.
func (e *env) reopen() {
	e.t.Helper()
	if err := e.Close(); err != nil {
		e.t.Fatal(err)
	}
	e.open()
}

func unmountBelow(t testing.TB, dir string) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Error(err)
	}
	var points []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			points = append(points, f[4])
		}
	}
	sort.Sort(sort.Reverse(sort.StringSlice(points)))
	for _, p := range points {
		if err := unix.Unmount(p, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", p, err)
		}
	}
}

func (e *env) resolve(name string, c Credentials) (*Source, error) {
	e.t.Helper()
	n, err := ref.Parse(name)
	if err != nil {
		e.t.Fatal(err)
	}
	return e.Resolve(context.Background(), n, c)
}

func (e *env) mustResolve(name string) *Source {
	e.t.Helper()
	src, err := e.resolve(name, Credentials{})
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { src.Close() })
	return src
}

func (e *env) admit(src *Source, namespace string) enforce.PullAdmission {
	e.t.Helper()
	adm, err := e.gate.AdmitPull(context.Background(), enforce.PullRequest{Namespace: namespace, Image: src.Image(), Evidence: src.Evidence()})
	if err != nil {
		e.t.Fatal(err)
	}
	return adm
}

func (e *env) pull(name, namespace string) (Image, error) {
	e.t.Helper()
	src := e.mustResolve(name)
	im, err := e.Pull(context.Background(), src, e.admit(src, namespace))
	if err == nil { // whatever was pulled hashes to what it was
		if err := e.CheckBytes(context.Background(), src.Image()); err != nil {
			e.t.Errorf("CheckBytes() after the pull: %v", err)
		}
	}
	return im, err
}

func (e *env) mustPull(name string) Image {
	e.t.Helper()
	im, err := e.pull(name, "team")
	if err != nil {
		e.t.Fatal(err)
	}
	return im
}

// leftovers are things of images in the store that no record accounts for.
func (e *env) leftovers() []string {
	e.t.Helper()
	used, err := e.usedLayers()
	if err != nil {
		e.t.Fatal(err)
	}
	var out []string
	layers, err := e.storage.Layers()
	if err != nil {
		e.t.Fatal(err)
	}
	for _, l := range layers {
		if !used[l.ID] {
			out = append(out, "layer "+l.ID)
		}
	}
	images, err := e.storage.Images()
	if err != nil {
		e.t.Fatal(err)
	}
	for _, im := range images {
		if _, ok := e.Status(im.ID); !ok {
			out = append(out, "image "+im.ID)
		}
	}
	tmp, err := os.ReadDir(e.path("tmp"))
	if err != nil {
		e.t.Fatal(err)
	}
	for _, f := range tmp {
		out = append(out, "file "+f.Name())
	}
	for _, pattern := range []string{"storage/*/.tmp-*", "images/*/*/.tmp-*"} {
		found, _ := filepath.Glob(e.path(pattern))
		out = append(out, found...)
	}
	return out
}

func newRegistry(t *testing.T, l sigkit.Layout) (host string, srv *httptest.Server) {
	srv = sigkit.NewRegistry(l)
	t.Cleanup(srv.Close)
	return sigkit.Host(srv), srv
}

func build(t *testing.T, o sigkit.ImageOptions) v1.Image {
	t.Helper()
	img, err := sigkit.Image(o)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func push(t *testing.T, at string, what remote.Taggable) ref.Digest {
	t.Helper()
	d, err := sigkit.Push(at, what)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func wantErr(t *testing.T, err, want error, words ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error = %v, want %v", err, want)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
	if strings.ContainsAny(err.Error(), "\n\r") {
		t.Errorf("error %q is not one line", err)
	}
}

var native = v1.Platform{OS: "linux", Architecture: runtime.GOARCH}

func readString(t *testing.T, r io.ReadCloser) string {
	t.Helper()
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// runDir is a directory on a tmpfs, as /run is.
func runDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unmountBelow(t, dir)
		unix.Unmount(dir, unix.MNT_DETACH)
	})
	return dir
}
