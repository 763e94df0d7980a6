package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"sallyport/image/ref"
)

// Descriptor is an entry of an index, or a layer of a manifest.
type Descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       ref.Digest        `json:"digest"`
	Size         int64             `json:"size"`
	ArtifactType string            `json:"artifactType"`
	Annotations  map[string]string `json:"annotations"`
}

// Artifact is a manifest that holds evidence: a referrer, or a cosign ".sig" tag.
type Artifact struct {
	MediaType    string       `json:"mediaType"`
	ArtifactType string       `json:"artifactType"`
	Config       Descriptor   `json:"config"`
	Layers       []Descriptor `json:"layers"`
	Subject      Descriptor   `json:"subject"`
}

// pages bounds how many pages of referrers are read.
const pages = 16

// Referrers lists the manifests whose subject is d: through the referrers API of OCI 1.1, or where the
// registry has none, through the fallback tag (distribution spec, Listing Referrers). No referrers is
// an empty list. limit bounds each page in bytes.
func (r *Repo) Referrers(ctx context.Context, d ref.Digest, limit int64) ([]Descriptor, error) {
	var all []Descriptor
	path := "referrers/" + d.String()
	for range pages {
		res, err := r.get(ctx, http.MethodGet, path, accept)
		if err != nil {
			return nil, err
		}
		list, next, err := r.page(res, limit)
		if err != nil {
			if len(all) == 0 && unsupported(res.StatusCode) {
				return r.fallback(ctx, d, limit)
			}
			return nil, err
		}
		all = append(all, list...)
		if next == "" {
			return all, nil
		}
		path = next
	}
	return nil, fmt.Errorf("%w: more than %d pages of referrers", ErrTooLarge, pages)
}

func unsupported(status int) bool {
	switch status {
	case http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
		return true
	}
	return false
}

func (r *Repo) page(res *http.Response, limit int64) (list []Descriptor, next string, err error) {
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, "", answered(r.host, res)
	}
	b, err := readAll(res.Body, limit)
	if err != nil {
		return nil, "", fmt.Errorf("read referrers from %s: %w", r.host, err)
	}
	list, err = parseIndex(b)
	return list, r.nextPage(res.Header.Get("Link")), err
}

// nextPage reads a Link header (RFC 8288) with rel="next"; only pages of this repository's referrers
// are followed.
func (r *Repo) nextPage(link string) string {
	target, params, ok := strings.Cut(link, ">")
	target, isURL := strings.CutPrefix(strings.TrimSpace(target), "<")
	if !ok || !isURL || !strings.Contains(params, `rel="next"`) {
		return ""
	}
	u, err := r.base.Parse(target)
	if err != nil || u.Host != r.base.Host {
		return ""
	}
	rest, ok := strings.CutPrefix(u.Path, r.base.Path)
	if !ok || !strings.HasPrefix(rest, "referrers/") {
		return ""
	}
	if u.RawQuery != "" {
		rest += "?" + u.RawQuery
	}
	return rest
}

func (r *Repo) fallback(ctx context.Context, d ref.Digest, limit int64) ([]Descriptor, error) {
	m, err := r.Manifest(ctx, strings.Replace(d.String(), ":", "-", 1), limit)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseIndex(m.Bytes)
}

// parseIndex skips entries that cannot be fetched (another digest algorithm): evidence only ever adds
// claims, so what is skipped can admit nothing.
func parseIndex(b []byte) ([]Descriptor, error) {
	var doc struct {
		Manifests []json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("read referrers: %w", err)
	}
	var list []Descriptor
	for _, raw := range doc.Manifests {
		var d Descriptor
		if json.Unmarshal(raw, &d) == nil && !d.Digest.IsZero() {
			list = append(list, d)
		}
	}
	return list, nil
}

// Artifact reads a manifest of evidence by tag or digest. Its bytes are bounded and, by digest, hashed;
// what they say is unverified.
func (r *Repo) Artifact(ctx context.Context, which string, limit int64) (Artifact, error) {
	m, err := r.Manifest(ctx, which, limit)
	if err != nil {
		return Artifact{}, err
	}
	var a Artifact
	if err := json.Unmarshal(m.Bytes, &a); err != nil {
		return Artifact{}, fmt.Errorf("read manifest %.80s: %w", which, err)
	}
	return a, nil
}
