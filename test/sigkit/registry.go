package sigkit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"sallyport/image/ref"
)

// Layout is how a registry answers the question which manifests refer to another.
type Layout int

// The layouts of the OCI distribution spec 1.1.
const (
	Referrers   Layout = iota // the referrers API
	FallbackTag               // an index under the tag sha256-<hex>
)

// NewRegistry is a registry in memory, on a loopback port of its own, that serves the referrers API or
// leaves clients to the fallback tag. Its host and port are in Listener.Addr; Close it.
func NewRegistry(l Layout) *httptest.Server {
	inner := registry.New(registry.WithReferrersSupport(l == Referrers), registry.Logger(log.New(io.Discard, "", 0)))
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		repo, _, asked := strings.Cut(r.URL.Path, "/referrers/")
		if !asked || r.Method != http.MethodGet || l != Referrers {
			inner.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		inner.ServeHTTP(rec, r)
		body := rec.Body.Bytes()
		if rec.Code == http.StatusOK {
			body = withArtifactTypes(inner, repo, body)
		}
		w.Header().Set("Content-Type", string(types.OCIImageIndex))
		w.WriteHeader(rec.Code)
		w.Write(body)
	}))
}

// withArtifactTypes corrects the one thing that go-containerregistry's registry gets wrong: it lists a
// referrer under its config's media type, where distribution spec 1.1 wants the manifest's artifactType.
func withArtifactTypes(inner http.Handler, repo string, body []byte) []byte {
	var index v1.IndexManifest
	if json.Unmarshal(body, &index) != nil {
		return body
	}
	for i, d := range index.Manifests {
		rec := httptest.NewRecorder()
		inner.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, repo+"/manifests/"+d.Digest.String(), nil))
		var m artifact
		if json.Unmarshal(rec.Body.Bytes(), &m) == nil && m.ArtifactType != "" {
			index.Manifests[i].ArtifactType = m.ArtifactType
		}
	}
	out, err := json.Marshal(index)
	if err != nil {
		return body
	}
	return out
}

// Host is the host:port of a server.
func Host(s *httptest.Server) string { return s.Listener.Addr().String() }

// Push puts an image or an index (with its images) at a name such as 127.0.0.1:5000/team/app:v1, over
// plain HTTP where the host is loopback, and returns the digest of its manifest.
func Push(at string, what remote.Taggable) (ref.Digest, error) {
	r, err := name.ParseReference(at, name.Insecure)
	if err != nil {
		return ref.Digest{}, err
	}
	if err := remote.Push(r, what); err != nil {
		return ref.Digest{}, fmt.Errorf("push %s: %w", at, err)
	}
	raw, err := what.RawManifest()
	if err != nil {
		return ref.Digest{}, err
	}
	return ref.DigestOf(raw), nil
}

// Copy gives an image of one name another, with nothing that refers to it.
func Copy(from, to string) error {
	src, err := name.ParseReference(from, name.Insecure)
	if err != nil {
		return err
	}
	img, err := remote.Image(src)
	if err != nil {
		return err
	}
	_, err = Push(to, img)
	return err
}

// emptyConfig is the config of artifacts (OCI image spec 1.1, "application/vnd.oci.empty.v1+json").
var emptyConfig = static.NewLayer([]byte("{}"), "application/vnd.oci.empty.v1+json")

// Attach stores a Sigstore bundle in repo (host:port/path) as a referrer of subject, in the layout of
// cosign v3. A registry without the referrers API gets the fallback tag whatever layout says; with
// FallbackTag it is written to the others too.
func Attach(repo string, subject ref.Digest, bundle []byte, l Layout) error {
	m := artifact{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: BundleType,
		Annotations: bundleAnnotations(bundle),
	}
	return attach(repo, subject, m, attachment{static.NewLayer(bundle, BundleType), l})
}

// AttachRaw stores any bytes as a referrer under any artifact type and media type.
func AttachRaw(repo string, subject ref.Digest, artifactType string, data []byte) error {
	m := artifact{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: artifactType}
	return attach(repo, subject, m, attachment{static.NewLayer(data, types.MediaType(artifactType)), Referrers})
}

// AttachLegacy stores a cosign ".sig" signature under the tag sha256-<hex>.sig, replacing what is there.
func AttachLegacy(repo string, subject ref.Digest, payload []byte, annotations map[string]string) error {
	r, err := name.NewRepository(repo, name.Insecure)
	if err != nil {
		return err
	}
	blob := static.NewLayer(payload, "application/vnd.dev.cosign.simplesigning.v1+json")
	config, err := json.Marshal(map[string]any{"architecture": "", "os": "", "config": struct{}{},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{ref.DigestOf(payload).String()}}})
	if err != nil {
		return err
	}
	conf := static.NewLayer(config, types.OCIConfigJSON)
	m := artifact{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
	if err := m.fill(r, conf, blob); err != nil {
		return err
	}
	m.Layers[0].Annotations = annotations
	return put(r.Tag("sha256-"+subject.Hex()+".sig"), m, m.MediaType)
}

// artifact is an OCI image manifest with the fields of artifacts.
type artifact struct {
	SchemaVersion int64             `json:"schemaVersion"`
	MediaType     types.MediaType   `json:"mediaType"`
	ArtifactType  string            `json:"artifactType,omitempty"`
	Config        v1.Descriptor     `json:"config"`
	Layers        []v1.Descriptor   `json:"layers"`
	Subject       *v1.Descriptor    `json:"subject,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// document is a manifest in its bytes, as remote.Put wants it.
type document struct {
	raw       []byte
	mediaType types.MediaType
}

// RawManifest returns the bytes.
func (d document) RawManifest() ([]byte, error) { return d.raw, nil }

// MediaType returns the type.
func (d document) MediaType() (types.MediaType, error) { return d.mediaType, nil }

func put(at name.Reference, m any, mt types.MediaType) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return remote.Put(at, document{raw, mt})
}

// fill uploads the blobs and describes them in a.
func (a *artifact) fill(repo name.Repository, config, blob v1.Layer) error {
	for _, l := range []v1.Layer{config, blob} {
		if err := remote.WriteLayer(repo, l); err != nil {
			return fmt.Errorf("upload blob: %w", err)
		}
	}
	c, err := describe(config)
	if err != nil {
		return err
	}
	b, err := describe(blob)
	a.Config, a.Layers = c, []v1.Descriptor{b}
	return err
}

func describe(l v1.Layer) (v1.Descriptor, error) {
	d, err := l.Digest()
	if err != nil {
		return v1.Descriptor{}, err
	}
	size, err := l.Size()
	if err != nil {
		return v1.Descriptor{}, err
	}
	mt, err := l.MediaType()
	return v1.Descriptor{MediaType: mt, Digest: d, Size: size}, err
}

type attachment struct {
	blob   v1.Layer
	layout Layout
}

func attach(repo string, subject ref.Digest, m artifact, a attachment) error {
	r, err := name.NewRepository(repo, name.Insecure)
	if err != nil {
		return err
	}
	desc, err := remote.Head(r.Digest(subject.String()))
	if err != nil {
		return fmt.Errorf("look up subject %s: %w", subject, err)
	}
	m.Subject = &v1.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
	if err := m.fill(r, emptyConfig, a.blob); err != nil {
		return err
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	own := ref.DigestOf(raw)
	if err := remote.Put(r.Digest(own.String()), document{raw, m.MediaType}); err != nil {
		return fmt.Errorf("attach to %s: %w", subject, err)
	}
	if a.layout != FallbackTag {
		return nil
	}
	return list(r, subject, v1.Descriptor{
		MediaType: m.MediaType, Digest: v1.Hash{Algorithm: "sha256", Hex: own.Hex()}, Size: int64(len(raw)),
		ArtifactType: m.ArtifactType, Annotations: m.Annotations,
	})
}

// list adds a descriptor to the index under the fallback tag (distribution spec 1.1, "Referrers Tag
// Schema").
func list(repo name.Repository, subject ref.Digest, add v1.Descriptor) error {
	tag := repo.Tag("sha256-" + subject.Hex())
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	desc, err := remote.Get(tag)
	var missing *transport.Error
	switch {
	case err == nil:
		if err := json.Unmarshal(desc.Manifest, &index); err != nil {
			return fmt.Errorf("parse %s: %w", tag, err)
		}
	case !errors.As(err, &missing) || missing.StatusCode != http.StatusNotFound:
		return fmt.Errorf("read %s: %w", tag, err)
	}
	if slices.ContainsFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Digest == add.Digest }) {
		return nil
	}
	index.Manifests = append(index.Manifests, add)
	return put(tag, index, index.MediaType)
}

// bundleAnnotations are those that cosign v3 puts on the referrer.
func bundleAnnotations(bundle []byte) map[string]string {
	out := map[string]string{"dev.sigstore.bundle.content": "message-signature"}
	var b struct {
		Envelope *struct {
			Payload []byte `json:"payload"`
		} `json:"dsseEnvelope"`
	}
	if json.Unmarshal(bundle, &b) != nil || b.Envelope == nil {
		return out
	}
	out["dev.sigstore.bundle.content"] = "dsse-envelope"
	var s struct {
		PredicateType string `json:"predicateType"`
	}
	if json.Unmarshal(b.Envelope.Payload, &s) == nil && strings.TrimSpace(s.PredicateType) != "" {
		out["dev.sigstore.bundle.predicateType"] = s.PredicateType
	}
	return out
}

// Ping asks whether a registry answers at host:port.
func Ping(host string) error {
	resp, err := http.Get("http://" + host + "/v2/")
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
