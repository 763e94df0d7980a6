package image

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"sallyport/test/roottest"
	"sallyport/test/sigkit"
)

// startDistribution starts the real registry (distribution v3), which answers 404 to /referrers.
func startDistribution(t testing.TB) (host string) {
	t.Helper()
	bin := roottest.Binary(t, "registry")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host = l.Addr().String()
	l.Close()
	dir := t.TempDir()
	conf := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s/data}}\nhttp: {addr: %s}\n", dir, host)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "serve", conf)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for range 200 {
		if res, err := http.Get("http://" + host + "/v2/"); err == nil {
			res.Body.Close()
			return host
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the registry does not answer")
	return ""
}

// TestRealRegistry is the whole walk against distribution: index, evidence by fallback tag, pull,
// restart, mount.
func TestRealRegistry(t *testing.T) {
	roottest.Need(t)
	host := startDistribution(t)
	img := build(t, sigkit.ImageOptions{Config: v1.Config{Cmd: []string{"/bin/sh"}}, Pad: 2 << 20})
	top := push(t, host+"/team/app:v1", indexOf(t, img))
	attach(t, host+"/team/app", top, bundle(1), sigkit.FallbackTag)
	e := newEnv(t, host)
	im := e.mustPull(host + "/team/app:v1")
	e.reopen()
	c := e.lookup(im.ID.String(), host+"/team/app:v1")
	if len(c.Evidence.Bundles) != 1 || !c.Evidence.Complete || c.Image.Top != top {
		t.Errorf("Lookup() = %+v", c)
	}
	root, err := e.Mount(t.Context(), e.run(c, "c1"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("chroot", root.Path, "/bin/sh", "-c", "echo ran > /tmp/x && cat /tmp/x").CombinedOutput()
	if err != nil || string(out) != "ran\n" {
		t.Errorf("program in the root filesystem: %q, %v", out, err)
	}
	if err := e.Release("c1"); err != nil {
		t.Error(err)
	}
}
