package sigstore

import (
	"os"
	"strings"
	"testing"

	"sallyport/image/ref"
	"sallyport/policy"
	"sallyport/test/sigkit"
)

// TestRead: what real and made bundles say of their signers, and no word of what is none.
func TestRead(t *testing.T) {
	kit, err := sigkit.New()
	if err != nil {
		t.Fatal(err)
	}
	key, err := sigkit.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	d := ref.DigestOf([]byte("x"))
	id := sigkit.Identity{Issuer: "https://issuer.example", SAN: "ci@acme.example"}
	keyless, err1 := kit.SignKeyless(d, id)
	keyed, err2 := sigkit.SignKey(key, d)
	scan, err3 := kit.Attest(d, id, "https://cosign.sigstore.dev/attestation/vuln/v1", nil)
	public, err4 := os.ReadFile("testdata/public-good.bundle.json")
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name, json string
		want       Said
		err        string
	}{
		{"keyless", string(keyless), Said{Issuer: id.Issuer, Subject: id.SAN}, ""},
		{"attestation", string(scan), Said{Issuer: id.Issuer, Subject: id.SAN, PredicateType: "https://cosign.sigstore.dev/attestation/vuln/v1"}, ""},
		{"nothing", "", Said{}, "read bundle"},
		{"an object", "{}", Said{}, "read bundle"},
		{"huge", strings.Repeat(" ", MaxBundle+1), Said{}, "want at most"},
		{"many values", strings.Repeat("[", maxValues+1), Said{}, "JSON values"},
	} {
		got, err := Read(policy.Bundle{JSON: []byte(tt.json)})
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: Read() = %+v, %v, want %+v, %q", tt.name, got, err, tt.want, tt.err)
		}
	}
	if got, err := Read(policy.Bundle{JSON: keyed}); err != nil || got.KeyHint == "" || got.Issuer != "" {
		t.Errorf("Read() of a key's signature = %+v, %v", got, err)
	}
	if got, err := Read(policy.Bundle{JSON: public}); err != nil || got.Issuer == "" || got.Subject == "" {
		t.Errorf("Read() of a bundle of the public instance = %+v, %v", got, err)
	}
	// Two signers in one certificate: neither is named.
	two := id
	two.AlsoSAN = "mallory@evil.example"
	if got, err := Read(policy.Bundle{JSON: signed(t, kit, d, two)}); err == nil || got != (Said{}) {
		t.Errorf("Read() of a certificate with two subjects = %+v, %v", got, err)
	}
}

func signed(t *testing.T, kit *sigkit.Kit, d ref.Digest, id sigkit.Identity) []byte {
	t.Helper()
	b, err := kit.SignKeyless(d, id)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
