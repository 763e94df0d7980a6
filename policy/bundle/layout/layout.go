// Package layout reads and writes the directory form of a signed policy bundle: an OCI image layout
// (image-spec, image-layout.md) with one manifest, whose config says whom the policy is for and whose one
// layer is a plain tar of its files, and with Sigstore bundles beside it, as referrers of that manifest.
// The digest of the manifest is what is signed, as "cosign sign" does it. Everything here works on bytes
// in memory; nothing is trusted before somebody has verified the bundles.
package layout

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"sallyport/image/ref"
	"sallyport/policy/internal/strict"
)

// Media types. ours are vendor types, so that no image of a registry can pose as a policy.
const (
	ConfigType    = "application/vnd.sallyport.policy.config.v1+json"
	ContentType   = "application/vnd.sallyport.policy.content.v1.tar"
	SignatureType = "application/vnd.dev.sigstore.bundle.v0.3+json"

	signaturePrefix = "application/vnd.dev.sigstore.bundle"
	manifestType    = "application/vnd.oci.image.manifest.v1+json"
	indexType       = "application/vnd.oci.image.index.v1+json"
	emptyType       = "application/vnd.oci.empty.v1+json"
	schema          = "sallyport.policy-bundle/v1"
	tagAnnotation   = "org.opencontainers.image.ref.name"
)

// Bounds of one layout.
const (
	MaxSignatures = 64
	MaxDocument   = 1 << 20 // bytes of index, manifest or config
	MaxSignature  = 1 << 20 // bytes of one Sigstore bundle over a statement without a predicate
	maxListed     = 256     // entries of index.json
	maxNamespaces = 1000
	maxRevision   = 1 << 53 // what every reader of JSON can hold
)

// namespaceName is a DNS label (RFC 1123), as Kubernetes has it.
var namespaceName = regexp.MustCompile(`\A[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\z`)

// Config says whom a policy is for. It is signed with the files, so that a bundle of one namespace
// cannot be laid into another's place.
type Config struct {
	Schema     string   `yaml:"schema" json:"schema"`
	Node       bool     `yaml:"node" json:"node,omitempty"`
	Namespaces []string `yaml:"namespaces" json:"namespaces,omitempty"`
	Revision   uint64   `yaml:"revision" json:"revision"`
	Tombstone  bool     `yaml:"tombstone" json:"tombstone,omitempty"` // the namespaces have no bundle from now on
}

func (c Config) check() error {
	switch {
	case c.Schema != schema:
		return fmt.Errorf("schema: %.80q, want %q", c.Schema, schema)
	case c.Node == (len(c.Namespaces) > 0):
		return errors.New("want either node or namespaces: a policy says whom it is for")
	case c.Revision == 0 || c.Revision > maxRevision:
		return fmt.Errorf("revision: %d; want 1 to 2^53: without one an older policy could come back", c.Revision)
	case c.Node && c.Tombstone:
		return errors.New("tombstone: the node policy cannot be removed")
	case len(c.Namespaces) > maxNamespaces:
		return fmt.Errorf("namespaces: %d, want at most %d", len(c.Namespaces), maxNamespaces)
	}
	seen := map[string]bool{}
	for _, n := range c.Namespaces {
		if !namespaceName.MatchString(n) || seen[n] {
			return fmt.Errorf("namespaces: %.80q is no name of a namespace, or comes twice", n)
		}
		seen[n] = true
	}
	return nil
}

// ParseConfig reads a config strictly.
func ParseConfig(text []byte) (Config, error) {
	var c Config
	err := strict.DecodeJSON(text, &c)
	if err == nil {
		err = c.check()
	}
	if err != nil {
		return Config{}, fmt.Errorf("read config: %w", err)
	}
	return c, nil
}

// Names reports whether the config is for namespace; "" is the node.
func (c Config) Names(namespace string) bool {
	if namespace == "" {
		return c.Node
	}
	return slices.Contains(c.Namespaces, namespace)
}

// Artifact is a layout taken apart. Its parts hash to Digest; who signed Digest is not known here.
type Artifact struct {
	Digest  ref.Digest // of the manifest
	Config  Config
	Files   map[string][]byte // of the policy; nil of a tombstone
	Bundles [][]byte          // Sigstore bundles about Digest, unverified
}

type descriptor struct {
	MediaType    string            `yaml:"mediaType" json:"mediaType"`
	Digest       string            `yaml:"digest" json:"digest"`
	Size         int64             `yaml:"size" json:"size"`
	ArtifactType string            `yaml:"artifactType" json:"artifactType,omitempty"`
	Annotations  map[string]string `yaml:"annotations" json:"annotations,omitempty"`
}

type manifest struct {
	SchemaVersion int               `yaml:"schemaVersion" json:"schemaVersion"`
	MediaType     string            `yaml:"mediaType" json:"mediaType"`
	ArtifactType  string            `yaml:"artifactType" json:"artifactType,omitempty"`
	Config        descriptor        `yaml:"config" json:"config"`
	Layers        []descriptor      `yaml:"layers" json:"layers"`
	Subject       *descriptor       `yaml:"subject" json:"subject,omitempty"`
	Annotations   map[string]string `yaml:"annotations" json:"annotations,omitempty"`
}

type index struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Manifests     []descriptor      `json:"manifests"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// Is reports whether the files of a directory are an OCI image layout.
func Is(files map[string][]byte) bool { return files["oci-layout"] != nil }

// Open takes a layout apart: slash-separated path to bytes. Every byte that it returns in Config and
// Files was hashed on the way from Digest. Other manifests in the index are left alone, unless they
// are a second policy.
func Open(files map[string][]byte) (Artifact, error) {
	idx, err := readIndex(files)
	if err != nil {
		return Artifact{}, err
	}
	own, rest, err := sift(files, idx)
	if err != nil {
		return Artifact{}, err
	}
	a := Artifact{Digest: ref.DigestOf(own.text)}
	text, err := blob(files, own.m.Config, MaxDocument)
	if err != nil {
		return Artifact{}, fmt.Errorf("read config: %w", err)
	}
	if a.Config, err = ParseConfig(text); err != nil {
		return Artifact{}, err
	}
	if err := a.content(files, own.m); err != nil {
		return Artifact{}, err
	}
	for _, m := range rest {
		b, err := signature(files, m, a.Digest)
		if err != nil {
			return Artifact{}, err
		}
		if b == nil {
			continue
		}
		if len(a.Bundles) == MaxSignatures {
			return Artifact{}, fmt.Errorf("read signatures: more than %d", MaxSignatures)
		}
		a.Bundles = append(a.Bundles, b)
	}
	return a, nil
}

func (a *Artifact) content(files map[string][]byte, m manifest) error {
	if a.Config.Tombstone {
		if len(m.Layers) > 0 {
			return errors.New("read manifest: a tombstone has no files")
		}
		return nil
	}
	if len(m.Layers) != 1 || m.Layers[0].MediaType != ContentType {
		return fmt.Errorf("read manifest: want one layer of type %s", ContentType)
	}
	text, err := blob(files, m.Layers[0], MaxTotal*2) // headers and padding beside the files
	if err != nil {
		return fmt.Errorf("read content: %w", err)
	}
	if a.Files, err = Untar(text); err != nil {
		return fmt.Errorf("read content: %w", err)
	}
	return nil
}

func readIndex(files map[string][]byte) (index, error) {
	var l struct {
		Version string `json:"imageLayoutVersion"`
	}
	if err := json.Unmarshal(files["oci-layout"], &l); err != nil || l.Version != "1.0.0" {
		return index{}, errors.New("read oci-layout: want an OCI image layout of version 1.0.0")
	}
	text := files["index.json"]
	if text == nil || len(text) > MaxDocument {
		return index{}, fmt.Errorf("read index.json: %d bytes; want 1 to %d", len(text), MaxDocument)
	}
	var idx index
	if err := json.Unmarshal(text, &idx); err != nil {
		return index{}, fmt.Errorf("read index.json: %w", err)
	}
	if len(idx.Manifests) > maxListed {
		return index{}, fmt.Errorf("read index.json: more than %d manifests", maxListed)
	}
	return idx, nil
}

type listed struct {
	m    manifest
	text []byte
}

// sift finds the one policy in the index, and the other manifests.
func sift(files map[string][]byte, idx index) (own listed, rest []manifest, err error) {
	seen := map[string]bool{}
	for _, d := range idx.Manifests {
		if d.MediaType != manifestType || seen[d.Digest] {
			continue
		}
		seen[d.Digest] = true
		text, err := blob(files, d, MaxDocument)
		if err != nil {
			return own, nil, fmt.Errorf("read manifest: %w", err)
		}
		var m manifest
		if err := strict.DecodeJSON(text, &m); err != nil {
			return own, nil, fmt.Errorf("read manifest %.80q: %w", d.Digest, err)
		}
		if m.SchemaVersion != 2 || m.MediaType != manifestType {
			return own, nil, fmt.Errorf("read manifest %.80q: want schemaVersion 2 and mediaType %s", d.Digest, manifestType)
		}
		if m.Config.MediaType != ConfigType {
			rest = append(rest, m)
			continue
		}
		if own.text != nil {
			return own, nil, errors.New("read index.json: it lists two policies; one layout holds one")
		}
		own = listed{m, text}
	}
	if own.text == nil {
		return own, nil, fmt.Errorf("read index.json: it lists no policy (a manifest with a config of type %s)", ConfigType)
	}
	return own, rest, nil
}

// signature is the Sigstore bundle in m, or nil if m is about something else.
func signature(files map[string][]byte, m manifest, about ref.Digest) ([]byte, error) {
	kind := m.ArtifactType
	if kind == "" {
		kind = m.Config.MediaType
	}
	if m.Subject == nil || m.Subject.Digest != about.String() || !strings.HasPrefix(kind, signaturePrefix) {
		return nil, nil
	}
	if len(m.Layers) != 1 {
		return nil, errors.New("read signature: its manifest has not one layer")
	}
	b, err := blob(files, m.Layers[0], MaxSignature)
	if err != nil {
		return nil, fmt.Errorf("read signature: %w", err)
	}
	return b, nil
}

// blob returns what d names; the bytes are hashed here.
func blob(files map[string][]byte, d descriptor, limit int64) ([]byte, error) {
	want, err := ref.ParseDigest(d.Digest)
	if err != nil {
		return nil, err
	}
	data, ok := files["blobs/sha256/"+want.Hex()]
	switch {
	case !ok:
		return nil, fmt.Errorf("blob %s is not there", want)
	case int64(len(data)) > limit:
		return nil, fmt.Errorf("blob %s has %d bytes, want at most %d", want, len(data), limit)
	case int64(len(data)) != d.Size || ref.DigestOf(data) != want:
		return nil, fmt.Errorf("blob %s does not have the size and digest that it is named by", want)
	}
	return data, nil
}

// Build makes the layout of a policy, and the digest to sign. c's schema is filled in; files is nil for
// a tombstone. The same input gives the same bytes.
func Build(c Config, files map[string][]byte) (map[string][]byte, ref.Digest, error) {
	c.Schema = schema
	if err := c.check(); err != nil {
		return nil, ref.Digest{}, fmt.Errorf("build layout: %w", err)
	}
	out := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	config, err := json.Marshal(c)
	if err != nil {
		return nil, ref.Digest{}, fmt.Errorf("build layout: %w", err)
	}
	m := manifest{SchemaVersion: 2, MediaType: manifestType, ArtifactType: ConfigType, Config: put(out, ConfigType, config), Layers: []descriptor{}}
	if !c.Tombstone {
		content, err := Tar(files)
		if err != nil {
			return nil, ref.Digest{}, fmt.Errorf("build layout: %w", err)
		}
		m.Layers = append(m.Layers, put(out, ContentType, content))
	}
	d := putManifest(out, m)
	d.Annotations = map[string]string{tagAnnotation: fmt.Sprintf("revision-%d", c.Revision)}
	putIndex(out, index{SchemaVersion: 2, MediaType: indexType, Manifests: []descriptor{d}})
	a, err := Open(out) // what was built can be read
	if err != nil {
		return nil, ref.Digest{}, fmt.Errorf("build layout: %w", err)
	}
	return out, a.Digest, nil
}

// Join makes a layout of a policy's manifest and the blobs that it names, as a registry has them.
func Join(text []byte, blobs ...[]byte) (map[string][]byte, error) {
	out := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	for _, b := range blobs {
		put(out, "", b)
	}
	putIndex(out, index{SchemaVersion: 2, MediaType: indexType, Manifests: []descriptor{put(out, manifestType, text)}})
	if _, err := Open(out); err != nil {
		return nil, fmt.Errorf("join layout: %w", err)
	}
	return out, nil
}

// Attach returns the layout with one more Sigstore bundle beside its policy. A bundle that is there
// already is not added again.
func Attach(files map[string][]byte, bundle []byte) (map[string][]byte, error) {
	a, err := Open(files)
	if err != nil {
		return nil, fmt.Errorf("attach signature: %w", err)
	}
	idx, err := readIndex(files)
	if err != nil {
		return nil, fmt.Errorf("attach signature: %w", err)
	}
	out := maps.Clone(files)
	own := out["blobs/sha256/"+a.Digest.Hex()]
	d := putManifest(out, manifest{
		SchemaVersion: 2, MediaType: manifestType, ArtifactType: SignatureType,
		Config:  put(out, emptyType, []byte("{}")),
		Layers:  []descriptor{put(out, SignatureType, bundle)},
		Subject: &descriptor{MediaType: manifestType, Digest: a.Digest.String(), Size: int64(len(own))},
	})
	d.ArtifactType = SignatureType
	if !slices.ContainsFunc(idx.Manifests, func(o descriptor) bool { return o.Digest == d.Digest }) {
		idx.Manifests = append(idx.Manifests, d)
	}
	putIndex(out, idx)
	if _, err := Open(out); err != nil {
		return nil, fmt.Errorf("attach signature: %w", err)
	}
	return out, nil
}

func put(out map[string][]byte, mediaType string, data []byte) descriptor {
	d := ref.DigestOf(data)
	out["blobs/sha256/"+d.Hex()] = data
	return descriptor{MediaType: mediaType, Digest: d.String(), Size: int64(len(data))}
}

func putManifest(out map[string][]byte, m manifest) descriptor {
	text, err := json.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("layout: marshal manifest: %v", err)) // strings and numbers only
	}
	return put(out, manifestType, text)
}

func putIndex(out map[string][]byte, idx index) {
	text, err := json.Marshal(idx)
	if err != nil {
		panic(fmt.Sprintf("layout: marshal index: %v", err)) // strings and numbers only
	}
	out["index.json"] = text
}
