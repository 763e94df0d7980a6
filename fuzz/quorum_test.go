package fuzz

import (
	"context"
	"strings"
	"testing"
	"time"

	"sallyport/image/ref"
	"sallyport/policy"
	"sallyport/policy/trial"
)

// Whatever a quorum says: without a claim nobody is enough.
func FuzzQuorum(f *testing.F) {
	const head = "policies:\n- name: a\n  images: [{glob: \"**\"}]\n  authorities:\n  - quorum:\n"
	const member = "{name: b, keyless: {identities: [{issuer: \"https://a.b\", subject: c}]}}"
	f.Add([]byte("      {atLeast: 1, of: [" + member + "]}\n"))
	f.Add([]byte("      {atLeast: 0, of: []}\n"))
	f.Add([]byte("      {atLeast: -9223372036854775808, distinctIssuers: true, of: [" + member + "," + member + "]}\n  minimum: {built: 2026-01-01, version: 1.2.3}\n"))
	name, err := ref.Parse("registry.example/app:1.2.3")
	if err != nil {
		f.Fatal(err)
	}
	d := ref.DigestOf(nil)
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := policy.ParseRequirements([]byte(head+string(text)), nil)
		if err != nil {
			oneLine(t, err)
			return
		}
		found, err := r.JudgeImage(context.Background(), policy.ImageInput{Image: policy.Image{Name: name, Top: d, Instance: d, ID: d}, Now: time.Unix(1e9, 0)})
		if err != nil {
			t.Fatal(err)
		}
		if found.Matched && len(found.Hits) == 0 && !strings.Contains(string(text), "pass") && !strings.Contains(string(text), "warn") {
			t.Fatal("nobody signed, and it passes")
		}
	})
}

// Whatever revocations.yaml says, it loads or is refused on one line, and never admits what a layer
// without it denies.
func FuzzRevocations(f *testing.F) {
	d := ref.DigestOf(nil)
	f.Add([]byte("issued: 2001-09-09T01:00:00Z\nmaxAge: 24h\ndigests: [{digest: " + d.String() + "}]\n"))
	f.Add([]byte("issued: 2001-09-09\nmaxAge: 24h\nkeys: [{id: " + strings.Repeat("a", 64) + ", signedAfter: 2001-01-01}]\nidentities: [{issuer: \"https://a.b\", subjectRegExp: \"a.+\"}]\n"))
	name, err := ref.Parse("registry.example/app")
	if err != nil {
		f.Fatal(err)
	}
	img, now := policy.Image{Name: name, Top: d, Instance: d, ID: d}, time.Unix(1e9, 0)
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := policy.ParseRevocations(text)
		if err != nil {
			oneLine(t, err)
			return
		}
		none := policy.Layer{Name: "node", Hash: "h", Revocations: r}
		v := none.JudgeImage(context.Background(), img, policy.Evidence{}, now)
		if v.Allowed() || len(v.Hits()) == 0 {
			t.Fatal("a layer without a rule admits")
		}
	})
}

// Whatever a case says, trying it ends in a pass or one error, and a case that wants a denial never
// passes where nothing denies.
func FuzzTrial(f *testing.F) {
	const policyText = "-- node/bundle.yaml --\nname: a\n-- node/requirements.yaml --\npolicies:\n- {name: none, images: [{glob: \"**\"}], authorities: [{static: {action: fail}}]}\n"
	f.Add([]byte("-- request.yaml --\nnamespace: pay\nimage: registry.example/app\nclaims: [{issuer: \"https://a.b\", subject: c}]\n-- want.yaml --\ndecision: deny\nrule: none\n"))
	f.Add([]byte("-- request.yaml --\nverb: exec\nnamespace: pay\ncommand: [a]\n-- want.yaml --\ndecision: allow\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if strings.Contains(string(text), "node/") || strings.Contains(string(text), "namespaces/") {
			return // the policy is not what is tried here
		}
		err := trial.Run(context.Background(), []byte(policyText+string(text)), "")
		if err == nil && strings.Contains(string(text), "decision: allow") && strings.Contains(string(text), "image:") && !strings.Contains(string(text), "verb") && strings.Count(string(text), "decision") == 1 {
			t.Fatal("an image that is rejected is allowed")
		}
	})
}
