package policy

import (
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"strings"
	"testing"
)

func TestParseRequirementsRefuses(t *testing.T) {
	keyText, _ := newKey(t)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	key := func(text, more string) string {
		return "policies:\n- name: a\n  images: [{glob: \"**\"}]\n  authorities:\n  - key:\n      data: |\n" + indent(text) + "\n" + more
	}
	id := func(identity string) string {
		return "policies:\n- name: a\n  images: [{glob: \"**\"}]\n  authorities:\n  - keyless: {identities: [{" + identity + "}]}\n"
	}
	of := func(glob, authority string) string {
		return "policies:\n- name: a\n  images: [{glob: \"" + glob + "\"}]\n  authorities: [" + authority + "]\n"
	}
	static := "{static: {action: fail}}"
	good := id("issuer: " + github + ", subject: me")
	tests := []struct{ name, yaml, want string }{
		{"empty file", "", "the file is empty"},
		{"no policies", "policies: []\n", "policies: empty"},
		{"unknown field", strings.Replace(good, "images:", "image:", 1), `line 3: unknown field "image"`},
		{"unknown field below", id("issuer: " + github + ", subjet: me"), `unknown field "subjet"`},
		{"repeated field", good + "  authorities: []\n", "already defined"},
		{"two documents", good + "---\n" + good, "more than one YAML document"},
		{"not YAML", "policies:\n- name: \"a\n", "line 2: found unexpected end of stream"},
		{"no name", strings.Replace(good, "name: a", "mode: enforce", 1), "policies[0].name"},
		{"bad name", strings.Replace(good, "name: a", "name: \"a b\"", 1), "policies[0].name"},
		{"no images", strings.Replace(good, "images: [{glob: \"**\"}]", "images: []", 1), "policies[0].images: empty"},
		{"empty glob", of("", static), "policies[0].images[0].glob: empty"},
		{"glob with tag", of("registry.example/a:v1", static), "tags are not matched"},
		{"glob with digest", of("registry.example/a@sha256", static), "tags and digests are not matched"},
		{"glob with class", of("registry.example/[a-z]", static), "cannot stand in a repository"},
		{"short name", of("nginx", static), "no registry host; write for example docker.io/library/nginx"},
		{"short name with slash", of("library/nginx", static), "no registry host"},
		{"host only", of("registry.example", static), "write registry.example/**"},
		{"index.docker.io", of("index.docker.io/library/nginx", static), "write docker.io"},
		{"no authorities", of("**", ""), "policies[0].authorities: empty"},
		{"authority without anything", of("**", "{name: x}"), "authorities[0].key, keyless, quorum, static: give exactly one"},
		{"keyless null", of("**", "{keyless: }"), "give exactly one"},
		{"static and key", of("**", "{static: {action: pass}, key: {data: x}}"), "give exactly one"},
		{"static without action", of("**", "{static: {}}"), `static.action: ""; want pass or fail`},
		{"static beside others", of("**", "{static: {action: pass}}, {keyless: {identities: [{issuer: "+github+", subject: me}]}}"), "authorities[0].static: stands beside other authorities"},
		{"no identities", of("**", "{keyless: {identities: []}}"), "keyless.identities: empty"},
		{"no issuer", id("subject: me"), "keyless.identities[0].issuer"},
		{"issuer no URL", id("issuer: github, subject: me"), "keyless.identities[0].issuer"},
		{"no subject", id("issuer: " + github), "subject, subjectRegExp: give exactly one"},
		{"two subjects", id("issuer: " + github + ", subject: me, subjectRegExp: me"), "subject, subjectRegExp: give exactly one"},
		{"issuer pattern", id("issuer: " + github + ", issuerRegExp: \".*\", subject: me"), "issuerRegExp: not supported"},
		{"pattern that escapes its anchors", id("issuer: " + github + ", subjectRegExp: \"a)|(.+\""), "keyless.identities[0].subjectRegExp"},
		{"pattern for anybody", id("issuer: " + github + ", subjectRegExp: \".*\""), "matches the empty text"},
		{"unknown claim", id("issuer: " + github + ", subject: me, claims: {Owner: x}"), `unknown claim "Owner"`},
		{"empty claim", id("issuer: " + github + ", subject: me, claims: {BuildTrigger: \"\"}"), "claims.BuildTrigger: empty"},
		{"mode", good + "  mode: audit\n", `mode: "audit"; want enforce, warn or shadow`},
		{"rekor word", good + "    rekor: false\n", `rekor: "false"; want required, none or a number of logs`},
		{"no logs by number", good + "    rekor: 0\n", `rekor: "0"; want required, none or a number of logs`},
		{"too many logs", good + "    sct: 9\n", `sct: "9"; want required, none or a number of logs from 1 to 8`},
		{"timestamp word", good + "    timestamp: 1\n", `timestamp: "1"; want required or none`},
		{"keyless without time", good + "    timestamp: none\n", "proves nothing without a time"},
		{"key with sct", key(keyText, "    sct: required\n"), "a key has no certificate"},
		{"subject word", good + "    subject: both\n", "want any, index or instance"},
		{"subject of attestations", good + "    subject: index\n    attestations: [{predicateType: vuln}]\n", "set attestations[].subject"},
		{"predicate type", good + "    attestations: [{predicateType: sbom}]\n", `attestations[0].predicateType: "sbom"`},
		{"signature as attestation", good + "    attestations: [{predicateType: \"" + signV1 + "\"}]\n", "this is a signature"},
		{"max age", good + "    attestations: [{predicateType: vuln, maxAge: 7d}]\n", `maxAge: "7d"`},
		{"negative age", good + "    attestations: [{predicateType: vuln, maxAge: -1h}]\n", `maxAge: "-1h"`},
		{"age without time", key(keyText, "    attestations: [{predicateType: vuln, maxAge: 1h}]\n"), "only with timestamp: required"},
		{"no key", of("**", "{key: {}}"), "key.data, key.file: give exactly one"},
		{"not a key", of("**", "{key: {data: hello}}"), "no PEM block"},
		{"private key", key(strings.ReplaceAll(keyText, "PUBLIC", "PRIVATE"), ""), "want a PUBLIC KEY"},
		{"two keys", key(keyText+keyText, ""), "more follows the first PEM block"},
		{"small RSA", key(publicPEM(t, small.Public()), ""), "RSA key has 1024 bits"},
		{"key file", of("**", "{key: {file: a.pem}}"), "key.file: no files can be read here"},
		{"empty window", key(keyText, "      notBefore: 2026-01-01T00:00:00Z\n      notAfter: 2026-01-01T00:00:00Z\n"), "not after key.notBefore"},
		{"same name", good + strings.TrimPrefix(strings.Replace(good, "\"**\"", "\"a.example/**\"", 1), "policies:\n"), `policies[1].name: "a" is the name of policies[0] too`},
		{"same glob twice", strings.Replace(good, "[{glob: \"**\"}]", "[{glob: \"**\"}, {glob: \"**\"}]", 1), `"**" stands twice`},
		{"same authority name", of("**", "{name: x, keyless: {identities: [{issuer: "+github+", subject: me}]}}, {name: x, keyless: {identities: [{issuer: "+github+", subject: you}]}}"), "authorities[1].name"},
		{"required and rejected", good + "- name: b\n  images: [{glob: \"**\"}]\n  authorities: [" + static + "]\n", `policies "a" and "b" contradict each other`},
		{"two windows", key(keyText, "      notAfter: 2027-01-01T00:00:00Z\n") + strings.TrimPrefix(strings.Replace(key(keyText, ""), "name: a", "name: b", 1), "policies:\n"), "has two validity windows"},
		{"too large", "# " + strings.Repeat("x", 1<<20), "more than the limit"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseRequirements([]byte(tt.yaml), nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("ParseRequirements() = %v, want one line with %q", err, tt.want)
			}
		})
	}
	parse(t, good)
	parse(t, key(keyText, ""))
}

func TestKeyFile(t *testing.T) {
	text, id := newKey(t)
	yaml := "policies:\n- name: a\n  images: [{glob: \"**\"}]\n  authorities: [{key: {file: keys/ci.pub}}]\n"
	r, err := ParseRequirements([]byte(yaml), func(name string) ([]byte, error) {
		if name != "keys/ci.pub" {
			return nil, errors.New("no")
		}
		return []byte(text), nil
	})
	if err != nil || len(r.Keys()) != 1 || r.Keys()[0].ID != id {
		t.Errorf("ParseRequirements() = %v, keys %v, want key %s", err, r.Keys(), id)
	}
	if _, err := ParseRequirements([]byte(yaml), func(string) ([]byte, error) { return nil, errors.New("permission denied") }); err == nil || !strings.Contains(err.Error(), "authorities[0].key.file: permission denied") {
		t.Errorf("unreadable key: %v, want an error that names the field", err)
	}
}
