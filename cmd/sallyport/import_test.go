package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/policy/bundle"
	"sallyport/test/sigkit"
)

// What CRI-O's policy says comes over with its keys; what does not is named, and rejects rather than
// falls to a laxer scope.
func TestImportCRIO(t *testing.T) {
	dir := t.TempDir()
	key, err := sigkit.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	put := func(name, text string) {
		t.Helper()
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("keys/ci.pub", string(key.PEM()))
	signed := `[{"type": "sigstoreSigned", "keyPath": "` + dir + `/keys/ci.pub", "signedIdentity": {"type": "matchRepository"}}]`
	put("policy.json", `{"default": [{"type": "reject"}], "transports": {
		"docker": {"registry.example/app": `+signed+`, "registry.example/app/lost": [{"type": "sigstoreSigned", "keyPath": "`+dir+`/keys/none.pub"}], "Registry.example/UP": [{"type": "reject"}]},
		"docker-daemon": {"": [{"type": "insecureAcceptAnything"}]}}}`)
	put("policies/pay.json", `{"default": [{"type": "insecureAcceptAnything"}]}`)
	put("policies/README", "x")
	put("registries.d/a.yaml", "docker:\n  registry.example:\n    lookaside: https://sigs.example\n    use-sigstore-attachments: true\n")
	imported := func(out string, args ...string) (int, string, string) {
		var stdout, stderr bytes.Buffer
		code := run(append([]string{"policy", "import", "crio", filepath.Join(dir, out)}, args...), &stdout, &stderr)
		return code, stdout.String(), stderr.String()
	}
	code, out, errOut := imported("out", "--policy", dir+"/policy.json", "--namespaces", dir+"/policies", "--registries", dir+"/registries.d")
	if code != 1 || !strings.Contains(errOut, "differences") {
		t.Errorf("import = %d, %s", code, errOut)
	}
	for _, want := range []string{
		`transports.docker-daemon: no pod's image comes that way`, `keys/none.pub: no such file or directory; rejects instead`, `upper-case`,
		"namespace pay: CRI-O judges it by", "here an image must pass both", "pay.json: default: it admits every image", "README: CRI-O reads", "lookaside https://sigs.example",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the differences lack %q:\n%s", want, out)
		}
	}
	set, err := bundle.Load(filepath.Join(dir, "out"))
	if err != nil || len(set.Problems()) > 0 || strings.Join(set.Namespaces(), " ") != "pay" {
		t.Fatalf("Load() = %v, %v, %v", err, set.Problems(), set.Namespaces())
	}
	made, err := os.ReadFile(filepath.Join(dir, "out/node/policy.json"))
	if err != nil || strings.Contains(string(made), "keyPath") || !strings.Contains(string(made), `"registry.example/app/lost":[{"type":"reject"}]`) || !strings.Contains(string(made), "keyData") {
		t.Errorf("policy.json: %v\n%s", err, made)
	}
	put("good.json", `{"default": [{"type": "reject"}], "transports": {"docker": {"registry.example/app": `+signed+`}}}`)
	if code, out, errOut := imported("clean", "--policy", dir+"/good.json", "--namespaces", dir+"/none", "--registries", dir+"/none"); code != 0 || out != "" {
		t.Errorf("nothing is lost: %d, %s%s", code, out, errOut)
	}
}
