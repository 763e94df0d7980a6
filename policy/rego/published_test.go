package rego

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
)

var update = flag.Bool("update", false, "write schema/input.json and capabilities.json anew")

// left out: what reaches the network, the clock, chance or the host, takes memory without bound for a
// short call, or handles private keys.
func leftOut(b *ast.Builtin) bool {
	if b.Name == "time.now_ns" { // pinned to the judged time
		return false
	}
	for _, prefix := range []string{"graphql.", "providers.", "io.jwt.", "rego.parse", "internal.test_case", "crypto.parse_private",
		"crypto.x509.parse_and_verify", "crypto.x509.parse_keypair", "crypto.x509.parse_rsa", "strings.render_template",
		"net.cidr_expand", "numbers.range", "trace", "json.match_schema", "json.verify_schema"} {
		if strings.HasPrefix(b.Name, prefix) {
			return true
		}
	}
	return b.Nondeterministic || b.IsDeprecated()
}

func TestPublishedCapabilities(t *testing.T) {
	caps := ast.CapabilitiesForThisVersion()
	caps.Builtins = slices.DeleteFunc(slices.Clone(caps.Builtins), leftOut)
	caps.WasmABIVersions = nil
	compare(t, "capabilities.json", caps)
}

func TestPublishedSchema(t *testing.T) {
	s := schemaOf(reflect.TypeFor[input]())
	s["$schema"] = "http://json-schema.org/draft-07/schema#"
	s["title"] = "input of Sallyport's Rego packages"
	compare(t, "schema/input.json", s)
}

func compare(t *testing.T, file string, v any) {
	t.Helper()
	var want bytes.Buffer
	enc := json.NewEncoder(&want)
	enc.SetIndent("", " ")
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%s is not what the code says; run go test ./policy/rego -run Published -update and read the difference", file)
	}
}
