package sigstore

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/certificate-transparency-go/x509util"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"sallyport/image/ref"
	"sallyport/policy"
	"sallyport/policy/internal/claim"
)

// proof is a claim with the hash of the signature that proved it, by which a repetition is known: a
// log entry is bound to one signature, so two bundles with one entry have one signature. A threshold
// that counts signers must not count it twice (CVE-2022-36056 and kin). What else a bundle carries, such
// as entries of logs that nobody here knows, is the sender's word and must not mark anything.
type proof struct {
	claim policy.Claim
	mark  ref.Digest
}

// parsed is one bundle taken apart.
type parsed struct {
	*bundle.Bundle
	subject ref.Digest
	content verify.VerificationContent
	signed  verify.SignatureContent
	entries []*tlog.Entry
	stamps  int // RFC 3161 timestamps, unverified
}

// prove verifies one bundle. A panic in the parsers of what an attacker wrote is that bundle's fault
// alone.
func (v *verifier) prove(img policy.Image, raw policy.Bundle, now time.Time) (p proof, err error) {
	defer func() {
		if r := recover(); r != nil {
			p, err = proof{}, fmt.Errorf("reading it panicked: %.100v", r)
		}
	}()
	if raw.Subject != img.Top && raw.Subject != img.Instance {
		return proof{}, fmt.Errorf("it is about %s, another manifest", raw.Subject)
	}
	b, err := parse(raw)
	if err != nil {
		return proof{}, err
	}
	if cert := b.content.Certificate(); cert != nil {
		return v.proveKeyless(b, cert)
	}
	return v.proveKey(b, now)
}

// LegacyAttestation is the artifact type under which the image room tells of attestations that cosign
// before v3 left at the tag sha256-<hex>.att; it does not fetch them.
const LegacyAttestation = "application/vnd.dsse.envelope.v1+json"

func parse(raw policy.Bundle) (parsed, error) {
	if raw.ArtifactType == LegacyAttestation {
		return parsed{}, errors.New("an attestation in cosign's older form (.att) is not supported; attest with Sigstore bundles (cosign v3, or --new-bundle-format)")
	}
	if raw.ArtifactType != "" && !strings.HasPrefix(raw.ArtifactType, "application/vnd.dev.sigstore.bundle") {
		return parsed{}, fmt.Errorf("type %.80q is not supported; sign and attest with Sigstore bundles (cosign v3, or --new-bundle-format)", raw.ArtifactType)
	}
	// The decoder takes a hundred times the memory of the text for a list of empty objects.
	if n := values(raw.JSON); n > maxValues {
		return parsed{}, fmt.Errorf("read it: %d JSON values, want at most %d", n, maxValues)
	}
	b := parsed{Bundle: &bundle.Bundle{}, subject: raw.Subject}
	err := b.UnmarshalJSON(raw.JSON)
	if err != nil {
		return parsed{}, fmt.Errorf("read it: %w", err)
	}
	if b.content, err = b.VerificationContent(); err != nil {
		return parsed{}, fmt.Errorf("read it: %w", err)
	}
	if b.signed, err = b.SignatureContent(); err != nil {
		return parsed{}, fmt.Errorf("read it: %w", err)
	}
	if b.entries, err = b.TlogEntries(); err != nil {
		return parsed{}, fmt.Errorf("read it: %w", err)
	}
	stamps, err := b.Timestamps()
	if err != nil {
		return parsed{}, fmt.Errorf("read it: %w", err)
	}
	b.stamps = len(stamps)
	return b, b.fewSubjects()
}

// values is an upper bound of the JSON values in a text.
func values(text []byte) int {
	return bytes.Count(text, []byte("{")) + bytes.Count(text, []byte("[")) + bytes.Count(text, []byte(","))
}

// fewSubjects refuses a statement about more manifests than anybody signs at once.
func (b parsed) fewSubjects() error {
	env := b.GetDsseEnvelope()
	if env == nil {
		return nil
	}
	fields, err := topLevel(env.GetPayload())
	if err != nil {
		return fmt.Errorf("read statement: %w", err)
	}
	if n := bytes.Count(fields["subject"], []byte("{")); n > 4*maxSubjects { // a subject has some objects of its own
		return fmt.Errorf("read statement: %d objects in its subject, want at most %d", n, 4*maxSubjects)
	}
	return nil
}

// demand is what a verification must prove, as counts of distinct logs.
type demand struct {
	logs, scts int
	timed      bool // at least one verified timestamp, of a log or an authority
}

// verify asks sigstore-go. Its results count logs, never entries.
func (b parsed) verify(tm root.TrustedMaterial, d demand, who verify.PolicyOption) (*verify.VerificationResult, error) {
	opts := []verify.VerifierOption{verify.WithoutStatementPredicate()}
	if d.timed {
		opts = append(opts, verify.WithObserverTimestamps(1))
	} else {
		opts = append(opts, verify.WithNoObserverTimestamps())
	}
	// Left out, this option skips the log without a word; so it is left out only by a demand for none.
	if d.logs > 0 {
		opts = append(opts, verify.WithTransparencyLog(d.logs))
	}
	if d.scts > 0 {
		opts = append(opts, verify.WithSignedCertificateTimestamps(d.scts))
	}
	v, err := verify.NewVerifier(tm, opts...)
	if err != nil {
		return nil, err
	}
	digest, err := hex.DecodeString(b.subject.Hex())
	if err != nil {
		return nil, err
	}
	return v.Verify(b.Bundle, verify.NewPolicy(verify.WithArtifactDigest("sha256", digest), who))
}

// proveKeyless verifies a bundle with a certificate under each root alone, never under a mixture of
// several: the first that holds, counts.
func (v *verifier) proveKeyless(b parsed, cert *x509.Certificate) (proof, error) {
	if len(v.roots) == 0 {
		return proof{}, errors.New("it is signed with a certificate, and this policy has no trusted_root.json")
	}
	var errs []error
	for i, tr := range v.roots {
		d := demand{logs: 1, scts: 1, timed: true}
		if v.acceptUnlogged && !b.logged(tr) {
			d.logs = 0
		}
		if v.acceptWithoutSCT && !(hasSCT(cert) && len(tr.CTLogs()) > 0) {
			d.scts = 0
		}
		res, err := b.verify(tr, d, verify.WithoutIdentitiesUnsafe())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		d = b.raise(tr, d, sctCount(cert), verify.WithoutIdentitiesUnsafe())
		f, err := identity(cert, res.Signature.Certificate)
		if err != nil {
			return proof{}, err
		}
		f.Logged, f.SCTs = d.logs, d.scts
		if len(v.names) > 0 {
			f.Root = v.names[i]
		}
		return b.conclude(f, res)
	}
	return proof{}, errors.Join(errs...)
}

// raise finds how many logs really vouch, where the bundle and the root offer more than one.
func (b parsed) raise(tm root.TrustedMaterial, d demand, scts int, who verify.PolicyOption) demand {
	for d.logs > 0 && d.logs < min(len(b.entries), len(tm.RekorLogs())) {
		more := demand{d.logs + 1, d.scts, d.timed}
		if _, err := b.verify(tm, more, who); err != nil {
			break
		}
		d = more
	}
	for d.scts > 0 && d.scts < min(scts, len(tm.CTLogs())) {
		more := demand{d.logs, d.scts + 1, d.timed}
		if _, err := b.verify(tm, more, who); err != nil {
			break
		}
		d = more
	}
	return d
}

// logged reports whether the bundle has an entry that says it is of a log of this root.
func (b parsed) logged(tr *root.TrustedRoot) bool {
	for _, e := range b.entries {
		if _, known := tr.RekorLogs()[hex.EncodeToString([]byte(e.LogKeyID()))]; known {
			return true
		}
	}
	return false
}

// keyed is trusted material with one key: that of the root, if there is one, and the key under any hint.
type keyed struct {
	root.TrustedMaterial
	key *root.ExpiringKey
}

// PublicKeyVerifier ignores the hint, which is the signer's word.
func (k keyed) PublicKeyVerifier(string) (root.TimeConstrainedVerifier, error) { return k.key, nil }

// proveKey verifies a bundle that names a public key. The hint only orders the search.
func (v *verifier) proveKey(b parsed, now time.Time) (proof, error) {
	if b.content.PublicKey() == nil {
		return proof{}, errors.New("it has neither a certificate nor a key")
	}
	if len(v.keys) == 0 {
		return proof{}, errors.New("it is signed with a key, and this policy has none")
	}
	tried := v.hinted[b.content.PublicKey().Hint()]
	known := len(tried) > 0
	if !known {
		tried = v.keys[:min(len(v.keys), maxGuessed)]
	}
	var last error
	for _, k := range tried {
		f, res, err := v.underKey(b, k)
		if err != nil {
			last = err
			continue
		}
		if why := k.window(now); why != "" {
			return proof{}, errors.New(why)
		}
		return b.conclude(f, res)
	}
	if !known {
		return proof{}, fmt.Errorf("it is by none of this policy's %d keys%s", len(v.keys), v.unguessed())
	}
	return proof{}, last
}

// maxGuessed bounds how many keys are tried on a bundle whose hint names none of them: anybody may push
// such bundles.
const maxGuessed = 256

// unguessed says what was not tried.
func (v *verifier) unguessed() string {
	if len(v.keys) <= maxGuessed {
		return ""
	}
	return fmt.Sprintf(" (its hint names none, and only %d were tried; sign with cosign, which writes one)", maxGuessed)
}

// underKey verifies b with k: with the logs and timestamp authorities of the roots, if it has an entry
// or a timestamp of theirs, else the signature alone. An entry of a log that a root knows must hold.
func (v *verifier) underKey(b parsed, k key) (claim.Fields, *verify.VerificationResult, error) {
	f := claim.Fields{Kind: "key", KeyID: k.id, NotAfter: k.notAfter}
	var errs []error
	entry := false
	for _, tr := range v.roots {
		tm := keyed{tr, k.verifier}
		if b.logged(tr) {
			entry = true
			for _, timed := range []bool{true, false} { // a log of Rekor v2 gives no time
				d := demand{logs: 1, timed: timed}
				res, err := b.verify(tm, d, verify.WithKey())
				if err == nil {
					f.Logged = b.raise(tm, d, 0, verify.WithKey()).logs
					return f, res, nil
				}
				errs = append(errs, err)
			}
			continue
		}
		if b.stamps > 0 {
			if res, err := b.verify(tm, demand{timed: true}, verify.WithKey()); err == nil {
				return f, res, nil
			}
		}
	}
	if entry {
		return claim.Fields{}, nil, errors.Join(errs...)
	}
	res, err := b.verify(keyed{&root.BaseTrustedMaterial{}, k.verifier}, demand{}, verify.WithKey())
	return f, res, err
}

// conclude makes the claim of what was verified.
func (b parsed) conclude(f claim.Fields, res *verify.VerificationResult) (proof, error) {
	f.Subject = b.subject
	for _, ts := range res.VerifiedTimestamps {
		if f.Signed.IsZero() || ts.Timestamp.Before(f.Signed) {
			f.Signed = ts.Timestamp.UTC()
		}
		if ts.Type == "TimestampAuthority" {
			f.Timestamped++
		}
	}
	if env := b.GetDsseEnvelope(); env != nil {
		st, err := parseStatement(env.GetPayload(), b.subject)
		if err != nil {
			return proof{}, err
		}
		if st.predicateType != res.Statement.GetPredicateType() {
			return proof{}, errors.New("its predicateType reads in two ways")
		}
		f.PredicateType, f.Predicate = st.predicateType, st.predicate
	}
	return proof{claim.New(f), ref.DigestOf(b.signed.Signature())}, nil
}

func hasSCT(cert *x509.Certificate) bool { return sctCount(cert) > 0 }

// sctCount is the number of SCTs that the certificate carries, unverified. A list that cannot be read
// counts as one, so that it is verified and refused.
func sctCount(cert *x509.Certificate) int {
	for _, e := range cert.Extensions {
		if e.Id.Equal(oidSCTList) {
			scts, err := x509util.ParseSCTsFromCertificate(cert.Raw)
			if err != nil {
				return 1
			}
			return max(len(scts), 1)
		}
	}
	return 0
}
