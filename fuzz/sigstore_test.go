package fuzz

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/image/ref"
	"sallyport/policy"
	"sallyport/policy/containers"
	"sallyport/policy/sigstore"
	"sallyport/test/sigkit"
)

// sigstoreDigest is what the bundle of testdata/public-good is about.
const sigstoreDigest = "sha256:632579b5183d418ff3dc443994fd35e0e1a2a6ce89a1ee22fdca577f8e8bc9c3"

func sigstoreFile(f *testing.F, name string) []byte {
	f.Helper()
	b, err := os.ReadFile(filepath.Join("..", "policy", "sigstore", "testdata", name))
	if err != nil {
		f.Fatal(err)
	}
	return b
}

func sigstoreImage(tb testing.TB, top, instance ref.Digest) policy.Image {
	tb.Helper()
	n, err := ref.Parse("registry.example/app:v1")
	if err != nil {
		tb.Fatal(err)
	}
	return policy.Image{Name: n, Top: top, Instance: instance, ID: instance, OS: "linux", Arch: "amd64"}
}

// FuzzSigstoreBundle: whatever a bundle says, it is no error of the whole evidence, and a claim says no
// more than the public instance certified: that signer, that digest, in a log, with an SCT, at that hour.
func FuzzSigstoreBundle(f *testing.F) {
	v, err := sigstore.New(sigstore.Options{Roots: [][]byte{sigstoreFile(f, "public-good.root.json")}})
	if err != nil {
		f.Fatal(err)
	}
	d, err := ref.ParseDigest(sigstoreDigest)
	if err != nil {
		f.Fatal(err)
	}
	good := sigstoreFile(f, "public-good.bundle.json")
	f.Add(good)
	f.Add(sigstoreFile(f, "othername.bundle.json"))
	f.Add(bytes.Replace(good, []byte("version=0.2"), []byte("version=0.3"), 1))
	f.Add(bytes.Replace(good, []byte("x509CertificateChain"), []byte("publicKey"), 1))
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"x"}},"dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"eA=="}]}}`))
	f.Add([]byte(`{}`))
	img := sigstoreImage(f, d, d)
	f.Fuzz(func(t *testing.T, doc []byte) {
		ev := policy.Evidence{Bundles: []policy.Bundle{{Subject: d, JSON: doc}}}
		claims, reasons, err := v.Verify(context.Background(), img, ev, time.Now())
		if err != nil && len(doc) <= sigstore.MaxBundle {
			t.Fatalf("Verify() error = %v", err)
		}
		if len(claims)+len(reasons) != 1 {
			t.Fatalf("Verify() = %d claims, reasons %q; want one of either", len(claims), reasons)
		}
		said, err := sigstore.Read(ev.Bundles[0])
		for _, c := range claims { // what is proved is what is said
			if f := c.Fields(); err != nil || said.Issuer != f.Issuer || said.Subject != f.SAN {
				t.Fatalf("Read() = %+v, %v; proved was %+v", said, err, f)
			}
		}
		for _, r := range reasons {
			if strings.Contains(r, "panicked") || strings.ContainsAny(r, "\n\r\x1b") {
				t.Fatalf("reason = %q", r)
			}
		}
		for _, c := range claims {
			g := c.Fields()
			if g.SAN != "a@tny.town" || g.Issuer != "https://github.com/login/oauth" || g.Subject != d ||
				g.Logged != 1 || g.SCTs != 1 || g.PredicateType != "" || g.Signed.Format(time.DateOnly) != "2024-01-26" {
				t.Fatalf("claim = %+v, which nobody certified", g)
			}
		}
	})
}

// FuzzTrustedRoot: a root is compiled or refused, and one that has been changed vouches for nobody new.
func FuzzTrustedRoot(f *testing.F) {
	f.Add(sigstoreFile(f, "public-good.root.json"))
	f.Add(sigstoreFile(f, "othername.root.json"))
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1","tlogs":[{}]}`))
	f.Add([]byte(`{}`))
	bundle := sigstoreFile(f, "public-good.bundle.json")
	d, err := ref.ParseDigest(sigstoreDigest)
	if err != nil {
		f.Fatal(err)
	}
	img := sigstoreImage(f, d, d)
	f.Fuzz(func(t *testing.T, doc []byte) {
		v, err := sigstore.New(sigstore.Options{Roots: [][]byte{doc}})
		if err != nil {
			return
		}
		ev := policy.Evidence{Bundles: []policy.Bundle{{Subject: d, JSON: bundle}}}
		claims, reasons, err := v.Verify(context.Background(), img, ev, time.Now())
		if err != nil || len(claims)+len(reasons) != 1 {
			t.Fatalf("Verify() = %d claims, %q, %v", len(claims), reasons, err)
		}
		if len(claims) == 1 && (claims[0].Fields().SAN != "a@tny.town" || claims[0].Fields().Logged != 1 || claims[0].Fields().SCTs != 1) {
			t.Fatalf("claim = %+v, which nobody certified", claims[0].Fields())
		}
	})
}

// FuzzSignedIndex: an index vouches for an instance only if it is JSON that names it under manifests.
func FuzzSignedIndex(f *testing.F) {
	instance := ref.DigestOf([]byte("instance"))
	f.Add([]byte(fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"digest":%q}]}`, instance)))
	f.Add([]byte(fmt.Sprintf(`{"schemaVersion":2,"layers":[],"manifests":[{"digest":%q}]}`, instance)))
	f.Add([]byte(fmt.Sprintf(`{"manifests":[],"x":{"manifests":[{"digest":%q}]}}`, instance)))
	f.Add([]byte(fmt.Sprintf(`{"annotations":{"a":%q}}`, instance)))
	v, err := sigstore.New(sigstore.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		img := sigstoreImage(t, ref.DigestOf(doc), instance)
		if _, _, err := v.Verify(context.Background(), img, policy.Evidence{TopManifest: doc}, time.Now()); err != nil {
			return
		}
		var index map[string]any
		if err := json.Unmarshal(doc, &index); err != nil {
			t.Fatalf("accepted as an index: %v", err)
		}
		listed, both := false, false
		for name, value := range index {
			both = both || ((name == "layers" || name == "config") && value != nil)
			list, _ := value.([]any)
			for _, m := range list {
				entry, _ := m.(map[string]any)
				for field, digest := range entry {
					listed = listed || (strings.EqualFold(name, "manifests") && strings.EqualFold(field, "digest") && digest == instance.String())
				}
			}
		}
		if !listed || both {
			t.Fatalf("accepted as an index of %s: %q", instance, doc)
		}
	})
}

// FuzzPolicyJSON: a policy is compiled or refused; one that compiles passes an unsigned image only if it
// says so in a word.
func FuzzPolicyJSON(f *testing.F) {
	key := `LS0tLS1CRUdJTiBQVUJMSUMgS0VZLS0tLS0KTUZrd0V3WUhLb1pJemowQ0FRWUlLb1pJemowREFRY0RRZ0FFRUxHNXpmYnl6Z2dwcUZSZFIwSXJXQ01zR3h3YgpLYUZUVFdMK0tUTGlBdmI2MmNFOHVBR2RGQlBxVTlJcTl3cHdlZ2RuWWtYNnFlbTFKcXJZMktCUDZRPT0KLS0tLS1FTkQgUFVCTElDIEtFWS0tLS0tCg==`
	f.Add([]byte(`{"default":[{"type":"reject"}]}`))
	f.Add([]byte(`{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{"registry.example":[{"type":"reject"}]}}}`))
	f.Add([]byte(`{"default":[{"type":"reject"}],"transports":{"docker":{"registry.example/app":[{"type":"sigstoreSigned","keyData":"` + key + `","signedIdentity":{"type":"matchRepository"}}]}}}`))
	f.Add([]byte(`{"default":[{"type":"reject"}],"transports":{"docker":{"*.example":[{"type":"signedBy","keyType":"GPGKeys","keyData":"` + key + `"}]}}}`))
	f.Add([]byte(`{"default":[{"type":"sigstoreSigned","fulcio":{"caData":"eA==","oidcIssuer":"i","subjectEmail":"e"},"rekorPublicKeyData":"` + key + `"}]}`))
	scratch := f.TempDir()
	manifest := []byte(`{"schemaVersion":2}`)
	d := ref.DigestOf(manifest)
	in := policy.ImageInput{Image: sigstoreImage(f, d, d), Evidence: policy.Evidence{InstanceManifest: manifest}, Now: time.Now()}
	f.Fuzz(func(t *testing.T, doc []byte) {
		inlined, err := containers.Inline(doc, func(string) ([]byte, error) { return nil, os.ErrNotExist })
		if err != nil {
			return
		}
		rule, err := containers.New(inlined, scratch)
		if err != nil {
			return
		}
		found, err := rule.JudgeImage(context.Background(), in)
		if err != nil || !found.Matched || len(found.Hits) > 0 {
			return
		}
		var any any
		if err := json.Unmarshal(doc, &any); err != nil {
			t.Fatal(err)
		}
		if !says(any, "insecureAcceptAnything") {
			t.Fatalf("an unsigned image passes by %q", doc)
		}
	})
}

// says reports whether a string stands anywhere in decoded JSON.
func says(v any, want string) bool {
	switch v := v.(type) {
	case string:
		return v == want
	case []any:
		for _, e := range v {
			if says(e, want) {
				return true
			}
		}
	case map[string]any:
		for _, e := range v {
			if says(e, want) {
				return true
			}
		}
	}
	return false
}

// FuzzSimpleSignature: a signature passes only with the payload that was signed.
func FuzzSimpleSignature(f *testing.F) {
	key, err := sigkit.NewKey()
	if err != nil {
		f.Fatal(err)
	}
	manifest := []byte(`{"schemaVersion":2}`)
	d := ref.DigestOf(manifest)
	img := sigstoreImage(f, d, d)
	payload, annotations, err := sigkit.Legacy(key, img.Name, d)
	if err != nil {
		f.Fatal(err)
	}
	const media, mark = "application/vnd.dev.cosign.simplesigning.v1+json", "dev.cosignproject.cosign/signature"
	text, err := json.Marshal(map[string]any{"default": []any{map[string]any{"type": "sigstoreSigned", "keyData": key.PEM(), "signedIdentity": map[string]string{"type": "matchRepository"}}}})
	if err != nil {
		f.Fatal(err)
	}
	rule, err := containers.New(text, f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(media, payload, annotations[mark])
	f.Add("", payload, annotations[mark])
	f.Add("", []byte("\x00sigstore-json\n{}"), "")
	f.Add("", []byte{0xa3, 0x01, 0x02}, "")
	f.Fuzz(func(t *testing.T, mediaType string, body []byte, sig string) {
		s := policy.Simple{Subject: d, MediaType: mediaType, Payload: body}
		if sig != "" {
			s.Annotations = map[string]string{mark: sig}
		}
		found, err := rule.JudgeImage(context.Background(), policy.ImageInput{
			Image: img, Evidence: policy.Evidence{InstanceManifest: manifest, Simple: []policy.Simple{s}}, Now: time.Now(),
		})
		if err != nil {
			if len(body) > 1<<20 {
				return
			}
			t.Fatalf("JudgeImage() error = %v", err)
		}
		if len(found.Hits) == 0 && !bytes.Equal(body, payload) {
			t.Fatalf("passes with a payload that nobody signed: %q", body)
		}
		if len(found.Hits) == 1 && strings.ContainsAny(found.Hits[0].Msg, "\n\r\x1b") {
			t.Fatalf("message = %q", found.Hits[0].Msg)
		}
	})
}
