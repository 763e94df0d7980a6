package layout

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	"sallyport/image/ref"
)

var files = map[string][]byte{"bundle.yaml": []byte("name: a\n"), "rego/a.rego": []byte("package lib\n")}

func build(t testing.TB) (map[string][]byte, ref.Digest) {
	t.Helper()
	l, d, err := Build(Config{Namespaces: []string{"pay"}, Revision: 7}, files)
	if err != nil {
		t.Fatal(err)
	}
	return l, d
}

func TestBuildOpen(t *testing.T) {
	l, d := build(t)
	_, again := build(t)
	if d != again {
		t.Errorf("Build() = %s and %s, want the same digest", d, again)
	}
	signed, err := Attach(l, []byte(`{"a": 1}`))
	if err != nil {
		t.Fatal(err)
	}
	if signed, err = Attach(signed, []byte(`{"a": 1}`)); err != nil {
		t.Fatal(err)
	}
	a, err := Open(signed)
	if err != nil || a.Digest != d || len(a.Bundles) != 1 || !a.Config.Names("pay") || a.Config.Names("") || a.Config.Names("shop") {
		t.Errorf("Open() = %+v, %v", a, err)
	}
	if !maps.EqualFunc(a.Files, files, bytes.Equal) {
		t.Errorf("Files = %q, want %q", a.Files, files)
	}
}

func TestBuildRefuses(t *testing.T) {
	for _, tt := range []struct {
		c    Config
		want string
	}{
		{Config{Revision: 1}, "either node or namespaces"},
		{Config{Node: true, Namespaces: []string{"a"}, Revision: 1}, "either node or namespaces"},
		{Config{Node: true}, "revision: 0"},
		{Config{Node: true, Revision: 1<<53 + 1}, "revision:"},
		{Config{Node: true, Revision: 1, Tombstone: true}, "node policy cannot be removed"},
		{Config{Namespaces: []string{"a", "a"}, Revision: 1}, "twice"},
		{Config{Namespaces: []string{"../a"}, Revision: 1}, "no name"},
	} {
		if _, _, err := Build(tt.c, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Build(%+v) = %v, want %q", tt.c, err, tt.want)
		}
	}
}

// relist replaces the index's manifests.
func relist(l map[string][]byte, change func([]descriptor) []descriptor) map[string][]byte {
	out := maps.Clone(l)
	idx, err := readIndex(l)
	if err != nil {
		panic(err)
	}
	idx.Manifests = change(idx.Manifests)
	putIndex(out, idx)
	return out
}

// remake replaces the manifest by a changed one, with the digest that belongs to it.
func remake(l map[string][]byte, change func(m map[string]any, put func([]byte) map[string]any)) map[string][]byte {
	out := maps.Clone(l)
	idx, _ := readIndex(l)
	var m map[string]any
	json.Unmarshal(l["blobs/sha256/"+idx.Manifests[0].Digest[7:]], &m)
	change(m, func(b []byte) map[string]any {
		d := put(out, ContentType, b)
		return map[string]any{"mediaType": d.MediaType, "digest": d.Digest, "size": d.Size}
	})
	text, _ := json.Marshal(m)
	putIndex(out, index{SchemaVersion: 2, Manifests: []descriptor{put(out, manifestType, text)}})
	return out
}

func TestOpenRefuses(t *testing.T) {
	good, d := build(t)
	other, _, err := Build(Config{Node: true, Revision: 1}, files)
	if err != nil {
		t.Fatal(err)
	}
	config := func(text string) map[string][]byte {
		return remake(good, func(m map[string]any, put func([]byte) map[string]any) {
			c := put([]byte(text))
			c["mediaType"] = ConfigType
			m["config"] = c
		})
	}
	layers := func(n int, mediaType string) map[string][]byte {
		return remake(good, func(m map[string]any, put func([]byte) map[string]any) {
			l := m["layers"].([]any)[0].(map[string]any)
			l["mediaType"] = mediaType
			m["layers"] = []any{l, l, l}[:n]
		})
	}
	padded := relist(good, func(m []descriptor) []descriptor {
		for range maxListed {
			m = append(m, descriptor{MediaType: "x"})
		}
		return m
	})
	many := maps.Clone(good)
	for i := range MaxSignatures + 1 {
		own := descriptor{MediaType: manifestType, Digest: d.String()}
		s := putManifest(many, manifest{SchemaVersion: 2, MediaType: manifestType, ArtifactType: SignatureType,
			Config: put(many, emptyType, []byte("{}")), Layers: []descriptor{put(many, SignatureType, fmt.Appendf(nil, "%d", i))}, Subject: &own})
		many = relist(many, func(m []descriptor) []descriptor { return append(m, s) })
	}
	tests := []struct {
		name   string
		layout map[string][]byte
		want   string // "": it opens
	}{
		{"in order", good, ""},
		{"remade as it was", remake(good, func(map[string]any, func([]byte) map[string]any) {}), ""},
		{"no layout", map[string][]byte{}, "oci-layout"},
		{"another version", map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"2"}`)}, "oci-layout"},
		{"no index", map[string][]byte{"oci-layout": good["oci-layout"]}, "index.json: 0 bytes"},
		{"nothing listed", relist(good, func([]descriptor) []descriptor { return nil }), "lists no policy"},
		{"padded index", padded, "more than 256 manifests"},
		{"more signatures than are read", many, "more than 64"},
		{"a second policy", relist(merge(good, other), func(m []descriptor) []descriptor {
			idx, _ := readIndex(other)
			return append(m, idx.Manifests...)
		}), "two policies"},
		{"a path for a digest", relist(good, func(m []descriptor) []descriptor {
			m[0].Digest = "sha256:../../index.json"
			return m
		}), "digest"},
		{"another size", relist(good, func(m []descriptor) []descriptor {
			m[0].Size++
			return m
		}), "size and digest"},
		{"unknown field of the manifest", remake(good, func(m map[string]any, _ func([]byte) map[string]any) { m["manifests"] = []any{} }), `unknown field "manifests"`},
		{"an image", remake(good, func(m map[string]any, _ func([]byte) map[string]any) {
			m["config"].(map[string]any)["mediaType"] = "application/vnd.oci.image.config.v1+json"
		}), "lists no policy"},
		{"no layer", layers(0, ContentType), "want one layer"},
		{"two layers", layers(2, ContentType), "want one layer"},
		{"compressed", layers(1, ContentType+"+gzip"), "want one layer"},
		{"config of another schema", config(`{"schema": "v2", "node": true, "revision": 1}`), "schema"},
		{"unknown field of the config", config(`{"schema": "sallyport.policy-bundle/v1", "node": true, "revision": 1, "mode": 1}`), `unknown field "mode"`},
		{"field twice", config(`{"schema": "sallyport.policy-bundle/v1", "node": true, "revision": 9, "revision": 1}`), "already defined"},
		{"no revision", config(`{"schema": "sallyport.policy-bundle/v1", "node": true}`), "revision: 0"},
		{"tombstone with files", config(`{"schema": "sallyport.policy-bundle/v1", "namespaces": ["a"], "revision": 1, "tombstone": true}`), "tombstone has no files"},
	}
	for _, tt := range tests {
		_, err := Open(tt.layout)
		if tt.want == "" && err != nil {
			t.Errorf("%s: Open() = %v", tt.name, err)
		}
		if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: Open() = %v, want one line with %q", tt.name, err, tt.want)
		}
	}
}

func merge(a, b map[string][]byte) map[string][]byte {
	out := maps.Clone(b)
	maps.Copy(out, a)
	return out
}

func TestUntarRefuses(t *testing.T) {
	pack := func(hs ...tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range hs {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			w.Write(make([]byte, h.Size))
		}
		w.Close()
		return b.Bytes()
	}
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Size: 1} }
	var crowd []tar.Header
	for i := range MaxFiles + 1 {
		crowd = append(crowd, file(fmt.Sprint(i)))
	}
	big := file("a")
	big.Size = MaxFile + 1
	full := []tar.Header{}
	for i := range 5 {
		h := file(fmt.Sprint(i))
		h.Size = MaxFile
		full = append(full, h)
	}
	tests := []struct {
		name string
		data []byte
		want string
	}{
		{"in order", pack(file("a"), file("rego/a.rego")), ""},
		{"as many as may be", pack(crowd[:MaxFiles]...), ""},
		{"above", pack(file("../a")), "clean path"},
		{"absolute", pack(file("/etc/a")), "clean path"},
		{"unclean", pack(file("a/./b")), "clean path"},
		{"backslash", pack(file(`a\..\b`)), "clean path"},
		{"hidden", pack(file(".a")), "dot"},
		{"hidden below", pack(file("a/.b")), "dot"},
		{"symlink", pack(tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "/etc/passwd"}), "regular files only"},
		{"hard link", pack(tar.Header{Typeflag: tar.TypeLink, Name: "a", Linkname: "b"}), "regular files only"},
		{"device", pack(tar.Header{Typeflag: tar.TypeChar, Name: "a"}), "regular files only"},
		{"directory", pack(tar.Header{Typeflag: tar.TypeDir, Name: "a/"}), "regular files only"},
		{"twice", pack(file("a"), file("a")), "twice"},
		{"too many", pack(crowd...), "more than 1000"},
		{"too large", pack(big), "larger than"},
		{"too large together", pack(full...), "larger than"},
		{"too deep", pack(file(strings.Repeat("a/", 9) + "b")), "deep"},
		{"cut", pack(file("a"))[:512], "unpack"},
	}
	for _, tt := range tests {
		_, err := Untar(tt.data)
		if tt.want == "" && err != nil {
			t.Errorf("%s: Untar() = %v", tt.name, err)
		}
		if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: Untar() = %v, want %q", tt.name, err, tt.want)
		}
	}
}
