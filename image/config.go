package image

import (
	"encoding/json"
	"fmt"
	"sort"

	"sallyport/image/ref"
)

// maxConfig bounds a config blob in bytes; the distribution registry accepts manifests up to 4 MiB
// and configs are smaller.
const maxConfig = 4 << 20

// maxLayers bounds the layers of one image: the options of a mount must fit in a page, and Docker builds
// at most 127.
const maxLayers = 192

// Config is what an image asks for (OCI image spec, config.md): hostile text with a size limit, that
// never changes a control of the sandbox.
type Config struct {
	User       string            `json:"user,omitempty"`
	Env        []string          `json:"env,omitempty"`
	Entrypoint []string          `json:"entrypoint,omitempty"`
	Cmd        []string          `json:"cmd,omitempty"`
	WorkingDir string            `json:"workingDir,omitempty"`
	Volumes    []string          `json:"volumes,omitempty"` // sorted
	StopSignal string            `json:"stopSignal,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
}

// parsedConfig is a config blob that passed parseConfig.
type parsedConfig struct {
	os, arch string
	diffIDs  []ref.Digest
	config   Config
}

// parseConfig reads an image config (application/vnd.oci.image.config.v1+json or Docker's). It refuses
// an unknown rootfs type and diff IDs that are no sha256 digests.
func parseConfig(b []byte) (parsedConfig, error) {
	var doc struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
		Config       struct {
			User       string              `json:"User"`
			Env        []string            `json:"Env"`
			Entrypoint []string            `json:"Entrypoint"`
			Cmd        []string            `json:"Cmd"`
			WorkingDir string              `json:"WorkingDir"`
			Volumes    map[string]struct{} `json:"Volumes"`
			StopSignal string              `json:"StopSignal"`
			Labels     map[string]string   `json:"Labels"`
		} `json:"config"`
		RootFS struct {
			Type    string   `json:"type"`
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if len(b) > maxConfig {
		return parsedConfig{}, fmt.Errorf("%w: config is larger than %d bytes", ErrInvalid, maxConfig)
	}
	if err := uniqueKeys(b); err != nil {
		return parsedConfig{}, fmt.Errorf("%w: config: %w", ErrInvalid, err)
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return parsedConfig{}, fmt.Errorf("%w: config: %w", ErrInvalid, err)
	}
	if doc.RootFS.Type != "layers" {
		return parsedConfig{}, fmt.Errorf("%w: config: rootfs type %.40q, want \"layers\"", ErrInvalid, doc.RootFS.Type)
	}
	if len(doc.RootFS.DiffIDs) > maxLayers {
		return parsedConfig{}, fmt.Errorf("%w: %d layers, at most %d", ErrInvalid, len(doc.RootFS.DiffIDs), maxLayers)
	}
	p := parsedConfig{os: doc.OS, arch: doc.Architecture, config: Config{
		User: doc.Config.User, Env: doc.Config.Env, Entrypoint: doc.Config.Entrypoint, Cmd: doc.Config.Cmd,
		WorkingDir: doc.Config.WorkingDir, StopSignal: doc.Config.StopSignal, Labels: doc.Config.Labels,
	}}
	for v := range doc.Config.Volumes {
		p.config.Volumes = append(p.config.Volumes, v)
	}
	sort.Strings(p.config.Volumes)
	for _, s := range doc.RootFS.DiffIDs {
		d, err := ref.ParseDigest(s)
		if err != nil {
			return parsedConfig{}, fmt.Errorf("%w: config: diff ID: %w", ErrInvalid, err)
		}
		p.diffIDs = append(p.diffIDs, d)
	}
	return p, nil
}

// chainIDs names each layer by everything below it (OCI image spec, config.md, Layer ChainID). They are
// the IDs of our layers in storage, so that equal chains are one layer.
func chainIDs(diffIDs []ref.Digest) []ref.Digest {
	out := make([]ref.Digest, len(diffIDs))
	for i, d := range diffIDs {
		if i == 0 {
			out[i] = d
			continue
		}
		out[i] = ref.DigestOf([]byte(out[i-1].String() + " " + d.String()))
	}
	return out
}
