// Package claim holds the one constructor of verified claims. It is internal to policy, so that only
// the packages that verify signatures (policy/sigstore, policy/containers) can make one: text from an
// image or a registry cannot pose as a claim.
package claim

import (
	"time"

	"sallyport/image/ref"
)

// Fields are what verification proved. See policy.Claim for the accessors and their meaning.
type Fields struct {
	Kind          string            // "keyless" or "key"
	Subject       ref.Digest        // digest of the manifest that was signed
	Issuer        string            // OIDC issuer (Fulcio extension 1.3.6.1.4.1.57264.1.8), keyless only
	SAN           string            // subject alternative name of the certificate, keyless only
	Root          string            // name of the trusted root that vouches, keyless only; "" for trusted_root.json
	KeyID         string            // sha256 of the public key's PKIX DER, hex; key only
	PredicateType string            // in-toto predicateType; "" for a message signature over the manifest
	Predicate     []byte            // predicate JSON, at most 1 MiB, else nil
	Extensions    map[string]string // further Fulcio claims by name, e.g. SourceRepositoryURI
	Signed        time.Time         // earliest verified timestamp (log or TSA); zero for a bare key. It bounds the age for keyless alone: an old signature by a key can be stamped anew
	NotAfter      time.Time         // when the proof itself lapses (key validity); zero: never
	Logged        int               // verified transparency log entries
	Timestamped   int               // verified RFC 3161 timestamps
	SCTs          int               // verified signed certificate timestamps
}

// Claim is an immutable verified claim; the zero value proves nothing.
type Claim struct{ f *Fields }

// New makes a Claim; it takes ownership of f's maps and slices.
func New(f Fields) Claim { return Claim{&f} }

// Fields returns what was proved; the zero Claim gives zero Fields. The caller must not change the
// maps and slices.
func (c Claim) Fields() Fields {
	if c.f == nil {
		return Fields{}
	}
	return *c.f
}

// IsZero reports whether c proves nothing.
func (c Claim) IsZero() bool { return c.f == nil }
