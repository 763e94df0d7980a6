// Package sigstore turns untrusted Sigstore bundles into verified claims: evidence bytes, trusted roots
// and public keys in, policy.Claim out. It verifies with sigstore-go, keyless (a short-lived
// certificate with its SCT, log entry and timestamps) and with keys, and says of each claim what was
// proved. Who may sign is not decided here but by the layer's requirements.
//
// It touches no network, no disk and no clock. A bundle that is broken or hostile proves nothing and
// leaves a reason; it cannot make another bundle prove less.
package sigstore

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/signature"

	"sallyport/image/ref"
	"sallyport/policy"
)

// The bounds of what is looked at. Whoever can push can pad, and weekly scans alone leave more than 50
// bundles a year, so these are far above ordinary use and far below what would hurt.
const (
	MaxBundles     = 256
	MaxBundle      = 16 << 20 // bytes of one bundle's JSON
	MaxBundleBytes = 64 << 20 // bytes of all bundles of one image
	MaxPredicate   = 1 << 20  // bytes; a larger predicate is proved but not handed on
	maxRoots       = 16
	maxKeys        = 4096
	maxReason      = 240  // bytes of one reason
	maxValues      = 8192 // JSON values of a bundle, without what it wraps; a real one has fewer than 300
	maxSubjects    = 1024 // of a statement, as sigstore-go has it, but counted before they are read
)

// Options are what one layer trusts. The zero value trusts nothing and nobody.
type Options struct {
	Roots [][]byte     // trusted_root.json documents; a keyless signature must hold under one of them alone
	Names []string     // of Roots, as claims tell them; nil: all ""
	Keys  []policy.Key // public keys
	// A keyless signature must be in a transparency log, and its certificate in a certificate log. A
	// layer of which some requirement says "rekor: none" or "sct: none" sets these; the claims then
	// say 0 where nothing was proved, and every other requirement refuses them by that number. What
	// a bundle does carry of a log that the root knows is verified all the same.
	AcceptUnlogged   bool
	AcceptWithoutSCT bool
}

// New compiles what a layer trusts. The error names the root or key (counted from 1) that is at fault.
// The Verifier is immutable and may be used concurrently.
func New(o Options) (policy.Verifier, error) {
	if len(o.Roots) > maxRoots || len(o.Keys) > maxKeys {
		return nil, fmt.Errorf("compile trust: %d roots and %d keys, want at most %d and %d", len(o.Roots), len(o.Keys), maxRoots, maxKeys)
	}
	if o.Names != nil && len(o.Names) != len(o.Roots) {
		return nil, fmt.Errorf("compile trust: %d names for %d roots", len(o.Names), len(o.Roots))
	}
	v := &verifier{hinted: map[string][]key{}, names: append(make([]string, 0, len(o.Roots)), o.Names...), acceptUnlogged: o.AcceptUnlogged, acceptWithoutSCT: o.AcceptWithoutSCT}
	for i, doc := range o.Roots {
		tr, err := root.NewTrustedRootFromJSON(doc)
		if err != nil {
			return nil, fmt.Errorf("read trusted root %d: %w", i+1, err)
		}
		if len(tr.FulcioCertificateAuthorities()) == 0 && len(tr.RekorLogs()) == 0 && len(tr.TimestampingAuthorities()) == 0 {
			return nil, fmt.Errorf("read trusted root %d: it holds no certificate authority, log or timestamp authority", i+1)
		}
		v.roots = append(v.roots, tr)
	}
	for i, k := range o.Keys {
		key, err := compileKey(k)
		if err != nil {
			return nil, fmt.Errorf("read key %d: %w", i+1, err)
		}
		v.keys = append(v.keys, key)
		v.hinted[key.hint] = append(v.hinted[key.hint], key)
	}
	return v, nil
}

// verifier implements policy.Verifier. All fields are constant.
type verifier struct {
	roots                            []*root.TrustedRoot
	names                            []string // of roots, as many or none
	keys                             []key
	hinted                           map[string][]key // keys by hint
	acceptUnlogged, acceptWithoutSCT bool
}

// key is a public key ready to verify.
type key struct {
	id        string // sha256 of the PKIX DER, hex
	hint      string // the same in base64, as cosign writes it into a bundle
	notBefore time.Time
	notAfter  time.Time // zero: no end
	verifier  *root.ExpiringKey
}

func compileKey(k policy.Key) (key, error) {
	block, _ := pem.Decode(k.PEM)
	if block == nil {
		return key{}, errors.New("no PEM block")
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return key{}, err
	}
	sv, err := signature.LoadDefaultVerifier(pub)
	if err != nil {
		return key{}, err
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return key{}, err
	}
	// The ID is computed, never taken over: it is what a requirement compares.
	sum, err := hex.DecodeString(ref.DigestOf(der).Hex())
	if err != nil {
		return key{}, err
	}
	return key{
		id: hex.EncodeToString(sum), hint: base64.StdEncoding.EncodeToString(sum),
		notBefore: k.NotBefore, notAfter: k.NotAfter,
		verifier: root.NewExpiringKey(sv, k.NotBefore, k.NotAfter),
	}, nil
}

// window says why the key does not count at now, or "". sigstore-go compares a key's window with
// verified timestamps alone, and a bare key signature has none (CVE-2026-54787 and kin).
func (k key) window(now time.Time) string {
	switch {
	case now.Before(k.notBefore):
		return fmt.Sprintf("key %.12s counts only from %s", k.id, k.notBefore.UTC().Format(time.RFC3339))
	case !k.notAfter.IsZero() && !now.Before(k.notAfter):
		return fmt.Sprintf("key %.12s ended at %s", k.id, k.notAfter.UTC().Format(time.RFC3339))
	}
	return ""
}

// Verify verifies every bundle of the evidence. An error means that the evidence as a whole cannot be
// judged (too much of it, an index that does not list the instance, a context that ended) and denies;
// everything else is a reason.
func (v *verifier) Verify(ctx context.Context, img policy.Image, ev policy.Evidence, now time.Time) ([]policy.Claim, []string, error) {
	if now.IsZero() {
		return nil, nil, errors.New("verify evidence: the judged time is missing")
	}
	if err := bound(ev.Bundles); err != nil {
		return nil, nil, err
	}
	if err := bind(img, ev); err != nil {
		return nil, nil, err
	}
	var claims []policy.Claim
	var reasons []string
	seen := map[ref.Digest]bool{}
	for i, b := range ev.Bundles {
		if ctx.Err() != nil {
			break // said below
		}
		p, err := v.prove(img, b, now)
		if err == nil && seen[p.mark] {
			err = errors.New("it repeats a signature that was counted already")
		}
		if err != nil {
			reasons = append(reasons, oneLine(fmt.Sprintf("bundle %d: %v", i+1, err)))
			continue
		}
		seen[p.mark] = true
		claims = append(claims, p.claim)
	}
	// What was proved before the context's end is not handed on: it may be less than there is, and a
	// verdict on less would be remembered.
	if err := ctx.Err(); err != nil {
		return nil, nil, fmt.Errorf("verify evidence: %w", err)
	}
	return claims, reasons, nil
}

// bound refuses evidence that is larger than anything honest.
func bound(bundles []policy.Bundle) error {
	if len(bundles) > MaxBundles {
		return fmt.Errorf("verify evidence: %d bundles, want at most %d", len(bundles), MaxBundles)
	}
	total := 0
	for i, b := range bundles {
		if len(b.JSON) > MaxBundle {
			return fmt.Errorf("verify evidence: bundle %d has %d bytes, want at most %d", i+1, len(b.JSON), MaxBundle)
		}
		total += len(b.JSON)
	}
	if total > MaxBundleBytes {
		return fmt.Errorf("verify evidence: bundles have %d bytes, want at most %d", total, MaxBundleBytes)
	}
	return nil
}

// noise is what sigstore-go prints of hashes as lists of bytes, and of errors that are nil.
var noise = regexp.MustCompile(`\[\d+(?: \d+){8,}\]|%!w\(<nil>\)`)

// oneLine makes text that may hold an attacker's words fit for one line of a denial.
func oneLine(s string) string {
	s = noise.ReplaceAllString(s, "-")
	out := []rune{}
	size := 0
	for _, r := range s {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) || r == '\u2028' || r == '\u2029' || (r >= '\u202a' && r <= '\u202e') || (r >= '\u2066' && r <= '\u2069') {
			r = ' '
		}
		if size += len(string(r)); size > maxReason {
			return string(out) + "..."
		}
		out = append(out, r)
	}
	return string(out)
}
