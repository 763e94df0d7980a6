package main

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/image/ref"
	"sallyport/internal/admin/wire"
	"sallyport/policy"
	"sallyport/policy/bundle"
	"sallyport/test/sigkit"
)

// storing answers like a daemon that has these images, each with its own ID, of which the first runs.
func storing(t *testing.T, images ...wire.StoredImage) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/"+wire.CallPs {
			json.NewEncoder(w).Encode(wire.Ps{Containers: []wire.Container{{State: "running", Namespace: "pay", Instance: images[0].Instance}}})
			return
		}
		var in wire.Stored
		json.NewDecoder(r.Body).Decode(&in)
		out := wire.StoredImages{IDs: []string{"gone"}}
		for _, im := range images {
			out.IDs = append(out.IDs, im.Name)
			if im.Name == in.ID {
				out = wire.StoredImages{Images: []wire.StoredImage{im}}
				break
			}
		}
		if in.ID == "gone" {
			w.WriteHeader(404)
			json.NewEncoder(w).Encode(wire.Failure{Error: "look up image: no such\nimage"})
			return
		}
		json.NewEncoder(w).Encode(out)
	})}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return path
}

// TestPolicyFromNode: the rules that are made admit what the found signers signed and nobody else, the
// rest is denied and named in comments, and no word of a stranger becomes a rule.
func TestPolicyFromNode(t *testing.T) {
	kit, err := sigkit.New()
	if err != nil {
		t.Fatal(err)
	}
	key, err := sigkit.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	manifest := []byte(`{"mediaType":"application/vnd.oci.image.manifest.v1+json"}`)
	d := ref.DigestOf(manifest)
	ci := sigkit.Identity{Issuer: "https://issuer.example", SAN: "https://acme.example/ci#\"a: b\""}
	mallory := sigkit.Identity{Issuer: "https://issuer.example", SAN: "mallory@evil.example"}
	sign := func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good, bad := sign(kit.SignKeyless(d, ci)), sign(kit.SignKeyless(d, mallory))
	scan := sign(kit.Attest(d, mallory, "https://cosign.sigstore.dev/attestation/vuln/v1", nil))
	image := func(repo string, simple int, bundles ...[]byte) wire.StoredImage {
		im := wire.StoredImage{Repository: repo, Name: repo + ":v1", Instance: d.String(), Simple: simple, Complete: true}
		for _, b := range bundles {
			im.Bundles = append(im.Bundles, wire.Bundle{JSON: b})
		}
		return im
	}
	socket := storing(t, image("registry.example/pay/app", 0, good, scan), image("registry.example/pay-app", 0, good),
		image("registry.example/keyed", 0, sign(sigkit.SignKey(key, d))), image("registry.example/plain", 2, []byte("{}")),
		image("registry.example/evil\npolicies: []", 0))
	root := filepath.Join(t.TempDir(), "trusted_root.json")
	if err := os.WriteFile(root, kit.TrustedRoot(), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "policy")
	code, out, errOut := typed("policy", "init", "--from-node", dir, "--socket", socket, "--trusted-root", root)
	if code != 0 || !strings.Contains(out, "node: ok") {
		t.Fatalf("policy init = %d\n%s%s", code, out, errOut)
	}
	if code, out, errOut := typed("policy", "check", dir); code != 0 {
		t.Errorf("policy check = %d\n%s%s", code, out, errOut)
	}
	text, err := os.ReadFile(filepath.Join(dir, "node", "requirements.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"not verified", "# registry.example/keyed: denied", "signature by key " + key.ID(), "# registry.example/plain: denied",
		"2 signatures in an older form", ", runs in pay", "vuln/v1 by mallory@evil.example", "# image gone was left out: look up image: no such"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("requirements.yaml lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "\npolicies: []") {
		t.Errorf("a name ends its comment:\n%s", text)
	}
	set, err := bundle.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		signed []byte
		rule   string // "" is admitted
	}{
		{"registry.example/pay/app:v2", good, ""},
		{"registry.example/pay/app:v2", bad, "registry.example-pay-app-52c4e079b77e"},
		{"registry.example/pay/app:v2", scan, "registry.example-pay-app-52c4e079b77e"},
		{"registry.example/keyed:v1", good, "no-rule"},
	} {
		n, err := ref.Parse(tt.name)
		if err != nil {
			t.Fatal(err)
		}
		v := set.Node().JudgeImage(t.Context(), policy.Image{Name: n, Top: d, Instance: d, ID: d, OS: "linux", Arch: "amd64"},
			policy.Evidence{TopManifest: manifest, InstanceManifest: manifest, Complete: true, Fetched: time.Now(),
				Bundles: []policy.Bundle{{Subject: d, JSON: tt.signed}}}, time.Now())
		if v.Allowed() != (tt.rule == "") || tt.rule != "" && (len(v.Hits()) == 0 || v.Hits()[0].Rule != tt.rule) {
			t.Errorf("%s: allowed %v, %v, want rule %q", tt.name, v.Allowed(), v.Hits(), tt.rule)
		}
	}
}

// TestPolicyFromNodeRefuses: what was not asked for in full makes nothing.
func TestPolicyFromNodeRefuses(t *testing.T) {
	kit, err := sigkit.New()
	if err != nil {
		t.Fatal(err)
	}
	d := ref.DigestOf([]byte("x"))
	b, err := kit.SignKeyless(d, sigkit.Identity{Issuer: "https://issuer.example", SAN: "ci@acme.example"})
	if err != nil {
		t.Fatal(err)
	}
	signed := storing(t, wire.StoredImage{Repository: "registry.example/a", Name: "registry.example/a:v1", Instance: d.String(), Bundles: []wire.Bundle{{JSON: b}}})
	plain := storing(t, wire.StoredImage{Repository: "registry.example/a", Name: "registry.example/a:v1", Instance: d.String()})
	there, none := t.TempDir(), filepath.Join(t.TempDir(), "none")
	for _, tt := range []struct {
		args []string
		code int
		err  string
	}{
		{[]string{none, "--socket", plain}, 2, "--from-node"},
		{[]string{none, "--from-node", "--socket", none}, 2, "does it run"},
		{[]string{none, "--from-node", "--socket", signed, "--trusted-root", none}, 2, "trusted-root create"},
		{[]string{there, "--from-node", "--socket", plain}, 2, "file exists"},
		{[]string{none, "--from-node", "--socket", plain}, 0, ""}, // nothing is signed: all is denied
	} {
		code, out, errOut := typed(append([]string{"policy", "init"}, tt.args...)...)
		if code != tt.code || !strings.Contains(errOut, tt.err) {
			t.Errorf("%q = %d, %q%s, want %d, %q", tt.args, code, out, errOut, tt.code, tt.err)
		}
		if _, err := os.Stat(none); (err == nil) != (tt.code == 0) {
			t.Errorf("%q: made = %v", tt.args, err)
		}
	}
	if code, out, errOut := typed("policy", "check", none); code != 0 {
		t.Errorf("policy check = %d\n%s%s", code, out, errOut)
	}
}
