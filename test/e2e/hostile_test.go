package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/test/node"
	"sallyport/test/sigkit"
)

const secret = "canary-secret-7f3a"

// canary is a tree on the node that no container may read or change.
type canary struct{ dir string }

func newCanary(t *testing.T, w *world) canary {
	t.Helper()
	c := canary{w.Path("canary")}
	t.Cleanup(func() { os.RemoveAll(c.dir) })
	for _, dir := range []string{"etc", "dev", "proc", "run", "vol"} {
		if err := os.MkdirAll(filepath.Join(c.dir, dir), 0o777); err != nil {
			t.Fatal(err)
		}
		os.Chmod(filepath.Join(c.dir, dir), 0o777)
		if err := os.WriteFile(filepath.Join(c.dir, dir, "secret"), []byte(secret), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	passwd := "root:x:0:0:root:/root:/bin/sh\nhostonly:x:0:0:x:/:/bin/sh\n"
	if err := os.WriteFile(filepath.Join(c.dir, "etc", "passwd"), []byte(passwd), 0o666); err != nil {
		t.Fatal(err)
	}
	return c
}

// hash covers names, modes, owners and contents.
func (c canary) hash(t *testing.T) string {
	t.Helper()
	h := sha256.New()
	err := filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(h, path, st.Mode(), st.Size(), st.ModTime().UnixNano())
		if d.Type().IsRegular() {
			b, err := os.ReadFile(path)
			h.Write(b)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// pushLayer pushes an image with a layer of entries over the usual one.
func (w *world) pushLayer(repo string, c v1.Config, entries ...tar.Header) string {
	w.t.Helper()
	img, err := sigkit.Image(sigkit.ImageOptions{Config: c})
	if err != nil {
		w.t.Fatal(err)
	}
	var raw bytes.Buffer
	tw := tar.NewWriter(&raw)
	for _, e := range entries {
		body := []byte(e.PAXRecords["body"])
		e.PAXRecords = nil
		if e.Size = int64(len(body)); e.Mode == 0 {
			e.Mode = 0o777
		}
		if err := tw.WriteHeader(&e); err != nil {
			w.t.Fatal(err)
		}
		if _, err := tw.Write(body); err != nil {
			w.t.Fatal(err)
		}
	}
	tw.Close()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw.Bytes())), nil })
	if err == nil {
		img, err = mutate.AppendLayers(img, l)
	}
	at := w.host + "/" + repo + ":v1"
	if err == nil {
		_, err = sigkit.Push(at, img)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return at
}

// link replaces name, whatever the layers below have there, with a symbolic link.
func link(name, to string) []tar.Header {
	dir, base := filepath.Split(name)
	return []tar.Header{
		{Typeflag: tar.TypeReg, Name: dir + ".wh." + base},
		{Typeflag: tar.TypeSymlink, Name: name, Linkname: to},
	}
}

// Images whose well-known paths are links to the node (CVE-2024-5154 and kin) run or are refused, and
// never touch or show what the links name there. The twin without links runs.
func TestImageLinks(t *testing.T) {
	w := start(t, nil, "")
	c := newCanary(t, w)
	up := strings.Repeat("../", 20)
	const script = "echo began; cat /etc/secret /dev/secret /proc/secret /run/secret /etc/mtab/secret /vol/secret 2>/dev/null; " +
		"for d in /etc /dev /proc /run /vol /dev/shm /etc/mtab; do echo x > $d/planted; done 2>/dev/null; echo x >> /etc/mtab; echo x >> /etc/hosts; echo ended"
	podID, pod := w.pod("default", "links")
	for i, tt := range []struct {
		name  string
		links [][2]string
	}{
		{"none", nil},
		{"etc", [][2]string{{"etc", c.dir + "/etc"}}},
		{"etc, relative", [][2]string{{"etc", up + c.dir[1:] + "/etc"}}},
		{"mtab", [][2]string{{"etc/mtab", c.dir + "/etc/secret"}}},
		{"mtab is a directory", [][2]string{{"etc/mtab", c.dir + "/etc"}}},
		{"dev", [][2]string{{"dev", c.dir + "/dev"}}},
		{"dev, relative", [][2]string{{"dev", up + c.dir[1:] + "/dev"}}},
		{"proc", [][2]string{{"proc", c.dir + "/proc"}}},
		{"sys", [][2]string{{"sys", c.dir + "/proc"}}},
		{"run", [][2]string{{"run", c.dir + "/run"}, {"var/run", c.dir + "/run"}}},
		{"our files", [][2]string{{"etc/resolv.conf", c.dir + "/etc/secret"}, {"etc/hostname", c.dir + "/etc/secret"}, {"etc/hosts", c.dir + "/etc/secret"}}},
		{"shm", [][2]string{{"dev/shm", c.dir + "/dev"}}},
		{"mount point and work dir", [][2]string{{"data", c.dir + "/vol"}, {"work", c.dir + "/run"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var entries []tar.Header
			for _, l := range tt.links {
				entries = append(entries, link(l[0], l[1])...)
			}
			image := w.pushLayer(fmt.Sprintf("open/links%d", i), v1.Config{WorkingDir: "/work"}, entries...)
			imageID := w.pulled(image, pod)
			data := w.Path("data")
			os.MkdirAll(data, 0o777)
			before := c.hash(t)
			ctr := node.Container(fmt.Sprintf("links-%d", i), image, imageID, "/bin/sh", "-c", script)
			ctr.Mounts = []*cri.Mount{{ContainerPath: "/data", HostPath: data}}
			id, err := w.Create(w.ctx, podID, pod, ctr)
			if err == nil {
				err = w.Start(w.ctx, id)
			}
			if err == nil {
				_, err = w.Wait(w.ctx, id)
			}
			if err != nil && tt.links == nil {
				t.Errorf("the twin without links: %v, want it to run", err)
			}
			out, _ := w.ContainerLog(pod, ctr)
			if strings.Contains(out, secret) {
				t.Errorf("the container read the canary: %q", out)
			}
			if tt.links == nil && !strings.Contains(out, "began\nended") {
				t.Errorf("the twin printed %q", out)
			}
			if c.hash(t) != before {
				t.Errorf("the canary was changed")
			}
		})
	}
}

// A VOLUME that is a link in the image shows nothing of the node (CVE-2022-23648); the plain one is a
// place to write.
func TestVolumeLinks(t *testing.T) {
	w := start(t, nil, "")
	c := newCanary(t, w)
	podID, pod := w.pod("default", "volumes")
	for i, tt := range []struct {
		name, volume, link string
	}{
		{"plain", "/vol", ""},
		{"absolute link", "/vol", c.dir + "/vol"},
		{"relative link", "/vol", strings.Repeat("../", 20) + c.dir[1:] + "/vol"},
		{"link in the middle", "/up/vol", c.dir},
		{"path that climbs", "/vol/../../../../../.." + c.dir + "/vol", ""},
		{"over proc", "/proc/self", ""},
		{"root", "/", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			entries := []tar.Header{{Typeflag: tar.TypeDir, Name: "vol/", Mode: 0o777}}
			if tt.link != "" {
				entries = link(strings.Split(tt.volume, "/")[1], tt.link)
			}
			image := w.pushLayer(fmt.Sprintf("open/volumes%d", i), v1.Config{Volumes: map[string]struct{}{tt.volume: {}}}, entries...)
			before := c.hash(t)
			ctr := node.Container(fmt.Sprintf("volumes-%d", i), image, w.pulled(image, pod), "/bin/sh", "-c",
				"cat "+tt.volume+"/secret; ls -R /vol /up; echo x > /vol/planted && echo wrote; test -r /proc/1/status && echo proc")
			id, err := w.Create(w.ctx, podID, pod, ctr)
			if err == nil {
				err = w.Start(w.ctx, id)
			}
			if err == nil {
				_, err = w.Wait(w.ctx, id)
			}
			out, _ := w.ContainerLog(pod, ctr)
			if i == 0 && (err != nil || !strings.Contains(out, "wrote") || !strings.Contains(out, "proc")) {
				t.Errorf("plain volume: %v, %q, want it writable", err, out)
			}
			if strings.Contains(out, secret) || c.hash(t) != before {
				t.Errorf("the volume reached the node: %q", out)
			}
		})
	}
}

// A user that only the node's passwd knows, reached through a link in the image, is nobody.
func TestPasswdLink(t *testing.T) {
	w := start(t, nil, "")
	c := newCanary(t, w)
	podID, pod := w.pod("default", "passwd")
	for _, tt := range []struct {
		name, user string
		ok         bool
	}{{"own", "app", true}, {"foreign", "hostonly", false}} {
		var entries []tar.Header
		if !tt.ok {
			entries = link("etc/passwd", c.dir+"/etc/passwd")
		}
		image := w.pushLayer("open/passwd-"+tt.name, v1.Config{User: tt.user}, entries...)
		_, err := w.Create(w.ctx, podID, pod, node.Container(tt.name, image, w.pulled(image, pod), "/bin/sleep", "1"))
		if (err == nil) != tt.ok || err != nil && !strings.Contains(err.Error(), tt.user) {
			t.Errorf("CreateContainer(user %s) = %v, want ok %t and the user named", tt.user, err, tt.ok)
		}
	}
}
