package sigkit

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/ProtonMail/go-crypto/openpgp"

	"sallyport/image/ref"
)

// GPGKey is an OpenPGP key pair, for simple signing (containers-signature(5)).
type GPGKey struct{ entity *openpgp.Entity }

// NewGPGKey makes a key pair for a name such as "release".
func NewGPGKey(name string) (*GPGKey, error) {
	e, err := openpgp.NewEntity(name, "", name+"@sigkit.test", nil)
	return &GPGKey{e}, err
}

// Public is the public key ring, binary.
func (k *GPGKey) Public() ([]byte, error) {
	var out bytes.Buffer
	err := k.entity.Serialize(&out)
	return out.Bytes(), err
}

// Sign makes a simple-signing signature that says that name (with its tag) is the manifest d.
func (k *GPGKey) Sign(name ref.Name, d ref.Digest) ([]byte, error) {
	payload, err := simplePayload(name.String(), d, "atomic container signature")
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w, err := openpgp.Sign(&out, k.entity, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", d, err)
	}
	if _, err := w.Write(payload); err != nil {
		return nil, fmt.Errorf("sign %s: %w", d, err)
	}
	err = w.Close()
	return out.Bytes(), err
}

// simplePayload is the JSON that simple signing and cosign's ".sig" signatures sign.
func simplePayload(name string, d ref.Digest, kind string) ([]byte, error) {
	type identity struct {
		Reference string `json:"docker-reference"`
	}
	type image struct {
		Digest string `json:"docker-manifest-digest"`
	}
	type critical struct {
		Identity identity `json:"identity"`
		Image    image    `json:"image"`
		Type     string   `json:"type"`
	}
	return json.Marshal(struct {
		Critical critical       `json:"critical"`
		Optional map[string]any `json:"optional"`
	}{critical{identity{name}, image{d.String()}, kind}, map[string]any{}})
}
