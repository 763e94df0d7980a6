package sigkit

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"time"

	"sallyport/image/ref"
)

// Annotations of a cosign ".sig" layer.
const (
	legacySignature   = "dev.cosignproject.cosign/signature"
	legacyBundle      = "dev.sigstore.cosign/bundle"
	legacyCertificate = "dev.sigstore.cosign/certificate"
	legacyChain       = "dev.sigstore.cosign/chain"
)

// Legacy makes a cosign ".sig" signature: the simple-signing payload that names repository and digest,
// and the annotations of its layer.
func Legacy(key *Key, name ref.Name, d ref.Digest) (payload []byte, annotations map[string]string, err error) {
	if payload, err = simplePayload(name.Repository(), d, "cosign container image signature"); err != nil {
		return nil, nil, err
	}
	sig, err := key.Sign(payload)
	return payload, map[string]string{legacySignature: base64.StdEncoding.EncodeToString(sig)}, err
}

// LegacyKeyless is Legacy as id, with certificate and chain, and logged: what "cosign sign" did before
// version 3, and what Kubernetes' releases carry.
func (k *Kit) LegacyKeyless(id Identity, name ref.Name, d ref.Digest) (payload []byte, annotations map[string]string, err error) {
	key, err := NewKey()
	if err != nil {
		return nil, nil, err
	}
	at := time.Now().Truncate(time.Second)
	cert, err := k.Certify(id, key, at, 0)
	if err != nil {
		return nil, nil, err
	}
	if payload, annotations, err = Legacy(key, name, d); err != nil {
		return nil, nil, err
	}
	sig, err := base64.StdEncoding.DecodeString(annotations[legacySignature])
	if err != nil {
		return nil, nil, err
	}
	leaf := pemOf("CERTIFICATE", cert.Raw)
	e, err := hashedEntry(payload, sig, leaf)
	if err != nil {
		return nil, nil, err
	}
	logged, err := k.log.add(e, at)
	if err != nil {
		return nil, nil, err
	}
	bundle, err := json.Marshal(map[string]any{
		"SignedEntryTimestamp": logged.InclusionPromise.SignedEntryTimestamp,
		"Payload": map[string]any{
			"body": logged.CanonicalizedBody, "integratedTime": at.Unix(),
			"logIndex": logged.LogIndex, "logID": keyIDHex(k.log.key.Public()),
		},
	})
	annotations[legacyBundle] = string(bundle)
	annotations[legacyCertificate] = string(leaf)
	annotations[legacyChain] = string(k.AuthorityPEM())
	return payload, annotations, err
}

// AuthorityPEM is the certificate authority, intermediate and root, as policy.json's caData takes it.
func (k *Kit) AuthorityPEM() []byte {
	return append(pemOf("CERTIFICATE", k.intermediate.cert.Raw), pemOf("CERTIFICATE", k.root.Raw)...)
}

// LogPEM is the public key of the transparency log, as policy.json's rekorPublicKeyData takes it.
func (k *Kit) LogPEM() []byte {
	der, _ := keyID(k.log.key.Public())
	return pemOf("PUBLIC KEY", der)
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
