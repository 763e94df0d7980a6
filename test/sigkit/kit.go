// Package sigkit is a small sigstore of real parts, for tests, benchmarks and the demo: a certificate
// authority that issues short-lived signing certificates with an embedded SCT, an RFC 3161 timestamp
// authority, and a Rekor v1 transparency log with a growing Merkle tree, signed entry timestamps,
// inclusion proofs and checkpoints. It signs as cosign does and lays the results out in a registry as
// cosign does. Nothing in it is trusted by the product: a policy trusts it only by holding its
// TrustedRoot.
package sigkit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"time"

	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	prototrust "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// LogHost is the host name of every kit's transparency log, the origin of its checkpoints.
const LogHost = "rekor.sigkit.test"

// life is how long before and after the making of a kit its authorities are valid, so that tests can
// sign at other times than now.
const life = 20 * 365 * 24 * time.Hour

// Kit is one sigstore. Two kits trust nothing of each other. It may be used concurrently.
type Kit struct {
	made         time.Time         // constant
	root         *x509.Certificate // constant
	intermediate authority         // constant; issues the signing certificates
	tsaRoot      *x509.Certificate // constant
	tsa          authority         // constant; signs timestamps
	ct           *ecdsa.PrivateKey // constant; signs SCTs
	log          *transparencyLog  // guards itself
}

// New makes a sigstore with fresh keys. It starts nothing and keeps nothing on disk.
func New() (*Kit, error) {
	k := &Kit{made: time.Now().Truncate(time.Second)}
	root, err := k.newRoot("sigkit root")
	if err != nil {
		return nil, err
	}
	k.root = root.cert
	if k.intermediate, err = k.newIntermediate(root); err != nil {
		return nil, err
	}
	tsaRoot, err := k.newRoot("sigkit timestamp root")
	if err != nil {
		return nil, err
	}
	k.tsaRoot = tsaRoot.cert
	if k.tsa, err = k.newTimestampLeaf(tsaRoot); err != nil {
		return nil, err
	}
	if k.ct, err = newECDSA(); err != nil {
		return nil, err
	}
	k.log, err = newTransparencyLog()
	return k, err
}

// Part is a part of the trust that a root gives or a bundle carries, as a set of bits. Leaving one out
// makes the negative twin of a test.
type Part uint

// The parts.
const (
	Log       Part = 1 << iota // transparency log entry, or the log's key
	SCT                        // signed certificate timestamp, or the CT log's key
	Timestamp                  // RFC 3161 timestamp, or the authority's chain
	Promise                    // the log entry's signed entry timestamp (the inclusion proof stays)
	CA                         // the certificate authority (of a trusted root)
)

// TrustedRoot is the kit's trusted_root.json.
func (k *Kit) TrustedRoot() []byte { return k.TrustedRootWithout(0) }

// TrustedRootWithout is trusted_root.json without some of the authorities.
func (k *Kit) TrustedRootWithout(omit Part) []byte {
	from := &protocommon.TimeRange{Start: timestamppb.New(k.made.Add(-life))}
	tr := &prototrust.TrustedRoot{MediaType: "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}
	if omit&CA == 0 {
		tr.CertificateAuthorities = []*prototrust.CertificateAuthority{{
			Uri: "https://fulcio.sigkit.test", ValidFor: from,
			CertChain: chain(k.intermediate.cert, k.root),
		}}
	}
	if omit&Timestamp == 0 {
		tr.TimestampAuthorities = []*prototrust.CertificateAuthority{{
			Uri: "https://tsa.sigkit.test", ValidFor: from, CertChain: chain(k.tsa.cert, k.tsaRoot),
		}}
	}
	if omit&SCT == 0 {
		tr.Ctlogs = []*prototrust.TransparencyLogInstance{logInstance("https://ct.sigkit.test", k.ct.Public(), from)}
	}
	if omit&Log == 0 {
		tr.Tlogs = []*prototrust.TransparencyLogInstance{logInstance("https://"+LogHost, k.log.key.Public(), from)}
	}
	out, err := protojson.Marshal(tr)
	if err != nil {
		panic(fmt.Sprintf("sigkit: marshal trusted root: %v", err)) // only our own values are in it
	}
	return out
}

func chain(certs ...*x509.Certificate) *protocommon.X509CertificateChain {
	out := &protocommon.X509CertificateChain{}
	for _, c := range certs {
		out.Certificates = append(out.Certificates, &protocommon.X509Certificate{RawBytes: c.Raw})
	}
	return out
}

func logInstance(url string, pub crypto.PublicKey, from *protocommon.TimeRange) *prototrust.TransparencyLogInstance {
	der, id := keyID(pub)
	return &prototrust.TransparencyLogInstance{
		BaseUrl:       url,
		HashAlgorithm: protocommon.HashAlgorithm_SHA2_256,
		PublicKey: &protocommon.PublicKey{
			RawBytes: der, KeyDetails: protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256, ValidFor: from,
		},
		LogId: &protocommon.LogId{KeyId: id},
	}
}

// keyID returns the PKIX DER of pub and its sha256, which names keys and logs everywhere in sigstore.
func keyID(pub crypto.PublicKey) (der, id []byte) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		panic(fmt.Sprintf("sigkit: marshal public key: %v", err)) // only our own P-256 keys come here
	}
	sum := sha256.Sum256(der)
	return der, sum[:]
}

func keyIDHex(pub crypto.PublicKey) string {
	_, id := keyID(pub)
	return hex.EncodeToString(id)
}

func newECDSA() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }
