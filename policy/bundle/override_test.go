package bundle

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/image/ref"
	"sallyport/policy"
)

// breaker is an organisation whose mallory signs overrides, and nothing else.
func breaker(t *testing.T) (*org, map[string]any) {
	t.Helper()
	o := newOrg(t)
	root := o.doc(1)
	root["keys"].(map[string]any)["mallory"] = map[string]any{"publicKey": string(o.keys["mallory"].PEM())}
	root["cluster"], root["override"] = "prod-1", map[string]any{"signers": []string{"mallory"}, "threshold": 1}
	o.installRoot(root, "alice", "bob")
	o.install("node", o.nodePolicy(5, "alice", "carol"))
	c, f := o.policyOf(4, "pay")
	o.install("namespaces/pay", o.build(c, f, "carol"))
	return o, root
}

func (o *org) overrideDoc() map[string]any {
	return map[string]any{
		"schema": overrideSchema, "cluster": "prod-1", "nodes": []string{"node-*"}, "namespace": "pay", "digest": ref.DigestOf([]byte("image")).String(),
		"verbs": []string{"pull", "run"}, "rules": []string{"release-key"}, "ticket": "INC-4711", "reason": "the signing service is down",
		"notBefore": o.now.Add(-time.Minute).UTC().Format(time.RFC3339), "notAfter": o.now.Add(time.Hour).UTC().Format(time.RFC3339), "maxUses": 3,
	}
}

func (o *org) installOverride(doc map[string]any, by ...string) {
	o.t.Helper()
	o.remove(overridesDir)
	text := o.marshal(doc)
	o.put("overrides/inc.json", text)
	for _, name := range by {
		o.put("overrides/inc."+name+".sigstore.json", o.sign(ref.DigestOf(text), name))
	}
}

func (o *org) readAs(node string) *Set {
	o.t.Helper()
	s, err := Read(Options{Root: o.dir, Signed: &Signed{State: o.mem, Now: o.now, Node: node}})
	if err != nil {
		o.t.Fatal(err)
	}
	return s
}

func TestParseOverrideRefuses(t *testing.T) {
	o := newOrg(t)
	for _, tt := range []struct {
		field string
		value any // nil: the field is absent
		want  string
	}{
		{"schema", overrideSchema, ""},
		{"schema", "v2", "schema"},
		{"cluster", nil, "cluster"},
		{"nodes", nil, "nodes"},
		{"nodes", []string{"a b"}, "nodes[0]"},
		{"namespace", nil, "namespace"},
		{"namespace", "*", "namespace"},
		{"digest", nil, "digest"},
		{"digest", "sha256:1", "digest"},
		{"verbs", nil, "verbs"},
		{"verbs", []string{"exec"}, `verbs: "exec"`},
		{"rules", nil, "rules"},
		{"rules", []string{"a", "revoked"}, "cannot be overridden"},
		{"ticket", nil, "ticket"},
		{"reason", nil, "reason"},
		{"reason", "a\nb", "reason"},
		{"notBefore", nil, "notBefore"},
		{"notAfter", nil, "notBefore, notAfter"},
		{"notAfter", o.now.Add(8 * 24 * time.Hour).Format(time.RFC3339), "notBefore, notAfter"},
		{"maxUses", nil, "maxUses"},
		{"maxUses", maxUses + 1, "maxUses"},
		{"maxuses", 3, "unknown field"},
	} {
		doc := o.overrideDoc()
		doc[tt.field] = tt.value
		if tt.value == nil {
			delete(doc, tt.field)
		}
		got, err := ParseOverride(o.marshal(doc))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("ParseOverride(%s = %v) = %v, want %q", tt.field, tt.value, err, tt.want)
		}
		if err != nil && got.ID != "" {
			t.Errorf("ParseOverride(%s = %v) gave an override with its error", tt.field, tt.value)
		}
	}
}

// An override counts if the key for overrides signed it, for this cluster and node, and has not ended.
func TestOverridesAccepted(t *testing.T) {
	for _, tt := range []struct {
		name   string
		node   string
		change func(o *org, doc, root map[string]any)
		by     []string
		count  int
		rule   string // of the problem; "": none
	}{
		{name: "in order", count: 1},
		{name: "signed by nobody", by: []string{}, rule: RuleSignature},
		{name: "signed by who signs bundles", by: []string{"alice", "bob", "carol"}, rule: RuleSignature},
		{name: "for another cluster", change: func(_ *org, doc, _ map[string]any) { doc["cluster"] = "prod-2" }, rule: RuleDelegation},
		{name: "no delegation", change: func(o *org, _, root map[string]any) {
			delete(root, "override")
			o.installRoot(root, "alice", "bob")
		}, rule: RuleDelegation},
		{name: "for other nodes", node: "edge-1"},
		{name: "a node without a name", node: "-"},
		{name: "over", change: func(o *org, doc, _ map[string]any) {
			doc["notAfter"] = o.now.Add(-time.Second).UTC().Format(time.RFC3339)
		}},
		{name: "changed after it was signed", change: func(o *org, doc, _ map[string]any) {
			o.installOverride(doc, "mallory")
			doc["maxUses"] = 4
			o.put("overrides/inc.json", o.marshal(doc))
		}, by: []string{"as it lies"}, rule: RuleSignature},
		{name: "broken", change: func(o *org, doc, _ map[string]any) { doc["verbs"] = []string{"exec"} }, rule: RuleOverride},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o, root := breaker(t)
			doc := o.overrideDoc()
			if tt.change != nil {
				tt.change(o, doc, root)
			}
			if tt.by == nil {
				tt.by = []string{"mallory"}
			}
			if !slices.Contains(tt.by, "as it lies") {
				o.installOverride(doc, tt.by...)
			}
			node := strings.TrimPrefix(tt.node, "-")
			if tt.node == "" {
				node = "node-7"
			}
			s := o.readAs(node)
			if got := len(s.Overrides()); got != tt.count {
				t.Errorf("%d overrides, want %d: %v", got, tt.count, s.Problems())
			}
			if p := s.Problems(); (len(p) > 0) != (tt.rule != "") || len(p) > 0 && p[0].Rule != tt.rule {
				t.Errorf("problems %v, want rule %q", p, tt.rule)
			}
			if s.Node() == nil {
				t.Error("an override took the policy with it")
			}
		})
	}
}

// A key that signs overrides signs nothing else, and an override names a cluster.
func TestRootOverrideRefuses(t *testing.T) {
	o := newOrg(t)
	for _, tt := range []struct {
		name   string
		change func(map[string]any)
		want   string
	}{
		{"in order", func(map[string]any) {}, ""},
		{"signs the node policy", func(d map[string]any) {
			d["override"] = map[string]any{"signers": []string{"alice"}, "threshold": 1}
		}, "alice signs root too"},
		{"signs a namespace", func(d map[string]any) {
			d["namespaces"] = []any{map[string]any{"pattern": "x", "signers": []string{"mallory"}, "threshold": 1}}
		}, `mallory signs namespaces "x" too`},
		{"no cluster", func(d map[string]any) { delete(d, "cluster") }, "cluster"},
		{"threshold 0", func(d map[string]any) {
			d["override"] = map[string]any{"signers": []string{"mallory"}, "threshold": 0}
		}, "override.threshold"},
	} {
		doc := o.doc(1)
		doc["keys"].(map[string]any)["mallory"] = map[string]any{"publicKey": string(o.keys["mallory"].PEM())}
		doc["cluster"], doc["override"] = "prod-1", map[string]any{"signers": []string{"mallory"}, "threshold": 1}
		tt.change(doc)
		_, err := ParseRoot(o.marshal(doc))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: ParseRoot() = %v, want %q", tt.name, err, tt.want)
		}
	}
}

// Uses are counted on disk before they are made: not more than allowed by many at once, nor after a
// restart, nor where the count is lost.
func TestOverrideIsCounted(t *testing.T) {
	o, _ := breaker(t)
	o.installOverride(o.overrideDoc(), "mallory")
	one := func() policy.Override { return o.readAs("node-7").Overrides()[0] }
	v := one()
	var wg sync.WaitGroup
	var mu sync.Mutex
	spent := 0
	for range 20 {
		wg.Go(func() {
			if _, err := v.Spend(); err == nil {
				mu.Lock()
				spent++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if spent != 3 {
		t.Errorf("%d of 20 were counted, want 3", spent)
	}
	if _, err := one().Spend(); err == nil || !strings.Contains(err.Error(), "all 3 uses are spent") {
		t.Errorf("Spend() after a restart = %v, want none left", err)
	}
	if n, err := v.Uses(); n != 3 || err != nil {
		t.Errorf("Uses() = %d, %v", n, err)
	}
	file := filepath.Join(o.mem, usesFile)
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Spend(); err == nil {
		t.Error("Spend() with a broken count = nil")
	}
	forgets, err := Read(Options{Root: o.dir, Signed: &Signed{Now: o.now, Node: "node-7"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := forgets.Overrides()[0].Spend(); err == nil {
		t.Error("Spend() with nowhere to count = nil")
	}
}

// What was signed as an override and what sallyport signs are the same bytes.
func TestOverrideToSign(t *testing.T) {
	o, _ := breaker(t)
	o.installOverride(o.overrideDoc())
	path := filepath.Join(o.dir, "overrides/inc.json")
	d, version, err := ToSign(path)
	if err != nil || version != 0 {
		t.Fatalf("ToSign() = %v, %d, %v", d, version, err)
	}
	files, err := WithSignature(path, "m", o.sign(d, "mallory"))
	if err != nil || len(files) != 1 {
		t.Fatalf("WithSignature() = %v, %v", files, err)
	}
	for name, data := range files {
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if s := o.readAs("node-7"); len(s.Overrides()) != 1 {
		t.Errorf("the signed override does not count: %v", s.Problems())
	}
	var doc map[string]any
	if err := json.Unmarshal(o.marshal(o.overrideDoc()), &doc); err != nil {
		t.Fatal(err)
	}
	before := o.readAs("edge").Hash()
	if after := o.readAs("node-7").Hash(); before == after {
		t.Error("an override does not change the hash: a running daemon would not take it up")
	}
}
