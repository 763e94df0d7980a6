//go:build sigstore

package e2esigstore

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"sallyport/image/ref"
	"sallyport/test/sigkit"
	"sallyport/test/sigstore"
)

// trial is one image in a repository of its own, with what was signed about it and the rule that judges it
// in namespace judged.
type trial struct {
	name     string // of rule and repository; set by pair
	rule     string // authorities of requirements.yaml as YAML flow text, then further fields of the policy
	policy   string // requirement of policy.json instead
	host     string // registry; "" for the one with fallback tags
	index    bool   // the image is an index of two platforms
	evidence []step
}

// step makes a piece of evidence.
type step func(*subject) error

// subject is the image that a step is about.
type subject struct {
	*world
	tr            string // name of the trial
	repo          string // host and path
	top, instance ref.Digest
}

func (s *subject) at(d ref.Digest) string { return s.repo + "@" + d.String() }

// pair is two trials that differ in one fact.
type pair struct {
	name            string
	denied, allowed trial
	want            string // in the denial
	by              string // rule that denies; "" for the trial's own
}

func (p *pair) trials() []*trial { return []*trial{&p.denied, &p.allowed} }

// The signers of the trials.
var (
	release  = sigstore.Signer{Issuer: sigstore.GitHub, Workflow: "acme/pay/.github/workflows/release.yml@refs/heads/main"}
	security = sigstore.Signer{Issuer: sigstore.Google, Email: "security@acme.example"}
)

func sign(g sigstore.Signer, flags ...string) step {
	return func(s *subject) error { return s.store.Sign(s.ctx, s.at(s.top), g, flags...) }
}

func signInstance(g sigstore.Signer) step {
	return func(s *subject) error { return s.store.Sign(s.ctx, s.at(s.instance), g) }
}

func attest(g sigstore.Signer, p sigstore.Predicate, flags ...string) step {
	return func(s *subject) error { return s.store.Attest(s.ctx, s.at(s.instance), g, p, flags...) }
}

// with changes a signer in one fact.
func with(g sigstore.Signer, change func(*sigstore.Signer)) sigstore.Signer {
	change(&g)
	return g
}

func using(v sigstore.Services) sigstore.Signer {
	return with(release, func(g *sigstore.Signer) { g.Services = v })
}

// bundle is a bundle's JSON taken apart.
type bundle = map[string]any

// edited signs into a file, changes the bundle as somebody with push rights may, and attaches it.
func edited(change func(*subject, bundle) error) step {
	return func(s *subject) error {
		b, err := s.made(s.top)
		if err != nil {
			return err
		}
		if err := change(s, b); err != nil {
			return err
		}
		raw, err := json.Marshal(b)
		if err != nil {
			return err
		}
		return sigkit.Attach(s.repo, s.top, raw, sigkit.Referrers)
	}
}

// made is a bundle of the release workflow about d that is not uploaded.
func (s *subject) made(d ref.Digest) (bundle, error) {
	dir, err := os.MkdirTemp(scratch, "bundle-")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "bundle.json")
	if err := s.store.Sign(s.ctx, s.at(d), release, "--upload=false", "--bundle="+file); err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var b bundle
	return b, json.Unmarshal(raw, &b)
}

func unchanged(*subject, bundle) error { return nil }

func material(b bundle) map[string]any { return b["verificationMaterial"].(map[string]any) }

// doubled has the one log entry twice.
func doubled(_ *subject, b bundle) error {
	e := material(b)["tlogEntries"].([]any)
	material(b)["tlogEntries"] = append(e, e[0])
	return nil
}

// untimed has no timestamp.
func untimed(_ *subject, b bundle) error {
	delete(material(b), "timestampVerificationData")
	return nil
}

// transplanted has the log entry of another signature by the same workflow.
func transplanted(s *subject, b bundle) error {
	other, err := s.made(s.top)
	if err != nil {
		return err
	}
	material(b)["tlogEntries"] = material(other)["tlogEntries"]
	return nil
}

// restamped has the timestamp of another signature by the same workflow.
func restamped(s *subject, b bundle) error {
	other, err := s.made(s.top)
	if err != nil {
		return err
	}
	material(b)["timestampVerificationData"] = material(other)["timestampVerificationData"]
	return nil
}

// altered has a statement that says one thing more than was signed.
func altered(_ *subject, b bundle) error {
	env := b["dsseEnvelope"].(map[string]any)
	var payload []byte
	raw, err := json.Marshal(env["payload"])
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, &payload); err != nil {
		return err
	}
	env["payload"] = []byte(strings.Replace(string(payload), `"predicate":{}`, `"predicate":{"x":1}`, 1))
	return nil
}

// borrowed is a good bundle about another image.
func borrowed(s *subject) error {
	img, err := sigkit.Image(sigkit.ImageOptions{NoBusybox: true, Config: v1.Config{Labels: map[string]string{"other": s.repo}}})
	if err != nil {
		return err
	}
	other, err := sigkit.Push(s.repo+":other", img)
	if err != nil {
		return err
	}
	b, err := s.made(other)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(b)
	if err != nil {
		return err
	}
	return sigkit.Attach(s.repo, s.top, raw, sigkit.Referrers)
}

// prepare pushes the trial's image and makes its evidence.
func (w *world) prepare(tr *trial) (*subject, error) {
	s := &subject{world: w, tr: tr.name, repo: tr.host + "/" + tr.name + "/app"}
	img, err := sigkit.Image(sigkit.ImageOptions{Config: v1.Config{Labels: map[string]string{"trial": tr.name}}})
	if err != nil {
		return nil, err
	}
	raw, err := img.RawManifest()
	if err != nil {
		return nil, err
	}
	s.instance = ref.DigestOf(raw)
	var what remote.Taggable = img
	if tr.index {
		foreign, err := sigkit.Image(sigkit.ImageOptions{NoBusybox: true, Platform: v1.Platform{OS: "linux", Architecture: "s390x"}})
		if err != nil {
			return nil, err
		}
		if what, err = sigkit.Index(img, foreign); err != nil {
			return nil, err
		}
	}
	if s.top, err = sigkit.Push(s.repo+":v1.2.0", what); err != nil {
		return nil, err
	}
	for i, f := range tr.evidence {
		if err := f(s); err != nil {
			return nil, fmt.Errorf("%s: evidence %d: %w", tr.name, i+1, err)
		}
	}
	return s, nil
}

// requirement is the trial's policy in requirements.yaml.
func (tr *trial) requirement() string {
	return fmt.Sprintf("- name: %s\n  images: [{glob: %s/%s/**}]\n  authorities: %s\n", tr.name, tr.host, tr.name, tr.rule)
}
