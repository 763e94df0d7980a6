package fuzz

import (
	"bytes"
	"maps"
	"os"
	"testing"
	"time"

	"sallyport/image/ref"
	"sallyport/policy/bundle"
	"sallyport/policy/bundle/layout"
	"sallyport/test/sigkit"
)

// Whatever root.json says, it is refused by one line or nobody can sign with a threshold that is not met
// by distinct keys.
func FuzzPolicyRoot(f *testing.F) {
	key, err := sigkit.NewKey()
	if err != nil {
		f.Fatal(err)
	}
	files, err := sigkit.PolicyRoot{Version: 3, Root: key, Node: key, Namespaces: map[string]*sigkit.Key{"pay": key}}.Files()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(files["root.json"]))
	f.Add([]byte(`{"schema": "sallyport.policy-root/v1", "version": 1, "keys": {"a": {"keyless": {"issuer": "x", "subject": "y"}}}, "trustedRoot": {}}`))
	f.Add([]byte(`{"schema": "sallyport.policy-root/v1", "version": 1, "root": {"signers": [], "threshold": 0}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := bundle.ParseRoot(text)
		if err != nil {
			oneLine(t, err)
			return
		}
		if r.Version() == 0 || r.Expires().IsZero() {
			t.Fatalf("a root of version %d that ends at %v", r.Version(), r.Expires())
		}
		if bytes.Contains(text, []byte(`"threshold": 0`)) && bytes.Count(text, []byte("threshold")) == 1 {
			t.Fatal("a threshold of 0")
		}
	})
}

// Whatever an override says, it is refused by one line, or it is for one image, one namespace, named rules,
// a week at most and a number of times.
func FuzzOverride(f *testing.F) {
	const good = `{"schema": "sallyport.override/v1", "cluster": "prod", "nodes": ["node-*"], "namespace": "pay",
 "digest": "sha256:abababababababababababababababababababababababababababababababab", "verbs": ["run"], "rules": ["a"], "ticket": "T-1",
 "reason": "r", "notBefore": "2026-11-22T00:00:00Z", "notAfter": "2026-11-22T01:00:00Z", "maxUses": 3}`
	if _, err := bundle.ParseOverride([]byte(good)); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(good))
	f.Add([]byte(`{"schema": "sallyport.override/v1", "verbs": ["exec"], "maxUses": -1}`))
	f.Add([]byte(`{"schema": "sallyport.override/v1", "nodes": ["*", "("], "notAfter": "9999-12-31T23:59:59Z"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		o, err := bundle.ParseOverride(text)
		if err != nil {
			oneLine(t, err)
			return
		}
		span := o.NotAfter.Sub(o.NotBefore)
		if o.Digest.IsZero() || o.Namespace == "" || len(o.Rules) == 0 || len(o.Verbs) == 0 || o.MaxUses < 1 || span <= 0 || span > 7*24*time.Hour {
			t.Fatalf("an override without bounds: %+v", o)
		}
	})
}

// Whatever an index, a manifest and a config say, a layout is refused by one line, or what it gives was
// hashed: built again from it, it is the same policy.
func FuzzPolicyLayout(f *testing.F) {
	good, d, err := layout.Build(layout.Config{Namespaces: []string{"pay"}, Revision: 7}, map[string][]byte{"bundle.yaml": []byte("name: a\n")})
	if err != nil {
		f.Fatal(err)
	}
	signed, err := layout.Attach(good, []byte("{}"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed["index.json"], good["blobs/sha256/"+d.Hex()], []byte("{}"))
	f.Add([]byte(`{"manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:../../x"}]}`), []byte("{}"), []byte{})
	f.Add([]byte(`{"manifests": null}`), []byte(`{"schemaVersion": 2}`), []byte(`{"schema": "sallyport.policy-bundle/v1", "node": true, "revision": 1}`))
	f.Fuzz(func(t *testing.T, index, a, b []byte) {
		in := maps.Clone(signed)
		in["index.json"] = index
		in["blobs/sha256/"+d.Hex()] = a // not what it is named by, unless it is the seed
		in[blobName(b)] = b
		art, err := layout.Open(in)
		if err != nil {
			oneLine(t, err)
			return
		}
		if art.Digest != d || art.Config.Revision != 7 || !art.Config.Names("pay") || art.Config.Names("") {
			t.Fatalf("Open() = %+v, which nobody built", art)
		}
	})
}

// Whatever an archive holds, what comes out of it packs to an archive with the same files, inside the
// limits.
func FuzzPolicyArchive(f *testing.F) {
	good, err := layout.Tar(map[string][]byte{"bundle.yaml": []byte("name: a\n"), "rego/a.rego": []byte("package lib\n")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(bytes.Replace(good, []byte("rego/a.rego"), []byte("../../a.reg"), 1))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		files, err := layout.Untar(data)
		if err != nil {
			return
		}
		if len(files) > layout.MaxFiles {
			t.Fatalf("%d files", len(files))
		}
		again, err := layout.Tar(files)
		if err != nil {
			t.Fatalf("what was unpacked cannot be packed: %v", err)
		}
		back, err := layout.Untar(again)
		if err != nil || !maps.EqualFunc(files, back, bytes.Equal) {
			t.Fatalf("unpacked %d files, and %d of them again: %v", len(files), len(back), err)
		}
	})
}

// Whatever state a power cut or a hand left, it is read whole or refuses.
func FuzzPolicyState(f *testing.F) {
	f.Add([]byte(`{"schema": "sallyport.policy-state/v1", "root": "", "marks": {"": {"revision": 1, "digest": "a"}}}`))
	f.Add([]byte("{}"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		mem := t.TempDir()
		writeFile(t, mem+"/policy-state.json", text)
		s, err := bundle.Read(bundle.Options{Root: dir, Signed: &bundle.Signed{State: mem, Now: time.Unix(1e9, 0)}})
		if err == nil && s.Node() != nil {
			t.Fatal("a policy out of nothing")
		}
		if err != nil {
			oneLine(t, err)
		}
	})
}

func blobName(b []byte) string { return "blobs/sha256/" + ref.DigestOf(b).Hex() }

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
