package security

import (
	"go/token"
	"slices"
	"strings"
	"testing"
)

// calls are those that give privilege, start processes, reach the network or read the clock, and the
// rooms that may make them. A prefix with * covers names that start with it.
var calls = []struct {
	name  string
	rooms []string
	why   string
}{
	{"sallyport/enforce.New", []string{"cmd/sallyportd", "enforce/enforcetest"}, "one gate, made in the daemon alone"},
	{"sallyport/policy/internal/claim.New", []string{"policy/sigstore", "policy/containers", "policy/trial"}, "only verification makes claims; trial states them for tests of policies, which only an error leaves (TestStatedClaimsStayInTheirCases)"},
	{"os/exec.Command*", []string{"sandbox/internal/ociruntime", "sandbox/internal/monitor", "sandbox/network", "internal/nri", "policy/rego/confine"}, "host programs (runtime, monitor, CNI and NRI plugins) are started in four places; the daemon itself as the child that runs namespaces' rules in a fifth"},
	{"os.StartProcess", []string{"sandbox/internal/ns"}, "only sallyport-init is started so, by its descriptor"},
	{"syscall.Exec", []string{"cmd/sallyport-init"}, "nothing replaces itself"},
	{"syscall.ForkExec", nil, "host programs are started in four places"},
	{"golang.org/x/sys/unix.Exec", nil, "nothing replaces itself"},
	{"golang.org/x/sys/unix.Mount", []string{"image", "sandbox", "sandbox/internal/ns", "sandbox/internal/hostmount"}, "mounts are made of granted things"},
	{"golang.org/x/sys/unix.MoveMount", []string{"image", "sandbox", "sandbox/internal/ns", "sandbox/internal/hostmount"}, "mounts are made of granted things"},
	{"golang.org/x/sys/unix.OpenTree", []string{"image", "sandbox", "sandbox/internal/ns", "sandbox/internal/hostmount"}, "mounts are made of granted things"},
	{"go.podman.io/image/v5/copy.Image", nil, "image copies what was admitted by itself (ADR 2)"},
	{"github.com/sigstore/sigstore-go/pkg/verify.WithCurrentTime", nil, "it reads the clock; judged time is ours"},
	{"github.com/sigstore/sigstore-go/pkg/tuf.New", nil, "the verify path has no network"},
	{"github.com/sigstore/sigstore-go/pkg/root.FetchTrustedRoot*", nil, "the verify path has no network"},
	{"net/http.Get", nil, "no client without a timeout"},
	{"net/http.DefaultClient", nil, "no client without a timeout"},
	{"math/rand.*", nil, "identifiers come from crypto/rand"},
}

// TestForbiddenCalls holds calls that start code, mount or reach out to the rooms that may make them.
func TestForbiddenCalls(t *testing.T) {
	for _, f := range tree(t) {
		if f.test || strings.HasPrefix(f.pkg, "test/") {
			continue
		}
		f.selectors(func(name string, pos token.Pos) {
			for _, c := range calls {
				if matches(c.name, name) && !slices.Contains(c.rooms, f.pkg) {
					t.Errorf("%s: %s is for %v alone: %s", fset.Position(pos), name, c.rooms, c.why)
				}
			}
		})
	}
}

// TestPolicyIsPure: deciding reads no clock, no disk and no network, so that decisions replay.
func TestPolicyIsPure(t *testing.T) {
	pure := []string{"policy", "policy/baseline", "policy/rego", "policy/sigstore", "policy/internal/claim", "sandbox/spec", "seccomp"}
	for _, f := range tree(t) {
		if f.test || !slices.Contains(pure, f.pkg) {
			continue
		}
		for _, imp := range f.imports() {
			if imp == "net" || imp == "net/http" || imp == "os/exec" || imp == "os" {
				t.Errorf("%s imports %s; %s decides and does nothing else", f.path, imp, f.pkg)
			}
		}
		f.selectors(func(name string, pos token.Pos) {
			if name == "time.Now" || name == "time.Since" || name == "time.Until" {
				t.Errorf("%s: %s; the time is a fact that the caller gives", fset.Position(pos), name)
			}
		})
	}
}

func matches(pattern, name string) bool {
	if p, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(name, p)
	}
	return pattern == name
}
