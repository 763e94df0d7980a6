// Package registry reads from OCI registries: manifests, blobs and referrers, over one connection per
// image, with the endpoints, mirrors, blocks and TLS settings of registries.conf(5). The token exchange
// is go-containerregistry's; what may leave the machine is decided by the guard. Everything that it
// returns is bounded, and blobs and manifests asked for by digest are hashed here.
package registry

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"go.podman.io/image/v5/pkg/docker/config"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
	"go.podman.io/image/v5/pkg/tlsclientconfig"
	"go.podman.io/image/v5/types"

	"sallyport/image/ref"
)

// Options say where the node keeps its registry settings; "" means that there are none. No default
// path of the host is read.
type Options struct {
	Conf             string // registries.conf(5)
	ConfDir          string // registries.conf.d(5)
	CertsDir         string // certs.d: <host:port>/{ca.crt,client.cert,client.key}
	AuthFile         string // containers-auth.json(5)
	NamespaceAuthDir string // <namespace>.json, each a containers-auth.json(5)

	// Copies is a directory, best on a tmpfs, that is emptied and then holds the settings in force, so that
	// a file that is broken or half written does not replace a good one. None of the files above need exist
	// then. "": files are read as they lie, and must exist.
	Copies string

	Mirror time.Duration // for a mirror to connect and give the manifest; 0: as long as the pull has
	Stall  time.Duration // how long a download may bring nothing; 0: a minute
}

// Registries knows the node's settings. It is safe for concurrent use.
type Registries struct {
	o   Options                  // constant
	now atomic.Pointer[settings] // immutable value, swapped

	mu       sync.Mutex        // guards the rest; held over reading and writing files
	sum      [sha256.Size]byte // of what was read last
	problems []string
	count    int    // of copies
	older    string // the copy before the one in force
}

// New reads the settings once, so that a broken registries.conf is known at start.
func New(o Options) (*Registries, error) {
	if o.Stall == 0 {
		o.Stall = stall
	}
	s := &Registries{o: o}
	if o.Copies == "" {
		now := live(o)
		sysregistriesv2.InvalidateCache()
		if _, err := sysregistriesv2.TryUpdatingCache(now.sys); err != nil {
			return nil, fmt.Errorf("read %s: %w", now.sys.SystemRegistriesConfPath, err)
		}
		s.now.Store(now)
		return s, nil
	}
	if err := os.RemoveAll(o.Copies); err != nil {
		return nil, err
	}
	if _, err := s.Reload(); err != nil {
		return nil, err
	}
	return s, nil
}

// Credentials of one pull. Without any, those in the file of Namespace are used, and where that says
// nothing of the host those of the node's auth file, or none.
type Credentials struct {
	Username, Password, IdentityToken, RegistryToken string

	Namespace string // "": none
}

// given reports whether the pull brought its own.
func (c Credentials) given() bool {
	c.Namespace = ""
	return c != Credentials{}
}

// Manifest is a document as the registry sent it.
type Manifest struct {
	Bytes       []byte
	ContentType string
}

// Repo is one repository at the one endpoint that answered. It is safe for concurrent use.
type Repo struct {
	host   string          // constant; of the endpoint, after mirrors
	base   url.URL         // constant; https://host/v2/path/
	ns     string          // constant; distribution spec, registry proxying
	client *http.Client    // constant
	pool   *http.Transport // constant
	done   func() error    // constant; nil, or closes what a layout holds open
	stall  time.Duration   // constant; how long a download may bring nothing
	tenant bool            // constant; see Tenant
}

// Tenant reports that the credentials are not the node's own, but of the pull or its namespace: what they
// open is not for everyone on the node.
func (r *Repo) Tenant() bool { return r.tenant }

// Host is the registry host that answers, after mirror resolution.
func (r *Repo) Host() string { return r.host }

// Close drops idle connections. Bodies that are still open stay readable.
func (r *Repo) Close() {
	r.pool.CloseIdleConnections()
	if r.done != nil {
		r.done()
	}
}

// Open finds the first endpoint that serves name's manifest and returns both. Later reads go to that
// endpoint. limit bounds the manifest in bytes.
func (s *Registries) Open(ctx context.Context, n ref.Name, c Credentials, limit int64) (*Repo, Manifest, error) {
	named, err := reference.ParseNormalizedNamed(n.String())
	if err != nil {
		return nil, Manifest{}, err
	}
	now := s.now.Load()
	sources, err := s.endpoints(now, named)
	if err != nil {
		return nil, Manifest{}, err
	}
	which := n.Tag()
	if !n.Digest().IsZero() {
		which = n.Digest().String()
	}
	var errs []error
	for i, src := range sources {
		repo, m, err := s.try(ctx, endpoint{now, src, named, i < len(sources)-1}, c, which, limit)
		if err == nil {
			return repo, m, nil
		}
		errs = append(errs, err)
	}
	return nil, Manifest{}, summary(errs)
}

// endpoint is one place where an image may be.
type endpoint struct {
	now    *settings
	src    sysregistriesv2.PullSource
	named  reference.Named // what was asked for
	mirror bool            // another one comes after it
}

// try asks one endpoint. A mirror has a budget of time, so that one that hangs leaves time for the next.
func (s *Registries) try(ctx context.Context, e endpoint, c Credentials, which string, limit int64) (*Repo, Manifest, error) {
	if e.mirror && s.o.Mirror > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.o.Mirror)
		defer cancel()
	}
	repo, err := s.connect(ctx, e, c)
	if err != nil {
		return nil, Manifest{}, err
	}
	m, err := repo.Manifest(ctx, which, limit)
	if err != nil {
		repo.Close()
		return nil, Manifest{}, err
	}
	return repo, m, nil
}

// summary keeps the kind of the last failure, that of the registry itself, and names the mirrors'.
func summary(errs []error) error {
	last := errs[len(errs)-1]
	if len(errs) == 1 {
		return last
	}
	return fmt.Errorf("%w (mirrors: %s)", last, oneLine(errors.Join(errs[:len(errs)-1]...).Error()))
}

func (s *Registries) endpoints(now *settings, named reference.Named) ([]sysregistriesv2.PullSource, error) {
	reg, err := sysregistriesv2.FindRegistry(now.sys, named.Name())
	if err != nil {
		return nil, fmt.Errorf("read registries.conf: %w", err)
	}
	if reg == nil {
		return []sysregistriesv2.PullSource{{Reference: named}}, nil
	}
	if reg.Blocked {
		return nil, fmt.Errorf("%w: %s in %s", ErrBlocked, reg.Prefix, s.o.Conf)
	}
	sources, err := reg.PullSourcesFromReference(named)
	if err != nil {
		return nil, err
	}
	if len(sources) == 0 {
		return nil, fmt.Errorf("registries.conf leaves no endpoint for %s", named.Name())
	}
	return sources, nil
}

func (s *Registries) connect(ctx context.Context, e endpoint, c Credentials) (*Repo, error) {
	src, sys := e.src, e.now.sys
	host := reference.Domain(src.Reference)
	opts := []name.Option{name.StrictValidation}
	if src.Endpoint.Insecure {
		opts = append(opts, name.Insecure)
	}
	reg, err := name.NewRegistry(host, opts...)
	if err != nil {
		return nil, fmt.Errorf("registry host %q: %w", host, err)
	}
	auth, tenant, err := s.auth(e.now, src.Reference, host == reference.Domain(e.named), c)
	if err != nil {
		return nil, err
	}
	pool := tlsclientconfig.NewTransport()
	pool.TLSClientConfig = &tls.Config{InsecureSkipVerify: src.Endpoint.Insecure, MinVersion: tls.VersionTLS12}
	pool.ResponseHeaderTimeout = headerTimeout
	if sys.DockerPerHostCertDirPath != "" {
		if err := tlsclientconfig.SetupCertificates(filepath.Join(sys.DockerPerHostCertDirPath, host), pool.TLSClientConfig); err != nil {
			return nil, fmt.Errorf("read certificates for %s: %w", host, err)
		}
	}
	if err := e.now.broken[filepath.Join(dirCerts, host)]; err != nil {
		return nil, err
	}
	path := reference.Path(src.Reference)
	rt, err := transport.NewWithContext(ctx, reg, auth, guard{next: pool, insecure: src.Endpoint.Insecure}, []string{"repository:" + path + ":pull"})
	if err != nil {
		pool.CloseIdleConnections()
		return nil, connecting(host, err)
	}
	return &Repo{
		host:   reg.RegistryStr(),
		base:   url.URL{Scheme: "https", Host: reg.RegistryStr(), Path: "/v2/" + path + "/"},
		ns:     src.Endpoint.NamespaceProxy,
		client: &http.Client{Transport: rt},
		pool:   pool,
		stall:  s.o.Stall,
		tenant: tenant || c.given(), // even where a mirror answered, which does not get them
	}, nil
}

// headerTimeout bounds the wait for a registry that accepted a request and says nothing.
const headerTimeout = 30 * time.Second

// auth picks the credentials for one endpoint: the pull's own for the registry that the name says; then
// those of the namespace and those of the node, for any. It reports whether they are not the node's.
func (s *Registries) auth(now *settings, at reference.Named, own bool, c Credentials) (_ authn.Authenticator, tenant bool, err error) {
	if own && c.given() {
		return authn.FromConfig(authn.AuthConfig{Username: c.Username, Password: c.Password,
			IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken}), true, nil
	}
	if err := errors.Join(now.broken[filepath.Join(dirAuth, c.Namespace+".json")], now.broken[unitAuth]); err != nil {
		return nil, false, err // not anonymous, nor as somebody else
	}
	if file := now.namespaceAuth(c.Namespace); file != "" {
		found, err := stored(now.sys, file, at)
		if err != nil {
			return nil, false, fmt.Errorf("read %s: credentials of the namespace cannot be used", filepath.Join(s.o.NamespaceAuthDir, c.Namespace+".json"))
		}
		if found != authn.Anonymous {
			return found, true, nil
		}
	}
	found, err := stored(now.sys, now.sys.AuthFilePath, at)
	if err != nil {
		return nil, false, fmt.Errorf("read %s: %w", s.o.AuthFile, err)
	}
	return found, false, nil
}

// namespaceAuth is the file of a namespace, or "". What is no name of a namespace has none: it must not
// climb to another file.
func (now *settings) namespaceAuth(namespace string) string {
	if now.authDir == "" || !namespaceName.MatchString(namespace) {
		return ""
	}
	file := filepath.Join(now.authDir, namespace+".json")
	if _, err := os.Lstat(file); err != nil {
		return ""
	}
	return file
}

// namespaceName is a DNS label (RFC 1123), as Kubernetes names namespaces.
var namespaceName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// stored are the credentials for at in an auth file, authn.Anonymous if there are none.
func stored(sys *types.SystemContext, file string, at reference.Named) (authn.Authenticator, error) {
	if file == "" {
		return authn.Anonymous, nil
	}
	with := *sys
	with.AuthFilePath = file
	c, err := config.GetCredentialsForRef(&with, at)
	if err != nil {
		return nil, err
	}
	if c == (types.DockerAuthConfig{}) {
		return authn.Anonymous, nil
	}
	return authn.FromConfig(authn.AuthConfig{Username: c.Username, Password: c.Password, IdentityToken: c.IdentityToken}), nil
}

func (r *Repo) get(ctx context.Context, method, path string, header http.Header) (*http.Response, error) {
	u := r.base
	rest, query, _ := strings.Cut(path, "?")
	u.Path, u.RawQuery = u.Path+rest, query
	if r.ns != "" {
		q := u.Query()
		q.Set("ns", r.ns)
		u.RawQuery = q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	res, err := r.client.Do(req)
	if err != nil {
		return nil, connecting(r.host, err)
	}
	return res, nil
}

var accept = http.Header{"Accept": {
	"application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, " +
		"application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"}}

// Manifest reads a manifest by tag or digest, at most limit bytes (ErrTooLarge). If which is a digest,
// the bytes hash to it (ErrDigest).
func (r *Repo) Manifest(ctx context.Context, which string, limit int64) (Manifest, error) {
	res, err := r.get(ctx, http.MethodGet, "manifests/"+which, accept)
	if err != nil {
		return Manifest{}, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return Manifest{}, answered(r.host, res)
	}
	b, err := readAll(res.Body, limit)
	if err != nil {
		return Manifest{}, fmt.Errorf("read manifest %.80s from %s: %w", which, r.host, err)
	}
	if want, err := ref.ParseDigest(which); err == nil && ref.DigestOf(b) != want {
		return Manifest{}, fmt.Errorf("%w: %s answered %s with bytes of %s", ErrDigest, r.host, want, ref.DigestOf(b))
	}
	return Manifest{Bytes: b, ContentType: mediaType(res.Header.Get("Content-Type"))}, nil
}

// HasBlob reports whether the repository serves the blob to these credentials.
func (r *Repo) HasBlob(ctx context.Context, d ref.Digest) bool {
	res, err := r.get(ctx, http.MethodHead, "blobs/"+d.String(), nil)
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// SmallBlob reads a blob of at most limit bytes whole and hashes it.
func (r *Repo) SmallBlob(ctx context.Context, d ref.Digest, limit int64) ([]byte, error) {
	body, err := r.Blob(ctx, d)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	b, err := readAll(body, limit)
	if err != nil {
		return nil, fmt.Errorf("read blob %s from %s: %w", d, r.host, err)
	}
	if got := ref.DigestOf(b); got != d {
		return nil, fmt.Errorf("%w: %s answered blob %s with bytes of %s", ErrDigest, r.host, d, got)
	}
	return b, nil
}

func readAll(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrUnavailable, oneLine(err.Error()))
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
	}
	return b, nil
}
