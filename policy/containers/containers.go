// Package containers judges images by containers-policy.json(5): signedBy, sigstoreSigned, reject and
// insecureAcceptAnything, by scope of the image's name. The evaluation is that of containers/image, the
// library behind Podman and CRI-O, over the manifest and the signatures that were collected at the
// pull, laid out as a "dir:" image in a scratch directory: no network, no file of the host, no
// environment. Keys stand in the policy itself (Inline puts them there).
//
// What containers/image parses and then never matches or never verifies is an error when the policy is
// compiled. GPG keys expire by the system clock, not by the judged time: the library knows no other.
package containers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.podman.io/image/v5/directory"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/image"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"

	"sallyport/image/ref"
	"sallyport/policy"
)

// The bounds of what is looked at, per image.
const (
	maxSignatures = 256
	maxSignature  = 4 << 20  // bytes; containers/image's own limit for a signature (internal/iolimits)
	maxTotal      = 64 << 20 // bytes
	maxReason     = 400      // bytes of what the library says
)

// New compiles a policy.json whose keys are inlined. The error names the JSON path at fault. scratchDir
// is where signatures are laid out while they are judged, best on tmpfs; each check makes and removes a
// directory of its own in it. The rule is immutable and may be used concurrently.
func New(policyJSON []byte, scratchDir string) (policy.ImageRule, error) {
	if scratchDir == "" {
		return nil, errors.New("policy.json: no scratch directory is set; this is a fault in the daemon")
	}
	doc, err := lint(policyJSON)
	if err != nil {
		return nil, fmt.Errorf("policy.json: %w", err)
	}
	p, err := signature.NewPolicyFromBytes(policyJSON)
	if err != nil {
		return nil, fmt.Errorf("policy.json: %w", doc.locate(err))
	}
	if err := doc.inlined(); err != nil {
		return nil, fmt.Errorf("policy.json: %w", err)
	}
	return &rule{policy: p, doc: doc, scratch: scratchDir}, nil
}

// rule implements policy.ImageRule. All fields are constant.
type rule struct {
	policy  *signature.Policy
	doc     document
	scratch string
}

// JudgeImage asks the most specific scope that names the image. A policy whose default is a plain
// reject says nothing of the images that no scope names: requirements.yaml may be about them, and if
// that is not either, the layer denies.
func (r *rule) JudgeImage(ctx context.Context, in policy.ImageInput) (policy.ImageFinding, error) {
	if ref.DigestOf(in.Evidence.InstanceManifest) != in.Image.Instance {
		return policy.ImageFinding{}, fmt.Errorf("policy.json: the stored manifest does not hash to %s", in.Image.Instance)
	}
	name, err := dockerReference(in.Image.Name)
	if err != nil {
		return policy.ImageFinding{}, fmt.Errorf("policy.json: %w", err)
	}
	scope, named := r.scope(name)
	wanted := r.doc.Default
	rule := "policy.json default"
	if named {
		wanted = r.doc.Transports["docker"][scope]
		rule = "policy.json docker " + label(scope)
	} else if onlyReject(wanted) {
		return policy.ImageFinding{}, nil
	}
	found := policy.ImageFinding{Matched: true, Rules: []string{rule}}
	why, err := r.evaluate(ctx, name, in)
	if err != nil {
		return policy.ImageFinding{}, fmt.Errorf("policy.json: %w", err)
	}
	if why != nil {
		found.Hits = []policy.Hit{{Rule: rule, Msg: fmt.Sprintf("want %s; %s: %s", describe(wanted), count(in), oneLine(why.Error()))}}
	}
	return found, nil
}

// dockerReference is the name as scopes and signed identities see it. A name with tag and digest goes
// by its digest, as in Podman: the library takes one of them.
func dockerReference(n ref.Name) (types.ImageReference, error) {
	s := n.Repository() + ":" + n.Tag()
	if !n.Digest().IsZero() {
		s = n.Repository() + "@" + n.Digest().String()
	}
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return nil, fmt.Errorf("read image name %q: %w", s, err)
	}
	return docker.NewReference(named)
}

// scope finds the entry of transports.docker that counts, as containers/image does: the whole name, then
// its parents, then the transport's own default.
func (r *rule) scope(name types.ImageReference) (string, bool) {
	scopes := r.policy.Transports["docker"]
	for _, s := range append([]string{name.PolicyConfigurationIdentity()}, name.PolicyConfigurationNamespaces()...) {
		if _, ok := scopes[s]; ok {
			return s, true
		}
	}
	_, ok := scopes[""]
	return "", ok
}

// evaluate returns why the policy refuses, or nil; err is a fault of the machine or an ended context.
func (r *rule) evaluate(ctx context.Context, name types.ImageReference, in policy.ImageInput) (why, err error) {
	dir, err := os.MkdirTemp(r.scratch, "policy-")
	if err != nil {
		return nil, fmt.Errorf("make scratch directory: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := layOut(dir, in); err != nil {
		return nil, err
	}
	src, err := directory.NewReference(dir)
	if err != nil {
		return nil, fmt.Errorf("open scratch directory: %w", err)
	}
	opened, err := src.NewImageSource(ctx, &types.SystemContext{})
	if err != nil {
		return nil, fmt.Errorf("open scratch directory: %w", err)
	}
	defer opened.Close()
	pc, err := signature.NewPolicyContext(r.policy) // single use: it refuses concurrent calls
	if err != nil {
		return nil, err
	}
	defer pc.Destroy()
	allowed, why := pc.IsRunningImageAllowed(ctx, image.UnparsedInstanceWithReference(image.UnparsedInstance(opened, nil), name))
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var broken *fs.PathError
	switch {
	case errors.As(why, &broken):
		return nil, why
	case allowed && why == nil:
		return nil, nil
	case why == nil:
		return errors.New("not allowed, and the library does not say why"), nil
	}
	return why, nil
}

// layOut writes manifest and signatures as the "dir:" transport reads them: manifest.json, and
// signature-1, signature-2 and so on without a gap. Only signatures of the instance count: a signature
// of the index says nothing to containers-policy.json(5). One that the transport could not even parse
// is left out, so that it cannot spoil the others.
func layOut(dir string, in policy.ImageInput) error {
	if len(in.Evidence.Simple) > maxSignatures {
		return fmt.Errorf("%d signatures, want at most %d", len(in.Evidence.Simple), maxSignatures)
	}
	if err := os.WriteFile(filepath.Join(dir, "manifest.json"), in.Evidence.InstanceManifest, 0o600); err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	n, total := 0, 0
	for i, s := range in.Evidence.Simple {
		if total += len(s.Payload); len(s.Payload) > maxSignature || total > maxTotal {
			return fmt.Errorf("signature %d of %d bytes is too large, or all are", i+1, len(s.Payload))
		}
		if s.Subject != in.Image.Instance {
			continue
		}
		blob, ok := storedForm(s)
		if !ok {
			continue
		}
		n++
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("signature-%d", n)), blob, 0o600); err != nil {
			return fmt.Errorf("write signature %d: %w", i+1, err)
		}
	}
	return nil
}

// storedForm is a signature in containers/image's on-disk form (internal/signature): GPG as it is, a
// cosign ".sig" layer as a marker and JSON.
func storedForm(s policy.Simple) ([]byte, bool) {
	if s.MediaType == "" && s.Annotations == nil {
		// The first byte of a stored signature names its form; GPG's are OpenPGP packet tags. A zero
		// byte would have the registry say what form it is.
		return s.Payload, len(s.Payload) > 0 && bytes.IndexByte(openPGPTags, s.Payload[0]) >= 0
	}
	doc, err := json.Marshal(struct {
		MediaType   string            `json:"mimeType"`
		Payload     []byte            `json:"payload"`
		Annotations map[string]string `json:"annotations"`
	}{s.MediaType, s.Payload, s.Annotations})
	return append([]byte("\x00sigstore-json\n"), doc...), err == nil
}

// openPGPTags are the first bytes by which containers/image knows simple signing (compressed data,
// one-pass signature, signature; old and new packet format).
var openPGPTags = []byte{0xA0, 0xA1, 0xA2, 0xA3, 0xC8, 0x90, 0x91, 0x92, 0x3d, 0xC4, 0x88, 0x89, 0x8A, 0x8B, 0xC2}

// count says what was found, for the denial.
func count(in policy.ImageInput) string {
	here, index := 0, 0
	for _, s := range in.Evidence.Simple {
		switch s.Subject {
		case in.Image.Instance:
			here++
		case in.Image.Top:
			index++
		}
	}
	switch {
	case here == 0 && index > 0:
		return fmt.Sprintf("found none for this platform's manifest and %d for the index (sign with --recursive)", index)
	case here == 0:
		return "found none"
	case here == 1:
		return "found 1 signature"
	}
	return fmt.Sprintf("found %d signatures", here)
}

func label(scope string) string {
	if scope == "" {
		return `""`
	}
	return scope
}

// oneLine makes the library's words, which may quote a signature, fit for one line.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || (r >= 0x7f && r < 0xa0) || r == '\u2028' || r == '\u2029' || (r >= '\u202a' && r <= '\u202e') || (r >= '\u2066' && r <= '\u2069') {
			return ' '
		}
		return r
	}, s)
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "") + "..."
	}
	return s
}
