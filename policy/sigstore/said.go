package sigstore

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"

	"sallyport/policy"
)

// Said is what a bundle says of itself. Nothing of it is verified: anyone who can push writes bundles. It
// is for people who look for what to ask of an image, never for a verdict.
type Said struct {
	Issuer, Subject string // of a keyless signature's certificate
	KeyHint         string // of a signature with a key: how its maker names the key; often its sha256 in base64
	PredicateType   string // of an attestation; "" for a signature
}

// Read takes a bundle apart without asking whether it is true. A certificate that names two signers, or
// none, is an error.
func Read(raw policy.Bundle) (said Said, err error) {
	defer func() {
		if r := recover(); r != nil {
			said, err = Said{}, fmt.Errorf("read bundle: it panicked: %.100v", r)
		}
	}()
	if len(raw.JSON) > MaxBundle {
		return Said{}, fmt.Errorf("read bundle: %d bytes, want at most %d", len(raw.JSON), MaxBundle)
	}
	b, err := parse(raw)
	if err != nil {
		return Said{}, fmt.Errorf("read bundle: %s", oneLine(err.Error()))
	}
	if said.PredicateType, err = b.predicateType(); err != nil {
		return Said{}, fmt.Errorf("read bundle: %s", oneLine(err.Error()))
	}
	cert := b.content.Certificate()
	if cert == nil {
		key := b.content.PublicKey()
		if key == nil {
			return Said{}, errors.New("read bundle: it names neither a certificate nor a key")
		}
		said.KeyHint = key.Hint()
		return said, nil
	}
	sum, err := certificate.SummarizeCertificate(cert)
	if err != nil {
		return Said{}, fmt.Errorf("read bundle: %s", oneLine(err.Error()))
	}
	f, err := identity(cert, &sum)
	if err != nil {
		return Said{}, fmt.Errorf("read bundle: %s", oneLine(err.Error()))
	}
	said.Issuer, said.Subject = f.Issuer, f.SAN
	return said, nil
}

// predicateType is what a bundle attests; "" if it is a signature, also one that cosign wraps in a
// statement.
func (b parsed) predicateType() (kind string, err error) {
	env := b.GetDsseEnvelope()
	if env == nil {
		return "", nil
	}
	fields, err := topLevel(env.GetPayload())
	if err != nil {
		return "", err
	}
	if err := json.Unmarshal(fields["predicateType"], &kind); err != nil {
		return "", fmt.Errorf("its predicate type: %w", err)
	}
	if kind == signV1 {
		return "", nil
	}
	return kind, nil
}

// signV1 is the predicate of a signature (cosign v3).
const signV1 = "https://sigstore.dev/cosign/sign/v1"
