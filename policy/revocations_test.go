package policy

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"sallyport/policy/internal/claim"
)

const listed = "issued: 2026-11-22T00:00:00Z\nmaxAge: 24h\n"

func revocations(t testing.TB, yaml string) *Revocations {
	t.Helper()
	r, err := ParseRevocations([]byte(yaml))
	if err != nil {
		t.Fatalf("ParseRevocations() = %v\n%s", err, yaml)
	}
	return r
}

// Every revocation has a twin that differs in one fact and revokes nothing here.
func TestRevocations(t *testing.T) {
	keyText, id := newKey(t)
	rules := parse(t, `policies:
- name: any-of-ours
  images: [{glob: registry.example/**}]
  authorities:
  - key:
      data: |
`+indent(keyText)+`
  - keyless: {identities: [{issuer: `+github+`, subject: `+release+`}]}
`)
	img := image(t, "registry.example/app")
	cert := claim.New(keyless()) // signed at 11:00
	bare := claim.New(claim.Fields{Kind: "key", KeyID: id, Subject: digest("instance")})
	stamped := claim.New(claim.Fields{Kind: "key", KeyID: id, Subject: digest("instance"), Signed: now.Add(-time.Hour)})
	who := "identities: [{issuer: " + github + ", subject: " + release
	key := "keys: [{id: " + id + ", reason: stolen"
	for _, tt := range []struct {
		name, list, twin string
		claim            Claim
		rule, want       string
	}{
		{"digest of the index", "digests: [{digest: " + digest("index").String() + ", reason: CVE-2026-1}]", "digests: [{digest: " + digest("other").String() + "}]", bare, "revoked", "is revoked: CVE-2026-1"},
		{"digest of the instance", "digests: [{digest: " + digest("instance").String() + "}]", "", bare, "revoked", "no reason given"},
		{"image ID", "digests: [{digest: " + digest("config").String() + "}]", "", bare, "revoked", "is revoked"},
		{"key", key + "}]", strings.Replace(key, id, strings.Repeat("0", 64), 1) + "}]", bare, "revoked", "signatures by key " + id[:12] + " are revoked (stolen)"},
		{"key, signed before, unproved", key + ", signedAfter: 2026-11-22T11:30:00Z}]", "", bare, "revoked", "has no known time"},
		{"key, signed after", key + ", signedAfter: 2026-11-22T11:00:00Z}]", key + ", signedAfter: 2026-11-22T11:00:01Z}]", stamped, "revoked", "from 2026-11-22T11:00:00Z on"},
		{"identity", who + "}]", strings.Replace(who, "release.yml", "other.yml", 1) + "}]", cert, "revoked", "are revoked"},
		{"identity, issuer written otherwise", strings.Replace(who, github, github+"/", 1) + "}]", strings.Replace(who, github, "https://other.example", 1) + "}]", cert, "revoked", "are revoked"},
		{"identity, signed after", who + ", signedAfter: 2026-11-22T11:00:00Z}]", who + ", signedAfter: 2026-11-22T11:00:01Z}]", cert, "revoked", "from 2026-11-22T11:00:00Z on"},
		{"identity, signed before", who + ", signedBefore: 2026-11-22T11:00:01Z}]", who + ", signedBefore: 2026-11-22T11:00:00Z}]", cert, "revoked", "before 2026-11-22T11:00:01Z"},
		{"identity, within a span", who + ", signedAfter: 2026-11-22T10:00:00Z, signedBefore: 2026-11-22T11:00:01Z}]", who + ", signedAfter: 2026-11-22T09:00:00Z, signedBefore: 2026-11-22T10:00:00Z}]", cert, "revoked", "from 2026-11-22T10:00:00Z on and before"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ask := func(list string) Verdict {
				l := &Layer{Name: "node", Hash: "h", Images: []ImageRule{rules}, Verifier: verifierOf{tt.claim}, Revocations: revocations(t, listed+list+"\n")}
				return l.JudgeImage(context.Background(), img, Evidence{}, now)
			}
			v := ask(tt.list)
			if h := v.Hits(); v.Allowed() || h[0].Rule != tt.rule || !strings.Contains(h[0].Msg, tt.want) {
				t.Errorf("allowed %v %v, want a denial by %s with %q", v.Allowed(), h, tt.rule, tt.want)
			}
			if len(v.Claims()) != 0 {
				t.Error("Rego would see a revoked claim")
			}
			if v := ask(tt.twin); !v.Allowed() {
				t.Errorf("twin: %v, want allowed", v.Hits())
			}
		})
	}
}

// A list that is too old, or of the future, denies everything by name, in every mode; a verdict ends
// when the list does.
func TestRevocationsMaxAge(t *testing.T) {
	rules := parse(t, "policies:\n- name: any\n  images: [{glob: \"**\"}]\n  authorities: [{static: {action: pass}}]\n")
	for _, mode := range []Mode{Enforce, Warn, Shadow} {
		l := &Layer{Name: "node", Hash: "h", Mode: mode, Images: []ImageRule{rules}, Revocations: revocations(t, listed)}
		for at, want := range map[string]bool{
			"2026-11-21T23:55:00Z": true, "2026-11-21T23:54:59Z": false,
			"2026-11-22T23:59:59Z": true, "2026-11-23T00:00:00Z": false,
		} {
			when, err := time.Parse(time.RFC3339, at)
			if err != nil {
				t.Fatal(err)
			}
			v := l.JudgeImage(context.Background(), image(t, "registry.example/app"), Evidence{}, when)
			if v.Allowed() != want || !want && (v.Hits()[0].Rule != "revocations-stale" || !v.Transient()) {
				t.Errorf("mode %s, %s: allowed %v %v, want %v", mode, at, v.Allowed(), v.Hits(), want)
			}
			if want && v.Until().Format(time.RFC3339) != "2026-11-23T00:00:00Z" {
				t.Errorf("Until() = %s", v.Until())
			}
		}
		if v := l.JudgeAct(context.Background(), Act{Verb: VerbExec, Now: now.Add(1000 * time.Hour)}, nil); !v.Allowed() {
			t.Errorf("exec under an old list: %v; revocations are about images", v.Hits())
		}
	}
}

func TestParseRevocationsRefuses(t *testing.T) {
	for list, want := range map[string]string{
		"":                                    "the file is empty",
		"maxAge: 24h\n":                       "issued: missing",
		"issued: 2026-11-22\n":                "maxAge",
		"issued: 2026-11-22\nmaxAge: 9000h\n": "maxAge",
		listed + "digest: []\n":               `unknown field "digest"`,
		listed + "digests: [{digest: abc}]\n": "digests[0].digest",
		listed + "keys: [{id: abc}]\n":        "keys[0].id",
		listed + fmt.Sprintf("keys: [{id: %064d}, {id: %064d}]\n", 1, 1):                                                    "keys[1].id",
		listed + "keys: [{id: " + strings.Repeat("a", 64) + ", signedBefore: 2026-01-01}]\n":                                `unknown field "signedBefore"`,
		listed + "identities: [{subject: me}]\n":                                                                            "identities[0].issuer",
		listed + "identities: [{issuer: " + github + ", subject: me, signedAfter: 2026-02-01, signedBefore: 2026-01-01}]\n": "nothing is revoked",
	} {
		if _, err := ParseRevocations([]byte(list)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("ParseRevocations(%q) = %v, want %q", list, err, want)
		}
	}
}
