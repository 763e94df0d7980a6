//go:build sigstore

package e2esigstore

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport/test/page"
	"sallyport/test/sigkit"
)

// TestPolicyPage types the part of docs/policy.md that leads from nothing to "only our releases", the
// cosign lines too, and asks the daemon for the images of it.
func TestPolicyPage(t *testing.T) {
	w := start(t)
	dir, err := os.MkdirTemp(scratch, "page-")
	w.must(err)
	text, err := os.ReadFile("../../docs/policy.md")
	w.must(err)
	root, err := w.store.TrustedRoot()
	w.must(err)
	for name, data := range map[string]string{"trusted_root.json": string(root), "provenance.json": slsa.JSON, "scan.json": scan.JSON} {
		w.must(os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644))
	}
	var install, workflow string
	for _, b := range page.Shell(t, page.Part(t, string(text), "Only our releases")) {
		b = strings.NewReplacer("registry.example", plain, "/etc/sallyport", dir).Replace(b)
		if strings.HasPrefix(b, "cosign ") {
			workflow += b
		} else {
			install += b
		}
	}
	tools := "umask 022\nPATH=" + os.Getenv(binEnv) + ":$PATH\n"
	w.must(w.store.Script(w.ctx, dir, release, tools+install))
	push := func(name string) string {
		img, err := sigkit.Image(sigkit.ImageOptions{NoBusybox: true, Config: v1.Config{Labels: map[string]string{"name": name}}})
		w.must(err)
		d, err := sigkit.Push(plain+"/pay/"+name+":1.4.0", img)
		w.must(err)
		return "IMAGE=" + plain + "/pay/" + name + "@" + d.String() + "\n"
	}
	w.must(w.store.Script(w.ctx, dir, release, push("released")+workflow))
	var unscanned string
	for line := range strings.Lines(workflow) {
		if !strings.Contains(line, "scan.json") {
			unscanned += line
		}
	}
	w.must(w.store.Script(w.ctx, dir, release, push("unscanned")+unscanned))
	push("unsigned")
	w.store.Stop()

	policy := map[string]string{}
	w.must(fs.WalkDir(os.DirFS(dir), "policy", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(dir, path))
		policy[strings.TrimPrefix(path, "policy/")] = string(b)
		return err
	}))
	w.node(policy)
	for _, tt := range []struct{ image, namespace, rule string }{
		{"released", "payments", ""},
		{"released", "default", ""},
		{"unscanned", "payments", "payments-evidence"},
		{"unscanned", "default", ""},
		{"unsigned", "payments", "our-workflows"},
		{"unsigned", "default", "our-workflows"},
	} {
		_, err := w.Pull(w.ctx, plain+"/pay/"+tt.image+":1.4.0", w.Pod(tt.namespace, "x"))
		if tt.rule == "" && err != nil || tt.rule != "" && (status.Code(err) != codes.Unknown || !strings.Contains(err.Error(), `denied by rule "`+tt.rule+`"`)) {
			t.Errorf("pull of %s for %s = %v, want rule %q", tt.image, tt.namespace, err, tt.rule)
		}
	}
}
