package sigstore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"sallyport/image/ref"
	"sallyport/policy"
)

// maxIndex bounds the manifests of an index that are looked through; the largest official images list
// some tens.
const maxIndex = 4096

// bind makes sure that a claim about Top says something about Instance: the evidence holds the bytes
// that hash to Top, and they are an index that lists Instance.
func bind(img policy.Image, ev policy.Evidence) error {
	if img.Top.IsZero() || img.Instance.IsZero() {
		return errors.New("verify evidence: the image's digests are missing")
	}
	if img.Top == img.Instance {
		return nil
	}
	if got := ref.DigestOf(ev.TopManifest); got != img.Top {
		return fmt.Errorf("verify evidence: the stored index hashes to %s, want %s", got, img.Top)
	}
	var index struct {
		Manifests []struct {
			Digest string `json:"digest"`
		} `json:"manifests"`
		Layers json.RawMessage `json:"layers"`
		Config json.RawMessage `json:"config"`
	}
	if err := json.Unmarshal(ev.TopManifest, &index); err != nil {
		return fmt.Errorf("verify evidence: read index %s: %w", img.Top, err)
	}
	if index.Layers != nil || index.Config != nil { // CVE-2021-41190
		return fmt.Errorf("verify evidence: %s is both an index and a manifest", img.Top)
	}
	if len(index.Manifests) > maxIndex {
		return fmt.Errorf("verify evidence: index %s lists %d manifests, want at most %d", img.Top, len(index.Manifests), maxIndex)
	}
	for _, m := range index.Manifests {
		if m.Digest == img.Instance.String() {
			return nil
		}
	}
	return fmt.Errorf("verify evidence: index %s does not list %s", img.Top, img.Instance)
}

// statement is the part of an in-toto statement that is handed on.
type statement struct {
	predicateType string
	predicate     []byte
}

// The statement types that sigstore-go's callers sign (in-toto attestation spec v1, and v0.1 of
// cosign before v3).
var statementTypes = map[string]bool{
	"https://in-toto.io/Statement/v1":   true,
	"https://in-toto.io/Statement/v0.1": true,
}

// parseStatement reads a verified payload once more, strictly: exact field names, none twice. sigstore-go
// reads it with encoding/json, which takes "PREDICATETYPE" for predicateType and the last of several;
// two readers that differ are how one statement comes to say two things.
func parseStatement(payload []byte, subject ref.Digest) (statement, error) {
	fields, err := topLevel(payload)
	if err != nil {
		return statement{}, fmt.Errorf("read statement: %w", err)
	}
	var kind, predicateType string
	if err := json.Unmarshal(fields["_type"], &kind); err != nil || !statementTypes[kind] {
		return statement{}, fmt.Errorf("statement is of type %.80q, want an in-toto statement", kind)
	}
	if err := json.Unmarshal(fields["predicateType"], &predicateType); err != nil || predicateType == "" {
		return statement{}, errors.New("statement has no predicateType")
	}
	var subjects []struct {
		Digest map[string]string `json:"digest"`
	}
	if err := json.Unmarshal(fields["subject"], &subjects); err != nil {
		return statement{}, fmt.Errorf("read statement's subject: %w", err)
	}
	for _, s := range subjects {
		if s.Digest["sha256"] == subject.Hex() {
			st := statement{predicateType: predicateType}
			if p := fields["predicate"]; len(p) <= MaxPredicate {
				st.predicate = p
			}
			return st, nil
		}
	}
	return statement{}, fmt.Errorf("statement is not about %s", subject)
}

// topLevel splits a JSON object into its fields; a name that comes twice is an error.
func topLevel(doc []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(doc))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("want a JSON object")
	}
	fields := map[string]json.RawMessage{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, ok := t.(string)
		if !ok {
			return nil, errors.New("want a field name")
		}
		if _, twice := fields[name]; twice {
			return nil, fmt.Errorf("field %.80q comes twice", name)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		fields[name] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if dec.More() {
		return nil, errors.New("more follows the JSON object")
	}
	return fields, nil
}
