package sigkit

import (
	"encoding/hex"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"sallyport/image/ref"
)

var id = Identity{SAN: "https://github.com/acme/app/.github/workflows/release.yml@refs/heads/main", Issuer: "https://token.actions.githubusercontent.com"}

// TestKeylessVerifies asks the library itself, with everything demanded, so that what the kit makes is
// known to be real; five signatures make a tree of five leaves.
func TestKeylessVerifies(t *testing.T) {
	k, err := New()
	if err != nil {
		t.Fatal(err)
	}
	tr, err := root.NewTrustedRootFromJSON(k.TrustedRoot())
	if err != nil {
		t.Fatal(err)
	}
	v, err := verify.NewVerifier(tr, verify.WithTransparencyLog(1), verify.WithSignedTimestamps(1),
		verify.WithIntegratedTimestamps(1), verify.WithSignedCertificateTimestamps(1))
	if err != nil {
		t.Fatal(err)
	}
	manifest := []byte(`{"schemaVersion":2}`)
	d := ref.DigestOf(manifest)
	for i := range 5 {
		raw, err := k.Sign(d, Signing{Identity: id, Message: i%2 == 1, Manifest: manifest})
		if err != nil {
			t.Fatal(err)
		}
		var b bundle.Bundle
		if err := b.UnmarshalJSON(raw); err != nil {
			t.Fatalf("bundle %d: %v", i, err)
		}
		sum, err := v1.NewHash(d.String())
		if err != nil {
			t.Fatal(err)
		}
		res, err := v.Verify(&b, verify.NewPolicy(verify.WithArtifactDigest("sha256", hexBytes(t, sum.Hex)), verify.WithoutIdentitiesUnsafe()))
		if err != nil {
			t.Fatalf("Verify() of bundle %d: %v", i, err)
		}
		if got := res.Signature.Certificate; got.SubjectAlternativeName != id.SAN || got.Issuer != id.Issuer {
			t.Errorf("identity = %s of %s, want %s of %s", got.SubjectAlternativeName, got.Issuer, id.SAN, id.Issuer)
		}
	}
}

func TestAttach(t *testing.T) {
	for _, tc := range []struct {
		name   string
		server Layout
		ask    Layout
	}{
		{"referrers API", Referrers, Referrers},
		{"fallback tag of a registry without the API", FallbackTag, Referrers},
		{"fallback tag, written though the API is there", Referrers, FallbackTag},
		{"fallback tag twice", FallbackTag, FallbackTag},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := NewRegistry(tc.server)
			defer s.Close()
			img, err := Image(ImageOptions{NoBusybox: true})
			if err != nil {
				t.Fatal(err)
			}
			repo := Host(s) + "/team/app"
			d, err := Push(repo+":v1", img)
			if err != nil {
				t.Fatal(err)
			}
			key, err := NewKey()
			if err != nil {
				t.Fatal(err)
			}
			b, err := SignKey(key, d)
			if err != nil {
				t.Fatal(err)
			}
			if err := Attach(repo, d, b, tc.ask); err != nil {
				t.Fatal(err)
			}
			r, err := name.NewRepository(repo)
			if err != nil {
				t.Fatal(err)
			}
			var m *v1.IndexManifest
			if tc.ask == FallbackTag || tc.server == FallbackTag {
				got, err := remote.Get(r.Tag("sha256-" + d.Hex()))
				if err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal(got.Manifest, &m); err != nil {
					t.Fatal(err)
				}
			} else {
				resp, err := http.Get("http://" + Host(s) + "/v2/team/app/referrers/" + d.String())
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if err := json.NewDecoder(resp.Body).Decode(&m); err != nil {
					t.Fatal(err)
				}
			}
			if len(m.Manifests) != 1 || m.Manifests[0].ArtifactType != BundleType {
				t.Errorf("referrers = %+v, want one of type %s", m.Manifests, BundleType)
			}
		})
	}
}

func TestIndexAndLegacy(t *testing.T) {
	s := NewRegistry(Referrers)
	defer s.Close()
	a, err := Image(ImageOptions{NoBusybox: true})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Image(ImageOptions{NoBusybox: true, Platform: v1.Platform{OS: "linux", Architecture: "s390x"}})
	if err != nil {
		t.Fatal(err)
	}
	index, err := Index(a, b)
	if err != nil {
		t.Fatal(err)
	}
	repo := Host(s) + "/team/multi"
	d, err := Push(repo+":v1", index)
	if err != nil {
		t.Fatal(err)
	}
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	n, err := ref.Parse(repo + ":v1")
	if err != nil {
		t.Fatal(err)
	}
	payload, ann, err := Legacy(key, n, d)
	if err != nil {
		t.Fatal(err)
	}
	if err := AttachLegacy(repo, d, payload, ann); err != nil {
		t.Fatal(err)
	}
	r, err := name.NewRepository(repo)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := remote.Image(r.Tag("sha256-" + d.Hex() + ".sig")); err != nil {
		t.Errorf("read the .sig image: %v", err)
	}
}

func hexBytes(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
