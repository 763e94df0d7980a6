package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"sallyport/test/sigkit"
)

// layered builds an image whose layers are archives of these headers, lowest first. A header's
// PAXRecords["body"] is its content.
func layered(t *testing.T, layers ...[]tar.Header) v1.Image {
	t.Helper()
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, headers := range layers {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, h := range headers {
			body := h.PAXRecords["body"]
			h.PAXRecords = nil
			if h.Typeflag == 0 {
				h.Typeflag = tar.TypeReg
			}
			if h.Mode == 0 {
				h.Mode = 0o644
			}
			if body != "" {
				h.Size = int64(len(body))
			}
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if h.Size > int64(len(body)) {
				io.CopyN(w, zeros{}, h.Size)
			}
			io.WriteString(w, body)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil },
			tarball.WithMediaType(types.OCILayer))
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			t.Fatal(err)
		}
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = native.OS, native.Architecture
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		t.Fatal(err)
	}
	return img
}

type tarHeader = tar.Header

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func file(name, body string) tar.Header {
	return tar.Header{Name: name, PAXRecords: map[string]string{"body": body}}
}

func link(name, to string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
}

func dir(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755} }

// TestUserFiles: hostile images cannot make the daemon read the host, hang or fill its memory.
func TestUserFiles(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	e := newEnv(t, host)
	const good = "root:x:0:0::/:/bin/sh\n"
	for i, tc := range []struct {
		name   string
		layers [][]tar.Header
		want   string
	}{
		{"plain", [][]tar.Header{{dir("etc/"), file("etc/passwd", good)}}, good},
		{"replaced above", [][]tar.Header{{dir("etc/"), file("etc/passwd", "old\n")}, {file("etc/passwd", good)}}, good},
		{"whited out", [][]tar.Header{{dir("etc/"), file("etc/passwd", good)}, {file("etc/.wh.passwd", "")}}, ""},
		{"directory whited out", [][]tar.Header{{dir("etc/"), file("etc/passwd", good)}, {file(".wh.etc", "")}}, ""},
		{"absent", [][]tar.Header{{dir("etc/")}}, ""},
		{"link inside", [][]tar.Header{{dir("etc/"), file("etc/real", good), link("etc/passwd", "real")}}, good},
		{"absolute link stays inside", [][]tar.Header{{dir("etc/"), dir("usr/"), file("usr/passwd", good), link("etc/passwd", "/usr/passwd")}}, good},
		{"link to the host's file", [][]tar.Header{{dir("etc/"), link("etc/passwd", "/etc/hostname")}}, ""},
		{"link that climbs", [][]tar.Header{{dir("etc/"), link("etc/passwd", "../../../../../../../../../../etc/hostname")}}, ""},
		{"etc is a link to the host", [][]tar.Header{{link("etc", "/../../../../../../../etc")}}, ""},
		{"link to itself", [][]tar.Header{{dir("etc/"), link("etc/passwd", "passwd")}}, ""},
		{"link to proc", [][]tar.Header{{dir("etc/"), link("etc/passwd", "/proc/self/environ")}}, ""},
		{"directory", [][]tar.Header{{dir("etc/"), dir("etc/passwd/")}}, ""},
		{"pipe", [][]tar.Header{{dir("etc/"), {Name: "etc/passwd", Typeflag: tar.TypeFifo}}}, ""},
		{"endless device", [][]tar.Header{{dir("etc/"), {Name: "etc/passwd", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 5}}}, ""},
		{"too large", [][]tar.Header{{dir("etc/"), {Name: "etc/passwd", Size: maxUserFile + 1}}}, ""},
		{"just small enough", [][]tar.Header{{dir("etc/"), file("etc/passwd", strings.Repeat("x", maxUserFile))}}, strings.Repeat("x", maxUserFile)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			name := fmt.Sprintf("%s/u%d:v1", host, i)
			d := push(t, name, layered(t, tc.layers...))
			im := e.mustPull(name)
			done := time.AfterFunc(20*time.Second, func() { panic("UserFiles hangs") })
			defer done.Stop()
			for range 2 { // read, then remembered
				passwd, _, err := e.UserFiles(context.Background(), d, im.ID)
				if err != nil || string(passwd) != tc.want {
					t.Errorf("UserFiles() = %.60q, %v; want %.60q", passwd, err, tc.want)
				}
			}
		})
	}
	if _, _, err := e.UserFiles(context.Background(), e.List()[0].ID, e.List()[0].ID); err == nil {
		t.Error("UserFiles() of an instance without a record succeeds")
	}
	if l := e.leftovers(); len(l) > 0 {
		t.Errorf("UserFiles left %v", l)
	}
}

// TestHostileLayers unpacks archives that try to leave their directory, beside a canary tree.
func TestHostileLayers(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	e := newEnv(t, host)
	canary := filepath.Join(t.TempDir(), "canary")
	if err := os.MkdirAll(filepath.Join(canary, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(canary, "f"), []byte("alive"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := treeHash(t, canary)
	up := strings.Repeat("../", 20)
	for i, layers := range [][][]tar.Header{
		{{file(up+strings.TrimPrefix(canary, "/")+"/f", "dead")}},
		{{file(canary+"/f", "dead")}},
		{{link("l", canary), file("l/f", "dead")}},
		{{link("l", canary)}, {file("l/f", "dead")}},
		{{link("l", canary)}, {file("l/.wh.f", "")}},
		{{link("l", canary)}, {file("l/.wh..wh..opq", "")}},
		{{{Name: "h", Typeflag: tar.TypeLink, Linkname: canary + "/f"}, file("h", "dead")}},
		{{{Name: "h", Typeflag: tar.TypeLink, Linkname: up + canary + "/f"}}},
		{{link("l", canary), {Name: "l/d", Typeflag: tar.TypeDir, Mode: 0o777}}},
		{{link("l", canary), {Name: "l/f", Mode: 0o777, PAXRecords: map[string]string{"body": "x"}}}},
	} {
		name := fmt.Sprintf("%s/h%d:v1", host, i)
		push(t, name, layered(t, layers...))
		_, err := e.pull(name, "team") // refused or confined: both are well
		if after := treeHash(t, canary); after != before {
			t.Fatalf("archive %d changed the host (Pull() = %v)", i, err)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("error of archive %d is not one line: %q", i, err)
		}
	}
	if l := e.leftovers(); len(l) > 0 {
		t.Errorf("left behind: %v", l)
	}
}

func treeHash(t *testing.T, root string) string {
	t.Helper()
	h := sha256.New()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		b, _ := os.ReadFile(p)
		fmt.Fprintf(h, "%s %v %q\n", p, st.Mode(), b)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}
