package containers

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/image/ref"
	"sallyport/policy"
	"sallyport/test/sigkit"
)

var (
	manifest = []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},"layers":[]}`)
	instance = ref.DigestOf(manifest)
	index    = ref.DigestOf([]byte("index"))
)

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func input(t testing.TB, name string, sigs ...policy.Simple) policy.ImageInput {
	t.Helper()
	return policy.ImageInput{
		Image:    policy.Image{Name: must[ref.Name](t)(ref.Parse(name)), Top: index, Instance: instance, ID: index, OS: "linux", Arch: "amd64"},
		Evidence: policy.Evidence{InstanceManifest: manifest, Simple: sigs, Complete: true},
		Now:      time.Now(),
	}
}

// world has a GPG key, a cosign key and a stranger of each kind, all of which have signed the image.
type world struct {
	gpg, gpgStranger       *sigkit.GPGKey
	cosign, cosignStranger *sigkit.Key
	ring                   []byte
}

func newWorld(t testing.TB) world {
	t.Helper()
	w := world{
		gpg: must[*sigkit.GPGKey](t)(sigkit.NewGPGKey("release")), gpgStranger: must[*sigkit.GPGKey](t)(sigkit.NewGPGKey("mallory")),
		cosign: must[*sigkit.Key](t)(sigkit.NewKey()), cosignStranger: must[*sigkit.Key](t)(sigkit.NewKey()),
	}
	w.ring = must[[]byte](t)(w.gpg.Public())
	return w
}

func gpgSig(t testing.TB, k *sigkit.GPGKey, name string, d ref.Digest) policy.Simple {
	t.Helper()
	return policy.Simple{Subject: d, Payload: must[[]byte](t)(k.Sign(must[ref.Name](t)(ref.Parse(name)), d))}
}

func cosignSig(t testing.TB, k *sigkit.Key, name string, d ref.Digest) policy.Simple {
	t.Helper()
	payload, ann, err := sigkit.Legacy(k, must[ref.Name](t)(ref.Parse(name)), d)
	if err != nil {
		t.Fatal(err)
	}
	return policy.Simple{Subject: d, MediaType: "application/vnd.dev.cosign.simplesigning.v1+json", Payload: payload, Annotations: ann}
}

func (w world) policy() string {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf(`{
  "default": [{"type": "reject"}],
  "transports": {
    "docker": {
      "registry.example/gpg": [{"type": "signedBy", "keyType": "GPGKeys", "keyData": %q}],
      "registry.example/cosign": [{"type": "sigstoreSigned", "keyData": %q, "signedIdentity": {"type": "matchRepository"}}],
      "registry.example/both": [
        {"type": "signedBy", "keyType": "GPGKeys", "keyData": %q},
        {"type": "sigstoreSigned", "keyData": %q, "signedIdentity": {"type": "matchRepository"}}],
      "registry.example/mirror": [{"type": "signedBy", "keyType": "GPGKeys", "keyData": %q,
        "signedIdentity": {"type": "remapIdentity", "prefix": "registry.example/mirror", "signedPrefix": "vendor.example"}}],
      "registry.example/never": [{"type": "reject"}],
      "registry.example/any": [{"type": "insecureAcceptAnything"}],
      "registry.example/any/but": [{"type": "reject"}],
      "*.wild.example": [{"type": "insecureAcceptAnything"}]
    },
    "docker-daemon": {"": [{"type": "insecureAcceptAnything"}]}
  }
}`, b64(w.ring), b64(w.cosign.PEM()), b64(w.ring), b64(w.cosign.PEM()), b64(w.ring))
}

// TestJudge: each denial names its rule and stands beside an image that differs in one fact and passes.
func TestJudge(t *testing.T) {
	w := newWorld(t)
	scratch := t.TempDir()
	r := must[policy.ImageRule](t)(New([]byte(w.policy()), scratch))
	const gpg, cosign, both = "registry.example/gpg/app:v1", "registry.example/cosign/app:v1", "registry.example/both/app:v1"
	byDigest := "registry.example/gpg/app@" + instance.String()
	for _, tc := range []struct {
		name    string
		image   string
		sigs    []policy.Simple
		rule    string // "": not matched
		refused string // part of the message; "": passes
	}{
		{"gpg", gpg, []policy.Simple{gpgSig(t, w.gpg, gpg, instance)}, "policy.json docker registry.example/gpg", ""},
		{"gpg by digest", byDigest, []policy.Simple{gpgSig(t, w.gpg, gpg, instance)}, "policy.json docker registry.example/gpg", ""},
		{"gpg, no signature", gpg, nil, "policy.json docker registry.example/gpg", "found none"},
		{"gpg, by a stranger", gpg, []policy.Simple{gpgSig(t, w.gpgStranger, gpg, instance)}, "policy.json docker registry.example/gpg", "found 1 signature"},
		{"gpg, for another tag", gpg, []policy.Simple{gpgSig(t, w.gpg, "registry.example/gpg/app:v0", instance)}, "policy.json docker registry.example/gpg", "not accepted"},
		{"gpg, of another manifest", gpg, []policy.Simple{{Subject: instance, Payload: gpgSig(t, w.gpg, gpg, index).Payload}}, "policy.json docker registry.example/gpg", "does not match"},
		{"gpg, of the index", gpg, []policy.Simple{gpgSig(t, w.gpg, gpg, index)}, "policy.json docker registry.example/gpg", "1 for the index"},
		{"gpg, after a stranger's and junk", gpg, []policy.Simple{
			{Subject: instance, Payload: []byte("junk")}, {Subject: instance}, gpgSig(t, w.gpgStranger, gpg, instance), gpgSig(t, w.gpg, gpg, instance),
		}, "policy.json docker registry.example/gpg", ""},
		{"gpg, a cosign signature", gpg, []policy.Simple{cosignSig(t, w.cosign, gpg, instance)}, "policy.json docker registry.example/gpg", "found 1 signature"},
		{"cosign", cosign, []policy.Simple{cosignSig(t, w.cosign, cosign, instance)}, "policy.json docker registry.example/cosign", ""},
		{"cosign, by a stranger", cosign, []policy.Simple{cosignSig(t, w.cosignStranger, cosign, instance)}, "policy.json docker registry.example/cosign", "found 1 signature"},
		{"cosign, of another repository", cosign, []policy.Simple{cosignSig(t, w.cosign, "registry.example/cosign/other:v1", instance)}, "policy.json docker registry.example/cosign", "not accepted"},
		{"cosign, of another manifest", cosign, []policy.Simple{{Subject: instance, MediaType: "application/vnd.dev.cosign.simplesigning.v1+json", Payload: cosignSig(t, w.cosign, cosign, index).Payload, Annotations: cosignSig(t, w.cosign, cosign, index).Annotations}}, "policy.json docker registry.example/cosign", "found 1 signature"},
		{"cosign, hidden in a GPG blob", cosign, []policy.Simple{{Subject: instance, Payload: hidden(t, cosignSig(t, w.cosign, cosign, instance))}}, "policy.json docker registry.example/cosign", "signature was required"},
		{"both", both, []policy.Simple{gpgSig(t, w.gpg, both, instance), cosignSig(t, w.cosign, both, instance)}, "policy.json docker registry.example/both", ""},
		{"both, one missing", both, []policy.Simple{gpgSig(t, w.gpg, both, instance)}, "policy.json docker registry.example/both", "signature was required"},
		{"remapped", "registry.example/mirror/app:v1", []policy.Simple{gpgSig(t, w.gpg, "vendor.example/app:v1", instance)}, "policy.json docker registry.example/mirror", ""},
		{"not remapped", "registry.example/mirror/app:v1", []policy.Simple{gpgSig(t, w.gpg, "registry.example/mirror/app:v1", instance)}, "policy.json docker registry.example/mirror", "not accepted"},
		{"remapped, of another vendor", "registry.example/mirror/app:v1", []policy.Simple{gpgSig(t, w.gpg, "other.example/app:v1", instance)}, "policy.json docker registry.example/mirror", "not accepted"},
		{"cosign, of the index", cosign, []policy.Simple{cosignSig(t, w.cosign, cosign, index)}, "policy.json docker registry.example/cosign", "1 for the index (sign with --recursive)"},
		{"reject", "registry.example/never/app:v1", []policy.Simple{gpgSig(t, w.gpg, gpg, instance)}, "policy.json docker registry.example/never", "rejected"},
		{"accept anything", "registry.example/any/app:v1", nil, "policy.json docker registry.example/any", ""},
		{"the nearest scope wins", "registry.example/any/but/app:v1", nil, "policy.json docker registry.example/any/but", "rejected"},
		{"wildcard", "a.wild.example/app:v1", nil, "policy.json docker *.wild.example", ""},
		{"no scope, default reject", "registry.example/elsewhere:v1", nil, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, err := r.JudgeImage(context.Background(), input(t, tc.image, tc.sigs...))
			if err != nil {
				t.Fatalf("JudgeImage() error = %v", err)
			}
			if f.Matched != (tc.rule != "") || (f.Matched && f.Rules[0] != tc.rule) {
				t.Fatalf("JudgeImage() matched %v by %q, want %q", f.Matched, f.Rules, tc.rule)
			}
			if tc.refused == "" {
				if len(f.Hits) != 0 {
					t.Errorf("JudgeImage() = %q, want no objection", f.Hits)
				}
				return
			}
			if len(f.Hits) != 1 || f.Hits[0].Rule != tc.rule || !strings.Contains(f.Hits[0].Msg, tc.refused) || strings.ContainsAny(f.Hits[0].Msg, "\n\r") {
				t.Errorf("JudgeImage() = %q, want one line of rule %q with %q", f.Hits, tc.rule, tc.refused)
			}
		})
	}
	if left := must[[]os.DirEntry](t)(os.ReadDir(scratch)); len(left) != 0 {
		t.Errorf("scratch directory holds %v after the checks, want nothing", left)
	}
}

// hidden is a cosign signature in the stored form, offered as if it were GPG.
func hidden(t *testing.T, s policy.Simple) []byte {
	t.Helper()
	blob, ok := storedForm(s)
	if !ok {
		t.Fatal("storedForm() refuses a cosign signature")
	}
	return blob
}

func TestDefaults(t *testing.T) {
	for _, tc := range []struct {
		name, doc string
		matched   bool
		rule      string
		hits      int
	}{
		{"reject says nothing", `{"default":[{"type":"reject"}]}`, false, "", 0},
		{"accept anything", `{"default":[{"type":"insecureAcceptAnything"}]}`, true, "policy.json default", 0},
		{"reject of the transport says no", `{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{"":[{"type":"reject"}]}}}`, true, `policy.json docker ""`, 1},
		{"transports that are not ours say nothing", `{"default":[{"type":"reject"}],"transports":{"docker-daemon":{"":[{"type":"insecureAcceptAnything"}]},"dir":{"":[{"type":"insecureAcceptAnything"}]}}}`, false, "", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := must[policy.ImageRule](t)(New([]byte(tc.doc), t.TempDir()))
			f, err := r.JudgeImage(context.Background(), input(t, "registry.example/app:v1"))
			if err != nil {
				t.Fatal(err)
			}
			if f.Matched != tc.matched || len(f.Hits) != tc.hits || (tc.matched && f.Rules[0] != tc.rule) {
				t.Errorf("JudgeImage() = %+v, want matched %v, rule %q, %d hits", f, tc.matched, tc.rule, tc.hits)
			}
		})
	}
}

// TestFaults: what is not a verdict is an error, which denies whatever the mode.
func TestFaults(t *testing.T) {
	accept := []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`)
	r := must[policy.ImageRule](t)(New(accept, t.TempDir()))
	ctx, cancel := context.WithCancel(context.Background())
	if f, err := r.JudgeImage(ctx, input(t, "registry.example/app:v1")); err != nil || !f.Matched {
		t.Fatalf("JudgeImage() = %+v, %v; want a match", f, err)
	}
	other := input(t, "registry.example/app:v1")
	other.Evidence.InstanceManifest = []byte("other bytes")
	if _, err := r.JudgeImage(ctx, other); err == nil || !strings.Contains(err.Error(), "does not hash to") {
		t.Errorf("JudgeImage() of other bytes = %v, want an error", err)
	}
	many := input(t, "registry.example/app:v1", make([]policy.Simple, maxSignatures+1)...)
	if _, err := r.JudgeImage(ctx, many); err == nil {
		t.Error("JudgeImage() of too many signatures = nil error")
	}
	large := input(t, "registry.example/app:v1", policy.Simple{Payload: make([]byte, maxSignature+1)})
	if _, err := r.JudgeImage(ctx, large); err == nil {
		t.Error("JudgeImage() of too large a signature = nil error")
	}
	gone := must[policy.ImageRule](t)(New(accept, t.TempDir()+"/gone"))
	if _, err := gone.JudgeImage(ctx, input(t, "registry.example/app:v1")); err == nil {
		t.Error("JudgeImage() without a scratch directory = nil error")
	}
	cancel()
	if _, err := r.JudgeImage(ctx, input(t, "registry.example/app:v1")); err == nil {
		t.Error("JudgeImage() after the context's end = nil error")
	}
}

// TestLint: what containers/image takes and never matches or never verifies, and what it refuses itself.
func TestLint(t *testing.T) {
	scope := func(s string) string {
		return fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{%q:[{"type":"insecureAcceptAnything"}]}}}`, s)
	}
	req := func(r string) string {
		return `{"default":[{"type":"reject"}],"transports":{"docker":{"registry.example":[` + r + `]}}}`
	}
	key := base64.StdEncoding.EncodeToString(must[*sigkit.Key](t)(sigkit.NewKey()).PEM())
	remap := func(prefix string) string {
		return fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{"registry.example/mirror":[{"type":"sigstoreSigned","keyData":%q,
		  "signedIdentity":{"type":"remapIdentity","prefix":%q,"signedPrefix":"vendor.example"}}]}}}`, key, prefix)
	}
	for _, tc := range []struct{ name, doc, want string }{
		{"host", scope("registry.example"), ""},
		{"host and port", scope("registry.example:5000"), ""},
		{"localhost", scope("localhost"), ""},
		{"namespace", scope("registry.example/team"), ""},
		{"repository with tag", scope("registry.example/team/app:v1"), ""},
		{"tag in upper case", scope("registry.example/team/app:V1"), ""},
		{"repository with digest", scope("registry.example/team/app@" + instance.String()), ""},
		{"wildcard", scope("*.example"), ""},
		{"docker.io namespace", scope("docker.io/library"), ""},
		{"docker.io repository", scope("docker.io/library/busybox"), ""},
		{"upper-case repository", scope("registry.example/Team/app"), `transports.docker["registry.example/Team/app"]`},
		{"upper-case host", scope("Registry.example"), "transports.docker"},
		{"upper-case host with port", scope("Registry.example:5000"), "never matches"},
		{"upper-case repository with tag", scope("registry.example/Team/app:v1"), "never matches"},
		{"upper-case last part with tag", scope("registry.example/App:v1"), "never matches"},
		{"short name", scope("busybox"), "never matches"},
		{"short name with namespace", scope("library/busybox"), "never matches"},
		{"wildcard with path", scope("*.example/app"), "never matches"},
		{"wildcard within", scope("registry.*/app"), "never matches"},
		{"trailing slash", scope("registry.example/"), "never matches"},
		{"tag and digest", scope("registry.example/app:v1@" + instance.String()), "never matches"},
		{"unknown transport", `{"default":[{"type":"reject"}],"transports":{"dokcer":{"":[{"type":"reject"}]}}}`, "transports.dokcer: unknown transport"},
		{"no default", `{"transports":{}}`, "default: missing"},
		{"unknown key", `{"default":[{"type":"reject"}],"transport":{}}`, "transport"},
		{"unknown type", req(`{"type":"signed"}`), `transports.docker["registry.example"][0].type`},
		{"unknown field", req(`{"type":"reject","why":"x"}`), `transports.docker["registry.example"][0]: Unknown key`},
		{"key twice", `{"default":[{"type":"reject"}],"default":[{"type":"insecureAcceptAnything"}]}`, "uplicate"},
		{"signedBaseLayer", req(`{"type":"signedBaseLayer","baseLayerIdentity":{"type":"matchRepository"}}`), "never verifies"},
		{"X509 signedBy", req(`{"type":"signedBy","keyType":"X509Certificates","keyData":"eA=="}`), "keyType"},
		{"ring without keys", req(`{"type":"signedBy","keyType":"GPGKeys","keyData":"eA=="}`), "keyData"},
		{"key that is none", req(`{"type":"sigstoreSigned","keyData":"eA=="}`), "keyData"},
		{"rekor key that is none", req(`{"type":"sigstoreSigned","keyData":"` + key + `","rekorPublicKeyData":"eA=="}`), "rekorPublicKeyData"},
		{"CA that is none", req(`{"type":"sigstoreSigned","fulcio":{"caData":"eA==","oidcIssuer":"i","subjectEmail":"e"},"rekorPublicKeyData":"` + key + `"}`), "fulcio.caData"},
		{"fulcio without rekor", req(`{"type":"sigstoreSigned","fulcio":{"caPath":"ca","oidcIssuer":"i","subjectEmail":"e"}}`), `transports.docker["registry.example"][0]`},
		{"key file", req(`{"type":"sigstoreSigned","keyPath":"k"}`), "must be inlined"},
		{"empty list", `{"default":[{"type":"reject"}],"transports":{"docker":{"registry.example":[]}}}`, "empty"},
		{"remapped within the scope", remap("registry.example/mirror/deeper"), ""},
		{"remapped above the scope", remap("registry.example"), ""},
		{"remapped by the host's wildcard", strings.ReplaceAll(remap("registry.example"), "registry.example/mirror", "*.example"), ""},
		{"remapped elsewhere", remap("registry.example/other"), "so nothing is remapped"},
		{"remapped by a part of a word", remap("registry.example/mir"), "so nothing is remapped"},
		{"PKI whose CA is none", req(`{"type":"sigstoreSigned","pki":{"caRootsData":"eA==","subjectEmail":"e@x.example"}}`), "pki.caRootsData"},
		{"contradiction", req(`{"type":"insecureAcceptAnything"},{"type":"reject"}`), "contradicts itself"},
		{"no JSON", "{\n\n\"default\": [}", "line 3"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := New([]byte(tc.doc), t.TempDir())
			if (err == nil) != (tc.want == "") || (err != nil && !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("New() error = %v, want %q", err, tc.want)
			}
		})
	}
}

// TestInline: after it no file is named, and what it makes judges as the keys say.
func TestInline(t *testing.T) {
	w := newWorld(t)
	files := map[string][]byte{"a.gpg": must[[]byte](t)(w.gpgStranger.Public()), "b.gpg": w.ring, "c.pub": w.cosign.PEM(), "d.pub": w.cosignStranger.PEM()}
	read := func(p string) ([]byte, error) {
		if b, ok := files[p]; ok {
			return b, nil
		}
		return nil, os.ErrNotExist
	}
	doc := `{"default":[{"type":"reject"}],"transports":{"docker":{
	 "registry.example/gpg":[{"type":"signedBy","keyType":"GPGKeys","keyPaths":["a.gpg","b.gpg"]}],
	 "registry.example/cosign":[{"type":"sigstoreSigned","keyPaths":["d.pub","c.pub"],"signedIdentity":{"type":"matchRepository"}}]}}}`
	out := must[[]byte](t)(Inline([]byte(doc), read))
	if strings.Contains(string(out), "Path") {
		t.Fatalf("Inline() = %s, which still names a file", out)
	}
	r := must[policy.ImageRule](t)(New(out, t.TempDir()))
	for name, sig := range map[string]policy.Simple{
		"registry.example/gpg/app:v1":    gpgSig(t, w.gpg, "registry.example/gpg/app:v1", instance),
		"registry.example/cosign/app:v1": cosignSig(t, w.cosign, "registry.example/cosign/app:v1", instance),
	} {
		f, err := r.JudgeImage(context.Background(), input(t, name, sig))
		if err != nil || !f.Matched || len(f.Hits) != 0 {
			t.Errorf("JudgeImage(%s) = %+v, %v; want a pass", name, f, err)
		}
	}
	missing := strings.Replace(doc, "c.pub", "e.pub", 1)
	if _, err := Inline([]byte(missing), read); err == nil || !strings.Contains(err.Error(), `transports.docker["registry.example/cosign"][0].keyPaths[1]`) {
		t.Errorf("Inline() of a missing key = %v, want its JSON path", err)
	}
	twice := `{"default":[{"type":"reject"}],"default":[{"type":"insecureAcceptAnything"}]}`
	if _, err := Inline([]byte(twice), read); err == nil {
		t.Error("Inline() of a policy with a key twice = nil error; re-encoding would hide it")
	}
}

// TestConcurrent: 64 checks at once on one rule; a shared PolicyContext fails most of them.
func TestConcurrent(t *testing.T) {
	w := newWorld(t)
	r := must[policy.ImageRule](t)(New([]byte(w.policy()), t.TempDir()))
	const name = "registry.example/cosign/app:v1"
	in := input(t, name, cosignSig(t, w.cosign, name, instance))
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			if f, err := r.JudgeImage(context.Background(), in); err != nil || len(f.Hits) != 0 {
				t.Errorf("JudgeImage() = %+v, %v; want a pass", f, err)
			}
		})
	}
	wg.Wait()
}

// TestFulcio: the form in which Kubernetes' releases are signed, for the starter policy.
func TestFulcio(t *testing.T) {
	k := must[*sigkit.Kit](t)(sigkit.New())
	foreign := must[*sigkit.Kit](t)(sigkit.New())
	const name, issuer, who = "registry.example/k8s/pause:3.10", "https://accounts.example", "release@k8s.example"
	b64 := base64.StdEncoding.EncodeToString
	doc := fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{"registry.example/k8s":[{"type":"sigstoreSigned",
	  "fulcio":{"caData":%q,"oidcIssuer":%q,"subjectEmail":%q},"rekorPublicKeyData":%q,"signedIdentity":{"type":"matchRepository"}}]}}}`,
		b64(k.AuthorityPEM()), issuer, who, b64(k.LogPEM()))
	r := must[policy.ImageRule](t)(New([]byte(doc), t.TempDir()))
	for _, tc := range []struct {
		name    string
		by      *sigkit.Kit
		id      sigkit.Identity
		refused bool
	}{
		{"the release identity", k, sigkit.Identity{SAN: who, Issuer: issuer}, false},
		{"another subject", k, sigkit.Identity{SAN: "mallory@k8s.example", Issuer: issuer}, true},
		{"another issuer", k, sigkit.Identity{SAN: who, Issuer: "https://evil.example"}, true},
		{"another authority", foreign, sigkit.Identity{SAN: who, Issuer: issuer}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			payload, ann, err := tc.by.LegacyKeyless(tc.id, must[ref.Name](t)(ref.Parse(name)), instance)
			if err != nil {
				t.Fatal(err)
			}
			s := policy.Simple{Subject: instance, MediaType: "application/vnd.dev.cosign.simplesigning.v1+json", Payload: payload, Annotations: ann}
			f, err := r.JudgeImage(context.Background(), input(t, name, s))
			if err != nil || !f.Matched || (len(f.Hits) > 0) != tc.refused {
				t.Fatalf("JudgeImage() = %+v, %v; want refused: %v", f, err, tc.refused)
			}
			if tc.refused && (f.Hits[0].Rule != "policy.json docker registry.example/k8s" || !strings.Contains(f.Hits[0].Msg, who)) {
				t.Errorf("JudgeImage() = %q, want the rule by name and who was wanted", f.Hits)
			}
		})
	}
}

// TestPKI: certificates of a private CA, without a log.
func TestPKI(t *testing.T) {
	k := must[*sigkit.Kit](t)(sigkit.New())
	foreign := must[*sigkit.Kit](t)(sigkit.New())
	const name, who = "registry.example/pki/app:v1", "release@corp.example"
	doc := fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{"registry.example/pki":[{"type":"sigstoreSigned",
	  "pki":{"caRootsData":%q,"subjectEmail":%q},"signedIdentity":{"type":"matchRepository"}}]}}}`, base64.StdEncoding.EncodeToString(k.AuthorityPEM()), who)
	r := must[policy.ImageRule](t)(New([]byte(doc), t.TempDir()))
	for _, tc := range []struct {
		name, who string
		by        *sigkit.Kit
		refused   bool
	}{
		{"the release address", who, k, false},
		{"another address", "mallory@corp.example", k, true},
		{"another CA", who, foreign, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			payload, ann, err := tc.by.LegacyKeyless(sigkit.Identity{SAN: tc.who, Issuer: "https://issuer.example"}, must[ref.Name](t)(ref.Parse(name)), instance)
			if err != nil {
				t.Fatal(err)
			}
			s := policy.Simple{Subject: instance, MediaType: "application/vnd.dev.cosign.simplesigning.v1+json", Payload: payload, Annotations: ann}
			f, err := r.JudgeImage(context.Background(), input(t, name, s))
			if err != nil || !f.Matched || (len(f.Hits) > 0) != tc.refused {
				t.Fatalf("JudgeImage() = %+v, %v; want refused: %v", f, err, tc.refused)
			}
			if tc.refused && (f.Hits[0].Rule != "policy.json docker registry.example/pki" || !strings.Contains(f.Hits[0].Msg, who+" of a private CA")) {
				t.Errorf("JudgeImage() = %q, want the rule by name and who was wanted", f.Hits)
			}
		})
	}
}
