package policy

import (
	"strings"
	"testing"
	"time"

	"sallyport/policy/internal/claim"
)

const google = "https://accounts.google.com"

// twoOfThree wants two of build (keyless), security (a person) and release (a key).
func twoOfThree(key, more string) string {
	return `policies:
- name: two-of-three
  images: [{glob: registry.example/**}]
  authorities:
  - quorum:
      atLeast: 2
` + more + `      of:
      - name: build
        keyless: {identities: [{issuer: ` + github + `, subjectRegExp: "https://github.com/acme/.+"}]}
      - name: security
        keyless: {identities: [{issuer: ` + google + `, subject: eve@acme.example}, {issuer: ` + github + `, subjectRegExp: "https://github.com/acme/.+"}]}
      - name: release
        key:
          data: |
` + strings.ReplaceAll(indent(key), "        ", "            ") + "\n"
}

func TestQuorum(t *testing.T) {
	keyText, keyID := newKey(t)
	signed := func(issuer, san string) Claim {
		f := keyless()
		f.Issuer, f.SAN = issuer, san
		return claim.New(f)
	}
	const workflow = "https://github.com/acme/pay/.github/workflows/release.yml@refs/heads/"
	build, person := signed(github, workflow+"main"), signed(google, "eve@acme.example")
	scan := signed(github, "https://github.com/acme/pay/.github/workflows/scan.yml@refs/heads/main")
	byKey := claim.New(claim.Fields{Kind: "key", KeyID: keyID, Subject: digest("instance")})
	tests := []struct {
		name, more string
		claims     []Claim
		want       string // "" is allowed
	}{
		{"two people", "", []Claim{build, person}, ""},
		{"one", "", []Claim{build}, "no quorum of 2 of build, security, release, only 1 (build)"},
		{"a signer and a key", "", []Claim{person, byKey}, ""},
		{"all", "", []Claim{byKey, person, build}, ""},
		{"one key twice", "", []Claim{byKey, byKey}, "only 1 (release)"},
		{"one identity that two members take, twice", "", []Claim{build, build}, "only 1"},
		{"one workflow at two refs", "", []Claim{build, signed(github, workflow+"next")}, "only 1"},
		{"two workflows", "", []Claim{build, scan}, ""},
		// build's only voter must not be spent on security.
		{"matched, not in their order", "", []Claim{scan, person}, ""},
		{"two workflows, distinct issuers", "      distinctIssuers: true\n", []Claim{build, scan}, "with distinct issuers, only 1"},
		{"distinct issuers", "      distinctIssuers: true\n", []Claim{build, scan, person}, ""},
		{"a key is an issuer of its own", "      distinctIssuers: true\n", []Claim{build, byKey}, ""},
		{"a stranger", "", []Claim{build, signed(google, "mallory@evil.example")}, "only 1 (build)"},
		{"nobody", "", nil, "only 0"},
	}
	img := image(t, "registry.example/app")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := judge(parse(t, twoOfThree(keyText, tt.more)), img, tt.claims...)
			if tt.want == "" {
				if !v.Allowed() || len(v.Used()) != 2 {
					t.Errorf("allowed %v with %d claims, want two: %v", v.Allowed(), len(v.Used()), v.Hits())
				}
				return
			}
			if hits := v.Hits(); v.Allowed() || hits[0].Rule != "two-of-three" || !strings.Contains(hits[0].Msg, tt.want) {
				t.Errorf("hits = %v, want a denial by two-of-three with %q", hits, tt.want)
			}
		})
	}
}

// The first member takes either signer and the second only the one that the first would take first.
func TestQuorumGivesUpAVoter(t *testing.T) {
	eve := "{issuer: " + google + ", subject: eve@acme.example}"
	r := parse(t, "policies:\n- name: both\n  images: [{glob: registry.example/**}]\n  authorities:\n  - quorum:\n      atLeast: 2\n      of:\n"+
		"      - {name: any, keyless: {identities: ["+eve+", {issuer: "+github+", subject: "+release+"}]}}\n"+
		"      - {name: eve, keyless: {identities: ["+eve+"]}}\n")
	f := keyless()
	f.Issuer, f.SAN = google, "eve@acme.example"
	img := image(t, "registry.example/app")
	if v := judge(r, img, claim.New(f), claim.New(keyless())); !v.Allowed() {
		t.Errorf("two signers for two members: %v", v.Hits())
	}
	if v := judge(r, img, claim.New(f), claim.New(f)); v.Allowed() || v.Hits()[0].Rule != "both" {
		t.Error("one signer for two members: allowed")
	}
}

// A member's demands are its own, and its attestations are all by one signer.
func TestQuorumMembersDemands(t *testing.T) {
	yaml := `policies:
- name: both
  images: [{glob: registry.example/**}]
  authorities:
  - quorum:
      atLeast: 2
      of:
      - name: build
        keyless: {identities: [{issuer: ` + github + `, subjectRegExp: "https://github.com/.+"}]}
        attestations: [{predicateType: slsaprovenance1}, {predicateType: spdx}]
      - name: security
        keyless: {identities: [{issuer: ` + google + `, subject: eve@acme.example}]}
        rekor: none
`
	about := func(san, kind string) claim.Fields {
		f := keyless()
		f.SAN, f.PredicateType = san, kind
		return f
	}
	eve := keyless()
	eve.Issuer, eve.SAN, eve.Logged = google, "eve@acme.example", 0
	const a, b, sbom = "https://github.com/a", "https://github.com/b", "https://spdx.dev/Document"
	img := image(t, "registry.example/app")
	good := []Claim{claim.New(about(a, prov)), claim.New(about(a, sbom)), claim.New(eve)}
	if v := judge(parse(t, yaml), img, good...); !v.Allowed() || len(v.Used()) != 3 {
		t.Errorf("both: %v, want allowed", v.Hits())
	}
	mixed := []Claim{good[0], claim.New(about(b, sbom)), good[2]}
	if v := judge(parse(t, yaml), img, mixed...); v.Allowed() || v.Hits()[0].Rule != "both" {
		t.Error("attestations by two signers for one member: allowed, want denied")
	}
	strict := strings.Replace(yaml, "rekor: none", "rekor: required", 1)
	if v := judge(parse(t, strict), img, good...); v.Allowed() || !strings.Contains(v.Hits()[0].Msg, "in no transparency log") {
		t.Errorf("unlogged: %v, want a denial that names the log", v.Hits())
	}
	if unlogged, _ := parse(t, yaml).Lowered(); !unlogged {
		t.Error("Lowered() does not see a quorum's members")
	}
	if r := parse(t, yaml).Roots(); len(r) != 1 || r[0].Policy != "both" {
		t.Error("Roots() does not see a quorum's members")
	}
}

func TestParseQuorumRefuses(t *testing.T) {
	keyText, _ := newKey(t)
	good := twoOfThree(keyText, "")
	one := "      - name: build\n        keyless: {identities: [{issuer: " + github + ", subject: me}]}\n"
	of := func(head, members string) string {
		return "policies:\n- name: a\n  images: [{glob: \"**\"}]\n  authorities:\n  - quorum:\n" + head + "      of:\n" + members
	}
	again := "      - name: %\n        key:\n          data: |\n" + strings.ReplaceAll(indent(keyText), "        ", "            ") + "\n"
	key := func(name string) string { return strings.Replace(again, "%", name, 1) }
	second := strings.Replace(one, "build", "other", 1)
	for name, tt := range map[string]struct{ yaml, want string }{
		"threshold 0":          {strings.Replace(good, "atLeast: 2", "atLeast: 0", 1), "quorum.atLeast: 0; want 1 to 3"},
		"no threshold":         {strings.Replace(good, "      atLeast: 2\n", "", 1), "quorum.atLeast: 0"},
		"negative":             {strings.Replace(good, "atLeast: 2", "atLeast: -1", 1), "quorum.atLeast: -1"},
		"out of reach":         {strings.Replace(good, "atLeast: 2", "atLeast: 4", 1), "quorum.atLeast: 4"},
		"nobody":               {of("      atLeast: 0\n", "        []\n"), "quorum.atLeast: 0; want 1 to 0"},
		"one key twice":        {of("      atLeast: 2\n", key("a")+key("b")), `is that of "a", and one key counts once`},
		"one name twice":       {of("      atLeast: 1\n", one+one), `name: "build" stands twice`},
		"no name":              {of("      atLeast: 1\n", strings.Replace(one, "name: build\n        ", "", 1)), "quorum.of[0].name: missing"},
		"static member":        {of("      atLeast: 1\n", "      - {name: x, static: {action: pass}}\n"), "a member signs"},
		"quorum of quorums":    {of("      atLeast: 1\n", "      - {name: x, quorum: {atLeast: 1}}\n"), "a member signs"},
		"demands on the group": {good + "    rekor: required\n", "on its members"},
		"too few issuers":      {of("      atLeast: 2\n      distinctIssuers: true\n", one+second), "the members have 1 issuers, so 2 can never"},
		"unknown field":        {strings.Replace(good, "atLeast", "atleast", 1), `unknown field "atleast"`},
	} {
		_, err := ParseRequirements([]byte(tt.yaml), nil)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: ParseRequirements() = %v, want %q", name, err, tt.want)
		}
	}
	for name, yaml := range map[string]string{"good": good, "two keyless": of("      atLeast: 2\n", one+second), "two keys, one window": of("      atLeast: 1\n", one+key("b"))} {
		if _, err := ParseRequirements([]byte(yaml), nil); err != nil {
			t.Errorf("%s: ParseRequirements() = %v", name, err)
		}
	}
}

// Ages: young passes, old warns, older denies; the verdict ends when that changes.
func TestAttestationAges(t *testing.T) {
	r := parse(t, payRelease+"    attestations:\n    - {predicateType: vuln, warnAfter: 24h, denyAfter: 168h}\n")
	only := parse(t, payRelease+"    attestations:\n    - {predicateType: vuln, warnAfter: 24h}\n")
	img := image(t, "registry.example/pay/app")
	scan := func(age time.Duration) Claim {
		f := keyless()
		f.PredicateType, f.Signed = predicateTypes["vuln"], now.Add(-age)
		return claim.New(f)
	}
	for _, tt := range []struct {
		name    string
		rule    *Requirements
		claims  []Claim
		allowed bool
		warns   int
		until   time.Time
	}{
		{"young", r, []Claim{scan(time.Hour)}, true, 0, now.Add(23 * time.Hour)},
		{"just old", r, []Claim{scan(24 * time.Hour)}, true, 1, now.Add(144 * time.Hour)},
		{"too old", r, []Claim{scan(168 * time.Hour)}, false, 0, time.Time{}},
		{"old and young", r, []Claim{scan(100 * time.Hour), scan(time.Hour)}, true, 0, now.Add(23 * time.Hour)},
		{"old and young, warn only", only, []Claim{scan(100 * time.Hour), scan(time.Hour)}, true, 0, now.Add(23 * time.Hour)},
		{"ancient, warn only", only, []Claim{scan(10000 * time.Hour)}, true, 1, time.Time{}},
	} {
		v := judge(tt.rule, img, tt.claims...)
		if v.Allowed() != tt.allowed || len(v.Warnings()) != tt.warns || !v.Until().Equal(tt.until) {
			t.Errorf("%s: allowed %v, warnings %v, until %v; want %v, %d, %v", tt.name, v.Allowed(), v.Warnings(), v.Until(), tt.allowed, tt.warns, tt.until)
		}
		if !tt.allowed && v.Hits()[0].Rule != "payments-release" {
			t.Errorf("%s: denied by %v", tt.name, v.Hits())
		}
	}
}

// Every denial has a twin that differs in the tag or the time alone.
func TestMinimum(t *testing.T) {
	const base = payRelease + "  minimum: "
	for _, tt := range []struct{ name, minimum, image, want string }{
		{"newer tag", "{version: 1.4.0}", "registry.example/pay/app:v1.10.0", ""},
		{"same tag", "{version: v1.4.0}", "registry.example/pay/app:1.4.0", ""},
		{"older tag", "{version: 1.4.0}", "registry.example/pay/app:v1.3.9", `tag "v1.3.9" is older than v1.4.0 (minimum.version)`},
		{"pre-release", "{version: 1.4.0}", "registry.example/pay/app:v1.4.0-rc1", `tag "v1.4.0-rc1" is older than v1.4.0`},
		{"no version", "{version: 1.4.0}", "registry.example/pay/app:latest", `tag "latest" is no version, want v1.4.0 or later`},
		{"digest alone", "{version: 1.4.0}", "registry.example/pay/app@" + digest("index").String(), "no tag is named, want one of version v1.4.0"},
		{"built since", "{built: 2026-11-22T11:00:00Z}", "registry.example/pay/app", ""},
		{"built before", "{built: 2026-11-22T11:00:01Z}", "registry.example/pay/app", "is of 2026-11-22T11:00:00Z, before minimum.built 2026-11-22T11:00:01Z"},
		{"both", "{built: 2026-11-22T11:00:00Z, version: 1.4.0}", "registry.example/pay/app:1.4.0", ""},
		{"neither", "{built: 2026-11-22T11:00:01Z, version: 1.4.0}", "registry.example/pay/app:1.3.0", `tag "1.3.0" is older than v1.4.0 (minimum.version); signature by`},
	} {
		v := judge(parse(t, base+tt.minimum+"\n"), image(t, tt.image), claim.New(keyless()))
		if tt.want == "" {
			if !v.Allowed() {
				t.Errorf("%s: %v, want allowed", tt.name, v.Hits())
			}
		} else if hits := v.Hits(); v.Allowed() || hits[0].Rule != "payments-release" || !strings.Contains(hits[0].Msg, tt.want) || strings.HasSuffix(hits[0].Msg, "; ") {
			t.Errorf("%s: %v, want a denial by payments-release with %q", tt.name, hits, tt.want)
		}
	}
	keyText, _ := newKey(t)
	quorum := twoOfThree(keyText, "")
	for yaml, want := range map[string]string{
		base + "{}\n":                               "minimum: empty",
		base + "{version: new}\n":                   "minimum.version",
		quorum + "  minimum: {built: 2026-01-01}\n": "minimum.built: the time of a key's signature cannot be known",
		"policies:\n- name: a\n  images: [{glob: \"**\"}]\n  authorities: [{static: {action: pass}}]\n  minimum: {built: 2026-01-01}\n": "minimum.built",
	} {
		if _, err := ParseRequirements([]byte(yaml), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseRequirements() = %v, want %q", err, want)
		}
	}
	// The floor holds for a quorum's members too.
	keylessQuorum := `policies:
- name: q
  images: [{glob: registry.example/**}]
  authorities:
  - quorum: {atLeast: 1, of: [{name: build, keyless: {identities: [{issuer: ` + github + `, subject: ` + release + `}]}}]}
  minimum: {built: `
	for at, want := range map[string]bool{"2026-11-22T11:00:00Z": true, "2026-11-22T11:00:01Z": false} {
		if v := judge(parse(t, keylessQuorum+at+"}\n"), image(t, "registry.example/app"), claim.New(keyless())); v.Allowed() != want {
			t.Errorf("quorum, minimum.built %s: allowed = %v", at, v.Allowed())
		}
	}
}

// A policy in mode shadow changes nothing: neither does it deny, nor does it make an image known.
func TestShadowPolicy(t *testing.T) {
	shadow := strings.Replace(strings.TrimPrefix(payRelease, "policies:\n"), "payments-release", "next", 1) + "  mode: shadow\n"
	beside := "policies:\n- name: any\n  images: [{glob: registry.example/pay/**}]\n  authorities: [{static: {action: pass}}]\n" + shadow
	img := image(t, "registry.example/pay/app")
	v := judge(parse(t, beside), img)
	if s := v.Shadow(); !v.Allowed() || len(v.Warnings()) != 0 || len(s) != 1 || s[0].Rule != "next" || s[0].Mode != "shadow" || s[0].Layer != "node" {
		t.Errorf("unsigned: allowed %v, shadow %v, want allowed and one objection by next", v.Allowed(), s)
	}
	if v := judge(parse(t, beside), img, claim.New(keyless())); !v.Allowed() || len(v.Shadow()) != 0 {
		t.Errorf("signed: shadow %v, want none", v.Shadow())
	}
	v = judge(parse(t, "policies:\n"+shadow), img, claim.New(keyless()))
	if h := v.Hits(); v.Allowed() || h[0].Rule != "no-rule" {
		t.Errorf("a shadow policy alone: allowed %v %v, want a denial by no-rule", v.Allowed(), h)
	}
	if v := judge(parse(t, strings.Replace(beside, "mode: shadow", "mode: enforce", 1)), img); v.Allowed() || v.Hits()[0].Rule != "next" {
		t.Error("the same policy enforced does not deny: the test tests nothing")
	}
}
