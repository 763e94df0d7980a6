package sigstore

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"sallyport/image/ref"
	"sallyport/policy"
)

// TestSubject holds to what a signature may be about.
func TestSubject(t *testing.T) {
	k := kit(t)
	inst := ref.DigestOf(manifest)
	index := []byte(fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"digest":%q},{"digest":%q}]}`, other, inst))
	top := ref.DigestOf(index)
	stranger := ref.DigestOf([]byte("elsewhere"))
	o := Options{Roots: [][]byte{k.TrustedRoot()}}
	for _, tc := range []struct {
		name    string
		signed  ref.Digest // what was signed
		found   ref.Digest // what the registry listed it under
		claims  int
		refused string
	}{
		{"instance", inst, inst, 1, ""},
		{"index", top, top, 1, ""},
		{"index signature listed under the instance", top, inst, 0, "digest"},
		{"another instance of the index", other, other, 0, "another manifest"},
		{"elsewhere", stranger, stranger, 0, "another manifest"},
		{"elsewhere, listed here", stranger, inst, 0, "digest"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ev := evidence(tc.found, must[[]byte](t)(k.SignKeyless(tc.signed, alice)))
			ev.TopManifest = index
			claims, reasons := ask(t, o, image(t, top, inst), ev)
			if len(claims) != tc.claims {
				t.Fatalf("Verify() = %d claims, reasons %q; want %d", len(claims), reasons, tc.claims)
			}
			if tc.refused != "" && (len(reasons) != 1 || !strings.Contains(reasons[0], tc.refused)) {
				t.Errorf("reasons = %q, want one with %q", reasons, tc.refused)
			}
			if tc.claims == 1 && claims[0].Subject != tc.found {
				t.Errorf("Subject = %s, want %s", claims[0].Subject, tc.found)
			}
		})
	}
	v := must[policy.Verifier](t)(New(o))
	elsewhere := []byte(fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"digest":%q}]}`, other))
	both := []byte(fmt.Sprintf(`{"schemaVersion":2,"layers":[],"manifests":[{"digest":%q}]}`, inst))
	for _, tc := range []struct {
		name string
		top  ref.Digest
		doc  []byte
		want string
	}{
		{"index does not list the instance", ref.DigestOf(elsewhere), elsewhere, "does not list"},
		{"index bytes are other bytes", ref.DigestOf([]byte(`{"manifests":[]}`)), index, "hashes to"},
		{"index bytes are missing", top, nil, "hashes to"},
		{"index and manifest in one", ref.DigestOf(both), both, "both an index and a manifest"},
		{"index is no JSON", ref.DigestOf([]byte("x")), []byte("x"), "read index"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, _, err := v.Verify(context.Background(), image(t, tc.top, inst), policy.Evidence{TopManifest: tc.doc}, time.Now())
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Verify() error = %v, want %q", err, tc.want)
			}
		})
	}
}

// TestPredicate holds what is handed on of an attestation.
func TestPredicate(t *testing.T) {
	k := kit(t)
	d := ref.DigestOf(manifest)
	const scan = "https://cosign.sigstore.dev/attestation/vuln/v1"
	small := map[string]any{"critical": 0}
	large := map[string]any{"pad": strings.Repeat("x", MaxPredicate)}
	claims, reasons := ask(t, Options{Roots: [][]byte{k.TrustedRoot()}}, plain(t), evidence(d,
		must[[]byte](t)(k.Attest(d, alice, scan, small)), must[[]byte](t)(k.Attest(d, alice, scan, large))))
	if len(claims) != 2 {
		t.Fatalf("Verify() = %d claims, reasons %q; want 2", len(claims), reasons)
	}
	if claims[0].PredicateType != scan || string(claims[0].Predicate) != `{"critical":0}` {
		t.Errorf("first claim is %s %s, want %s {\"critical\":0}", claims[0].PredicateType, claims[0].Predicate, scan)
	}
	if claims[1].PredicateType != scan || claims[1].Predicate != nil {
		t.Errorf("claim with a predicate over 1 MiB has %d bytes of it, want none", len(claims[1].Predicate))
	}
}

func TestStatement(t *testing.T) {
	d := ref.DigestOf(manifest)
	subject := fmt.Sprintf(`[{"digest":{"sha256":%q}}]`, d.Hex())
	good := `"_type":"https://in-toto.io/Statement/v1","predicateType":"t","predicate":{"a":1}`
	for _, tc := range []struct{ name, doc, want string }{
		{"good", `{` + good + `,"subject":` + subject + `}`, ""},
		{"type in other case", `{"_TYPE":"https://in-toto.io/Statement/v1","predicateType":"t","subject":` + subject + `}`, "type"},
		{"predicateType in other case", `{"_type":"https://in-toto.io/Statement/v1","PredicateType":"t","subject":` + subject + `}`, "no predicateType"},
		{"subject in other case", `{` + good + `,"Subject":` + subject + `}`, "subject"},
		{"predicateType twice", `{` + good + `,"predicateType":"u","subject":` + subject + `}`, "twice"},
		{"subject twice", `{` + good + `,"subject":[],"subject":` + subject + `}`, "twice"},
		{"another subject", `{` + good + `,"subject":[{"digest":{"sha256":"` + other.Hex() + `"}}]}`, "not about"},
		{"another algorithm", `{` + good + `,"subject":[{"digest":{"sha512":"` + d.Hex() + `"}}]}`, "not about"},
		{"no statement", `{"_type":"x","predicateType":"t","subject":` + subject + `}`, "type"},
		{"two documents", `{` + good + `,"subject":` + subject + `}{}`, "more follows"},
		{"array", `[]`, "object"},
		{"cut off", `{` + good, "EOF"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := parseStatement([]byte(tc.doc), d)
			if (err == nil) != (tc.want == "") || (err != nil && !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("parseStatement() error = %v, want %q", err, tc.want)
			}
			if !json.Valid([]byte(tc.doc)) && err == nil {
				t.Error("parseStatement() accepts what is no JSON")
			}
		})
	}
}
