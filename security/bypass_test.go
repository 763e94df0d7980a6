package security

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"
)

// bypasses are programs that try to get past the gate from another room. None may compile; each has
// the words that the compiler must object with, so that a typing mistake does not pass for a guard.
var bypasses = []struct{ name, imports, body, objection string }{
	{"forge an admission", `"sallyport/enforce"`, `_ = enforce.RunAdmission{permit: nil}`, "unexported field permit"},
	{"name the permit type", `"sallyport/enforce"`, `var p enforce.permit; _ = p`, "not exported"},
	{"forge a grant", `"sallyport/enforce"`, `_ = enforce.Grant{g: nil}`, "unexported field g"},
	{"forge a verdict", `"sallyport/policy"`, `_ = policy.Verdict{v: nil}`, "unexported field v"},
	{"forge a decision", `"sallyport/policy"`, `_ = policy.Decision{parts: nil}`, "unexported field parts"},
	{"forge a receipt", `"sallyport/audit"`, `_ = audit.Receipt{seq: 1}`, "unexported field seq"},
	{"make a claim", `"sallyport/policy/internal/claim"`, `_ = claim.New(claim.Fields{})`, "use of internal package"},
	{"pass a spec to Create", `"context"; "sallyport/enforce"; "sallyport/sandbox"`,
		`var p *sandbox.Pod; _, _ = p.Create(context.Background(), enforce.RunAdmission{}, "spec")`, "too many arguments"},
	{"create without an admission", `"context"; "sallyport/sandbox"`,
		`var p *sandbox.Pod; _, _ = p.Create(context.Background())`, "not enough arguments"},
	{"mount without a grant", `"context"; "sallyport/image"`,
		`var s *image.Store; _, _ = s.Mount(context.Background(), "sha256:abc")`, "cannot use"},
	{"run runc oneself", `"sallyport/sandbox/internal/ociruntime"`, `_ = ociruntime.Runtime{}`, "use of internal package"},
}

// TestBypassDoesNotCompile type-checks each attempt as a package of its own inside the module.
func TestBypassDoesNotCompile(t *testing.T) {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	overlay, patterns := map[string][]byte{}, []string(nil)
	for i, b := range bypasses {
		dir := filepath.Join(root, "cmd", "bypass"+string(rune('a'+i)))
		src := "package main\nimport (" + b.imports + ")\nfunc main() { " + b.body + " }\n"
		overlay[filepath.Join(dir, "main.go")] = []byte(src)
		patterns = append(patterns, "./cmd/bypass"+string(rune('a'+i)))
	}
	// A control that must compile: the harness itself works.
	overlay[filepath.Join(root, "cmd", "bypasscontrol", "main.go")] = []byte(
		"package main\nimport \"sallyport/enforce\"\nfunc main() { _ = enforce.RunAdmission{} }\n")
	patterns = append(patterns, "./cmd/bypasscontrol")
	pkgs, err := packages.Load(&packages.Config{
		Mode: packages.NeedName | packages.NeedTypes | packages.NeedSyntax | packages.NeedTypesInfo | packages.NeedImports | packages.NeedDeps | packages.NeedExportFile | packages.NeedFiles,
		Dir:  root, Overlay: overlay, Env: os.Environ(),
	}, patterns...)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, p := range pkgs {
		var all []string
		for _, e := range p.Errors {
			all = append(all, e.Msg)
		}
		got[p.PkgPath] = strings.Join(all, "; ")
	}
	if msg, ok := got["sallyport/cmd/bypasscontrol"]; !ok || msg != "" {
		t.Fatalf("the control does not compile: %q (found %d packages)", msg, len(got))
	}
	for i, b := range bypasses {
		msg := got["sallyport/cmd/bypass"+string(rune('a'+i))]
		if !strings.Contains(msg, b.objection) {
			t.Errorf("%s: compiler said %q, want an objection with %q", b.name, msg, b.objection)
		}
	}
}
