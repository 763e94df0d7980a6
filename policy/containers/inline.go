package containers

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"go.podman.io/image/v5/signature"
)

// one is a field that names one key file, and the field that holds the same key's bytes.
var one = map[string]string{
	"keyPath":             "keyData",
	"rekorPublicKeyPath":  "rekorPublicKeyData",
	"caPath":              "caData",
	"caRootsPath":         "caRootsData",
	"caIntermediatesPath": "caIntermediatesData",
}

// several is the same for fields that name a list.
var several = map[string]string{
	"keyPaths":            "keyDatas",
	"rekorPublicKeyPaths": "rekorPublicKeyDatas",
}

// Inline replaces every key file that a policy.json names by the key itself, so that the policy's hash
// covers its keys and nobody reads them again at each evaluation. read gets the path as it is written;
// where it may lead is read's to decide. A policy.json that does not parse is an error, as in New.
func Inline(policyJSON []byte, read func(path string) ([]byte, error)) ([]byte, error) {
	doc, err := lint(policyJSON)
	if err != nil {
		return nil, fmt.Errorf("policy.json: %w", err)
	}
	// Strict first: re-encoding would drop a key that comes twice.
	if _, err := signature.NewPolicyFromBytes(policyJSON); err != nil {
		return nil, fmt.Errorf("policy.json: %w", doc.locate(err))
	}
	for i, raw := range doc.Default {
		if doc.Default[i], err = inline(raw, read); err != nil {
			return nil, fmt.Errorf("policy.json: default[%d].%w", i, err)
		}
	}
	for t, scopes := range doc.Transports {
		for s, list := range scopes {
			for i, raw := range list {
				if list[i], err = inline(raw, read); err != nil {
					return nil, fmt.Errorf("policy.json: transports.%s[%q][%d].%w", t, s, i, err)
				}
			}
		}
	}
	return json.Marshal(doc)
}

// inline does one requirement, with its fulcio and pki. Errors begin with the field.
func inline(raw json.RawMessage, read func(string) ([]byte, error)) (json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, fmt.Errorf("type: %w", err)
	}
	for _, inner := range []string{"fulcio", "pki"} {
		if sub, ok := fields[inner]; ok {
			done, err := inline(sub, read)
			if err != nil {
				return nil, fmt.Errorf("%s.%w", inner, err)
			}
			fields[inner] = done
		}
	}
	for name, data := range one {
		var path string
		if fields[name] == nil {
			continue
		}
		if err := json.Unmarshal(fields[name], &path); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		key, err := read(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		delete(fields, name)
		fields[data] = quoted(key)
	}
	for name, data := range several {
		var paths []string
		if fields[name] == nil {
			continue
		}
		if err := json.Unmarshal(fields[name], &paths); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		var keys [][]byte
		for i, path := range paths {
			key, err := read(path)
			if err != nil {
				return nil, fmt.Errorf("%s[%d]: %w", name, i, err)
			}
			keys = append(keys, key)
		}
		delete(fields, name)
		if string(fields["type"]) == `"signedBy"` { // it knows no keyDatas, but a ring may hold many keys
			ring, err := join(keys)
			if err != nil {
				return nil, fmt.Errorf("%s%w", name, err)
			}
			fields["keyData"] = quoted(ring)
			continue
		}
		list, err := json.Marshal(keys)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		fields[data] = list
	}
	return json.Marshal(fields)
}

func quoted(key []byte) json.RawMessage {
	return json.RawMessage(`"` + base64.StdEncoding.EncodeToString(key) + `"`)
}

// join makes one binary key ring of several, armored or not.
func join(keys [][]byte) ([]byte, error) {
	var ring []byte
	for i, key := range keys {
		if bytes.HasPrefix(bytes.TrimSpace(key), []byte("-----BEGIN PGP")) {
			block, err := armor.Decode(bytes.NewReader(key))
			if err != nil {
				return nil, fmt.Errorf("[%d]: read armor: %w", i, err)
			}
			if key, err = io.ReadAll(block.Body); err != nil {
				return nil, fmt.Errorf("[%d]: read armor: %w", i, err)
			}
		}
		ring = append(ring, key...)
	}
	return ring, nil
}
