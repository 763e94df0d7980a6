package bundle

import (
	"context"
	"strings"
	"testing"
	"time"
)

// Bundles on trial are read beside those in force and change none of what is handed out for judging.
func TestShadowBundles(t *testing.T) {
	files := with(node, "shadow/node/bundle.yaml", "name: next\nmode: shadow\n", "shadow/node/requirements.yaml", static("**", "fail"),
		"shadow/namespaces/web/bundle.yaml", "name: web\nmode: shadow\n", "shadow/namespaces/web/requirements.yaml", static("**", "pass"),
		"node/bundle.yaml", "name: test\n")
	s, plain := load(t, files), load(t, with(node, "node/bundle.yaml", "name: test\n"))
	if p := s.Problems(); len(p) != 0 {
		t.Errorf("Problems() = %v", p)
	}
	img, ev := signed(t, "registry.example/app")
	if d := effective(s, "web", img, ev); !d.Allowed() || s.Node().Hash != plain.Node().Hash {
		t.Errorf("the policy on trial decided: %v", d.Hits())
	}
	if l, hit := s.For("web"); l != nil || hit != nil {
		t.Error("For() hands out a bundle on trial")
	}
	if s.Hash() == plain.Hash() {
		t.Error("Hash() does not cover what is on trial")
	}
	on := s.Shadow("web")
	if len(on) != 2 || on[0].Name != "shadow node" || on[1].Name != "shadow namespace web" || len(s.Shadow("")) != 1 || len(s.Shadow("dev")) != 1 {
		t.Fatalf("Shadow() = %v", on)
	}
	if on[0].JudgeImage(context.Background(), img, ev, time.Now()).Allowed() {
		t.Error("the node's policy on trial admits what it rejects")
	}
}

// Mode shadow where policy is enforced would admit everything; any other mode where it is on trial would
// mislead. Neither loads, and what is broken on trial disturbs nothing.
func TestShadowHasItsPlace(t *testing.T) {
	if _, err := Load(tree(t, with(node, "node/bundle.yaml", "name: a\nmode: shadow\n"))); err == nil || !strings.Contains(err.Error(), "nothing would be enforced") {
		t.Errorf("node in mode shadow: Load() = %v, want a refusal", err)
	}
	s := load(t, with(node, "namespaces/dev/bundle.yaml", "name: a\nmode: shadow\n", "namespaces/dev/requirements.yaml", static("**", "pass")))
	if _, hit := s.For("dev"); hit == nil || hit.Rule != "policy-broken" {
		t.Errorf("namespace in mode shadow: %v, want policy-broken", hit)
	}
	s = load(t, with(node, "node/bundle.yaml", "name: test\n", "shadow/node/bundle.yaml", "name: a\n", "shadow/node/requirements.yaml", static("**", "pass")))
	if p := s.Problems(); len(p) != 1 || !strings.Contains(p[0].Msg, "want shadow in the directory shadow") || len(s.Shadow("dev")) != 0 {
		t.Errorf("mode enforce on trial: %v, want a problem and no layer", p)
	}
	if _, hit := s.For("dev"); hit != nil {
		t.Errorf("a broken trial disturbs: %v", hit)
	}
}
