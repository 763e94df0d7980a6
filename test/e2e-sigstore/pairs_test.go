//go:build sigstore

package e2esigstore

import (
	"time"

	"sallyport/test/sigstore"
)

// Predicates as their tools write them, cut short.
var (
	slsa = sigstore.Predicate{Type: "slsaprovenance1", JSON: `{"buildDefinition":{"buildType":"https://actions.github.io/buildtypes/workflow/v1","externalParameters":{"workflow":{"ref":"refs/heads/main","repository":"https://github.com/acme/pay"}}},"runDetails":{"builder":{"id":"https://github.com/actions/runner/github-hosted"}}}`}
	spdx = sigstore.Predicate{Type: "spdxjson", JSON: `{"spdxVersion":"SPDX-2.3","SPDXID":"SPDXRef-DOCUMENT","name":"app","dataLicense":"CC0-1.0","documentNamespace":"https://acme.example/app","creationInfo":{"created":"2026-11-22T00:00:00Z","creators":["Tool: test"]},"packages":[]}`}
	bom  = sigstore.Predicate{Type: "cyclonedx", JSON: `{"bomFormat":"CycloneDX","specVersion":"1.6","components":[]}`}
	scan = sigstore.Predicate{Type: "vuln", JSON: `{"invocation":{},"scanner":{"uri":"https://scanner.example","version":"1","db":{"uri":"","version":""},"result":{}},"metadata":{"scanStartedOn":"2026-11-22T00:00:00Z","scanFinishedOn":"2026-11-22T00:00:01Z"}}`}
	vex  = sigstore.Predicate{Type: "openvex", JSON: `{"@context":"https://openvex.dev/ns/v0.2.0","@id":"https://acme.example/vex","author":"acme","timestamp":"2026-11-22T00:00:00Z","version":1,"statements":[]}`}
)

// What authorities say.
const (
	byRelease  = `keyless: {identities: [{issuer: "https://token.actions.githubusercontent.com", subject: "https://github.com/acme/pay/.github/workflows/release.yml@refs/heads/main"}]}`
	bySecurity = `keyless: {identities: [{issuer: "https://accounts.google.com", subject: security@acme.example}]}`
	byMain     = `[{` + byRelease + `}]`
)

func byClaim(name, value string) string {
	return `[{keyless: {identities: [{issuer: "https://token.actions.githubusercontent.com", subjectRegExp: "https://github\\.com/acme/.+", claims: {` + name + `: "` + value + `"}}]}}]`
}

func attested(fields string) string { return `[{` + byRelease + `, attestations: [{` + fields + `}]}]` }

func quorum(fields string) string {
	return `[{quorum: {` + fields + `, of: [{name: build, ` + byRelease + `}, {name: security, ` + bySecurity + `}, {name: release, key: {file: release.pub}}]}}]`
}

func minimum(fields string) string { return byMain + "\n  minimum: {" + fields + "}" }

const everything = `[{` + byRelease + `, attestations: [{predicateType: slsaprovenance1}, {predicateType: spdxjson}, {predicateType: cyclonedx}, {predicateType: vuln, denyAfter: 168h}, {predicateType: openvex, warnAfter: 1ns, denyAfter: 720h}]}]`

// pairs are the trials. Where the rule is the same the evidence differs in one fact, else the rule does.
func pairs(now time.Time) []pair {
	signed, keyed := []step{sign(release)}, []step{sign(sigstore.Signer{Key: "release"})}
	withSBOM := []step{attest(release, slsa), attest(release, spdx), attest(release, bom), attest(release, scan)}
	legacy := sigstore.Signer{Key: "release", Services: sigstore.Legacy}
	return []pair{
		{"unsigned", trial{rule: byMain}, trial{rule: byMain, evidence: signed}, "found none", ""},
		{"unsigned-referrers", trial{rule: byMain, host: referrers}, trial{rule: byMain, host: referrers, evidence: signed}, "found none", ""},
		{"issuer", trial{rule: byMain, evidence: []step{sign(with(release, func(g *sigstore.Signer) { g.Issuer = sigstore.Mallory }))}},
			trial{rule: byMain, evidence: signed}, "is vouched for by https://token.mallory.example, want https://token.actions.githubusercontent.com", ""},
		{"subject", trial{rule: byMain, evidence: []step{sign(with(release, func(g *sigstore.Signer) { g.Workflow = "acme/pay/.github/workflows/release.yml@refs/heads/mine" }))}},
			trial{rule: byMain, evidence: signed}, "no signature by https://github.com/acme/pay/.github/workflows/release.yml@refs/heads/main; found 1, by", ""},
		{"repository", trial{rule: byMain, evidence: []step{sign(with(release, func(g *sigstore.Signer) { g.Workflow = "acme/shop/.github/workflows/release.yml@refs/heads/main" }))}},
			trial{rule: byMain, evidence: signed}, "found 1, by https://github.com/acme/shop/", ""},
		{"owner", trial{rule: byClaim("SourceRepositoryOwnerIdentifier", "123456"), evidence: []step{sign(with(release, func(g *sigstore.Signer) { g.OwnerID = "999" }))}},
			trial{rule: byClaim("SourceRepositoryOwnerIdentifier", "123456"), evidence: signed}, `SourceRepositoryOwnerIdentifier "999", want "123456"`, ""},
		{"trigger", trial{rule: byClaim("BuildTrigger", "push"), evidence: []step{sign(with(release, func(g *sigstore.Signer) { g.Event = "pull_request" }))}},
			trial{rule: byClaim("BuildTrigger", "push"), evidence: signed}, `BuildTrigger "pull_request", want "push"`, ""},
		{"tampered", trial{rule: byMain, evidence: []step{edited(altered)}}, trial{rule: byMain, evidence: []step{edited(unchanged)}}, "verify log inclusion", ""},
		{"borrowed", trial{rule: byMain, evidence: []step{borrowed}}, trial{rule: byMain, evidence: []step{edited(unchanged)}}, "artifact digest does not match", ""},
		{"transplanted", trial{rule: byMain, evidence: []step{edited(transplanted)}}, trial{rule: byMain, evidence: []step{edited(unchanged)}}, "verify log inclusion", ""},
		{"restamped", trial{rule: byMain, evidence: []step{edited(restamped)}}, trial{rule: byMain, evidence: []step{edited(unchanged)}}, "verify timestamps", ""},
		{"untimed", trial{rule: byMain, evidence: []step{edited(untimed)}}, trial{rule: byMain, evidence: []step{edited(unchanged)}}, "verify timestamps", ""},
		{"foreign-log", trial{rule: byMain, evidence: []step{sign(using(sigstore.ForeignLog))}}, trial{rule: byMain, evidence: signed}, "not enough verified log entries", ""},
		{"no-log", trial{rule: byMain, evidence: []step{sign(using(sigstore.WithoutLog))}}, trial{rule: byMain, evidence: signed}, "not enough verified log entries", ""},
		{"no-sct", trial{rule: byMain, evidence: []step{sign(using(sigstore.WithoutSCT))}}, trial{rule: byMain, evidence: signed}, "verify signed certificate timestamp", ""},
		{"one-log-twice", trial{rule: `[{` + byRelease + `, rekor: 2}]`, evidence: []step{edited(doubled)}},
			trial{rule: `[{` + byRelease + `, rekor: 2}]`, evidence: []step{sign(using(sigstore.TwoLogs))}}, "duplicate tlog entries", ""},
		{"two-logs", trial{rule: `[{` + byRelease + `, rekor: 2}]`, evidence: signed},
			trial{rule: `[{` + byRelease + `, rekor: 2}]`, evidence: []step{sign(using(sigstore.TwoLogs))}}, "is in 1 transparency log, want 2 (rekor: 2)", ""},
		{"two-scts", trial{rule: `[{` + byRelease + `, sct: 2}]`, evidence: signed}, trial{rule: `[{` + byRelease + `, sct: 1}]`, evidence: signed}, "its certificate is in 1 certificate log, want 2", ""},
		{"other-root", trial{rule: `[{keyless: {trustRootRef: other, identities: [{issuer: "https://token.actions.githubusercontent.com", subject: "https://github.com/acme/pay/.github/workflows/release.yml@refs/heads/main"}]}}]`, evidence: signed},
			trial{rule: byMain, evidence: signed}, `want trusted root "other"`, ""},
		{"other-key", trial{rule: `[{name: ci, key: {file: other.pub}}]`, evidence: keyed}, trial{rule: `[{name: ci, key: {file: release.pub}}]`, evidence: keyed}, `no signature by key "ci"`, ""},
		{"bare-key", trial{rule: `[{name: ci, key: {file: release.pub}, rekor: required}]`, evidence: []step{sign(sigstore.Signer{Key: "release", Services: sigstore.Bare})}},
			trial{rule: `[{name: ci, key: {file: release.pub}}]`, evidence: []step{sign(sigstore.Signer{Key: "release", Services: sigstore.Bare})}}, "is in no transparency log", ""},
		{"expired-key", trial{rule: `[{key: {file: expired.pub, notAfter: ` + now.Add(-time.Minute).Format(time.RFC3339) + `}}]`, evidence: []step{sign(sigstore.Signer{Key: "expired"})}},
			trial{rule: `[{key: {file: fresh.pub, notAfter: ` + now.Add(time.Hour).Format(time.RFC3339) + `}}]`, evidence: []step{sign(sigstore.Signer{Key: "fresh"})}}, "ended at", ""},
		{"predicate", trial{rule: attested("predicateType: slsaprovenance1"), evidence: []step{attest(release, scan)}},
			trial{rule: attested("predicateType: slsaprovenance1"), evidence: []step{attest(release, slsa)}}, "no attestation https://slsa.dev/provenance/v1", ""},
		{"signature-is-no-attestation", trial{rule: attested("predicateType: slsaprovenance1"), evidence: signed},
			trial{rule: attested("predicateType: slsaprovenance1"), evidence: []step{attest(release, slsa)}}, "no attestation https://slsa.dev/provenance/v1", ""},
		{"stale", trial{rule: attested("predicateType: vuln, denyAfter: 1ms"), evidence: []step{attest(release, scan)}},
			trial{rule: attested("predicateType: vuln, denyAfter: 168h"), evidence: []step{attest(release, scan)}}, "older than 1ms", ""},
		{"all-kinds", trial{rule: everything, evidence: withSBOM}, trial{rule: everything, evidence: append(withSBOM, attest(release, vex))}, "no attestation https://openvex.dev/ns", ""},
		{"built", trial{rule: minimum("built: " + now.Add(time.Hour).Format(time.RFC3339)), evidence: signed},
			trial{rule: minimum("built: " + now.Add(-time.Hour).Format(time.RFC3339)), evidence: signed}, "before minimum.built", ""},
		{"version", trial{rule: minimum("version: 1.3.0"), evidence: signed}, trial{rule: minimum("version: 1.2.0"), evidence: signed}, `tag "v1.2.0" is older than v1.3.0`, ""},
		{"quorum", trial{rule: quorum("atLeast: 2"), evidence: signed}, trial{rule: quorum("atLeast: 2"), evidence: []step{sign(release), sign(security)}}, "quorum of 2 of build, security, release, only 1 (build)", ""},
		{"quorum-one-signs-twice", trial{rule: quorum("atLeast: 2"), evidence: []step{sign(release), sign(release)}},
			trial{rule: quorum("atLeast: 2"), evidence: []step{sign(release), sign(sigstore.Signer{Key: "release"})}}, "only 1 (build)", ""},
		{"quorum-issuers", trial{rule: quorum("atLeast: 3, distinctIssuers: true"), evidence: []step{sign(release), sign(security)}},
			trial{rule: quorum("atLeast: 3, distinctIssuers: true"), evidence: []step{sign(release), sign(security), sign(sigstore.Signer{Key: "release"})}}, "with distinct issuers, only 2", ""},
		{"index", trial{index: true, rule: `[{` + byRelease + `, subject: instance}]`, evidence: signed},
			trial{index: true, rule: `[{` + byRelease + `, subject: index}]`, evidence: signed}, "is about the index, want this platform's manifest", ""},
		{"instance", trial{index: true, rule: `[{` + byRelease + `, subject: index}]`, evidence: []step{signInstance(release)}},
			trial{index: true, rule: byMain, evidence: []step{signInstance(release)}}, "is about the platform's manifest, want the index", ""},
		{"recursive", trial{index: true, host: referrers, rule: `[{` + byRelease + `, subject: instance}]`, evidence: signed},
			trial{index: true, host: referrers, rule: `[{` + byRelease + `, subject: instance}]`, evidence: []step{sign(release, "--recursive")}}, "is about the index", ""},
		{"att", trial{rule: `[{key: {file: release.pub}, attestations: [{predicateType: vuln}]}]`, evidence: []step{attest(legacy, scan)}},
			trial{rule: `[{key: {file: release.pub}, attestations: [{predicateType: vuln}]}]`, evidence: []step{attest(sigstore.Signer{Key: "release", Services: sigstore.Bare}, scan)}}, "(.att) is not supported", ""},
		{"revoked-digest", trial{rule: byMain, evidence: signed}, trial{rule: byMain, evidence: signed}, "is revoked: CVE-2026-1234", "revoked"},
		{"revoked-identity", trial{rule: byClaim("BuildTrigger", "push"), evidence: []step{sign(with(release, func(g *sigstore.Signer) { g.Workflow = "acme/pay/.github/workflows/leaked.yml@refs/heads/main" }))}},
			trial{rule: byClaim("BuildTrigger", "push"), evidence: signed}, "leaked.yml@refs/heads/main are revoked (leaked)", "revoked"},
		{"revoked-key", trial{rule: `[{key: {file: leaked.pub}}]`, evidence: []step{sign(sigstore.Signer{Key: "leaked"})}}, trial{rule: `[{key: {file: release.pub}}]`, evidence: keyed}, "are revoked (leaked)", "revoked"},
		{"sig", trial{policy: sigKey("other")}, trial{policy: sigKey("release"), evidence: []step{sign(legacy)}}, "found none", "policy.json docker"},
		{"sig-index", trial{index: true, policy: sigKey("release"), evidence: []step{sign(legacy)}},
			trial{index: true, policy: sigKey("release"), evidence: []step{sign(legacy, "--recursive")}}, "sign with --recursive", "policy.json docker"},
	}
}

func sigKey(name string) string {
	return `[{"type": "sigstoreSigned", "keyPath": "` + name + `.pub", "signedIdentity": {"type": "matchRepository"}}]`
}
