package security

import (
	"slices"
	"strings"
	"testing"
)

// rooms is the table of docs/adr/0001: what each room may import of ours. A trailing /... admits a
// subtree; "*" admits all. Rooms that are not listed must not exist.
var rooms = map[string][]string{
	"image/ref":                   {},
	"internal/failpoint":          {},
	"internal/durable":            {"internal/failpoint"},
	"internal/cleanup":            {},
	"seccomp":                     {},
	"seccomp/bpf":                 {"seccomp"},
	"audit":                       {"internal/failpoint", "internal/durable"},
	"policy":                      {"image/ref", "policy/baseline", "policy/internal/..."},
	"policy/internal/claim":       {"image/ref"},
	"policy/internal/strict":      {},
	"policy/baseline":             {"policy/internal/strict"},
	"policy/sigstore":             {"policy", "policy/internal/...", "image/ref"},
	"policy/containers":           {"policy", "policy/internal/...", "image/ref"},
	"policy/rego":                 {"policy"},
	"policy/rego/confine":         {"policy", "policy/rego"},
	"policy/trial":                {"policy", "policy/...", "image/ref"},
	"policy/bundle":               {"internal/failpoint", "policy", "policy/...", "image/ref", "internal/durable"},
	"policy/bundle/layout":        {"policy/internal/...", "image/ref"},
	"policy/bundle/fetch":         {"policy/bundle", "policy/bundle/layout", "image/artifact", "image/ref", "internal/durable"},
	"image/artifact":              {"image/internal/...", "image/ref"},
	"enforce":                     {"policy", "policy/...", "audit", "image/ref", "internal/span"},
	"enforce/enforcetest":         {"enforce", "policy", "policy/...", "audit", "image/ref"},
	"image":                       {"internal/failpoint", "enforce", "image/ref", "image/internal/...", "internal/durable", "internal/cleanup", "internal/span"},
	"sandbox/spec":                {"seccomp", "image/ref", "policy/baseline"},
	"sandbox":                     {"internal/failpoint", "enforce", "image", "image/ref", "seccomp", "seccomp/bpf", "sandbox/...", "internal/durable", "internal/cleanup"},
	"sandbox/internal/proc":       {},
	"sandbox/internal/hostmount":  {},
	"sandbox/internal/ociruntime": {"sandbox/internal/proc", "internal/span"},
	"sandbox/internal/monitor":    {"internal/failpoint", "sandbox/internal/ociruntime", "sandbox/internal/proc", "internal/span"},
	"sandbox/internal/ns":         {"internal/failpoint", "sandbox/internal/...", "internal/span"},
	"sandbox/network":             {"internal/failpoint", "internal/durable", "internal/span"},
	"sandbox/stats":               {},
	"sandbox/stream":              {"internal/keypair"},
	"internal/config":             {},
	"internal/doctor":             {"sandbox/network"},
	"internal/keypair":            {},
	"internal/span":               {},
	"internal/inspect":            {"enforce", "sandbox"},
	"internal/telemetry":          {"internal/keypair", "internal/span"},
	"internal/cdi":                {"sandbox/spec"},
	"internal/nri":                {"sandbox/spec"},
	"internal/cri":                {"internal/cdi", "internal/nri", "enforce", "image", "image/ref", "sandbox", "sandbox/spec", "sandbox/stats", "sandbox/stream", "internal/span"},
	"internal/selftest":           {"internal/admin/wire", "enforce", "policy", "audit"},
	"internal/admin":              {"internal/admin/wire", "internal/rejudge", "internal/selftest", "enforce", "image", "image/ref", "sandbox", "audit"},
	"internal/rejudge":            {"enforce", "policy", "sandbox", "audit"},
	"internal/admin/wire":         {},
	"cmd/sallyportd":              {"*"},
	"cmd/sallyport-init":          {},
	"cmd/sallyport":               {"image/ref", "policy", "policy/...", "audit", "seccomp", "seccomp/...", "internal/config", "internal/durable", "internal/admin/wire", "internal/doctor"},
}

// TestImportGraph holds the import graph to the table. Tests may import anything; test/... is
// imported by tests and by test/... alone.
func TestImportGraph(t *testing.T) {
	for _, f := range tree(t) {
		if f.test || strings.HasPrefix(f.pkg, "test/") || f.pkg == "fuzz" || f.pkg == "security" {
			continue
		}
		allowed, listed := rooms[f.pkg]
		parent := ""
		if !listed {
			for room := range rooms { // internal/<room>/x belongs to its room
				if strings.HasPrefix(f.pkg, room+"/internal/") && len(room) > len(parent) {
					parent = room
				}
			}
			if parent == "" {
				t.Errorf("%s: package %s is not in the table of rooms", f.path, f.pkg)
				continue
			}
			allowed = append(slices.Clone(rooms[parent]), parent+"/internal/...")
		}
		for _, imp := range f.imports() {
			own, ok := strings.CutPrefix(imp, "sallyport/")
			if ok && !admits(allowed, own) && !strings.HasPrefix(own, f.pkg+"/internal/") {
				t.Errorf("%s: %s may not import %s", f.path, f.pkg, own)
			}
		}
	}
}

func admits(allowed []string, pkg string) bool {
	for _, a := range allowed {
		if a == "*" && !strings.HasPrefix(pkg, "test/") || a == pkg {
			return true
		}
		if sub, ok := strings.CutSuffix(a, "/..."); ok && strings.HasPrefix(pkg, sub+"/") {
			return true
		}
	}
	return false
}

// TestOneImporterOfCRI: protobufs end at the front door; the self-test stands before it (ADR 14).
func TestOneImporterOfCRI(t *testing.T) {
	for _, f := range tree(t) {
		if f.test || f.pkg == "internal/cri" || f.pkg == "internal/selftest" || strings.HasPrefix(f.pkg, "test/") {
			continue
		}
		for _, imp := range f.imports() {
			if strings.HasPrefix(imp, "k8s.io/cri-api") {
				t.Errorf("%s imports %s; only internal/cri and internal/selftest may", f.path, imp)
			}
		}
	}
}

// TestOneContainersImage: the library goes on as go.podman.io/image/v5; linking both would leave two
// signature parsers to patch.
func TestOneContainersImage(t *testing.T) {
	if strings.Contains(read(t, "go.mod"), "\tgithub.com/containers/image/v5 ") {
		t.Error("go.mod links github.com/containers/image/v5 beside go.podman.io/image/v5")
	}
}

// TestPackageDocs: every package says in one place what it is for.
func TestPackageDocs(t *testing.T) {
	docs := map[string]bool{}
	for _, f := range tree(t) {
		if !f.test || f.pkg == "security" || f.pkg == "fuzz" || strings.HasPrefix(f.pkg, "test/") {
			docs[f.pkg] = docs[f.pkg] || f.ast.Doc != nil
		}
	}
	for pkg, ok := range docs {
		if !ok {
			t.Errorf("package %s has no package comment", pkg)
		}
	}
}
