package bundle

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"sallyport/test/sigkit"
)

// The texts of docs/policy.md, put together as it says, load.
func TestDocumentedPolicy(t *testing.T) {
	doc, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"node/trusted_root.json": string(kit(t).TrustedRoot())}
	block := regexp.MustCompile("(?s)### (\\S+)\n.*?\n```(?:yaml|rego)\n(.*?)\n```")
	for _, m := range block.FindAllStringSubmatch(string(doc), -1) {
		name := m[1]
		if name == "rego/" {
			name = "rego/run.rego"
		}
		files["node/"+name] = m[2] + "\n"
	}
	if len(files) != 5 {
		t.Fatalf("found %d texts, want 5", len(files))
	}
	load(t, files)

	key, err := sigkit.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	first := map[string]string{"node/cosign.pub": string(key.PEM())}
	here := regexp.MustCompile(`(?s)/node/(\S+) <<END\n(.*?)END\n`)
	for _, m := range here.FindAllStringSubmatch(string(doc), -1) {
		first["node/"+m[1]] = m[2]
	}
	s := load(t, first)
	img, ev := signed(t, "registry.example/app")
	if d := effective(s, "default", img, ev); d.Allowed() || !strings.Contains(d.Hits()[0].Msg, `no signature by key "ci"`) {
		t.Errorf("first policy, unsigned image: %v", d.Hits())
	}
}
