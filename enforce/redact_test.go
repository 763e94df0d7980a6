package enforce

import (
	"bytes"
	"testing"
)

// The variables of a process and of hooks are in neither log nor Rego.
func TestVariablesAreRedacted(t *testing.T) {
	got, err := redact([]byte(`{"process":{"env":["A=s3cret"]},"hooks":{"poststop":[{"path":"/h","env":["B=s3cret"]}]}}`), []byte("key"))
	if err != nil || bytes.Contains(got, []byte("s3cret")) || !bytes.Contains(got, []byte("A=hmac:")) || !bytes.Contains(got, []byte("B=hmac:")) || !bytes.Contains(got, []byte(`"path":"/h"`)) {
		t.Errorf("redact() = %s, %v", got, err)
	}
	for _, bad := range []string{`{"hooks":1}`, `{"hooks":{"poststop":[{"env":1}]}}`} {
		if got, err := redact([]byte(bad), []byte("key")); err == nil {
			t.Errorf("redact(%s) = %s, want an error", bad, got)
		}
	}
}
