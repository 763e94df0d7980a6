package sigstore

import (
	"fmt"
	"strings"
	"testing"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"

	"sallyport/image/ref"
	"sallyport/policy"
	"sallyport/test/sigkit"
)

// TestRestamped: an old signature by a key, stamped anew by whoever can push, looks young; so no policy
// may ask for the age of one. By a certificate the new stamp lies outside its ten minutes and is refused.
func TestRestamped(t *testing.T) {
	k, key := kit(t), newKey(t)
	d := ref.DigestOf(manifest)
	old := time.Now().Add(-100 * 24 * time.Hour)
	restamped := func(s sigkit.Signing) []byte {
		s.At, s.Omit = old, sigkit.Log
		b := must[*protobundle.Bundle](t)(k.Bundle(d, s))
		b.VerificationMaterial.TimestampVerificationData.Rfc3161Timestamps = []*protocommon.RFC3161SignedTimestamp{{
			SignedTimestamp: must[[]byte](t)(k.Stamp(b.GetDsseEnvelope().Signatures[0].Sig, time.Now())),
		}}
		return encode(t, b)
	}
	o := Options{Roots: [][]byte{k.TrustedRoot()}, Keys: []policy.Key{{PEM: key.PEM()}}, AcceptUnlogged: true}
	claims, _ := ask(t, o, plain(t), evidence(d, restamped(sigkit.Signing{Key: key})))
	if len(claims) != 1 || time.Since(claims[0].Signed) > time.Hour {
		t.Fatalf("Verify() of a restamped key signature = %+v; if that is refused now, maxAge may be allowed for keys", claims)
	}
	if claims, _ := ask(t, o, plain(t), evidence(d, restamped(sigkit.Signing{Identity: alice}))); len(claims) != 0 {
		t.Errorf("Verify() of a restamped keyless signature = %+v, want none", claims)
	}

	const text = "policies:\n- name: a\n  images: [{glob: \"**\"}]\n  authorities:\n  - %s\n    timestamp: required\n    attestations: [{predicateType: vuln, maxAge: 24h}]\n"
	byKey := fmt.Sprintf(text, fmt.Sprintf("key: {data: %q}", key.PEM()))
	if _, err := policy.ParseRequirements([]byte(byKey), nil); err == nil || !strings.Contains(err.Error(), "maxAge") {
		t.Errorf("ParseRequirements() of maxAge with a key = %v, want an error about maxAge", err)
	}
	byName := fmt.Sprintf(text, "keyless: {identities: [{issuer: \"https://i.example\", subject: a@b.example}]}")
	if _, err := policy.ParseRequirements([]byte(byName), nil); err != nil {
		t.Errorf("ParseRequirements() of maxAge with an identity = %v, want nil", err)
	}
}
