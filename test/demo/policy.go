package main

import (
	"fmt"
	"strings"
)

// policies are the files of the demo's policy directory: the node's, and three namespaces'. Each is
// what an operator would write.
func (d *demo) policies() map[string]string {
	pem := indent(string(d.key.PEM()), 12)
	root := string(d.kit.TrustedRoot())
	files := map[string]string{
		"node/bundle.yaml": `name: node
revision: 1
rego: ["sallyport.pod"]
namespaces:
  required: ["payments", "shop", "vault"]
  unlisted: deny
`,
		"node/requirements.yaml": fmt.Sprintf(`policies:
- name: signed-by-acme
  images:
  - glob: "%s/**"
  authorities:
  - name: release-workflow
    keyless:
      identities:
      - issuer: %s
        subject: %s
  - name: release-key
    key:
      data: |
%s
`, registryHost, release.Issuer, release.SAN, pem),
		"node/trusted_root.json": root,
		"node/hardening.yaml": `level: baseline
privileged: allow   # so that the rule below is what refuses, and can make exceptions
`,
		"node/rego/pod.rego": `package sallyport.pod

deny contains {"rule": "no-privileged-pods", "msg": msg} if {
	input.pod.privileged
	input.namespace != "kube-system"
	msg := sprintf("pod %s/%s may hold privileged containers; only kube-system may", [input.namespace, input.pod.name])
}
`,
	}
	for _, ns := range []struct{ name, rule, authority string }{
		{"payments", "payments-release", keyless(release.Issuer, release.SAN)},
		{"shop", "shop-acme", keyless(release.Issuer, release.SAN) + "  - name: release-key\n    key:\n      data: |\n" + pem + "\n"},
		{"vault", "vault-security-team", keyless("https://login.acme.example", "security@acme.example")},
	} {
		dir := "namespaces/" + ns.name + "/"
		files[dir+"bundle.yaml"] = fmt.Sprintf("name: %s\nrevision: 1\n", ns.name)
		files[dir+"requirements.yaml"] = fmt.Sprintf("policies:\n- name: %s\n  images:\n  - glob: \"**\"\n  authorities:\n%s", ns.rule, ns.authority)
		files[dir+"trusted_root.json"] = root
	}
	files["namespaces/shop/hardening.yaml"] = "level: baseline\nnoNewPrivileges: override   # tighter than the node's\n"
	return files
}

func keyless(issuer, subject string) string {
	return fmt.Sprintf("  - name: identity\n    keyless:\n      identities:\n      - issuer: %s\n        subject: %s\n", issuer, subject)
}

func indent(text string, by int) string {
	pad := strings.Repeat(" ", by)
	return pad + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n"+pad)
}
