package docs

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/image/ref"
	"sallyport/policy"
	"sallyport/policy/bundle"
	"sallyport/test/page"
)

// evidence is a file of what a real cosign wrote (make record-sigstore).
func evidence(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root(t), "policy/sigstore/testdata/cosign3", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// typed makes the policy directory as the part "Only our releases" of the page says, in another place than
// /etc. The cosign lines are for make e2e-sigstore.
func typed(t *testing.T) (policyDir string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), "docs/policy.md"))
	if err != nil {
		t.Fatal(err)
	}
	var script string
	for _, b := range page.Shell(t, page.Part(t, string(text), "Only our releases")) {
		if !strings.HasPrefix(b, "cosign ") {
			script += b
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "trusted_root.json"), evidence(t, "trusted_root.json"), 0o644); err != nil {
		t.Fatal(err)
	}
	policyDir = filepath.Join(dir, "policy")
	path := "PATH=" + programs(t) + ":" + os.Getenv("PATH")
	run := func(script string) ([]byte, error) {
		cmd := exec.Command("bash", "-euc", "umask 022\n"+script)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), path)
		return cmd.CombinedOutput()
	}
	if out, err := run(strings.ReplaceAll(script, "/etc/sallyport", dir)); err != nil {
		t.Fatalf("docs/policy.md as typed: %v\n%s", err, out)
	}
	// The case is really tried: a policy that does not ask for a scan fails it.
	file := policyDir + "/namespaces/payments/requirements.yaml"
	out, err := run("cp " + file + " whole && grep -v 'name: scan' whole >" + file + " && sallyport policy check " + policyDir)
	if err == nil || !strings.Contains(string(out), "unscanned.txtar") {
		t.Errorf("check of a policy that fails its case: %v\n%s", err, out)
	}
	if out, err := run("cp whole " + file); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return policyDir
}

// TestOnlyOurReleases judges recorded evidence by the documented policy: all of it is admitted in namespace
// payments, and each denial lacks one fact.
func TestOnlyOurReleases(t *testing.T) {
	set, err := bundle.Load(typed(t))
	if err != nil || len(set.Problems()) > 0 {
		t.Fatalf("Load() = %v, %v", set.Problems(), err)
	}
	at, err := time.Parse(time.RFC3339, strings.TrimSpace(string(evidence(t, "recorded"))))
	if err != nil {
		t.Fatal(err)
	}
	all := []string{"sign", "attest-slsa", "attest-vuln"}
	for _, tt := range []struct {
		name, namespace, image string
		evidence               []string
		age                    time.Duration
		rule, want             string // "": admitted
		warning                string
	}{
		{name: "all there is", namespace: "payments", image: "registry.example/pay/app:1.4.0", evidence: all, age: time.Hour},
		{name: "after six days", namespace: "payments", image: "registry.example/pay/app:1.4.0", evidence: all, age: 6 * 24 * time.Hour, warning: "older than 120h"},
		{name: "after eight days", namespace: "payments", image: "registry.example/pay/app:1.4.0", evidence: all, age: 8 * 24 * time.Hour, rule: "payments-evidence", want: "older than 168h"},
		{name: "no scan", namespace: "payments", image: "registry.example/pay/app:1.4.0", evidence: all[:2], age: time.Hour, rule: "payments-evidence", want: "no attestation https://cosign.sigstore.dev/attestation/vuln/v1"},
		{name: "no provenance", namespace: "payments", image: "registry.example/pay/app:1.4.0", evidence: []string{"sign", "attest-vuln"}, age: time.Hour, rule: "payments-evidence", want: "no attestation https://slsa.dev/provenance/v1"},
		{name: "no signature", namespace: "payments", image: "registry.example/pay/app:1.4.0", evidence: all[1:], age: time.Hour, rule: "our-workflows", want: "no signature"},
		{name: "another repository", namespace: "payments", image: "registry.example/shop/app:1.4.0", evidence: all, age: time.Hour, rule: "no-rule"},
		{name: "the signature alone, elsewhere", namespace: "default", image: "registry.example/pay/app:1.4.0", evidence: all[:1], age: time.Hour},
		{name: "unsigned, elsewhere", namespace: "default", image: "registry.example/pay/app:1.4.0", age: time.Hour, rule: "our-workflows", want: "found none"},
		{name: "somebody else's", namespace: "default", image: "registry.example/pay/app:1.4.0", evidence: []string{"sign-security"}, age: time.Hour, rule: "our-workflows", want: "found 1, by security@acme.example"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, err := ref.Parse(tt.image)
			if err != nil {
				t.Fatal(err)
			}
			manifest := evidence(t, "manifest.json")
			d := ref.DigestOf(manifest)
			ev := policy.Evidence{TopManifest: manifest, InstanceManifest: manifest, Complete: true}
			for _, name := range tt.evidence {
				ev.Bundles = append(ev.Bundles, policy.Bundle{Subject: d, ArtifactType: "application/vnd.dev.sigstore.bundle.v0.3+json", JSON: evidence(t, name+".sigstore.json")})
			}
			img := policy.Image{Name: n, Top: d, Instance: d, ID: ref.DigestOf([]byte("config")), OS: "linux", Arch: "amd64"}
			now := at.Add(tt.age)
			verdicts := []policy.Verdict{set.Node().JudgeImage(context.Background(), img, ev, now)}
			if l, hit := set.For(tt.namespace); hit != nil {
				t.Fatal(hit)
			} else if l != nil {
				verdicts = append(verdicts, l.JudgeImage(context.Background(), img, ev, now))
			}
			dec := policy.Decide(policy.Act{}, verdicts...)
			if tt.rule == "" {
				if !dec.Allowed() {
					t.Errorf("denied: %v", dec.Hits())
				}
				warnings := verdicts[len(verdicts)-1].Warnings()
				if (len(warnings) > 0) != (tt.warning != "") || len(warnings) > 0 && !strings.Contains(warnings[0].Msg, tt.warning) {
					t.Errorf("warnings = %v, want %q", warnings, tt.warning)
				}
				return
			}
			if hits := dec.Hits(); len(hits) == 0 || hits[0].Rule != tt.rule || !strings.Contains(hits[0].Msg, tt.want) {
				t.Errorf("= %v, want a denial by %s with %q", hits, tt.rule, tt.want)
			}
		})
	}
}
