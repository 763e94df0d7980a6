package registry

import (
	"fmt"
	"net/http"
	"strings"
)

// refusedError is a request that the guard did not let out.
type refusedError struct{ why string }

func (e *refusedError) Error() string { return e.why }

// guard is the innermost transport. It sees every request of a handshake, a token exchange and a
// download, redirects included, and holds that credentials go to nobody but the host that asked for
// them (CVE-2026-48978, CVE-2020-15157): a request that a redirect brought to another host carries no
// Authorization, has no body, and is never the handshake; plain http is for registries marked insecure.
type guard struct {
	next     http.RoundTripper // constant
	insecure bool              // constant
}

// RoundTrip sends r or refuses it.
func (g guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !g.insecure {
		return nil, &refusedError{fmt.Sprintf("plain %s to %s refused: the registry is not marked insecure in registries.conf", r.URL.Scheme, r.URL.Host)}
	}
	first := r
	for first.Response != nil && first.Response.Request != nil {
		first = first.Response.Request
	}
	if first != r && !strings.EqualFold(first.URL.Host, r.URL.Host) {
		if first.URL.Path == "/v2/" {
			return nil, &refusedError{fmt.Sprintf("redirect of the handshake to %s refused", r.URL.Host)}
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			return nil, &refusedError{fmt.Sprintf("redirect of a %s to %s refused", r.Method, r.URL.Host)}
		}
		r = r.Clone(r.Context())
		r.Header.Del("Authorization")
		r.Header.Del("Cookie")
	}
	return g.next.RoundTrip(r)
}
