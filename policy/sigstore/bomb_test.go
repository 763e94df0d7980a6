package sigstore

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"

	"sallyport/image/ref"
	"sallyport/policy"
	"sallyport/test/sigkit"
)

// What one hostile bundle of the largest size may cost. The figures are some times what was measured on a
// slow machine: they tell a bound from none.
const (
	bombTime   = 5 * time.Second
	bombMemory = 256 << 20 // bytes allocated, in all
)

// TestBombs: bundles that were made to cost are refused within fixed time and memory, and take nothing from
// the good one beside them.
func TestBombs(t *testing.T) {
	d := ref.DigestOf(manifest)
	k, key := kit(t), newKey(t)
	o := Options{Roots: [][]byte{k.TrustedRoot()}, Keys: []policy.Key{{PEM: key.PEM()}}}
	good := must[[]byte](t)(k.SignKeyless(d, alice))
	const most = MaxBundle - 4096
	open := `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json",`
	// statement is well signed, by a key that the policy knows.
	statement := func(payload string) []byte {
		b := must[*protobundle.Bundle](t)(k.Bundle(d, sigkit.Signing{Key: key, Omit: sigkit.Log | sigkit.Timestamp}))
		if _, _, err := sigkit.Seal(b, []byte(payload), key, key.PEM()); err != nil {
			t.Fatal(err)
		}
		return encode(t, b)
	}
	about := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q}}],`, d.Hex())
	nested := strings.Repeat("[", 1<<20) + strings.Repeat("]", 1<<20)
	for _, tt := range []struct {
		name   string
		bundle []byte
	}{
		{"arrays in arrays", []byte(strings.Repeat("[", most))},
		{"objects in objects", []byte(strings.Repeat(`{"a":`, most/5))},
		{"arrays in an unknown field", []byte(open + `"x":` + strings.Repeat("[", most/2) + strings.Repeat("]", most/2) + "}")},
		{"millions of log entries", []byte(open + `"verificationMaterial":{"tlogEntries":[` + strings.TrimSuffix(strings.Repeat("{},", most/3), ",") + `]}}`)},
		{"millions of timestamps", []byte(open + `"verificationMaterial":{"timestampVerificationData":{"rfc3161Timestamps":[` + strings.TrimSuffix(strings.Repeat("{},", most/3), ",") + `]}}}`)},
		{"millions of certificates", []byte(open + `"verificationMaterial":{"x509CertificateChain":{"certificates":[` + strings.TrimSuffix(strings.Repeat("{},", most/3), ",") + `]}}}`)},
		{"millions of signatures", []byte(open + `"verificationMaterial":{"publicKey":{"hint":"x"}},"dsseEnvelope":{"payload":"e30=","signatures":[` + strings.TrimSuffix(strings.Repeat("{},", most/3), ",") + `]}}`)},
		{"a long hint", []byte(open + `"verificationMaterial":{"publicKey":{"hint":"` + strings.Repeat("x", most) + `"}}}`)},
		{"no object", []byte("[]")},
		{"null", []byte("null")},
		{"nothing", nil},
		{"a number for the media type", []byte(`{"mediaType":1}`)},
		{"a list for the material", []byte(open + `"verificationMaterial":[]}`)},
		{"an object for the payload", []byte(open + `"dsseEnvelope":{"payload":{}}}`)},
		{"one name twice", []byte(open + open[1:] + `"verificationMaterial":{}}`)},
		{"signed: a predicate of arrays in arrays", statement(about + `"predicateType":"https://a.example/v1","predicate":` + nested + "}")},
		{"signed: a number for the predicateType", statement(about + `"predicateType":1,"predicate":{}}`)},
		{"signed: a list for the predicateType", statement(about + `"predicateType":["https://a.example/v1"],"predicate":{}}`)},
		{"signed: an object for the subject", statement(`{"_type":"https://in-toto.io/Statement/v1","subject":{},"predicateType":"https://a.example/v1","predicate":{}}`)},
		{"signed: millions of subjects", statement(`{"_type":"https://in-toto.io/Statement/v1","subject":[` + strings.TrimSuffix(strings.Repeat("{},", most/5), ",") + `],"predicateType":"https://a.example/v1","predicate":{}}`)},
		{"signed: two predicateTypes", statement(about + `"predicateType":"https://a.example/v1","predicateType":"https://b.example/v1","predicate":{}}`)},
		{"signed: no JSON", statement("x")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			claims, reasons := ask(t, o, plain(t), evidence(d, tt.bundle, good))
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			if len(claims) != 1 || claims[0].SAN != alice.SAN || len(reasons) != 1 || len(reasons[0]) > maxReason+16 {
				t.Errorf("Verify() = %d claims, %.300q; want the good one and one reason", len(claims), reasons)
			}
			if used := after.TotalAlloc - before.TotalAlloc; took > bombTime || used > bombMemory {
				t.Errorf("Verify() took %s and %d MiB, want at most %s and %d MiB", took, used>>20, bombTime, bombMemory>>20)
			}
			t.Logf("%s, %d MiB: %s", took.Round(time.Millisecond), (after.TotalAlloc-before.TotalAlloc)>>20, reasons)
		})
	}
}
