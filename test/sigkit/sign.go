package sigkit

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"sallyport/image/ref"
)

// Media types and predicate types as cosign v3 writes them.
const (
	BundleType    = "application/vnd.dev.sigstore.bundle.v0.3+json"
	PayloadType   = "application/vnd.in-toto+json"
	SignPredicate = "https://sigstore.dev/cosign/sign/v1"
)

// Key is an ECDSA P-256 key pair.
type Key struct{ key *ecdsa.PrivateKey }

// NewKey makes a key pair.
func NewKey() (*Key, error) {
	k, err := newECDSA()
	return &Key{k}, err
}

// PEM is the public key as PKIX PEM.
func (k *Key) PEM() []byte {
	der, _ := keyID(k.key.Public())
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// ID is the sha256 of the public key's PKIX DER, hex: policy.Claim's KeyID.
func (k *Key) ID() string { return keyIDHex(k.key.Public()) }

// Sign signs msg with sha256, ASN.1 form.
func (k *Key) Sign(msg []byte) ([]byte, error) { return sign(k.key, msg) }

// Signing says what to sign with and how. The zero value with an Identity is what "cosign sign" does;
// with a Key it is "cosign sign --key" against the kit's log and timestamp authority.
type Signing struct {
	Identity      Identity
	Key           *Key      // nil: keyless, with a fresh key and a certificate for Identity
	Message       bool      // sign the manifest itself; false: an in-toto statement in a DSSE envelope
	Manifest      []byte    // the bytes to sign if Message
	PredicateType string    // "": SignPredicate
	Predicate     any       // marshalled into the statement; nil: an empty object
	At            time.Time // of certificate, SCT, timestamp and log entry; zero: now
	Omit          Part      // what to leave out
}

// SignKeyless signs d as id, with SCT, timestamp and log entry, and returns the Sigstore bundle.
func (k *Kit) SignKeyless(d ref.Digest, id Identity) ([]byte, error) {
	return k.Sign(d, Signing{Identity: id})
}

// SignKey signs d with a key and nothing else, as "cosign sign --key" does where there are no
// services, and returns the Sigstore bundle. It needs no Kit.
func SignKey(key *Key, d ref.Digest) ([]byte, error) {
	return (*Kit)(nil).Sign(d, Signing{Key: key, Omit: Log | Timestamp})
}

// Attest makes a keyless attestation of the given type about d.
func (k *Kit) Attest(d ref.Digest, id Identity, predicateType string, predicate any) ([]byte, error) {
	return k.Sign(d, Signing{Identity: id, PredicateType: predicateType, Predicate: predicate})
}

// Sign makes a Sigstore bundle v0.3 about the manifest d.
func (k *Kit) Sign(d ref.Digest, s Signing) ([]byte, error) {
	b, err := k.Bundle(d, s)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", d, err)
	}
	return protojson.Marshal(b)
}

// Bundle is Sign before it is marshalled, for tests that spoil a part of it.
func (k *Kit) Bundle(d ref.Digest, s Signing) (*protobundle.Bundle, error) {
	if s.At.IsZero() {
		s.At = time.Now()
	}
	s.At = s.At.Truncate(time.Second)
	material, key, verifier, err := k.material(s)
	if err != nil {
		return nil, err
	}
	b := &protobundle.Bundle{MediaType: BundleType, VerificationMaterial: material}
	var sig []byte
	var logged entry
	if s.Message {
		sig, logged, err = signMessage(b, s.Manifest, key, verifier)
	} else {
		sig, logged, err = signStatement(b, d, s, keyed{key, verifier})
	}
	if err != nil {
		return nil, err
	}
	if s.Omit&Log == 0 {
		e, err := k.log.add(logged, s.At)
		if err != nil {
			return nil, err
		}
		if s.Omit&Promise != 0 {
			e.InclusionPromise = nil
		}
		material.TlogEntries = []*protorekor.TransparencyLogEntry{e}
	}
	if s.Omit&Timestamp == 0 {
		ts, err := k.Stamp(sig, s.At)
		if err != nil {
			return nil, err
		}
		material.TimestampVerificationData = &protobundle.TimestampVerificationData{
			Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: ts}},
		}
	}
	return b, nil
}

// material is the certificate or the key hint, the key to sign with, and the PEM that the log keeps.
func (k *Kit) material(s Signing) (*protobundle.VerificationMaterial, *Key, []byte, error) {
	if s.Key != nil {
		_, id := keyID(s.Key.key.Public())
		hint := &protocommon.PublicKeyIdentifier{Hint: base64.StdEncoding.EncodeToString(id)}
		return &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_PublicKey{PublicKey: hint}}, s.Key, s.Key.PEM(), nil
	}
	key, err := NewKey()
	if err != nil {
		return nil, nil, nil, err
	}
	cert, err := k.Certify(s.Identity, key, s.At, s.Omit)
	if err != nil {
		return nil, nil, nil, err
	}
	return CertificateMaterial(cert), key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), nil
}

// CertificateMaterial is the verification material of a bundle with this certificate.
func CertificateMaterial(cert *x509.Certificate) *protobundle.VerificationMaterial {
	return &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_Certificate{
		Certificate: &protocommon.X509Certificate{RawBytes: cert.Raw},
	}}
}

// keyed is a key with the PEM by which the log knows it.
type keyed struct {
	key *Key
	pem []byte
}

func signMessage(b *protobundle.Bundle, manifest []byte, key *Key, verifier []byte) ([]byte, entry, error) {
	sig, err := key.Sign(manifest)
	if err != nil {
		return nil, entry{}, err
	}
	sum := sha256.Sum256(manifest)
	b.Content = &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
		MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: sum[:]},
		Signature:     sig,
	}}
	e, err := hashedEntry(manifest, sig, verifier)
	return sig, e, err
}

func signStatement(b *protobundle.Bundle, d ref.Digest, s Signing, by keyed) ([]byte, entry, error) {
	payload, err := Statement(d, s.PredicateType, s.Predicate)
	if err != nil {
		return nil, entry{}, err
	}
	return Seal(b, payload, by.key, by.pem)
}

// Statement is an in-toto statement v1 about d.
func Statement(d ref.Digest, predicateType string, predicate any) ([]byte, error) {
	if predicateType == "" {
		predicateType = SignPredicate
	}
	if predicate == nil {
		predicate = struct{}{}
	}
	type subject struct {
		Digest map[string]string `json:"digest"`
	}
	return json.Marshal(struct {
		Type          string    `json:"_type"`
		Subject       []subject `json:"subject"`
		PredicateType string    `json:"predicateType"`
		Predicate     any       `json:"predicate"`
	}{"https://in-toto.io/Statement/v1", []subject{{map[string]string{"sha256": d.Hex()}}}, predicateType, predicate})
}

// Seal puts any payload into b as a DSSE envelope signed by key, and returns the signature and the log
// entry that belongs to it.
func Seal(b *protobundle.Bundle, payload []byte, key *Key, verifier []byte) ([]byte, entry, error) {
	sig, err := key.Sign(dsse.PAE(PayloadType, payload))
	if err != nil {
		return nil, entry{}, err
	}
	b.Content = &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
		Payload: payload, PayloadType: PayloadType, Signatures: []*protodsse.Signature{{Sig: sig}},
	}}
	envelope, err := json.Marshal(dsse.Envelope{
		PayloadType: PayloadType, Payload: base64.StdEncoding.EncodeToString(payload),
		Signatures: []dsse.Signature{{Sig: base64.StdEncoding.EncodeToString(sig)}},
	})
	if err != nil {
		return nil, entry{}, err
	}
	e, err := dsseEntry(envelope, payload, sig, verifier)
	return sig, e, err
}
