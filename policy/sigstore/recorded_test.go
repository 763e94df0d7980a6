package sigstore

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/image/ref"
	"sallyport/policy"
)

// recorded is what a real Fulcio, Rekor v2, timestamp authority and cosign v3 made ("make record-sigstore"),
// judged an hour later, with no server anywhere.
type recorded struct {
	t               *testing.T
	at              time.Time
	index, instance []byte
}

func openRecorded(t *testing.T) recorded {
	r := recorded{t: t}
	r.index, r.instance = r.file("index.json"), r.file("manifest.json")
	at, err := time.Parse(time.RFC3339, strings.TrimSpace(string(r.file("recorded"))))
	if err != nil {
		t.Fatal(err)
	}
	r.at = at.Add(time.Hour)
	return r
}

func (r recorded) file(name string) []byte {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "cosign3", name))
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

// verify asks about one bundle, changed or not.
func (r recorded) verify(o Options, bundle []byte, of []byte) ([]policy.Claim, []string) {
	r.t.Helper()
	v, err := New(o)
	if err != nil {
		r.t.Fatal(err)
	}
	ev := policy.Evidence{TopManifest: r.index, InstanceManifest: r.instance, Complete: true,
		Bundles: []policy.Bundle{{Subject: ref.DigestOf(of), ArtifactType: "application/vnd.dev.sigstore.bundle.v0.3+json", JSON: bundle}}}
	claims, reasons, err := v.Verify(r.t.Context(), image(r.t, ref.DigestOf(r.index), ref.DigestOf(r.instance)), ev, r.at)
	if err != nil {
		r.t.Fatal(err)
	}
	return claims, reasons
}

// change is a bundle after its JSON was changed, as somebody with push rights may.
func (r recorded) change(name string, f func(material, whole map[string]any)) []byte {
	r.t.Helper()
	var b map[string]any
	if err := json.Unmarshal(r.file(name+".sigstore.json"), &b); err != nil {
		r.t.Fatal(err)
	}
	f(b["verificationMaterial"].(map[string]any), b)
	out, err := json.Marshal(b)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// entriesOf are the log entries of a bundle.
func (r recorded) entriesOf(name string) (out []any) {
	r.change(name, func(m, _ map[string]any) { out = m["tlogEntries"].([]any) })
	return out
}

// TestRecorded: every kind of evidence of cosign v3 with Rekor v2 proves what it says, and no more.
func TestRecorded(t *testing.T) {
	r := openRecorded(t)
	key, err := policy.ParseKey(r.file("release.pub"))
	if err != nil {
		t.Fatal(err)
	}
	trust := Options{Roots: [][]byte{r.file("trusted_root.json")}, Keys: []policy.Key{key}}
	lowered := trust
	lowered.AcceptUnlogged, lowered.AcceptWithoutSCT = true, true
	for _, tt := range []struct {
		name       string
		trust      Options
		logs, scts int
		predicate  string
		refused    string // "": a claim
	}{
		{"sign", trust, 1, 1, "https://sigstore.dev/cosign/sign/v1", ""},
		{"sign-index", trust, 1, 1, "https://sigstore.dev/cosign/sign/v1", ""},
		{"sign-two-logs", trust, 2, 1, "https://sigstore.dev/cosign/sign/v1", ""},
		{"sign-other-issuer", trust, 1, 1, "https://sigstore.dev/cosign/sign/v1", ""},
		{"sign-security", trust, 1, 1, "https://sigstore.dev/cosign/sign/v1", ""},
		{"sign-without-sct", trust, 0, 0, "", "signed certificate timestamp"},
		{"sign-without-sct", lowered, 1, 0, "https://sigstore.dev/cosign/sign/v1", ""},
		{"sign-without-log", trust, 0, 0, "", "not enough verified log entries"},
		{"sign-without-log", lowered, 0, 1, "https://sigstore.dev/cosign/sign/v1", ""},
		{"sign-foreign-log", trust, 0, 0, "", "not enough verified log entries"},
		{"sign-foreign-log", lowered, 0, 1, "https://sigstore.dev/cosign/sign/v1", ""},
		{"sign", Options{Keys: trust.Keys}, 0, 0, "", "no trusted_root.json"},
		{"sign", Options{Roots: [][]byte{kit(t).TrustedRoot()}}, 0, 0, "", "not enough verified log entries"},
		{"key", trust, 1, 0, "https://sigstore.dev/cosign/sign/v1", ""},
		{"key-bare", trust, 0, 0, "https://sigstore.dev/cosign/sign/v1", ""},
		{"key", Options{Roots: trust.Roots}, 0, 0, "", "this policy has none"},
		{"attest-slsa", trust, 1, 1, "https://slsa.dev/provenance/v1", ""},
		{"attest-spdx", trust, 1, 1, "https://spdx.dev/Document", ""},
		{"attest-cyclonedx", trust, 1, 1, "https://cyclonedx.org/bom", ""},
		{"attest-vuln", trust, 1, 1, "https://cosign.sigstore.dev/attestation/vuln/v1", ""},
		{"attest-openvex", trust, 1, 1, "https://openvex.dev/ns", ""},
	} {
		t.Run(tt.name+" "+tt.refused, func(t *testing.T) {
			of := r.instance
			if tt.name == "sign-index" {
				of = r.index
			}
			claims, reasons := r.verify(tt.trust, r.file(tt.name+".sigstore.json"), of)
			if tt.refused != "" {
				if len(claims) != 0 || len(reasons) != 1 || !strings.Contains(reasons[0], tt.refused) {
					t.Errorf("Verify() = %d claims, %q; want none, %q", len(claims), reasons, tt.refused)
				}
				return
			}
			if len(claims) != 1 {
				t.Fatalf("Verify() = no claim, %q", reasons)
			}
			f := claims[0].Fields()
			if f.Logged != tt.logs || f.SCTs != tt.scts || f.PredicateType != tt.predicate || f.Subject != ref.DigestOf(of) {
				t.Errorf("claim = %+v, want %d logs, %d SCTs, %s", f, tt.logs, tt.scts, tt.predicate)
			}
			if f.Kind == "keyless" && (f.Signed.IsZero() || f.Timestamped != 1) {
				t.Errorf("claim = %+v, want a stamped time", f)
			}
		})
	}
}

// TestRecordedSpoilt: the good bundle and what differs from it in one fact.
func TestRecordedSpoilt(t *testing.T) {
	r := openRecorded(t)
	trust := Options{Roots: [][]byte{r.file("trusted_root.json")}}
	for _, tt := range []struct {
		name    string
		change  func(material, whole map[string]any)
		refused string
	}{
		{"as it was", func(_, _ map[string]any) {}, ""},
		{"another's log entry", func(m, _ map[string]any) { m["tlogEntries"] = r.entriesOf("attest-vuln") }, "verify log inclusion"},
		{"the same entry twice", func(m, _ map[string]any) {
			e := m["tlogEntries"].([]any)
			m["tlogEntries"] = append(e, e[0])
		}, "duplicate tlog entries"},
		{"no entry", func(m, _ map[string]any) { delete(m, "tlogEntries") }, "log entries"},
		{"no timestamp", func(m, _ map[string]any) { delete(m, "timestampVerificationData") }, "verify timestamps"},
		{"no certificate", func(m, _ map[string]any) { delete(m, "certificate") }, "read it"},
		{"no inclusion proof", func(m, _ map[string]any) {
			delete(m["tlogEntries"].([]any)[0].(map[string]any), "inclusionProof")
		}, "inclusion proof"},
		{"another's envelope", func(_, w map[string]any) {
			r.change("attest-vuln", func(_, other map[string]any) { w["dsseEnvelope"] = other["dsseEnvelope"] })
		}, "verify"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			claims, reasons := r.verify(trust, r.change("sign", tt.change), r.instance)
			if tt.refused == "" && len(claims) != 1 || tt.refused != "" && (len(claims) != 0 || len(reasons) != 1 || !strings.Contains(reasons[0], tt.refused)) {
				t.Errorf("Verify() = %d claims, %q; want %q", len(claims), reasons, tt.refused)
			}
		})
	}
}

// TestKeyThresholds: of a key's signature in two logs, those count that the root knows.
func TestKeyThresholds(t *testing.T) {
	r := openRecorded(t)
	key, err := policy.ParseKey(r.file("release.pub"))
	if err != nil {
		t.Fatal(err)
	}
	var root map[string]any
	if err := json.Unmarshal(r.file("trusted_root.json"), &root); err != nil {
		t.Fatal(err)
	}
	root["tlogs"] = root["tlogs"].([]any)[:1]
	one, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	for want, doc := range map[int][]byte{2: r.file("trusted_root.json"), 1: one} {
		claims, reasons := r.verify(Options{Roots: [][]byte{doc}, Keys: []policy.Key{key}}, r.file("key-two-logs.sigstore.json"), r.instance)
		if len(claims) != 1 || claims[0].Fields().Logged != want {
			t.Errorf("Verify() under a root with %d logs = %v, %q; want %d logs", want, claims, reasons, want)
		}
	}
}
