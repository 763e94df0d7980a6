package policy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	"sallyport/image/ref"
	"sallyport/policy/internal/claim"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

const (
	github  = "https://token.actions.githubusercontent.com"
	release = "https://github.com/acme/pay/.github/workflows/release.yml@refs/heads/main"
	prov    = "https://slsa.dev/provenance/v1"
)

func digest(s string) ref.Digest { return ref.DigestOf([]byte(s)) }

func image(t testing.TB, name string) Image {
	t.Helper()
	n, err := ref.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	return Image{Name: n, Top: digest("index"), Instance: digest("instance"), ID: digest("config"), OS: "linux", Arch: "amd64"}
}

// keyless is what a good signature proves; each test changes one fact.
func keyless() claim.Fields {
	return claim.Fields{Kind: "keyless", Subject: digest("instance"), Issuer: github, SAN: release,
		Signed: now.Add(-time.Hour), Logged: 1, Timestamped: 1, SCTs: 1}
}

func newKey(t testing.TB) (text string, id string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text = publicPEM(t, k.Public())
	parsed, err := parseKey([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return text, parsed.ID
}

func publicPEM(t testing.TB, pub any) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// indent makes text a YAML block scalar's body.
func indent(s string) string {
	return "        " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n        ")
}

func parse(t testing.TB, yaml string) *Requirements {
	t.Helper()
	r, err := ParseRequirements([]byte(yaml), nil)
	if err != nil {
		t.Fatalf("ParseRequirements() = %v\n%s", err, yaml)
	}
	return r
}

const payRelease = `policies:
- name: payments-release
  images:
  - glob: registry.example/pay/**
  authorities:
  - keyless:
      identities:
      - issuer: ` + github + `
        subject: ` + release + "\n"

type verifierOf []Claim

func (v verifierOf) Verify(context.Context, Image, Evidence, time.Time) ([]Claim, []string, error) {
	return v, nil, nil
}

func judge(r *Requirements, img Image, claims ...Claim) Verdict {
	l := &Layer{Name: "node", Hash: "h", Images: []ImageRule{r}, Verifier: verifierOf(claims)}
	return l.JudgeImage(context.Background(), img, Evidence{}, now)
}

// Every denial differs from the allowed twin, keyless() under payRelease plus extra, in one fact.
func TestRequirementDenies(t *testing.T) {
	keyText, keyID := newKey(t)
	byKey := "policies:\n- name: by-key\n  images:\n  - glob: registry.example/pay/**\n  authorities:\n  - name: ci\n    key:\n      data: |\n" + indent(keyText) + "\n"
	keyed := claim.Fields{Kind: "key", KeyID: keyID, Subject: digest("instance")}
	att := strings.TrimSuffix(payRelease, "\n") + "\n    attestations:\n    - name: provenance\n      predicateType: slsaprovenance1\n      maxAge: 24h\n"
	provenance := keyless()
	provenance.PredicateType = prov
	window := byKey + "      notBefore: 2026-01-01T00:00:00Z\n      notAfter: 2027-01-01T00:00:00Z\n"
	closed := byKey + "      notBefore: 2026-01-01T00:00:00Z\n      notAfter: 2026-11-22T12:00:00Z\n"
	early := byKey + "      notBefore: 2026-11-22T12:00:01Z\n      notAfter: 2027-01-01T00:00:00Z\n"
	claims := payRelease + "        claims: {SourceRepositoryOwnerIdentifier: \"42\"}\n"
	owned := keyless()
	owned.Extensions = map[string]string{"SourceRepositoryOwnerIdentifier": "42"}
	tests := []struct {
		name   string
		yaml   string // of the allowed twin, and of the denial unless denied is set
		good   claim.Fields
		change func(*claim.Fields)
		denied string
		rule   string
		want   string
	}{
		{name: "subject", yaml: payRelease, good: keyless(), change: func(f *claim.Fields) { f.SAN = "mallory@evil.example" },
			rule: "payments-release", want: "no signature by " + release + "; found 1, by mallory@evil.example"},
		{name: "subject that continues", yaml: payRelease, good: keyless(), change: func(f *claim.Fields) { f.SAN += "2" }, rule: "payments-release", want: "no signature by"},
		{name: "issuer", yaml: payRelease, good: keyless(), change: func(f *claim.Fields) { f.Issuer = "https://evil.example" },
			rule: "payments-release", want: release + " is vouched for by https://evil.example, want " + github},
		{name: "issuer that continues", yaml: payRelease, good: keyless(), change: func(f *claim.Fields) { f.Issuer += ".evil.example" }, rule: "payments-release", want: "is vouched for by"},
		{name: "not logged", yaml: payRelease, good: keyless(), change: func(f *claim.Fields) { f.Logged = 0 }, rule: "payments-release", want: "in no transparency log (rekor: required)"},
		{name: "no SCT", yaml: payRelease, good: keyless(), change: func(f *claim.Fields) { f.SCTs = 0 }, rule: "payments-release", want: "in no certificate log (sct: required)"},
		{name: "no time", yaml: payRelease, good: keyless(), change: func(f *claim.Fields) { f.Signed = time.Time{} }, rule: "payments-release", want: "no verified time (timestamp: required)"},
		{name: "other manifest", yaml: payRelease, good: keyless(), change: func(f *claim.Fields) { f.Subject = digest("another") }, rule: "payments-release", want: "another manifest"},
		{name: "attestation for a signature", yaml: payRelease, good: keyless(), change: func(f *claim.Fields) { f.PredicateType = prov }, rule: "payments-release", want: "no signature by " + release + "; found attestation " + prov + " by " + release},
		{name: "kind", yaml: payRelease, good: keyless(), change: func(f *claim.Fields) { f.Kind = "key" }, rule: "payments-release", want: "no signature by"},
		{name: "lapsed", yaml: payRelease, good: keyless(), change: func(f *claim.Fields) { f.NotAfter = now }, rule: "payments-release", want: "lapsed at 2026-11-22T12:00:00Z"},
		{name: "index wanted", yaml: payRelease + "    subject: index\n", good: func() claim.Fields { f := keyless(); f.Subject = digest("index"); return f }(),
			change: func(f *claim.Fields) { f.Subject = digest("instance") }, rule: "payments-release", want: "about the platform's manifest, want the index"},
		{name: "instance wanted", yaml: payRelease + "    subject: instance\n", good: keyless(), change: func(f *claim.Fields) { f.Subject = digest("index") }, rule: "payments-release", want: "about the index, want this platform's manifest"},
		{name: "claims", yaml: claims, good: owned, change: func(f *claim.Fields) {
			f.Extensions = map[string]string{"SourceRepositoryOwnerIdentifier": "43"}
		}, rule: "payments-release", want: `has SourceRepositoryOwnerIdentifier "43", want "42"`},
		{name: "claims absent", yaml: claims, good: owned, change: func(f *claim.Fields) { f.Extensions = nil }, rule: "payments-release", want: `has SourceRepositoryOwnerIdentifier "", want "42"`},
		{name: "signature for an attestation", yaml: att, good: provenance, change: func(f *claim.Fields) { f.PredicateType = "" }, rule: "payments-release", want: "no attestation " + prov},
		{name: "another attestation", yaml: att, good: provenance, change: func(f *claim.Fields) { f.PredicateType = "https://slsa.dev/provenance/v0.2" }, rule: "payments-release", want: "no attestation " + prov},
		{name: "old attestation", yaml: att, good: provenance, change: func(f *claim.Fields) { f.Signed = now.Add(-24 * time.Hour) }, rule: "payments-release", want: "is of 2026-11-21T12:00:00Z, older than 24h0m0s"},
		{name: "attestation of the index", yaml: att, good: provenance, change: func(f *claim.Fields) { f.Subject = digest("index") }, rule: "payments-release", want: "want this platform's manifest"},
		{name: "another key", yaml: byKey, good: keyed, change: func(f *claim.Fields) { f.KeyID = strings.Repeat("0", 64) }, rule: "by-key", want: `no signature by key "ci" (` + keyID[:12] + `); found 1, by key 000000000000`},
		{name: "key over", yaml: window, denied: closed, good: keyed, rule: "by-key", want: "until 2026-11-22T12:00:00Z"},
		{name: "key not yet", yaml: window, denied: early, good: keyed, rule: "by-key", want: "from 2026-11-22T12:00:01Z"},
		{name: "key must be logged", yaml: byKey, denied: byKey + "    rekor: required\n", good: keyed, rule: "by-key", want: "in no transparency log"},
		{name: "key must be timestamped", yaml: byKey, denied: byKey + "    timestamp: required\n", good: keyed, rule: "by-key", want: "has no verified time"},
		{name: "two logs", yaml: payRelease + "    rekor: 2\n", good: func() claim.Fields { f := keyless(); f.Logged = 2; return f }(), change: func(f *claim.Fields) { f.Logged = 1 }, rule: "payments-release", want: "is in 1 transparency log, want 2 (rekor: 2)"},
		{name: "three certificate logs", yaml: payRelease + "    sct: 3\n", good: func() claim.Fields { f := keyless(); f.SCTs = 3; return f }(), change: func(f *claim.Fields) { f.SCTs = 2 }, rule: "payments-release", want: "its certificate is in 2 certificate logs, want 3 (sct: 3)"},
		{name: "rekor lowered", yaml: payRelease + "    rekor: none\n", denied: payRelease, good: func() claim.Fields { f := keyless(); f.Logged = 0; return f }(), rule: "payments-release", want: "in no transparency log"},
		{name: "sct lowered", yaml: payRelease + "    sct: none\n", denied: payRelease, good: func() claim.Fields { f := keyless(); f.SCTs = 0; return f }(), rule: "payments-release", want: "in no certificate log"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			img := image(t, "registry.example/pay/app:v1")
			if v := judge(parse(t, tt.yaml), img, claim.New(tt.good)); !v.Allowed() || len(v.Used()) != 1 {
				t.Fatalf("allowed twin: %v, used %d, want allowed by one claim", v.Hits(), len(v.Used()))
			}
			if tt.denied == "" {
				tt.denied = tt.yaml
			}
			bad := tt.good
			if tt.change != nil {
				tt.change(&bad)
			}
			v := judge(parse(t, tt.denied), img, claim.New(bad))
			hits := v.Hits()
			if v.Allowed() || len(hits) != 1 || hits[0].Rule != tt.rule || hits[0].Layer != "node" || !strings.Contains(hits[0].Msg, tt.want) {
				t.Errorf("verdict = %v %v, want a denial by %q with %q", v.Allowed(), hits, tt.rule, tt.want)
			}
			if v.Transient() {
				t.Error("the denial is transient, want one that can be cached")
			}
		})
	}
}

// All matching policies must pass, each by any one of its authorities.
func TestRequirementsAndOr(t *testing.T) {
	two := payRelease + "  - keyless:\n      identities:\n      - issuer: " + github + "\n        subject: second\n" +
		"- name: all-images\n  images: [{glob: \"**\"}]\n  authorities:\n  - keyless: {identities: [{issuer: " + github + ", subject: platform}]}\n"
	r := parse(t, two)
	signed := func(who string) Claim { f := keyless(); f.SAN = who; return claim.New(f) }
	tests := []struct {
		name  string
		by    []string
		image string
		rules string // that deny
	}{
		{"first authority and the other policy", []string{release, "platform"}, "registry.example/pay/app", ""},
		{"second authority and the other policy", []string{"second", "platform"}, "registry.example/pay/app", ""},
		{"one policy only", []string{release, "second"}, "registry.example/pay/app", "all-images"},
		{"other policy only", []string{"platform"}, "registry.example/pay/app", "payments-release"},
		{"nobody", nil, "registry.example/pay/app", "payments-release all-images"},
		{"image of one policy", []string{"platform"}, "registry.example/web/app", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var claims []Claim
			for _, who := range tt.by {
				claims = append(claims, signed(who))
			}
			v := judge(r, image(t, tt.image), claims...)
			var rules []string
			for _, h := range v.Hits() {
				rules = append(rules, h.Rule)
			}
			if got := strings.Join(rules, " "); got != tt.rules || v.Allowed() != (tt.rules == "") {
				t.Errorf("denied by %q (allowed %v), want %q", got, v.Allowed(), tt.rules)
			}
		})
	}
}

// Of two attestations each must be there.
func TestAllAttestations(t *testing.T) {
	r := parse(t, payRelease+"    attestations:\n    - predicateType: slsaprovenance1\n    - predicateType: cyclonedx\n")
	one, two := keyless(), keyless()
	one.PredicateType, two.PredicateType = prov, "https://cyclonedx.org/bom"
	img := image(t, "registry.example/pay/app")
	if v := judge(r, img, claim.New(one), claim.New(two)); !v.Allowed() || len(v.Used()) != 2 {
		t.Errorf("both: %v", v.Hits())
	}
	if v := judge(r, img, claim.New(one)); v.Allowed() || v.Hits()[0].Rule != "payments-release" {
		t.Errorf("one of two: allowed = %v, want a denial", v.Allowed())
	}
}

func TestRequirementNoRule(t *testing.T) {
	r := parse(t, payRelease)
	for _, name := range []string{"registry.example/payroll/app", "registry.example/pay", "registry.example.evil/pay/app", "evil.example/registry.example/pay/app"} {
		v := judge(r, image(t, name), claim.New(keyless()))
		if hits := v.Hits(); v.Allowed() || len(hits) != 1 || hits[0].Rule != "no-rule" {
			t.Errorf("%s: %v %v, want a denial by no-rule", name, v.Allowed(), hits)
		}
	}
}

func TestRequirementModes(t *testing.T) {
	img := image(t, "registry.example/pay/app")
	v := judge(parse(t, payRelease+"  mode: warn\n"), img)
	if w := v.Warnings(); !v.Allowed() || len(w) != 1 || w[0].Rule != "payments-release" || w[0].Layer != "node" {
		t.Errorf("mode warn: allowed %v, warnings %v, want allowed with one warning", v.Allowed(), w)
	}
	if v := judge(parse(t, payRelease+"  mode: enforce\n"), img); v.Allowed() {
		t.Error("mode enforce: allowed, want denied")
	}
}

func TestStatic(t *testing.T) {
	static := func(action string) string {
		return "policies:\n- name: static\n  images: [{glob: registry.example/**}]\n  authorities:\n  - static: {action: " + action + ", message: not here}\n"
	}
	img := image(t, "registry.example/app")
	if v := judge(parse(t, static("pass")), img); !v.Allowed() {
		t.Errorf("pass: %v, want allowed", v.Hits())
	}
	if v := judge(parse(t, static("fail")), img, claim.New(keyless())); v.Allowed() || v.Hits()[0].Rule != "static" || v.Hits()[0].Msg != "not here" {
		t.Errorf("fail: %v, want a denial by static", v.Hits())
	}
}

func TestUntil(t *testing.T) {
	f := keyless()
	f.PredicateType, f.Signed = prov, now.Add(-time.Hour)
	older := f
	older.Signed = now.Add(-23 * time.Hour)
	r := parse(t, payRelease+"    attestations:\n    - predicateType: slsaprovenance1\n      maxAge: 24h\n")
	v := judge(r, image(t, "registry.example/pay/app"), claim.New(older), claim.New(f))
	if want := now.Add(23 * time.Hour); !v.Allowed() || !v.Until().Equal(want) {
		t.Errorf("Until() = %v, want %v", v.Until(), want)
	}
}

// What a certificate or a registry says must not break the line or grow without bound.
func TestDenialTextIsBounded(t *testing.T) {
	f := keyless()
	f.SAN = "a\nSignatureValidationFailed: ok\x1b[2J" + strings.Repeat("é", 4000)
	var claims []Claim
	for i := range 300 {
		f.SAN = fmt.Sprintf("%d%s", i, f.SAN)
		claims = append(claims, claim.New(f))
	}
	msg := judge(parse(t, payRelease), image(t, "registry.example/pay/app"), claims...).Hits()[0].Msg
	if len(msg) > maxMsg+len("…") || strings.ContainsAny(msg, "\n\x1b") {
		t.Errorf("denial has %d bytes: %q", len(msg), msg)
	}
	in := ImageInput{Reasons: []string{"bundle 1: " + strings.Repeat("x\n", 1000)}}
	if got := found(in); len(got) > 300 || strings.Contains(got, "\n") {
		t.Errorf("found() = %q", got)
	}
}

func TestSubjectRegExpIsAnchored(t *testing.T) {
	r := parse(t, strings.Replace(payRelease, "subject: "+release, `subjectRegExp: https://github\.com/acme/[a-z]+/\.github/workflows/release\.yml@refs/tags/v.*|other`, 1))
	img := image(t, "registry.example/pay/app")
	for san, want := range map[string]bool{
		"https://github.com/acme/pay/.github/workflows/release.yml@refs/tags/v1": true,
		"other": true,
		"https://evil.example/?https://github.com/acme/pay/.github/workflows/release.yml@refs/tags/v1": false,
		"another": false,
		"others":  false,
	} {
		f := keyless()
		f.SAN = san
		if v := judge(r, img, claim.New(f)); v.Allowed() != want {
			t.Errorf("%s: allowed = %v, want %v (%v)", san, v.Allowed(), want, v.Hits())
		}
	}
}
