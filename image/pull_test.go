package image

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"sallyport/test/sigkit"
)

func TestPull(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	img := build(t, sigkit.ImageOptions{Config: v1.Config{Env: []string{"A=b"}, User: "7", Cmd: []string{"true"}, Volumes: map[string]struct{}{"/v": {}}}, Pad: 100000})
	d := push(t, host+"/team/app:v1", img)
	e := newEnv(t, host)
	im := e.mustPull(host + "/team/app:v1")
	if len(im.Tags) != 1 || im.Tags[0] != host+"/team/app:v1" {
		t.Errorf("Tags = %q", im.Tags)
	}
	if len(im.Digests) != 1 || im.Digests[0] != host+"/team/app@"+d.String() {
		t.Errorf("Digests = %q", im.Digests)
	}
	if im.Size < 100000 || im.Config.User != "7" || im.Config.Volumes[0] != "/v" {
		t.Errorf("Pull() = %+v", im)
	}
	if got := e.FsInfo(); got.UsedBytes < 100000 || got.Inodes < 10 {
		t.Errorf("FsInfo() = %+v", got)
	}
	for _, name := range []string{host + "/team/app:v1", host + "/team/app@" + d.String(), host + "/team/app:zzz@" + d.String(), im.ID.String(), im.ID.Hex(), im.ID.Hex()[:12]} {
		if got, ok := e.Status(name); !ok || got.ID != im.ID {
			t.Errorf("Status(%s) = %v, %v", name, got, ok)
		}
	}
	if m := e.Moved(); m.Downloaded == 0 || m.Bytes == 0 || m.Reused != 0 {
		t.Errorf("Moved() = %+v, want what was downloaded", m)
	}
	before := e.Moved()
	e.mustPull(host + "/team/app:v1")
	if m := e.Moved(); m.Bytes != before.Bytes || m.Reused != before.Downloaded {
		t.Errorf("Moved() after a second pull = %+v, want every layer reused", m)
	}
	if _, ok := e.Status(host + "/team/app:v2"); ok {
		t.Error("Status(v2) finds an image that was never pulled")
	}
	e.reopen()
	if got := e.List(); len(got) != 1 || got[0].ID != im.ID || len(e.Problems()) > 0 {
		t.Fatalf("after restart List() = %v, Problems() = %v", got, e.Problems())
	}
	c := e.lookup(im.ID.String(), host+"/team/app:v1")
	if c.Image.Instance != d || c.Evidence.TopManifest == nil {
		t.Fatalf("Lookup() = %+v", c)
	}
	g := e.run(c, "c1")
	root, err := e.Mount(context.Background(), g)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(root.Path, "etc/passwd")); err != nil || len(b) == 0 {
		t.Errorf("etc/passwd in the root filesystem: %v", err)
	}
	if err := os.WriteFile(filepath.Join(root.Path, "written"), nil, 0o600); err != nil {
		t.Error(err)
	}
	wantErr(t, e.Remove(im.ID.String()), ErrInUse, "c1")
	for range 2 { // idempotent
		if err := e.Unmount("c1"); err != nil {
			t.Error(err)
		}
	}
	for range 2 {
		if err := e.Release("c1"); err != nil {
			t.Error(err)
		}
	}
	passwd, group, err := e.UserFiles(context.Background(), d, im.ID)
	if err != nil || len(passwd) == 0 || len(group) == 0 {
		t.Errorf("UserFiles() = %q, %q, %v", passwd, group, err)
	}
	for range 2 {
		if err := e.Remove(host + "/team/app:v1"); err != nil {
			t.Fatal(err)
		}
	}
	if got := e.List(); len(got) != 0 {
		t.Errorf("after Remove List() = %v", got)
	}
	if l := e.leftovers(); len(l) > 0 {
		t.Errorf("after Remove: %v", l)
	}
	if got := e.FsInfo(); got.UsedBytes != 0 || got.Inodes != 0 {
		t.Errorf("after Remove FsInfo() = %+v", got)
	}
}
