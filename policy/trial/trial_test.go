package trial

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The packaged cases hold.
func TestPackagedCases(t *testing.T) {
	files, err := filepath.Glob("../../packaging/policy/tests/*.txtar")
	if err != nil || len(files) < 3 {
		t.Fatalf("found %v, %v", files, err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := Run(context.Background(), data, "../../packaging/policy"); err != nil {
			t.Errorf("%s: %v", filepath.Base(f), err)
		}
	}
}

const node = "-- node/bundle.yaml --\nname: a\n-- node/requirements.yaml --\npolicies:\n- {name: none, images: [{glob: \"**\"}], authorities: [{static: {action: fail}}]}\n"

// A case that wants what is not so is red, and so is one that does not say what it wants.
func TestRunIsRed(t *testing.T) {
	const ask = "-- request.yaml --\nnamespace: pay\nimage: registry.example/app\n"
	for want, tt := range map[string]string{
		"":                               node + ask + "-- want.yaml --\ndecision: deny\nrule: none\n",
		`denied by node, rule "none"`:    node + ask + "-- want.yaml --\ndecision: allow\n",
		`want rule "other"`:              node + ask + "-- want.yaml --\ndecision: deny\nrule: other\n",
		`of layer "namespace pay"`:       node + ask + "-- want.yaml --\ndecision: deny\nrule: none\nlayer: namespace pay\n",
		"deny with the rule that denies": node + ask + "-- want.yaml --\ndecision: deny\n",
		"want.yaml: missing":             node + ask,
		"no policy beside the cases":     ask + "-- want.yaml --\ndecision: allow\n",
		"allowed; want a denial by rule": strings.Replace(node, "fail", "pass", 1) + ask + "-- want.yaml --\ndecision: deny\nrule: none\n",
		`no warning by rule "none"`:      strings.Replace(node, "fail", "pass", 1) + ask + "-- want.yaml --\ndecision: allow\nwarns: none\n",
		"namespace: missing":             node + "-- request.yaml --\nimage: registry.example/app\n-- want.yaml --\ndecision: allow\n",
		`unknown field "decison"`:        node + ask + "-- want.yaml --\ndecison: allow\n",
		"load policy":                    strings.Replace(node, "name: a", "nam: a", 1) + ask + "-- want.yaml --\ndecision: allow\n",
		"stands twice or leads outside":  node + ask + "-- ../x --\n-- want.yaml --\ndecision: allow\n",
		"rule \"P01":                     node + "-- request.yaml --\nverb: pod\nnamespace: pay\npod: {name: a, hostNetwork: true}\n-- want.yaml --\ndecision: allow\n",
	} {
		err := Run(context.Background(), []byte(tt), "")
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("Run() = %v, want %q", err, want)
		}
	}
}
