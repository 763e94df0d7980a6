package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"sallyport/test/sigkit"
)

// The registries that the suite names; registries.conf sends them to ours.
var registries = []string{"registry.k8s.io", "k8s.gcr.io", "gcr.io/k8s-staging-cri-tools"}

const (
	staging = "gcr.io/k8s-staging-cri-tools/"
	e2e     = "registry.k8s.io/e2e-test-images/"
	idle    = "while true; do sleep 1000; done"
)

// stand is an image that stands in for one of the suite's.
type stand struct {
	names  []string // all are the same image
	config v1.Config
}

// stands are the images that the suite's source names, but for the one that it names by a digest:
// pkg/validate/consts.go, pkg/framework/util.go and the Dockerfiles in images/.
func stands() []stand {
	sh := []string{"sh"}
	out := []stand{
		{[]string{e2e + "busybox:1.29-2"}, v1.Config{Cmd: sh}},
		{[]string{e2e + "nginx:1.14-2"}, v1.Config{Cmd: []string{"nginx", "-g", "daemon off;"}}},
		{[]string{e2e + "httpd:2.4.39-4"}, v1.Config{Cmd: []string{"httpd"}}},
		{[]string{e2e + "nonewprivs:1.3"}, v1.Config{Entrypoint: []string{"/bin/nonewprivs"}}},
		{[]string{staging + "hostnet-nginx-" + runtime.GOARCH + ":latest"}, v1.Config{Cmd: []string{"nginx", "-p", "12003"}}},
		{[]string{"registry.k8s.io/pause:3.9", "k8s.gcr.io/pause:3.9"}, v1.Config{Entrypoint: []string{"/bin/sh", "-c", idle}}},
		{[]string{staging + "test-image-predefined-group:latest"}, v1.Config{Cmd: sh, User: "1000"}},
		{[]string{staging + "test-image-tags:1", staging + "test-image-tags:2", staging + "test-image-tags:3"}, v1.Config{Cmd: sh}},
	}
	for name, user := range map[string]string{
		"test-image-user-uid": "1002", "test-image-user-username": "www-data",
		"test-image-user-uid-group": "1003:users", "test-image-user-username-group": "www-data:100",
	} {
		out = append(out, stand{[]string{staging + name + ":latest"}, v1.Config{Cmd: sh, User: user}})
	}
	for _, name := range []string{"latest:latest", "tag:test", "tag:all", "digest:latest", "1:latest", "2:latest", "3:latest"} {
		out = append(out, stand{[]string{staging + "test-image-" + name}, v1.Config{Cmd: sh}})
	}
	return out
}

// users are those of busybox:1.37.0 that matter, and those of images/image-predefined-group.
const (
	passwd = `root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
default-user:x:1000:1000:Linux User,,,:/home/default-user:/bin/sh
`
	group = `root:x:0:
www-data:x:33:
users:x:100:
nobody:x:65534:
default-user:x:1000:
group-defined-in-image:x:50000:default-user
`
)

// publish pushes the stand-ins to the registry at host.
func publish(host string, o options) error {
	common, err := commonLayer(filepath.Join(o.bin, "standin"))
	if err != nil {
		return fmt.Errorf("build image layer: %w", err)
	}
	layers := []v1.Layer{common}
	if o.shell != "" {
		shell, err := shellLayer(o.shell)
		if err != nil {
			return fmt.Errorf("build image layer with %s: %w", o.shell, err)
		}
		layers = append(layers, shell)
	}
	for _, s := range stands() {
		own, err := layer(func(w *tar.Writer) error { return file(w, "image", 0o644, []byte(s.names[0]+"\n")) })
		if err != nil {
			return err
		}
		img, err := image(s.config, append(layers, own)...)
		if err != nil {
			return fmt.Errorf("build image %s: %w", s.names[0], err)
		}
		for _, name := range s.names {
			if _, err := sigkit.Push(host+"/"+name, img); err != nil {
				return err
			}
		}
	}
	return nil
}

func image(config v1.Config, layers ...v1.Layer) (v1.Image, error) {
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.AppendLayers(base, layers...)
	if err != nil {
		return nil, err
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cf = cf.DeepCopy()
	config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cf.Config, cf.OS, cf.Architecture = config, "linux", runtime.GOARCH
	return mutate.ConfigFile(img, cf)
}

// commonLayer is what all images share: busybox under each of its names, as hard links, since masking
// one name must not mask all; users; and the stand-in under its names.
func commonLayer(standin string) (v1.Layer, error) {
	busybox, err := os.ReadFile(sigkit.Busybox)
	if err != nil {
		return nil, fmt.Errorf("read busybox (Debian package busybox-static): %w", err)
	}
	list, err := exec.Command(sigkit.Busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list the applets of busybox: %w", err)
	}
	program, err := os.ReadFile(standin)
	if err != nil {
		return nil, err
	}
	return layer(func(w *tar.Writer) error {
		for _, dir := range []string{"bin", "etc", "dev", "proc", "sys", "run", "var", "var/run", "var/www", "root", "home", "home/default-user", "mnt"} {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}); err != nil {
				return err
			}
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}); err != nil {
			return err
		}
		for _, f := range []struct {
			name string
			mode int64
			data []byte
		}{
			{"etc/passwd", 0o644, []byte(passwd)},
			{"etc/group", 0o644, []byte(group)},
			{"bin/busybox", 0o755, busybox},
			{"bin/pgrep", 0o755, []byte("#!/bin/sh\nexec pidof \"$@\"\n")}, // Debian's busybox has none
			{"bin/nginx", 0o755, program},
			{"bin/nonewprivs", 0o4755, program},
		} {
			if err := file(w, f.name, f.mode, f.data); err != nil {
				return err
			}
		}
		links := map[string]string{"httpd": "nginx", "ipcs": "nginx"}
		for _, applet := range strings.Fields(string(list)) {
			if _, taken := links[applet]; !taken && applet != "busybox" && applet != "pgrep" {
				links[applet] = "busybox"
			}
		}
		for name, to := range links {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeLink, Name: "bin/" + name, Linkname: "bin/" + to, Mode: 0o755}); err != nil {
				return err
			}
		}
		return nil
	})
}

// library is a line of ldd that names a file.
var library = regexp.MustCompile(`(?:=> )?(/\S+) \(0x`)

// shellLayer replaces /bin/sh by another build of busybox, with the libraries that it needs.
func shellLayer(path string) (v1.Layer, error) {
	files := map[string]string{"bin/sh": path}
	out, err := exec.Command("ldd", path).Output()
	if err != nil {
		return nil, fmt.Errorf("list its libraries: %w", err)
	}
	for _, m := range library.FindAllStringSubmatch(string(out), -1) {
		files[strings.TrimPrefix(m[1], "/")] = m[1]
	}
	return layer(func(w *tar.Writer) error {
		for _, name := range slices.Sorted(maps.Keys(files)) {
			data, err := os.ReadFile(files[name])
			if err != nil {
				return err
			}
			if err := file(w, name, 0o755, data); err != nil {
				return err
			}
		}
		return nil
	})
}

func layer(fill func(*tar.Writer) error) (v1.Layer, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := fill(w); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(out.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
}

func file(w *tar.Writer, name string, mode int64, data []byte) error {
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}
