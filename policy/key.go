package policy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// minRSA is the smallest RSA modulus that may sign, in bits (NIST SP 800-131A).
const minRSA = 2048

// Key is a public key that may sign. Immutable.
type Key struct {
	ID        string // sha256 of the PKIX DER, hex; the same as claim.Fields.KeyID
	PEM       []byte // one PUBLIC KEY block
	NotBefore time.Time
	NotAfter  time.Time // zero: no end
}

// ParseKey reads one PEM block "PUBLIC KEY" with a key of a kind that Sigstore signs with. The window is
// left open.
func ParseKey(text []byte) (Key, error) { return parseKey(text) }

// parseKey reads one PEM block "PUBLIC KEY" with a key of a kind that Sigstore signs with.
func parseKey(text []byte) (Key, error) {
	block, rest := pem.Decode(text)
	if block == nil {
		return Key{}, errors.New("no PEM block; want one that begins with -----BEGIN PUBLIC KEY-----")
	}
	if block.Type != "PUBLIC KEY" {
		return Key{}, fmt.Errorf("PEM block is a %q, want a PUBLIC KEY", block.Type)
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return Key{}, errors.New("more follows the first PEM block; write one authority for each key")
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return Key{}, fmt.Errorf("read public key: %w", err)
	}
	switch k := pub.(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey:
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSA {
			return Key{}, fmt.Errorf("RSA key has %d bits, want at least %d", k.N.BitLen(), minRSA)
		}
	default:
		return Key{}, fmt.Errorf("key is a %T, want ECDSA, RSA or Ed25519", pub)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return Key{}, fmt.Errorf("read public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return Key{ID: hex.EncodeToString(sum[:]), PEM: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})}, nil
}

// valid reports whether now lies in the key's validity window.
func (k Key) valid(now time.Time) bool {
	return !now.Before(k.NotBefore) && (k.NotAfter.IsZero() || now.Before(k.NotAfter))
}
