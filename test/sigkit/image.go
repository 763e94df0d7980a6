package sigkit

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Busybox is where Debian's busybox-static puts its program.
const Busybox = "/bin/busybox"

// applets get a link each in an image's /bin; all others run as "busybox <name>".
var applets = []string{"sh", "cat", "echo", "sleep", "ls", "id", "grep", "true", "false", "touch", "ps", "kill", "env", "hostname", "mount", "head", "nc", "dd", "yes", "seq", "wc", "stty", "tail", "rm", "mkdir", "date", "test", "wget", "ip", "httpd", "printf", "sed", "tr"}

// ImageOptions say what is in an image.
type ImageOptions struct {
	Config    v1.Config         // as in the image config: Entrypoint, Cmd, Env, User, WorkingDir, Volumes, Labels...
	Files     map[string]string // further files by absolute path, mode 0644
	NoBusybox bool              // leave the program out: an image that is only ever pulled
	Pad       int64             // bytes of random data in a layer of their own
	Platform  v1.Platform       // zero: this machine's
	Docker    bool              // Docker schema 2 media types instead of OCI
}

// Image builds a small image around busybox-static, with /etc/passwd, /etc/group and a world-writable
// /tmp. The same options give the same digest, unless Pad is set.
func Image(o ImageOptions) (v1.Image, error) {
	raw, err := layer(o)
	if err != nil {
		return nil, fmt.Errorf("build image layer: %w", err)
	}
	manifest, config, blob := types.OCIManifestSchema1, types.OCIConfigJSON, types.OCILayer
	if o.Docker {
		manifest, config, blob = types.DockerManifestSchema2, types.DockerConfigJSON, types.DockerLayer
	}
	first, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(raw)), nil
	}, tarball.WithMediaType(blob))
	if err != nil {
		return nil, fmt.Errorf("build image layer: %w", err)
	}
	layers := []v1.Layer{first}
	if o.Pad > 0 {
		pad, err := random.Layer(o.Pad, blob)
		if err != nil {
			return nil, fmt.Errorf("build padding layer: %w", err)
		}
		layers = append(layers, pad)
	}
	if o.Platform.OS == "" {
		o.Platform = v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, manifest), config)
	if img, err = mutate.AppendLayers(img, layers...); err != nil {
		return nil, err
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cf = cf.DeepCopy()
	cf.Config, cf.OS, cf.Architecture, cf.Variant = o.Config, o.Platform.OS, o.Platform.Architecture, o.Platform.Variant
	return mutate.ConfigFile(img, cf)
}

// Index is an OCI index of images, each under the platform of its config.
func Index(images ...v1.Image) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, img := range images {
		cf, err := img.ConfigFile()
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: cf.Platform()},
		})
	}
	return index, nil
}

func layer(o ImageOptions) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, d := range []string{"bin", "etc", "dev", "proc", "sys", "run", "var", "root", "home"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: 0o755}); err != nil {
			return nil, err
		}
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}); err != nil {
		return nil, err
	}
	files := map[string]string{
		"/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\napp:x:1000:1000:app:/home:/bin/sh\n",
		"/etc/group":  "root:x:0:\nnogroup:x:65534:\napp:x:1000:\nextra:x:2000:app\n",
	}
	maps.Copy(files, o.Files)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := regular(w, name, 0o644, []byte(files[name])); err != nil {
			return nil, err
		}
	}
	if !o.NoBusybox {
		program, err := os.ReadFile(Busybox)
		if err != nil {
			return nil, fmt.Errorf("read busybox (Debian package busybox-static): %w", err)
		}
		if err := regular(w, "/bin/busybox", 0o755, program); err != nil {
			return nil, err
		}
		for _, a := range applets {
			h := &tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + a, Linkname: "busybox", Mode: 0o777}
			if err := w.WriteHeader(h); err != nil {
				return nil, err
			}
		}
	}
	err := w.Close()
	return out.Bytes(), err
}

func regular(w *tar.Writer, name string, mode int64, data []byte) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: path.Clean("/" + name)[1:], Mode: mode, Size: int64(len(data))}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}
