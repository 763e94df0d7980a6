package sigstore

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"sallyport/image/ref"
	"sallyport/policy"
	"sallyport/test/sigkit"
)

func clone(b *protobundle.Bundle) *protobundle.Bundle { return proto.Clone(b).(*protobundle.Bundle) }

func encode(t testing.TB, b *protobundle.Bundle) []byte {
	t.Helper()
	return must[[]byte](t)(protojson.Marshal(b))
}

// TestSpoilt changes one thing in a good bundle. Whatever a row leaves good is said by the first row.
// The accepting options are on, so that no weaker demand lets a spoilt part pass as an absent one.
func TestSpoilt(t *testing.T) {
	k, foreign := kit(t), kit(t)
	d := ref.DigestOf(manifest)
	good := must[*protobundle.Bundle](t)(k.Bundle(d, sigkit.Signing{Identity: alice}))
	second := must[*protobundle.Bundle](t)(k.Bundle(d, sigkit.Signing{Identity: alice}))
	theirs := must[*protobundle.Bundle](t)(foreign.Bundle(d, sigkit.Signing{Identity: alice}))
	entry := func(b *protobundle.Bundle) *protorekor.TransparencyLogEntry {
		return b.VerificationMaterial.TlogEntries[0]
	}
	stamp := func(b *protobundle.Bundle, ts []byte) {
		b.VerificationMaterial.TimestampVerificationData.Rfc3161Timestamps[0].SignedTimestamp = ts
	}
	for _, tc := range []struct {
		name  string
		spoil func(b *protobundle.Bundle)
		ok    bool
	}{
		{"nothing", func(*protobundle.Bundle) {}, true},
		{"payload", func(b *protobundle.Bundle) { b.GetDsseEnvelope().Payload[10] ^= 1 }, false},
		{"payload type", func(b *protobundle.Bundle) { b.GetDsseEnvelope().PayloadType = "text/plain" }, false},
		{"signature", func(b *protobundle.Bundle) { b.GetDsseEnvelope().Signatures[0].Sig[12] ^= 1 }, false},
		{"no signature", func(b *protobundle.Bundle) { b.GetDsseEnvelope().Signatures = nil }, false},
		{"two signatures", func(b *protobundle.Bundle) {
			b.GetDsseEnvelope().Signatures = append(b.GetDsseEnvelope().Signatures, second.GetDsseEnvelope().Signatures[0])
		}, false},
		{"another's certificate", func(b *protobundle.Bundle) {
			b.VerificationMaterial.Content = second.VerificationMaterial.Content
		}, false},
		{"log entry of another signature (CVE-2026-22703)", func(b *protobundle.Bundle) {
			b.VerificationMaterial.TlogEntries = second.VerificationMaterial.TlogEntries
		}, false},
		{"log entry of another log, said to be ours", func(b *protobundle.Bundle) {
			id := entry(b).LogId
			b.VerificationMaterial.TlogEntries = clone(theirs).VerificationMaterial.TlogEntries
			entry(b).LogId = id
		}, false},
		{"log entry twice", func(b *protobundle.Bundle) {
			b.VerificationMaterial.TlogEntries = append(b.VerificationMaterial.TlogEntries, entry(b))
		}, false},
		{"log entry's time", func(b *protobundle.Bundle) { entry(b).IntegratedTime-- }, false},
		{"log entry's promise", func(b *protobundle.Bundle) { entry(b).InclusionPromise.SignedEntryTimestamp[12] ^= 1 }, false},
		{"log entry's proof", func(b *protobundle.Bundle) { entry(b).InclusionProof.RootHash[0] ^= 1 }, false},
		{"log entry's index in the proof", func(b *protobundle.Bundle) { entry(b).InclusionProof.LogIndex += 7 }, false},
		{"log entry's checkpoint", func(b *protobundle.Bundle) {
			entry(b).InclusionProof.Checkpoint = entry(theirs).InclusionProof.Checkpoint
		}, false},
		{"log entry without body", func(b *protobundle.Bundle) { entry(b).CanonicalizedBody = nil }, false},
		{"33 log entries", func(b *protobundle.Bundle) {
			for i := range 32 {
				e := proto.Clone(entry(b)).(*protorekor.TransparencyLogEntry)
				e.LogId = &protocommon.LogId{KeyId: []byte{byte(i)}}
				b.VerificationMaterial.TlogEntries = append(b.VerificationMaterial.TlogEntries, e)
			}
		}, false},
		{"an unknown log's entry beside ours", func(b *protobundle.Bundle) {
			b.VerificationMaterial.TlogEntries = append(b.VerificationMaterial.TlogEntries, entry(clone(theirs)))
		}, true},
		{"timestamp of another authority", func(b *protobundle.Bundle) {
			stamp(b, must[[]byte](t)(foreign.Stamp(b.GetDsseEnvelope().Signatures[0].Sig, time.Now())))
		}, true}, // the log's time is enough; TestKeyless has the row without it
		{"timestamp after the certificate's end", func(b *protobundle.Bundle) {
			stamp(b, must[[]byte](t)(k.Stamp(b.GetDsseEnvelope().Signatures[0].Sig, time.Now().Add(time.Hour))))
		}, false},
		{"certificate's end", func(b *protobundle.Bundle) {
			raw := b.VerificationMaterial.GetCertificate().RawBytes
			raw[len(raw)-3] ^= 1
		}, false},
		{"media type of a later version", func(b *protobundle.Bundle) {
			b.MediaType = "application/vnd.dev.sigstore.bundle.v0.4+json"
		}, false},
		{"no media type", func(b *protobundle.Bundle) { b.MediaType = "" }, false},
		{"no material", func(b *protobundle.Bundle) { b.VerificationMaterial = nil }, false},
		{"no content", func(b *protobundle.Bundle) { b.Content = nil }, false},
		{"a key's hint instead of the certificate", func(b *protobundle.Bundle) {
			b.VerificationMaterial.Content = &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{Hint: "x"}}
		}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := clone(good)
			tc.spoil(b)
			o := Options{Roots: [][]byte{k.TrustedRoot()}, AcceptUnlogged: true, AcceptWithoutSCT: true}
			claims, reasons := ask(t, o, plain(t), evidence(d, encode(t, b)))
			if len(claims) != map[bool]int{true: 1}[tc.ok] || len(reasons) != map[bool]int{false: 1}[tc.ok] {
				t.Errorf("Verify() = %d claims, reasons %q; want good: %v", len(claims), reasons, tc.ok)
			}
			// A spoilt bundle before a good one takes nothing from it.
			other := must[[]byte](t)(k.SignKeyless(d, alice))
			claims, _ = ask(t, o, plain(t), evidence(d, encode(t, b), other))
			if len(claims) != 1+map[bool]int{true: 1}[tc.ok] {
				t.Errorf("Verify() with a good bundle behind = %d claims, want it counted", len(claims))
			}
		})
	}
}

// TestCertificates: what no honest authority would issue, from one that the root trusts.
func TestCertificates(t *testing.T) {
	k := kit(t)
	d := ref.DigestOf(manifest)
	for _, tc := range []struct {
		name    string
		change  func(id *sigkit.Identity)
		refused string
	}{
		{"an ordinary one", func(*sigkit.Identity) {}, ""},
		{"old and new issuer agree", func(id *sigkit.Identity) { id.OldIssuer = id.Issuer }, ""},
		{"old and new issuer differ", func(id *sigkit.Identity) { id.OldIssuer = "https://mallory.example" }, "two OIDC issuers"},
		{"two subjects", func(id *sigkit.Identity) { id.AlsoSAN = "mallory@evil.example" }, "2 subjects"},
		{"no issuer", func(id *sigkit.Identity) { id.Issuer = "" }, "no OIDC issuer"},
		{"not for code signing", func(id *sigkit.Identity) { id.WithoutEKU = true }, "leaf certificate"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			id := alice
			tc.change(&id)
			claims, reasons := ask(t, Options{Roots: [][]byte{k.TrustedRoot()}}, plain(t), evidence(d, must[[]byte](t)(k.SignKeyless(d, id))))
			if tc.refused == "" && len(claims) == 1 {
				return
			}
			if tc.refused == "" || len(claims) != 0 || len(reasons) != 1 || !strings.Contains(reasons[0], tc.refused) {
				t.Errorf("Verify() = %d claims, reasons %q; want refused for %q", len(claims), reasons, tc.refused)
			}
		})
	}
}

// TestCountedOnce: the same signature is one claim, however often and under whatever entries it comes
// (CVE-2022-36056); two signatures by one signer are two.
func TestCountedOnce(t *testing.T) {
	k, foreign := kit(t), kit(t)
	d := ref.DigestOf(manifest)
	o := Options{Roots: [][]byte{k.TrustedRoot()}}
	one := must[*protobundle.Bundle](t)(k.Bundle(d, sigkit.Signing{Identity: alice}))
	two := must[*protobundle.Bundle](t)(k.Bundle(d, sigkit.Signing{Identity: alice}))
	padded := clone(one)
	theirs := must[*protobundle.Bundle](t)(foreign.Bundle(d, sigkit.Signing{Identity: alice}))
	padded.VerificationMaterial.TlogEntries = append(padded.VerificationMaterial.TlogEntries, theirs.VerificationMaterial.TlogEntries...)
	for _, tc := range []struct {
		name string
		ev   policy.Evidence
		want int
	}{
		{"two signatures", evidence(d, encode(t, one), encode(t, two)), 2},
		{"one twice", evidence(d, encode(t, one), encode(t, one)), 1},
		{"one twice, padded with an unknown log's entry", evidence(d, encode(t, one), encode(t, padded)), 1},
		{"one twice and another", evidence(d, encode(t, one), encode(t, one), encode(t, two)), 2},
	} {
		claims, reasons := ask(t, o, plain(t), tc.ev)
		if len(claims) != tc.want {
			t.Errorf("%s: Verify() = %d claims, reasons %q; want %d", tc.name, len(claims), reasons, tc.want)
		}
	}
	// Another's entry in a copy of our bundle must not make that other's bundle count as a repetition.
	both := Options{Roots: [][]byte{k.TrustedRoot(), foreign.TrustedRoot()}}
	if claims, reasons := ask(t, both, plain(t), evidence(d, encode(t, padded), encode(t, theirs))); len(claims) != 2 {
		t.Errorf("Verify() of a padded copy and the bundle it was padded from = %d claims, reasons %q; want 2", len(claims), reasons)
	}
	claims, _ := ask(t, o, plain(t), evidence(d, encode(t, padded)))
	if len(claims) != 1 || claims[0].Logged != 1 {
		t.Errorf("Verify() of a bundle with our and an unknown log's entry = %+v, want Logged 1", claims)
	}
}

// TestPanic: a panic is that bundle's fault alone.
func TestPanic(t *testing.T) {
	k := kit(t)
	d := ref.DigestOf(manifest)
	good := must[[]byte](t)(k.SignKeyless(d, alice))
	tr := must[*root.TrustedRoot](t)(root.NewTrustedRootFromJSON(k.TrustedRoot()))
	v := &verifier{roots: []*root.TrustedRoot{nil, tr}, acceptUnlogged: true} // a nil root panics when it is asked for logs
	claims, reasons, err := v.Verify(context.Background(), plain(t), evidence(d, good), time.Now())
	if err != nil || len(claims) != 0 || len(reasons) != 1 || !strings.Contains(reasons[0], "panicked") {
		t.Errorf("Verify() = %d claims, %q, %v; want one reason that says it panicked", len(claims), reasons, err)
	}
}

// TestLegacy: forms that are not supported are named, not passed over.
func TestLegacy(t *testing.T) {
	d := ref.DigestOf(manifest)
	v := must[policy.Verifier](t)(New(Options{}))
	for kind, want := range map[string]string{
		LegacyAttestation:                       "an attestation in cosign's older form (.att) is not supported",
		"application/vnd.cncf.notary.signature": "application/vnd.cncf.notary.signature",
	} {
		ev := policy.Evidence{Bundles: []policy.Bundle{{Subject: d, ArtifactType: kind, JSON: []byte("{}")}}}
		claims, reasons, err := v.Verify(context.Background(), plain(t), ev, time.Now())
		if err != nil || len(claims) != 0 || len(reasons) != 1 || !strings.Contains(reasons[0], want) {
			t.Errorf("Verify() of %s = %q, %v; want it named", kind, reasons, err)
		}
	}
	// A bundle around a simple-signing payload signs the payload, not the manifest.
	k, key := kit(t), newKey(t)
	payload, _, err := sigkit.Legacy(key, plain(t).Name, d)
	if err != nil {
		t.Fatal(err)
	}
	b := must[[]byte](t)(k.Sign(d, sigkit.Signing{Key: key, Message: true, Manifest: payload}))
	claims, reasons := ask(t, Options{Keys: []policy.Key{{PEM: key.PEM()}}}, plain(t), evidence(d, b))
	if len(claims) != 0 || len(reasons) != 1 {
		t.Errorf("Verify() of a bundle over a simple-signing payload = %d claims, %q; want none", len(claims), reasons)
	}
}

// TestOthersBundles verifies what other tools signed, years ago, against public and private instances.
func TestOthersBundles(t *testing.T) {
	for _, tc := range []struct {
		name, digest, san, issuer string
	}{
		{"public-good", "sha256:632579b5183d418ff3dc443994fd35e0e1a2a6ce89a1ee22fdca577f8e8bc9c3", "a@tny.town", "https://github.com/login/oauth"},
		{"othername", "sha256:bc103b4a84971ef6459b294a2b98568a2bfb72cded09d4acd1e16366a401f95b", "foo!oidc.local", "http://oidc.local:8080"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rootJSON := must[[]byte](t)(os.ReadFile("testdata/" + tc.name + ".root.json"))
			b := must[[]byte](t)(os.ReadFile("testdata/" + tc.name + ".bundle.json"))
			d := must[ref.Digest](t)(ref.ParseDigest(tc.digest))
			claims, reasons := ask(t, Options{Roots: [][]byte{rootJSON}}, image(t, d, d), evidence(d, b))
			if len(claims) != 1 {
				t.Fatalf("Verify() = %d claims, reasons %q; want 1", len(claims), reasons)
			}
			f := claims[0]
			if f.SAN != tc.san || f.Issuer != tc.issuer || f.Logged != 1 || f.SCTs != 1 || f.Signed.Year() != 2024 {
				t.Errorf("claim = %+v, want %s of %s, logged, with SCT, of 2024", f, tc.san, tc.issuer)
			}
			if claims, _ := ask(t, Options{Roots: [][]byte{kit(t).TrustedRoot()}}, image(t, d, d), evidence(d, b)); len(claims) != 0 {
				t.Error("Verify() under another root = a claim, want none")
			}
		})
	}
}

type noNetwork struct{ t *testing.T }

func (n noNetwork) RoundTrip(r *http.Request) (*http.Response, error) {
	n.t.Errorf("verification asks the network for %s", r.URL)
	return nil, errors.New("no network")
}

// TestNoNetworkAndConcurrent: a Verifier is used by many at once and calls nobody.
func TestNoNetworkAndConcurrent(t *testing.T) {
	old := http.DefaultTransport
	http.DefaultTransport = noNetwork{t}
	defer func() { http.DefaultTransport = old }()
	k, key := kit(t), newKey(t)
	d := ref.DigestOf(manifest)
	ev := evidence(d, must[[]byte](t)(k.SignKeyless(d, alice)), must[[]byte](t)(k.Sign(d, sigkit.Signing{Key: key})))
	v := must[policy.Verifier](t)(New(Options{Roots: [][]byte{k.TrustedRoot()}, Keys: []policy.Key{{PEM: key.PEM()}}}))
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			claims, reasons, err := v.Verify(context.Background(), plain(t), ev, time.Now())
			if err != nil || len(claims) != 2 {
				t.Errorf("Verify() = %d claims, %q, %v; want 2", len(claims), reasons, err)
			}
		})
	}
	wg.Wait()
}

// BenchmarkKeyless and BenchmarkKey measure one cold verification.
func BenchmarkKeyless(b *testing.B) {
	k := kit(b)
	d := ref.DigestOf(manifest)
	bench(b, Options{Roots: [][]byte{k.TrustedRoot()}}, evidence(d, must[[]byte](b)(k.SignKeyless(d, alice))))
}

func BenchmarkKey(b *testing.B) {
	key := newKey(b)
	d := ref.DigestOf(manifest)
	bench(b, Options{Keys: []policy.Key{{PEM: key.PEM()}}}, evidence(d, must[[]byte](b)(sigkit.SignKey(key, d))))
}

func bench(b *testing.B, o Options, ev policy.Evidence) {
	v := must[policy.Verifier](b)(New(o))
	img := plain(b)
	b.ReportAllocs()
	for b.Loop() {
		if claims, reasons, err := v.Verify(context.Background(), img, ev, time.Now()); err != nil || len(claims) != 1 {
			b.Fatalf("Verify() = %d claims, %q, %v", len(claims), reasons, err)
		}
	}
}
