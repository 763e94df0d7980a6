package sigstore

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"

	"sallyport/image/ref"
	"sallyport/policy"
	"sallyport/policy/internal/claim"
	"sallyport/test/sigkit"
)

var (
	alice    = sigkit.Identity{SAN: "https://github.com/acme/pay/.github/workflows/release.yml@refs/heads/main", Issuer: "https://token.actions.githubusercontent.com"}
	manifest = []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}`)
	other    = ref.DigestOf([]byte("another manifest"))
)

func kit(t testing.TB) *sigkit.Kit {
	t.Helper()
	k, err := sigkit.New()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newKey(t testing.TB) *sigkit.Key {
	t.Helper()
	k, err := sigkit.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func image(t testing.TB, top, instance ref.Digest) policy.Image {
	t.Helper()
	n, err := ref.Parse("registry.example/pay/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	return policy.Image{Name: n, Top: top, Instance: instance, ID: other, OS: "linux", Arch: "amd64"}
}

func plain(t testing.TB) policy.Image {
	return image(t, ref.DigestOf(manifest), ref.DigestOf(manifest))
}

func evidence(subject ref.Digest, bundles ...[]byte) policy.Evidence {
	ev := policy.Evidence{Complete: true}
	for _, b := range bundles {
		ev.Bundles = append(ev.Bundles, policy.Bundle{Subject: subject, ArtifactType: sigkit.BundleType, JSON: b})
	}
	return ev
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// ask verifies and returns the fields of the claims and the reasons.
func ask(t testing.TB, o Options, img policy.Image, ev policy.Evidence) ([]claim.Fields, []string) {
	t.Helper()
	v := must[policy.Verifier](t)(New(o))
	claims, reasons, err := v.Verify(context.Background(), img, ev, time.Now())
	if err != nil {
		t.Fatalf("Verify() error = %v", err)
	}
	var out []claim.Fields
	for _, c := range claims {
		out = append(out, c.Fields())
	}
	return out, reasons
}

// TestKeyless holds the demands on a keyless signature: each row leaves one thing out of the bundle or
// the root and is refused with a reason, or proves less where the policy accepts less. The first row
// is the allowed twin of all.
func TestKeyless(t *testing.T) {
	k := kit(t)
	d := ref.DigestOf(manifest)
	for _, tc := range []struct {
		name    string
		sign    sigkit.Signing
		root    sigkit.Part // left out of the trusted root
		accept  Options
		want    [3]int // logged, SCTs, timestamped
		refused string // part of the reason; "" for a claim
	}{
		{name: "everything", want: [3]int{1, 1, 1}},
		{name: "message signature", sign: sigkit.Signing{Message: true, Manifest: manifest}, want: [3]int{1, 1, 1}},
		{name: "no log entry", sign: sigkit.Signing{Omit: sigkit.Log}, refused: "log"},
		{name: "no log entry, accepted", sign: sigkit.Signing{Omit: sigkit.Log}, accept: Options{AcceptUnlogged: true}, want: [3]int{0, 1, 1}},
		{name: "log entry, though none is asked", accept: Options{AcceptUnlogged: true}, want: [3]int{1, 1, 1}},
		{name: "root without log", root: sigkit.Log, refused: "log"},
		{name: "root without log, accepted", root: sigkit.Log, accept: Options{AcceptUnlogged: true}, want: [3]int{0, 1, 1}},
		{name: "no SCT", sign: sigkit.Signing{Omit: sigkit.SCT}, refused: "SCT"},
		{name: "no SCT, accepted", sign: sigkit.Signing{Omit: sigkit.SCT}, accept: Options{AcceptWithoutSCT: true}, want: [3]int{1, 0, 1}},
		{name: "SCT, though none is asked", accept: Options{AcceptWithoutSCT: true}, want: [3]int{1, 1, 1}},
		{name: "root without CT log", root: sigkit.SCT, refused: "SCT"},
		{name: "root without CT log, accepted", root: sigkit.SCT, accept: Options{AcceptWithoutSCT: true}, want: [3]int{1, 0, 1}},
		{name: "no timestamp but the log's", sign: sigkit.Signing{Omit: sigkit.Timestamp}, want: [3]int{1, 1, 0}},
		{name: "no time at all: proof without promise", sign: sigkit.Signing{Omit: sigkit.Timestamp | sigkit.Promise}, refused: "timestamp"},
		{name: "no time at all: no log either", sign: sigkit.Signing{Omit: sigkit.Timestamp | sigkit.Log}, accept: Options{AcceptUnlogged: true}, refused: "timestamp"},
		{name: "proof without promise, timestamp", sign: sigkit.Signing{Omit: sigkit.Promise}, want: [3]int{1, 1, 1}},
		{name: "root without CA", root: sigkit.CA, refused: "leaf certificate"},
		{name: "accepting everything lower still needs a CA", root: sigkit.CA, accept: Options{AcceptUnlogged: true, AcceptWithoutSCT: true}, refused: "leaf certificate"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.sign.Identity = alice
			b := must[[]byte](t)(k.Sign(d, tc.sign))
			tc.accept.Roots = [][]byte{k.TrustedRootWithout(tc.root)}
			claims, reasons := ask(t, tc.accept, plain(t), evidence(d, b))
			if tc.refused != "" {
				if len(claims) != 0 || len(reasons) != 1 || !strings.Contains(reasons[0], tc.refused) {
					t.Fatalf("Verify() = %d claims, reasons %q; want none and a reason with %q", len(claims), reasons, tc.refused)
				}
				return
			}
			if len(claims) != 1 {
				t.Fatalf("Verify() = %d claims, reasons %q; want 1", len(claims), reasons)
			}
			f := claims[0]
			if got := [3]int{f.Logged, f.SCTs, f.Timestamped}; got != tc.want {
				t.Errorf("logged, SCTs, timestamped = %v, want %v", got, tc.want)
			}
			if f.Kind != "keyless" || f.SAN != alice.SAN || f.Issuer != alice.Issuer || f.Subject != d || f.Signed.IsZero() {
				t.Errorf("claim = %+v, want keyless by %s of %s about %s with a time", f, alice.SAN, alice.Issuer, d)
			}
		})
	}
}

// TestIdentity holds what a claim says of its signer.
func TestIdentity(t *testing.T) {
	k := kit(t)
	d := ref.DigestOf(manifest)
	id := alice
	id.Extensions = certificate.Extensions{SourceRepositoryURI: "https://github.com/acme/pay", SourceRepositoryIdentifier: "4711", SourceRepositoryOwnerIdentifier: "42", BuildTrigger: "push"}
	mail := sigkit.Identity{SAN: "alice@acme.example", Issuer: "https://accounts.example"}
	claims, reasons := ask(t, Options{Roots: [][]byte{k.TrustedRoot()}}, plain(t), evidence(d,
		must[[]byte](t)(k.SignKeyless(d, id)), must[[]byte](t)(k.SignKeyless(d, mail))))
	if len(claims) != 2 {
		t.Fatalf("Verify() = %d claims, reasons %q; want 2", len(claims), reasons)
	}
	for name, want := range map[string]string{
		"SourceRepositoryURI": "https://github.com/acme/pay", "SourceRepositoryIdentifier": "4711",
		"SourceRepositoryOwnerIdentifier": "42", "BuildTrigger": "push", "RunnerEnvironment": "",
	} {
		if got := claims[0].Extensions[name]; got != want {
			t.Errorf("extension %s = %q, want %q", name, got, want)
		}
	}
	if claims[1].SAN != mail.SAN || claims[1].Issuer != mail.Issuer {
		t.Errorf("identity = %s of %s, want %s of %s", claims[1].SAN, claims[1].Issuer, mail.SAN, mail.Issuer)
	}
	if claims[0].PredicateType != sigkit.SignPredicate {
		t.Errorf("predicateType = %q, want %q", claims[0].PredicateType, sigkit.SignPredicate)
	}
}

// TestKey holds signatures by keys: with nothing else, with a log, and outside the key's window.
func TestKey(t *testing.T) {
	k, foreign := kit(t), kit(t)
	key, stranger := newKey(t), newKey(t)
	d := ref.DigestOf(manifest)
	now := time.Now()
	trusted := policy.Key{PEM: key.PEM()}
	for _, tc := range []struct {
		name    string
		bundle  []byte
		keys    []policy.Key
		roots   [][]byte
		logged  int
		stamped int
		refused string
	}{
		{name: "alone", bundle: must[[]byte](t)(sigkit.SignKey(key, d)), keys: []policy.Key{trusted}},
		{name: "second of two keys", bundle: must[[]byte](t)(sigkit.SignKey(key, d)), keys: []policy.Key{{PEM: stranger.PEM()}, trusted}},
		{name: "message signature", bundle: must[[]byte](t)(k.Sign(d, sigkit.Signing{Key: key, Message: true, Manifest: manifest, Omit: sigkit.Log | sigkit.Timestamp})), keys: []policy.Key{trusted}},
		{name: "logged and stamped", bundle: must[[]byte](t)(k.Sign(d, sigkit.Signing{Key: key})), keys: []policy.Key{trusted}, roots: [][]byte{k.TrustedRoot()}, logged: 1, stamped: 1},
		{name: "stamped", bundle: must[[]byte](t)(k.Sign(d, sigkit.Signing{Key: key, Omit: sigkit.Log})), keys: []policy.Key{trusted}, roots: [][]byte{k.TrustedRoot()}, stamped: 1},
		{name: "logged without promise or stamp", bundle: must[[]byte](t)(k.Sign(d, sigkit.Signing{Key: key, Omit: sigkit.Timestamp | sigkit.Promise})), keys: []policy.Key{trusted}, roots: [][]byte{k.TrustedRoot()}, logged: 1},
		{name: "logged where nobody knows the log", bundle: must[[]byte](t)(k.Sign(d, sigkit.Signing{Key: key})), keys: []policy.Key{trusted}, roots: [][]byte{foreign.TrustedRoot()}},
		{name: "another key", bundle: must[[]byte](t)(sigkit.SignKey(stranger, d)), keys: []policy.Key{trusted}, refused: "none of this policy's 1 keys"},
		{name: "no keys", bundle: must[[]byte](t)(sigkit.SignKey(key, d)), roots: [][]byte{k.TrustedRoot()}, refused: "this policy has none"},
		{name: "certificate where only keys are", bundle: must[[]byte](t)(k.SignKeyless(d, alice)), keys: []policy.Key{trusted}, refused: "no trusted_root.json"},
		{name: "within the window", bundle: must[[]byte](t)(sigkit.SignKey(key, d)), keys: []policy.Key{{PEM: key.PEM(), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}}},
		{name: "expired key", bundle: must[[]byte](t)(sigkit.SignKey(key, d)), keys: []policy.Key{{PEM: key.PEM(), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(-time.Minute)}}, refused: "ended at"},
		{name: "future key", bundle: must[[]byte](t)(sigkit.SignKey(key, d)), keys: []policy.Key{{PEM: key.PEM(), NotBefore: now.Add(time.Hour)}}, refused: "counts only from"},
		{name: "expired key, signed in time", bundle: must[[]byte](t)(k.Sign(d, sigkit.Signing{Key: key, At: now.Add(-30 * time.Minute)})), keys: []policy.Key{{PEM: key.PEM(), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(-time.Minute)}}, roots: [][]byte{k.TrustedRoot()}, refused: "ended at"},
		{name: "about another manifest", bundle: must[[]byte](t)(sigkit.SignKey(key, other)), keys: []policy.Key{trusted}, refused: "digest"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			claims, reasons := ask(t, Options{Keys: tc.keys, Roots: tc.roots}, plain(t), evidence(d, tc.bundle))
			if tc.refused != "" {
				if len(claims) != 0 || len(reasons) != 1 || !strings.Contains(reasons[0], tc.refused) {
					t.Fatalf("Verify() = %d claims, reasons %q; want none and a reason with %q", len(claims), reasons, tc.refused)
				}
				return
			}
			if len(claims) != 1 {
				t.Fatalf("Verify() = %d claims, reasons %q; want 1", len(claims), reasons)
			}
			f := claims[0]
			if f.Kind != "key" || f.KeyID != key.ID() || f.Logged != tc.logged || f.Timestamped != tc.stamped {
				t.Errorf("claim = %+v, want key %s, %d logs, %d timestamps", f, key.ID(), tc.logged, tc.stamped)
			}
			if want := tc.keys[len(tc.keys)-1].NotAfter; !f.NotAfter.Equal(want) {
				t.Errorf("NotAfter = %v, want %v", f.NotAfter, want)
			}
		})
	}
}

// TestWorldsAreClosed: a kit's signatures prove nothing under another kit's root, and roots do not mix.
func TestWorldsAreClosed(t *testing.T) {
	ours, theirs := kit(t), kit(t)
	d := ref.DigestOf(manifest)
	b := must[[]byte](t)(theirs.SignKeyless(d, alice))
	if claims, _ := ask(t, Options{Roots: [][]byte{ours.TrustedRoot()}}, plain(t), evidence(d, b)); len(claims) != 0 {
		t.Errorf("Verify() under another root = %d claims, want 0", len(claims))
	}
	if claims, r := ask(t, Options{Roots: [][]byte{ours.TrustedRoot(), theirs.TrustedRoot()}}, plain(t), evidence(d, b)); len(claims) != 1 {
		t.Errorf("Verify() under both roots = %d claims, reasons %q; want 1", len(claims), r)
	}
	// Their CA with our log: neither root holds alone.
	split := [][]byte{ours.TrustedRootWithout(sigkit.CA), theirs.TrustedRootWithout(sigkit.Log | sigkit.SCT | sigkit.Timestamp)}
	if claims, _ := ask(t, Options{Roots: split}, plain(t), evidence(d, b)); len(claims) != 0 {
		t.Errorf("Verify() under two halves of a root = %d claims, want 0", len(claims))
	}
}

// TestBounds: too much evidence is an error, which denies; the most that is allowed is not.
func TestBounds(t *testing.T) {
	v := must[policy.Verifier](t)(New(Options{}))
	d := ref.DigestOf(manifest)
	many := func(n, size int) policy.Evidence {
		ev := policy.Evidence{}
		doc := make([]byte, size)
		for range n {
			ev.Bundles = append(ev.Bundles, policy.Bundle{Subject: d, JSON: doc})
		}
		return ev
	}
	for _, tc := range []struct {
		name string
		ev   policy.Evidence
		want string
	}{
		{"most bundles", many(MaxBundles, 1), ""},
		{"too many bundles", many(MaxBundles+1, 1), "bundles"},
		{"largest bundle", many(1, MaxBundle), ""},
		{"too large a bundle", many(1, MaxBundle+1), "bytes"},
		{"most bytes", many(4, MaxBundle), ""},
		{"too many bytes", many(5, MaxBundle-1), "bytes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, _, err := v.Verify(context.Background(), plain(t), tc.ev, time.Now())
			if (err == nil) != (tc.want == "") || (err != nil && !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("Verify() error = %v, want %q", err, tc.want)
			}
		})
	}
}

func TestContextEnds(t *testing.T) {
	k := kit(t)
	d := ref.DigestOf(manifest)
	ev := evidence(d, must[[]byte](t)(k.SignKeyless(d, alice)))
	v := must[policy.Verifier](t)(New(Options{Roots: [][]byte{k.TrustedRoot()}}))
	ctx, cancel := context.WithCancel(context.Background())
	if claims, _, err := v.Verify(ctx, plain(t), ev, time.Now()); err != nil || len(claims) != 1 {
		t.Fatalf("Verify() = %d claims, %v; want 1", len(claims), err)
	}
	cancel()
	if claims, _, err := v.Verify(ctx, plain(t), ev, time.Now()); !errors.Is(err, context.Canceled) || claims != nil {
		t.Errorf("Verify() after the end = %d claims, %v; want context.Canceled", len(claims), err)
	}
	if _, _, err := v.Verify(context.Background(), plain(t), ev, time.Time{}); err == nil {
		t.Error("Verify() without a time = nil error")
	}
}

// TestNew: what cannot be compiled is named by its number.
func TestNew(t *testing.T) {
	k := kit(t)
	weak := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	der := must[[]byte](t)(x509.MarshalPKIXPublicKey(&weak.PublicKey))
	for _, tc := range []struct {
		name string
		o    Options
		want string
	}{
		{"no JSON", Options{Roots: [][]byte{k.TrustedRoot(), []byte("{")}}, "trusted root 2"},
		{"wrong media type", Options{Roots: [][]byte{[]byte(`{"mediaType":"x"}`)}}, "trusted root 1"},
		{"empty root", Options{Roots: [][]byte{k.TrustedRootWithout(sigkit.CA | sigkit.Log | sigkit.Timestamp)}}, "holds no"},
		{"no PEM", Options{Keys: []policy.Key{{PEM: newKey(t).PEM()}, {PEM: []byte("x")}}}, "key 2"},
		{"weak curve", Options{Keys: []policy.Key{{PEM: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})}}}, "key 1"},
		{"too many roots", Options{Roots: make([][]byte, maxRoots+1)}, "at most"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := New(tc.o); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("New() error = %v, want %q", err, tc.want)
			}
		})
	}
}

func TestOneLine(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"plain text", "plain text"},
		{"a\nb\x1b[31mc\u202ed", "a b [31mc d"},
		{strings.Repeat("x", 1000), strings.Repeat("x", maxReason) + "..."},
	} {
		if got := oneLine(tc.in); got != tc.want {
			t.Errorf("oneLine(%q) = %q, want %q", tc.in, got, tc.want)
		}
	}
}
