package bundle

import (
	"context"
	"strings"
	"testing"
	"time"

	"sallyport/image/ref"
	"sallyport/policy"
	"sallyport/test/sigkit"
)

// predicates are what build systems and scanners write, cut to what the rules read.
var predicates = map[string]struct {
	kind string
	body any
}{
	"slsaprovenance1": {"https://slsa.dev/provenance/v1", map[string]any{
		"buildDefinition": map[string]any{"buildType": "https://actions.github.io/buildtypes/workflow/v1"},
		"runDetails":      map[string]any{"builder": map[string]any{"id": "https://github.com/actions/runner"}}}},
	"spdx":      {"https://spdx.dev/Document", map[string]any{"spdxVersion": "SPDX-2.3", "packages": []any{map[string]any{"name": "busybox"}}}},
	"cyclonedx": {"https://cyclonedx.org/bom", map[string]any{"bomFormat": "CycloneDX", "components": []any{map[string]any{"name": "busybox"}}}},
	"vuln": {"https://cosign.sigstore.dev/attestation/vuln/v1", map[string]any{
		"scanner": map[string]any{"result": map[string]any{"critical": 0}}}},
	"openvex": {"https://openvex.dev/ns", map[string]any{"statements": []any{map[string]any{"status": "not_affected"}}}},
}

const predicateRules = `package sallyport.run

import data.lib.trusted

deny contains {"rule": "builder", "msg": "not built by the runner"} if {
	not built
}

built if {
	some c in trusted.claims
	c.predicateType == "https://slsa.dev/provenance/v1"
	c.predicate.runDetails.builder.id == "https://github.com/actions/runner"
}

deny contains {"rule": "critical", "msg": "the scan found critical vulnerabilities"} if {
	some c in trusted.claims
	c.predicateType == "https://cosign.sigstore.dev/attestation/vuln/v1"
	c.predicate.scanner.result.critical > 0
}

deny contains {"rule": "affected", "msg": "a statement says that it is affected"} if {
	some c in trusted.claims
	c.predicateType == "https://openvex.dev/ns"
	some s in c.predicate.statements
	s.status == "affected"
}

deny contains {"rule": "component", "msg": "holds what we do not ship"} if {
	some c in trusted.claims
	some list in [object.get(c.predicate, "packages", []), object.get(c.predicate, "components", [])]
	some p in list
	p.name == "log4j"
}
`

const trustedClaims = `package lib.trusted

claims contains c if {
	some c in input.claims
	c.issuer == "https://issuer.example"
	c.san == "ci@acme.example"
	c.root == ""
	c.ofInstance
}
`

// From real attestations of five kinds, through requirements and Rego over their predicates, to a
// decision. Each denial differs from the allowed case in one attestation.
func TestAttestationsToDecision(t *testing.T) {
	k := kit(t)
	var kinds []string
	for _, name := range []string{"slsaprovenance1", "spdx", "cyclonedx", "vuln", "openvex"} {
		kinds = append(kinds, "{predicateType: "+name+", denyAfter: 168h}")
	}
	s := load(t, map[string]string{
		"node/bundle.yaml":       "name: test\nrego: [sallyport.run]\n",
		"node/requirements.yaml": requirement("**", by("ci@acme.example")+"\n    attestations: ["+strings.Join(kinds, ", ")+"]"),
		"node/trusted_root.json": string(k.TrustedRoot()),
		"node/rego/run.rego":     predicateRules, "node/rego/trusted.rego": trustedClaims,
	})
	attest := func(who, kind string, body any, at time.Time) []byte {
		b, err := k.Sign(ref.DigestOf(manifest1), sigkit.Signing{Identity: sigkit.Identity{SAN: who, Issuer: issuer}, PredicateType: kind, Predicate: body, At: at})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, tt := range []struct {
		name, change, who string
		body              any
		age               time.Duration
		rule, msg         string
	}{
		{name: "all good"},
		{name: "no provenance", change: "slsaprovenance1", who: "-", rule: "release", msg: "no attestation https://slsa.dev/provenance/v1 by ci@acme.example"},
		{name: "provenance by another", change: "slsaprovenance1", who: "mallory@evil.example", rule: "release", msg: "by mallory@evil.example"},
		{name: "another builder", change: "slsaprovenance1", body: map[string]any{"runDetails": map[string]any{"builder": map[string]any{"id": "https://evil.example"}}}, rule: "builder"},
		{name: "old scan", change: "vuln", age: 169 * time.Hour, rule: "release", msg: "older than 168h0m0s"},
		{name: "critical", change: "vuln", body: map[string]any{"scanner": map[string]any{"result": map[string]any{"critical": 3}}}, rule: "critical"},
		{name: "affected", change: "openvex", body: map[string]any{"statements": []any{map[string]any{"status": "affected"}}}, rule: "affected"},
		{name: "unwanted package", change: "spdx", body: map[string]any{"packages": []any{map[string]any{"name": "log4j"}}}, rule: "component"},
		{name: "unwanted component", change: "cyclonedx", body: map[string]any{"components": []any{map[string]any{"name": "log4j"}}}, rule: "component"},
		{name: "no SBOM", change: "cyclonedx", who: "-", rule: "release", msg: "no attestation https://cyclonedx.org/bom"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var bundles [][]byte
			for name, p := range predicates {
				who, body, at := "ci@acme.example", p.body, time.Now().Add(-tt.age)
				if name != tt.change {
					at = time.Now()
				} else if tt.who != "" {
					who = tt.who
				}
				if name == tt.change && tt.body != nil {
					body = tt.body
				}
				if who != "-" {
					bundles = append(bundles, attest(who, p.kind, body, at))
				}
			}
			img, ev := signed(t, "registry.example/app", bundles...)
			now := time.Now()
			act := policy.Act{Verb: policy.VerbRun, Now: now, Namespace: "default", Image: &img}
			v := s.Node().JudgeImage(context.Background(), img, ev, now)
			d := policy.Decide(act, v, s.Node().JudgeAct(context.Background(), act, v.Claims()))
			h := d.Hits()
			if tt.rule == "" {
				if !d.Allowed() || len(v.Used()) != 5 {
					t.Errorf("%v, %d claims used, want allowed by 5", h, len(v.Used()))
				}
				return
			}
			if d.Allowed() || h[0].Rule != tt.rule || !strings.Contains(h[0].Msg, tt.msg) {
				t.Errorf("%v, want a denial by %s with %q", h, tt.rule, tt.msg)
			}
		})
	}
}

// A further root counts for the authorities that name it, and for no others.
func TestSeveralRoots(t *testing.T) {
	public, own := kit(t), kit(t)
	files := map[string]string{
		"node/bundle.yaml":            "name: test\n",
		"node/trusted_root.json":      string(public.TrustedRoot()),
		"node/trusted_roots/own.json": string(own.TrustedRoot()),
	}
	const ours = "keyless: {trustRootRef: own, identities: [{issuer: " + issuer + ", subject: ci@acme.example}]}"
	for _, tt := range []struct {
		name, authority string
		by              *sigkit.Kit
		want            string
	}{
		{"the root that needs no name", by("ci@acme.example"), public, ""},
		{"the named root", ours, own, ""},
		{"the named root for an authority that names none", by("ci@acme.example"), own, `is vouched for by trusted root "own", want trusted_root.json`},
		{"another than the named root", ours, public, `is vouched for by trusted_root.json, want trusted root "own"`},
	} {
		s := load(t, with(files, "node/requirements.yaml", requirement("**", tt.authority)))
		img, ev := signed(t, "registry.example/app", sign(t, tt.by, "ci@acme.example"))
		d := effective(s, "default", img, ev)
		if h := d.Hits(); d.Allowed() != (tt.want == "") || tt.want != "" && (h[0].Rule != "release" || !strings.Contains(h[0].Msg, tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, h, tt.want)
		}
	}
	_, err := Load(tree(t, with(files, "node/trusted_roots/own.json", "", "node/requirements.yaml", requirement("**", ours))))
	if err == nil || !strings.Contains(err.Error(), "there is no trusted_roots/own.json") {
		t.Errorf("Load() = %v, want a missing root by name", err)
	}
}
