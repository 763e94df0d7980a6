package fuzz

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/image"
	"sallyport/image/ref"
)

// Whatever a user writes as an image name: what parses is canonical, has a host, and holds no byte that
// could mean something in a path, a header or a log.
func FuzzReference(f *testing.F) {
	for _, s := range []string{"registry.example/team/app:v1", "docker.io/busybox", "localhost:5000/a@sha256:" + strings.Repeat("0", 64),
		"a", "A.b/c", "registry.example/../x", "registry.example/a:b\n", "[::1]:5/a", "\n", "registry.example/UP\x1b\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ref.Parse(s)
		if err != nil {
			if !n.IsZero() {
				t.Fatalf("Parse(%q) refuses and returns %q", s, n)
			}
			oneLine(t, err)
			return
		}
		again, err := ref.Parse(n.String())
		if err != nil || again != n {
			t.Fatalf("Parse(%q) = %q does not read back: %q, %v", s, n, again, err)
		}
		if n.Host() == "" || n.Tag() == "" && n.Digest().IsZero() {
			t.Fatalf("Parse(%q) = %q has no host, or neither tag nor digest", s, n)
		}
		for _, c := range []byte(n.String()) {
			if c <= ' ' || c >= 0x7f || strings.IndexByte("\"'\\?#%*,;$`", c) >= 0 {
				t.Fatalf("Parse(%q) = %q holds byte %q", s, n, c)
			}
		}
		if strings.Contains(n.String(), "..") && strings.Contains(n.Repository(), "/../") {
			t.Fatalf("Parse(%q) = %q climbs", s, n)
		}
	})
}

// FuzzDigest: what parses is sha256 in its one spelling (CVE-2024-3727).
func FuzzDigest(f *testing.F) {
	f.Add("sha256:" + strings.Repeat("a", 64))
	f.Add("sha256:" + strings.Repeat("A", 64))
	f.Add("sha256:../" + strings.Repeat("a", 61))
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ref.ParseDigest(s)
		if err != nil {
			if !d.IsZero() {
				t.Fatalf("ParseDigest(%q) refuses and returns %v", s, d)
			}
			return
		}
		if d.String() != s || len(d.Hex()) != 64 || strings.Trim(d.Hex(), "0123456789abcdef") != "" {
			t.Fatalf("ParseDigest(%q) = %v", s, d)
		}
	})
}

const manifestType = "application/vnd.oci.image.manifest.v1+json"

// FuzzManifest: what is read as a manifest says one thing to every parser (CVE-2021-41190): it has no
// manifests, its layers are of known types with sha256 digests and no URLs, and its own media type is
// the one that the registry said.
func FuzzManifest(f *testing.F) {
	config := `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["sha256:` + strings.Repeat("0", 64) + `"]}}`
	good := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":%d,"digest":%q},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","size":3,"digest":"sha256:%s"}]}`,
		manifestType, len(config), ref.DigestOf([]byte(config)), strings.Repeat("1", 64))
	if _, err := image.Parse([]byte(good), manifestType, []byte(config)); err != nil {
		f.Fatal(err)
	}
	f.Add(good, manifestType, config)
	f.Add(strings.Replace(good, "{", `{"manifests":[],`, 1), manifestType, config)
	f.Add(strings.Replace(good, `"layers"`, `"Layers"`, 1), manifestType, config)
	f.Add(strings.Replace(good, "{", `{"layers":[],`, 1), manifestType, config)
	f.Add(good, "text/plain", config)
	f.Fuzz(func(t *testing.T, manifest, contentType, config string) {
		_, err := image.Parse([]byte(manifest), contentType, []byte(config))
		if err != nil {
			if !errors.Is(err, image.ErrInvalid) {
				t.Fatalf("Parse() = %v, want an error that is ErrInvalid", err)
			}
			return
		}
		var m map[string]json.RawMessage
		if err := json.Unmarshal([]byte(manifest), &m); err != nil {
			t.Fatal(err)
		}
		for k := range m {
			if l := strings.ToLower(k); l == "manifests" || l == "fslayers" || l != k && (l == "layers" || l == "config") {
				t.Fatalf("a manifest with member %q was read", k)
			}
		}
		var layers []struct {
			MediaType, Digest string
			URLs              []string
		}
		if raw := m["layers"]; raw != nil {
			if err := json.Unmarshal(raw, &layers); err != nil {
				t.Fatal(err)
			}
		}
		for _, l := range layers {
			if _, err := ref.ParseDigest(l.Digest); err != nil || len(l.URLs) > 0 || !strings.Contains(l.MediaType, "tar") {
				t.Fatalf("a layer %+v was read", l)
			}
		}
	})
}

// FuzzImageConfig: whatever a config says, reading it is bounded and ends; what is read has the same
// number of diff IDs as the manifest has layers, here none.
func FuzzImageConfig(f *testing.F) {
	f.Add(`{"rootfs":{"type":"layers","diff_ids":[]},"config":{"User":"0","Env":["A=b"],"Volumes":{"/v":{}},"Labels":{"a":"b"}}}`)
	f.Add(`{"rootfs":{"type":"layers","diff_ids":["sha256:x"]}}`)
	f.Add(`{"rootfs":{"type":"foreign"}}`)
	f.Add(strings.Repeat("[", 20000))
	f.Fuzz(func(t *testing.T, config string) {
		manifest := fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":%d,"digest":%q}}`,
			len(config), ref.DigestOf([]byte(config)))
		_, err := image.Parse([]byte(manifest), manifestType, []byte(config))
		if err != nil {
			return
		}
		var c struct {
			Rootfs struct {
				DiffIDs []string `json:"diff_ids"`
			} `json:"rootfs"`
		}
		if err := json.Unmarshal([]byte(config), &c); err != nil || len(c.Rootfs.DiffIDs) != 0 {
			t.Fatalf("a config with %d diff IDs was read for a manifest without layers (%v)", len(c.Rootfs.DiffIDs), err)
		}
	})
}

// FuzzArtifact: every title that is read names one file below the volume and nothing else: no two files
// share a path, none is another's directory, no byte means something to a terminal or to overlay.
func FuzzArtifact(f *testing.F) {
	layer := func(title string) string {
		b, err := json.Marshal(map[string]any{"mediaType": "application/octet-stream", "size": 1, "digest": "sha256:" + strings.Repeat("1", 64),
			"annotations": map[string]string{"org.opencontainers.image.title": title}})
		if err != nil {
			f.Fatal(err)
		}
		return string(b)
	}
	whole := func(layers ...string) string {
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"artifactType":"a/b","config":{"mediaType":"application/vnd.oci.empty.v1+json","size":2,"digest":"sha256:%s"},"layers":[%s]}`,
			manifestType, strings.Repeat("4", 64), strings.Join(layers, ","))
	}
	if got, err := image.ParseArtifact([]byte(whole(layer("a"), layer("b/c"))), manifestType); err != nil || len(got) != 2 {
		f.Fatal(got, err)
	}
	for _, titles := range [][]string{{"a", "b/c"}, {"../x"}, {"/x"}, {"a", "a/b"}, {"a", "a"}, {".wh.x"}, {"a\n"}, {""}} {
		var layers []string
		for _, title := range titles {
			layers = append(layers, layer(title))
		}
		f.Add(whole(layers...), manifestType)
	}
	f.Fuzz(func(t *testing.T, manifest, contentType string) {
		titles, err := image.ParseArtifact([]byte(manifest), contentType)
		if err != nil {
			if !errors.Is(err, image.ErrInvalid) {
				t.Fatalf("ParseArtifact() = %v, want an error that is ErrInvalid", err)
			}
			oneLine(t, err)
			return
		}
		seen := map[string]bool{}
		for _, title := range titles {
			if !filepath.IsLocal(title) || filepath.Clean(title) != title || title == "." || strings.ContainsAny(title, "\\\x00\n\x1b") {
				t.Fatalf("title %q was read", title)
			}
			seen[title] = true
		}
		for _, title := range titles {
			for dir := filepath.Dir(title); dir != "."; dir = filepath.Dir(dir) {
				if seen[dir] {
					t.Fatalf("title %q is a file and a directory", dir)
				}
			}
		}
		if len(seen) != len(titles) || len(titles) == 0 {
			t.Fatalf("titles %q were read", titles)
		}
	})
}
