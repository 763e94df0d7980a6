//go:build sigstore

package e2esigstore

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"sallyport/test/node"
	"sallyport/test/roottest"
	"sallyport/test/sigkit"
	"sallyport/test/sigstore"
)

const (
	binEnv    = "SALLYPORT_E2E_BIN"
	plain     = "127.0.0.1:5000" // distribution's registry, which leaves clients to the fallback tag
	referrers = "referrers"      // stands for the registry with the referrers API, whose port is not fixed
)

var (
	scratch string // of this run
)

func TestMain(m *testing.M) {
	if !node.Inside() {
		dir, err := node.Build("sallyport")
		if err != nil {
			fmt.Fprintln(os.Stderr, "build the daemon:", err)
			os.Exit(1)
		}
		os.Setenv(binEnv, dir)
		code := node.Isolate(nil)
		os.RemoveAll(dir)
		os.Exit(code)
	}
	os.Exit(node.Isolate(func(dir string) int {
		scratch = dir
		return m.Run()
	}))
}

// world is a sigstore, two registries and, later, a node.
type world struct {
	*node.Node
	ctx       context.Context
	t         *testing.T
	store     *sigstore.Sigstore
	bin       string // of the sigstore
	referrers string // host of a registry with the referrers API
	close     []func()
}

func start(t *testing.T) *world {
	t.Helper()
	roottest.Need(t)
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	t.Cleanup(cancel)
	w := &world{ctx: ctx, t: t, bin: filepath.Join(roottest.Deps(), "sigstore", "bin")}
	w.distribution()
	s := sigkit.NewRegistry(sigkit.Referrers)
	w.close = append(w.close, s.Close)
	t.Cleanup(s.Close)
	w.referrers = sigkit.Host(s)
	dir, err := os.MkdirTemp(scratch, "sigstore-")
	w.must(err)
	w.store, err = sigstore.Start(ctx, dir, w.bin)
	w.must(err)
	t.Cleanup(w.store.Stop)
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// distribution starts the registry whose answer to /referrers is 404.
func (w *world) distribution() {
	w.t.Helper()
	dir, err := os.MkdirTemp(scratch, "registry-")
	w.must(err)
	config := filepath.Join(scratch, "registry.yml")
	w.must(os.WriteFile(config, []byte(fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %s}\n", dir, plain)), 0o644))
	cmd := exec.Command(roottest.Binary(w.t, "registry"), "serve", config)
	w.must(cmd.Start())
	stop := func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	w.close = append(w.close, stop)
	w.t.Cleanup(stop)
	w.must(eventually(func() error { return sigkit.Ping(plain) }))
}

func eventually(f func() error) (err error) {
	for range 200 {
		if err = f(); err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

// offline ends every server; only the daemon and what it stored are left.
func (w *world) offline() {
	for _, f := range w.close {
		f()
	}
	w.close = nil
}
