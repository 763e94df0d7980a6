//go:build sigstore

package e2esigstore

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport/image/ref"
	"sallyport/test/sigkit"
)

// swap is a registry that answers a tag with one image at first and with another from then on
// (CVE-2022-47633).
type swap struct {
	*world
	host             string
	signed, unsigned *subject
	first, then      atomic.Pointer[ref.Digest]
	asked            atomic.Int64
}

// swapping stands before the plain registry; both images are in the repository of signed.
func (w *world) swapping(signed, unsigned *subject) *swap {
	w.t.Helper()
	s := &swap{world: w, signed: signed, unsigned: unsigned}
	w.must(sigkit.Copy(unsigned.at(unsigned.top), signed.repo+":other"))
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: plain})
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if path, ok := strings.CutSuffix(r.URL.Path, "/manifests/v1.2.0"); ok {
			d := s.first.Load()
			if s.asked.Add(1) > 1 {
				d = s.then.Load()
			}
			r.URL.Path = path + "/manifests/" + d.String()
		}
		proxy.ServeHTTP(rw, r)
	}))
	s.host = sigkit.Host(srv)
	w.close = append(w.close, srv.Close)
	w.t.Cleanup(srv.Close)
	return s
}

// test pulls twice: what the first answer named is what is judged and, if admitted, what is stored.
func (s *swap) test(t *testing.T, ids map[string]string) {
	image := s.host + "/" + strings.SplitN(s.signed.repo, "/", 2)[1] + ":v1.2.0"
	s.first.Store(&s.unsigned.top)
	s.then.Store(&s.signed.top)
	_, err := s.Pull(s.ctx, image, s.Pod("judged", "x"))
	if status.Code(err) != codes.Unknown || !strings.Contains(err.Error(), `denied by rule "swapped"`) {
		t.Errorf("unsigned first: pull = %v, want rule swapped", err)
	}
	s.first.Store(&s.signed.top)
	s.then.Store(&s.unsigned.top)
	s.asked.Store(0)
	id, err := s.Pull(s.ctx, image, s.Pod("judged", "x"))
	if err != nil || id != ids[s.signed.tr] {
		t.Errorf("signed first: pull = %q, %v; want the signed image %s", id, err, ids[s.signed.tr])
	}
}
