package sandbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A creation that fails and cannot be undone at once stays known: a retry or Tend removes what it left.
func TestLeftoverIsRemoved(t *testing.T) {
	for name, again := range map[string]func(*node, *Pod){
		"by a retry":      func(n *node, p *Pod) { n.run(p, script("app", "sleep 1000")) },
		"by Tend":         func(n *node, p *Pod) { n.sweep(t.Context(), func(o object) bool { return o.leftover }) },
		"with its pod":    func(n *node, p *Pod) { must(t, p.Remove(t.Context())) },
		"after a restart": func(n *node, p *Pod) { n.Close(); n.start() },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			broken := filepath.Join(dir, "broken")
			fake := filepath.Join(dir, "runc")
			n := newNode(t, func(o *Options) {
				text := "#!/bin/sh\nif [ -e " + broken + " ]; then for a; do case $a in create|delete) exit 1;; esac; done; fi\nexec " + o.Runtimes[""] + " \"$@\"\n"
				must(t, os.WriteFile(fake, []byte(text), 0o755))
				o.Runtimes[""] = fake
			})
			p := n.pod(podConfig("a"))
			must(t, os.WriteFile(broken, nil, 0o600))
			if _, err := n.create(p, script("app", "true")); err == nil || strings.Contains(err.Error(), "\n") {
				t.Fatalf("Create() = %v, want one line", err)
			}
			if len(p.Containers()) != 1 || !p.Containers()[0].leftover.Load() {
				t.Fatalf("containers = %v, want the one that could not be removed", p.Containers())
			}
			left := p.Containers()[0].bundle()
			must(t, os.Remove(broken))
			again(n, p)
			if _, err := os.Lstat(left); err == nil {
				t.Errorf("the bundle is still there")
			}
		})
	}
}
