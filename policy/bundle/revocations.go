package bundle

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"sallyport/policy"
)

// revocations compiles revocations.yaml, which is the node's alone: its entries count for every
// namespace.
func (c *compiled) revocations(f files, kind Kind) error {
	text, ok := f["revocations.yaml"]
	if !ok {
		return nil
	}
	if kind != Node {
		return errors.New("revocations.yaml: only the node policy revokes; reject in requirements.yaml what this namespace does not want")
	}
	var err error
	if c.layer.Revocations, err = policy.ParseRevocations(text); err != nil {
		return fmt.Errorf("revocations.yaml: %w", err)
	}
	sum := sha256.Sum256(text)
	c.revoked = hex.EncodeToString(sum[:])
	return nil
}

// notOlder refuses a list of revocations that is older than the one in force, and a policy that has
// lost its list: either would let in again what was thrown out.
func (c *compiled) notOlder(prev *compiled) error {
	if c == nil || prev == nil || prev.layer.Revocations == nil {
		return nil
	}
	was, is := prev.layer.Revocations.Issued(), c.layer.Revocations.Issued()
	switch {
	case c.layer.Revocations == nil:
		return fmt.Errorf("revocations.yaml: missing, and one issued at %s is in force; to revoke nothing install one without entries", was.UTC().Format(time.RFC3339))
	case is.Before(was):
		return fmt.Errorf("revocations.yaml: issued at %s, before the one in force, %s", is.UTC().Format(time.RFC3339), was.UTC().Format(time.RFC3339))
	}
	return nil
}

// revokedSince is when c's list of revocations was issued, "" without one. since is the same of the
// newest that this node ever had: a policy of a higher revision, signed as it should be, may still
// carry an older list, or none, and is refused like an older policy.
func (c *compiled) revokedSince(since string) (string, error) {
	if since == "" {
		if c.layer.Revocations == nil {
			return "", nil
		}
		return c.layer.Revocations.Issued().UTC().Format(time.RFC3339Nano), nil
	}
	had, err := time.Parse(time.RFC3339Nano, since)
	if err != nil {
		return "", fmt.Errorf("read policy state: revoked: %w", err)
	}
	if c.layer.Revocations == nil {
		return "", &Refused{RuleRollback, fmt.Sprintf("revocations.yaml: missing, and this node has had one issued at %s; to revoke nothing install one without entries", since)}
	}
	is := c.layer.Revocations.Issued().UTC()
	if is.Before(had) {
		return "", &Refused{RuleRollback, fmt.Sprintf("revocations.yaml: issued at %s, before the one that this node has had, %s", is.Format(time.RFC3339Nano), since)}
	}
	return is.Format(time.RFC3339Nano), nil
}

// under is l with the node's revocations, which its hash then covers.
func under(l policy.Layer, node *compiled) policy.Layer {
	if node == nil || node.layer.Revocations == nil {
		return l
	}
	l.Revocations = node.layer.Revocations
	sum := sha256.Sum256([]byte(l.Hash + " revocations " + node.revoked))
	l.Hash = hex.EncodeToString(sum[:])
	return l
}

// keyed is policy.json's rule with the IDs of the public keys that stand in it. GPG keys have none.
type keyed struct {
	policy.ImageRule
	ids []string
}

// KeyIDs are sha256 of the PKIX DER, hex.
func (k keyed) KeyIDs() []string { return slices.Clone(k.ids) }

// idOf is the ID of a PKIX public key, computed from what it means and not from how it is written.
func idOf(der []byte) string {
	if pub, err := x509.ParsePKIXPublicKey(der); err == nil {
		if again, err := x509.MarshalPKIXPublicKey(pub); err == nil {
			der = again
		}
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// keysIn finds the PEM public keys in an inlined policy.json, wherever they stand.
func keysIn(inlined []byte) (ids []string, err error) {
	var doc any
	dec := json.NewDecoder(bytes.NewReader(inlined))
	if err := dec.Decode(&doc); err != nil {
		return nil, fmt.Errorf("policy.json: %w", err)
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, e := range v {
				walk(e)
			}
		case []any:
			for _, e := range v {
				walk(e)
			}
		case string:
			raw, err := base64.StdEncoding.DecodeString(v)
			if err != nil {
				return
			}
			for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
				ids = append(ids, idOf(block.Bytes))
			}
		}
	}
	walk(doc)
	slices.Sort(ids)
	return slices.Compact(ids), nil
}
