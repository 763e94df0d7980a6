package sigkit

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"maps"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
)

// authority is a certificate with its key.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Identity is who signs keyless: what an OIDC provider would have said.
type Identity struct {
	SAN        string                 // a URI if it has a scheme, else an e-mail address
	Issuer     string                 // OIDC issuer
	Extensions certificate.Extensions // further Fulcio claims; its Issuer is not used

	// What no honest authority writes, for negative tests.
	AlsoSAN    string // a second subject
	OldIssuer  string // another issuer in the deprecated extension
	WithoutEKU bool   // no code signing among the extended key usages
}

var (
	oidSCTList   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
	oidEKU       = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidTimestamp = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 8}
)

func (k *Kit) newRoot(name string) (authority, error) {
	return k.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, authority{})
}

func (k *Kit) newIntermediate(root authority) (authority, error) {
	return k.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "sigkit intermediate"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}, root)
}

func (k *Kit) newTimestampLeaf(root authority) (authority, error) {
	eku, err := asn1.Marshal([]asn1.ObjectIdentifier{oidTimestamp})
	if err != nil {
		return authority{}, err
	}
	return k.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "sigkit timestamp authority"}, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature,
		// RFC 3161, 2.3: the only extended key usage, and critical.
		ExtraExtensions: []pkix.Extension{{Id: oidEKU, Critical: true, Value: eku}},
	}, root)
}

// issue completes a template with a serial number and a life around the kit's making and signs it; a
// zero parent makes it self-signed.
func (k *Kit) issue(tmpl *x509.Certificate, parent authority) (authority, error) {
	key, err := newECDSA()
	if err != nil {
		return authority{}, err
	}
	if parent.key == nil {
		parent = authority{tmpl, key}
	}
	if tmpl.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return authority{}, err
	}
	tmpl.NotBefore, tmpl.NotAfter = k.made.Add(-life), k.made.Add(life)
	cert, err := certify(tmpl, parent, &key.PublicKey)
	return authority{cert, key}, err
}

func certify(tmpl *x509.Certificate, parent authority, pub crypto.PublicKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent.cert, pub, parent.key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// Certify issues a certificate of ten minutes from at for key, as Fulcio does, with an SCT unless omit
// says not.
func (k *Kit) Certify(id Identity, key *Key, at time.Time, omit Part) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	exts, err := id.extensions()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, NotBefore: at, NotAfter: at.Add(10 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: exts,
	}
	if strings.Contains(id.SAN, "://") {
		u, err := url.Parse(id.SAN)
		if err != nil {
			return nil, fmt.Errorf("parse identity %q: %w", id.SAN, err)
		}
		tmpl.URIs = []*url.URL{u}
	} else {
		tmpl.EmailAddresses = []string{id.SAN}
	}
	if id.AlsoSAN != "" {
		tmpl.EmailAddresses = append(tmpl.EmailAddresses, id.AlsoSAN)
	}
	if id.WithoutEKU {
		tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	// RFC 6962, 3.2: the log signs the certificate as it is without the list of SCTs.
	bare, err := certify(tmpl, k.intermediate, key.key.Public())
	if err != nil || omit&SCT != 0 {
		return bare, err
	}
	list, err := k.sct(bare.RawTBSCertificate, at)
	if err != nil {
		return nil, err
	}
	tmpl.ExtraExtensions = append(exts, pkix.Extension{Id: oidSCTList, Value: list})
	return certify(tmpl, k.intermediate, key.key.Public())
}

// sct signs a certificate's to-be-signed bytes for the CT log and returns the extension's value.
func (k *Kit) sct(tbs []byte, at time.Time) ([]byte, error) {
	const version, certificateTimestamp, precertEntry = 0, 0, 1 // RFC 6962, 3.2
	const sha256Hash, ecdsaSignature = 4, 3                     // RFC 5246, 7.4.1.4.1
	issuer := sha256.Sum256(k.intermediate.cert.RawSubjectPublicKeyInfo)
	millis := binary.BigEndian.AppendUint64(nil, uint64(at.UnixMilli()))
	var in bytes.Buffer
	in.Write([]byte{version, certificateTimestamp})
	in.Write(millis)
	in.Write([]byte{0, precertEntry})
	in.Write(issuer[:])
	in.Write([]byte{byte(len(tbs) >> 16), byte(len(tbs) >> 8), byte(len(tbs))})
	in.Write(tbs)
	in.Write([]byte{0, 0})
	sig, err := sign(k.ct, in.Bytes())
	if err != nil {
		return nil, err
	}
	_, id := keyID(k.ct.Public())
	sct := append([]byte{version}, id...)
	sct = append(sct, millis...)
	sct = append(sct, 0, 0, sha256Hash, ecdsaSignature)
	sct = append(binary.BigEndian.AppendUint16(sct, uint16(len(sig))), sig...)
	one := append(binary.BigEndian.AppendUint16(nil, uint16(len(sct))), sct...)
	return asn1.Marshal(append(binary.BigEndian.AppendUint16(nil, uint16(len(one))), one...))
}

// extensions are Fulcio's certificate extensions (fulcio, docs/oid-info.md).
func (id Identity) extensions() ([]pkix.Extension, error) {
	e := id.Extensions
	values := map[int]string{
		8: id.Issuer, 9: e.BuildSignerURI, 10: e.BuildSignerDigest, 11: e.RunnerEnvironment,
		12: e.SourceRepositoryURI, 13: e.SourceRepositoryDigest, 14: e.SourceRepositoryRef,
		15: e.SourceRepositoryIdentifier, 16: e.SourceRepositoryOwnerURI, 17: e.SourceRepositoryOwnerIdentifier,
		18: e.BuildConfigURI, 19: e.BuildConfigDigest, 20: e.BuildTrigger, 21: e.RunInvocationURI,
		22: e.SourceRepositoryVisibilityAtSigning,
	}
	var out []pkix.Extension
	if id.OldIssuer != "" {
		out = append(out, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}, Value: []byte(id.OldIssuer)})
	}
	for _, n := range slices.Sorted(maps.Keys(values)) {
		if values[n] == "" {
			continue
		}
		der, err := asn1.MarshalWithParams(values[n], "utf8")
		if err != nil {
			return nil, fmt.Errorf("encode certificate extension %d: %w", n, err)
		}
		out = append(out, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, n}, Value: der})
	}
	return out, nil
}

// Stamp returns an RFC 3161 response over sig at the given time.
func (k *Kit) Stamp(sig []byte, at time.Time) ([]byte, error) {
	sum := sha256.Sum256(sig)
	ts := timestamp.Timestamp{
		HashAlgorithm: crypto.SHA256, HashedMessage: sum[:], Time: at,
		Policy: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2}, AddTSACertificate: true,
	}
	out, err := ts.CreateResponseWithOpts(k.tsa.cert, k.tsa.key, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign timestamp: %w", err)
	}
	return out, nil
}

func sign(key *ecdsa.PrivateKey, msg []byte) ([]byte, error) {
	sum := sha256.Sum256(msg)
	return ecdsa.SignASN1(rand.Reader, key, sum[:])
}
