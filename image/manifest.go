package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/types"

	"sallyport/image/ref"
)

// Media types of what we read (OCI image spec, media-types.md, and Docker's of the same meaning).
const (
	typeIndex          = "application/vnd.oci.image.index.v1+json"
	typeManifest       = "application/vnd.oci.image.manifest.v1+json"
	typeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	typeConfig         = "application/vnd.oci.image.config.v1+json"
	typeDockerConfig   = "application/vnd.docker.container.image.v1+json"
)

// layerTypes are the layer media types that are unpacked. Encrypted, foreign (with URLs) and unknown
// ones are refused by name.
var layerTypes = map[string]bool{
	"application/vnd.oci.image.layer.v1.tar":            true,
	"application/vnd.oci.image.layer.v1.tar+gzip":       true,
	"application/vnd.oci.image.layer.v1.tar+zstd":       true,
	"application/vnd.docker.image.rootfs.diff.tar":      true,
	"application/vnd.docker.image.rootfs.diff.tar.gzip": true,
	"application/vnd.docker.image.rootfs.diff.tar.zstd": true,
}

// maxInstances bounds the entries of an index.
const maxInstances = 1024

type descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       ref.Digest        `json:"digest"`
	Size         int64             `json:"size"`
	ArtifactType string            `json:"artifactType"`
	URLs         []string          `json:"urls"`
	Annotations  map[string]string `json:"annotations"`
}

// document is a manifest or an index that passed parseDocument.
type document struct {
	mediaType    string
	ArtifactType string       `json:"artifactType"`
	Config       descriptor   `json:"config"`
	Layers       []descriptor `json:"layers"`
	Manifests    []descriptor `json:"manifests"`
}

func (d document) isIndex() bool { return d.mediaType == typeIndex || d.mediaType == typeDockerList }

// parseDocument reads a manifest or index. contentType is what the registry said; where the document
// says its own type, the two must agree. A document that could be read as both a manifest and an index
// is refused (CVE-2021-41190), as is one with a key twice or in another case, which two parsers would
// read differently.
func parseDocument(b []byte, contentType string) (document, error) {
	keys, err := topLevel(b)
	if err != nil {
		return document{}, fmt.Errorf("%w: manifest: %w", ErrInvalid, err)
	}
	var d document
	d.mediaType = contentType
	if raw, ok := keys["mediaType"]; ok {
		var own string
		if err := json.Unmarshal(raw, &own); err != nil {
			return document{}, fmt.Errorf("%w: manifest: mediaType: %w", ErrInvalid, err)
		}
		switch contentType {
		case own, "", "application/json", "application/octet-stream", "text/plain":
		default:
			return document{}, fmt.Errorf("%w: manifest says media type %.100q, the registry says %.100q", ErrInvalid, own, contentType)
		}
		d.mediaType = own
	}
	switch d.mediaType {
	case typeIndex, typeDockerList:
		for _, k := range []string{"layers", "config", "fsLayers", "history"} {
			if _, ok := keys[k]; ok {
				return document{}, fmt.Errorf("%w: index also has %q", ErrInvalid, k)
			}
		}
	case typeManifest, typeDockerManifest:
		for _, k := range []string{"manifests", "fsLayers", "history"} {
			if _, ok := keys[k]; ok {
				return document{}, fmt.Errorf("%w: manifest also has %q", ErrInvalid, k)
			}
		}
	default:
		return document{}, fmt.Errorf("%w: media type %.100q is no image manifest or index that is read", ErrInvalid, d.mediaType)
	}
	if v := string(keys["schemaVersion"]); v != "2" {
		return document{}, fmt.Errorf("%w: manifest has schema version %.20q, want 2", ErrInvalid, v)
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return document{}, fmt.Errorf("%w: manifest: %w", ErrInvalid, err)
	}
	if d.isIndex() {
		if len(d.Manifests) > maxInstances {
			return document{}, fmt.Errorf("%w: index has %d entries, at most %d", ErrInvalid, len(d.Manifests), maxInstances)
		}
		return d, nil
	}
	if d.artifact() != "" {
		_, err := d.files()
		return d, err
	}
	return d, d.checkImage()
}

// checkImage refuses a manifest that is no runnable image.
func (d document) checkImage() error {
	if d.Config.MediaType != typeConfig && d.Config.MediaType != typeDockerConfig {
		return fmt.Errorf("%w: config media type %.100q is not that of a container image", ErrInvalid, d.Config.MediaType)
	}
	if d.Config.Digest.IsZero() || d.Config.Size <= 0 || d.Config.Size > maxConfig {
		return fmt.Errorf("%w: config has no digest, or a size outside 1 to %d bytes", ErrInvalid, maxConfig)
	}
	if len(d.Layers) > maxLayers {
		return fmt.Errorf("%w: %d layers, at most %d", ErrInvalid, len(d.Layers), maxLayers)
	}
	for i, l := range d.Layers {
		if !layerTypes[l.MediaType] {
			return fmt.Errorf("%w: layer %d has media type %.100q, which is not unpacked", ErrInvalid, i, l.MediaType)
		}
		if len(l.URLs) > 0 {
			return fmt.Errorf("%w: layer %d is to be fetched from another place (urls)", ErrInvalid, i)
		}
		if l.Digest.IsZero() || l.Size < 0 {
			return fmt.Errorf("%w: layer %d has no digest or a negative size", ErrInvalid, i)
		}
	}
	return nil
}

// choose picks the instance for this platform from the very bytes that hashed to the index's digest.
func choose(b []byte, index document, sys *types.SystemContext) (descriptor, error) {
	list, err := manifest.ListFromBlob(b, index.mediaType)
	if err != nil {
		return descriptor{}, fmt.Errorf("%w: index: %w", ErrInvalid, err)
	}
	picked, err := list.ChooseInstance(sys)
	if err != nil {
		return descriptor{}, fmt.Errorf("%w: no instance for %s/%s in the index", ErrInvalid, sys.OSChoice, sys.ArchitectureChoice)
	}
	for _, m := range index.Manifests {
		if m.Digest.String() == picked.String() {
			if m.MediaType != typeManifest && m.MediaType != typeDockerManifest {
				return descriptor{}, fmt.Errorf("%w: index entry for %s/%s has media type %.100q", ErrInvalid, sys.OSChoice, sys.ArchitectureChoice, m.MediaType)
			}
			if m.Size <= 0 || m.Size > maxManifest {
				return descriptor{}, fmt.Errorf("%w: index entry has size %d, want 1 to %d", ErrInvalid, m.Size, maxManifest)
			}
			return m, nil
		}
	}
	return descriptor{}, fmt.Errorf("%w: index entry %.80q is not listed with a sha256 digest", ErrInvalid, picked)
}

// topLevel splits a JSON object into its members. It refuses a member that appears twice, also in
// another case, since encoding/json would quietly take the last.
func topLevel(b []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	if t, err := dec.Token(); err != nil {
		return nil, err
	} else if t != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	keys, folded := map[string]json.RawMessage{}, map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		k, _ := t.(string)
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, err
		}
		f := strings.ToLower(k)
		if folded[f] {
			return nil, fmt.Errorf("member %.40q appears twice", k)
		}
		if err := uniqueBelow(json.NewDecoder(bytes.NewReader(raw))); err != nil {
			return nil, err
		}
		folded[f], keys[k] = true, raw
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("data after the JSON object")
	}
	for _, want := range []string{"schemaVersion", "mediaType", "config", "layers", "manifests", "fsLayers", "history", "rootfs", "os", "architecture", "artifactType"} {
		if _, exact := keys[want]; !exact && folded[strings.ToLower(want)] {
			return nil, fmt.Errorf("member %q is written in another case", want)
		}
	}
	return keys, nil
}

// uniqueBelow refuses an object with a member twice, at any depth. Depth is bounded by encoding/json.
func uniqueBelow(dec *json.Decoder) error {
	t, err := dec.Token()
	if err != nil {
		return err
	}
	switch t {
	case json.Delim('{'):
		seen := map[string]bool{}
		for dec.More() {
			t, err := dec.Token()
			if err != nil {
				return err
			}
			k, _ := t.(string)
			if seen[k] {
				return fmt.Errorf("member %.40q appears twice", k)
			}
			seen[k] = true
			if err := uniqueBelow(dec); err != nil {
				return err
			}
		}
		_, err = dec.Token()
	case json.Delim('['):
		for dec.More() {
			if err := uniqueBelow(dec); err != nil {
				return err
			}
		}
		_, err = dec.Token()
	}
	return err
}

func uniqueKeys(b []byte) error {
	_, err := topLevel(b)
	return err
}

// Parse reads an image manifest with its config as Resolve does, and says whether they belong together.
// It exists for tools and fuzzing: nothing follows from it but the Config.
func Parse(manifest []byte, contentType string, config []byte) (Config, error) {
	doc, err := parseDocument(manifest, contentType)
	if err != nil {
		return Config{}, err
	}
	if doc.isIndex() || doc.artifact() != "" {
		return Config{}, fmt.Errorf("%w: it is an index or an artifact", ErrInvalid)
	}
	if doc.Config.Digest != ref.DigestOf(config) || doc.Config.Size != int64(len(config)) {
		return Config{}, fmt.Errorf("%w: the config is not the manifest's", ErrInvalid)
	}
	c, err := parseConfig(config)
	if err != nil {
		return Config{}, err
	}
	if len(c.diffIDs) != len(doc.Layers) {
		return Config{}, fmt.Errorf("%w: config has %d diff IDs, manifest has %d layers", ErrInvalid, len(c.diffIDs), len(doc.Layers))
	}
	return c.config, nil
}
