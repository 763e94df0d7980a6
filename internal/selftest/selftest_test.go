package selftest

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport/internal/admin/wire"
)

// A refusal counts by its rule alone: a fault, or another rule, proves nothing.
func TestJudge(t *testing.T) {
	denied := status.Error(codes.Unknown, `SignatureValidationFailed: x denied by rule "selftest-signed": no signature`)
	fault := status.Error(codes.Unavailable, "audit log: disk full")
	for _, tt := range []struct {
		name, rule, got string
		err             error
		ok              bool
	}{
		{"signed", "", "admit", nil, true},
		{"signed", "", "deny", denied, false},
		{"signed", "", "fault", fault, false},
		{"unsigned", "selftest-signed", "deny", denied, true},
		{"unsigned", "selftest-namespace", "deny", denied, false},
		{"unsigned", "selftest-signed", "fault", fault, false},
		{"unsigned", "selftest-signed", "admit", nil, false},
	} {
		if p := judge(tt.name, tt.rule, tt.err); p.Got != tt.got || p.OK != tt.ok {
			t.Errorf("judge(%s, %q, %v) = %+v, want %s, ok %v", tt.name, tt.rule, tt.err, p, tt.got, tt.ok)
		}
	}
}

// Trouble is what was admitted and must be denied, and nothing else.
func TestTrouble(t *testing.T) {
	test := &Tester{}
	if got := test.Trouble(); got != "" {
		t.Errorf("Trouble() before a self-test = %q", got)
	}
	test.last.Store(&wire.SelfTest{Time: time.Now(), Probes: []wire.Probe{{Name: "signed", Want: "admit", Got: "deny"}, {Name: "unsigned", Want: "deny", Got: "fault"}}})
	if got := test.Trouble(); got != "" {
		t.Errorf("Trouble() where everything is denied = %q", got)
	}
	test.last.Store(&wire.SelfTest{Time: time.Now(), Probes: []wire.Probe{{Name: "expired", Want: "deny", Got: "admit"}}})
	if got := test.Trouble(); !strings.HasSuffix(got, ": expired") {
		t.Errorf("Trouble() = %q, want expired", got)
	}
}
