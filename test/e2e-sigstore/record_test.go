//go:build sigstore

package e2esigstore

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"sallyport/image/ref"
	"sallyport/test/sigkit"
	"sallyport/test/sigstore"
)

// TestRecord writes what cosign makes into the folder SALLYPORT_RECORD: "make record-sigstore". Only public
// material is kept; the keys end with the servers.
func TestRecord(t *testing.T) {
	dir := os.Getenv("SALLYPORT_RECORD")
	if dir == "" {
		t.Skip("not asked to record (make record-sigstore)")
	}
	w := start(t)
	w.must(os.RemoveAll(dir))
	w.must(os.MkdirAll(dir, 0o755))
	write := func(name string, data []byte) {
		t.Helper()
		w.must(os.WriteFile(filepath.Join(dir, name), data, 0o644))
	}
	img, err := sigkit.Image(sigkit.ImageOptions{NoBusybox: true, Platform: v1.Platform{OS: "linux", Architecture: "amd64"}})
	w.must(err)
	foreign, err := sigkit.Image(sigkit.ImageOptions{NoBusybox: true, Platform: v1.Platform{OS: "linux", Architecture: "s390x"}})
	w.must(err)
	index, err := sigkit.Index(img, foreign)
	w.must(err)
	s := &subject{world: w, repo: plain + "/pay/app"}
	s.top, err = sigkit.Push(s.repo+":v1", index)
	w.must(err)
	raw, err := img.RawManifest()
	w.must(err)
	s.instance = ref.DigestOf(raw)
	write("manifest.json", raw)
	raw, err = index.RawManifest()
	w.must(err)
	write("index.json", raw)
	pub, err := w.store.Key(w.ctx, "release")
	w.must(err)
	write("release.pub", pub)
	key := func(v sigstore.Services) sigstore.Signer { return sigstore.Signer{Key: "release", Services: v} }
	for _, r := range []struct {
		name string
		by   sigstore.Signer
		what sigstore.Predicate
		of   ref.Digest
	}{
		{name: "sign", by: release},
		{name: "sign-index", by: release, of: s.top},
		{name: "sign-two-logs", by: using(sigstore.TwoLogs)},
		{name: "sign-without-sct", by: using(sigstore.WithoutSCT)},
		{name: "sign-without-log", by: using(sigstore.WithoutLog)},
		{name: "sign-foreign-log", by: using(sigstore.ForeignLog)},
		{name: "sign-other-issuer", by: with(release, func(g *sigstore.Signer) { g.Issuer = sigstore.Mallory })},
		{name: "sign-security", by: security},
		{name: "key", by: key(sigstore.Usual)},
		{name: "key-two-logs", by: key(sigstore.TwoLogs)},
		{name: "key-bare", by: key(sigstore.Bare)},
		{name: "attest-slsa", by: release, what: slsa},
		{name: "attest-spdx", by: release, what: spdx},
		{name: "attest-cyclonedx", by: release, what: bom},
		{name: "attest-vuln", by: release, what: scan},
		{name: "attest-openvex", by: release, what: vex},
	} {
		file := filepath.Join(dir, r.name+".sigstore.json")
		of := s.instance
		if !r.of.IsZero() {
			of = r.of
		}
		if r.what.Type == "" {
			w.must(w.store.Sign(w.ctx, s.at(of), r.by, "--upload=false", "--bundle="+file))
		} else {
			w.must(w.store.Attest(w.ctx, s.at(of), r.by, r.what, "--no-upload", "--bundle="+file))
		}
		w.must(os.Chmod(file, 0o644))
	}
	root, err := w.store.TrustedRoot()
	w.must(err)
	write("trusted_root.json", root)
	write("recorded", []byte(time.Now().UTC().Truncate(time.Second).Format(time.RFC3339)+"\n"))
}
