package bundle

import (
	"slices"
	"strings"
	"testing"
)

func TestDiff(t *testing.T) {
	base := map[string]string{
		"node/bundle.yaml":                 "name: a\nrevision: 1\n",
		"node/requirements.yaml":           static("registry.example/**", "pass") + "- {name: gone, images: [{glob: a.example/**}], authorities: [{static: {action: pass}}]}\n",
		"node/hardening.yaml":              "level: baseline\nhostPaths: [/var/log, /srv]\n",
		"namespaces/pay/bundle.yaml":       "name: pay\n",
		"namespaces/pay/requirements.yaml": static("**", "pass"),
	}
	next := with(base, "node/bundle.yaml", "revision: 2   # newer\nname: a\n",
		"node/requirements.yaml", static("registry.example/**", "fail")+"- {name: new, images: [{glob: b.example/**}], authorities: [{static: {action: pass}}]}\n",
		"node/hardening.yaml", "level: baseline\nhostPaths: [/var/log/pods, /data]\nhostNetwork: allow\nrootUser: refuse\n",
		"namespaces/pay/hardening.yaml", "level: restricted\n")
	got, err := Diff(tree(t, base), tree(t, next))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, c := range got {
		lines = append(lines, c.Layer+": "+c.What+" "+c.How)
	}
	for _, want := range []string{
		"node: bundle.yaml revision changed", "node: requirement static changed", "node: requirement gone removed", "node: requirement new added",
		"node: hardening HostNetwork looser", "node: hardening RootUser tighter", "node: hardening HostPaths tighter and looser",
		"namespace pay: hardening Level tighter",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no %q", want)
		}
	}
	if slices.ContainsFunc(lines, func(l string) bool {
		return strings.Contains(l, "bundle.yaml name") || strings.Contains(l, "Sysctls") || strings.HasPrefix(l, "namespace pay: requirement")
	}) {
		t.Errorf("Diff() lists what did not change: %q", lines)
	}
	same, err := Diff(tree(t, base), tree(t, with(base, "node/bundle.yaml", "# a remark\nrevision: 1\nname: a\n")))
	if err != nil || len(same) != 0 {
		t.Errorf("same policy: Diff() = %v, %v", same, err)
	}
	if _, err := Diff(tree(t, base), t.TempDir()); err == nil {
		t.Error("no policy: Diff() = nil")
	}
}
