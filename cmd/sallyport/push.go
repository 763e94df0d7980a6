package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/spf13/cobra"

	"sallyport/image/ref"
	"sallyport/policy/bundle"
	"sallyport/policy/bundle/fetch"
	"sallyport/policy/bundle/layout"
)

func policyPushCommand() *cobra.Command {
	var insecure bool
	cmd := &cobra.Command{
		Use:   "push LAYOUT|POLICY-DIR... REPOSITORY:TAG",
		Short: "put signed policies into a registry, where policy.repository finds them",
		Long: "A LAYOUT is what sallyport policy build made, with its signatures. A POLICY-DIR holds node/ and namespaces/<name>/,\n" +
			"and root.json with roots/, all of which are put there. Policies of others under the tag stay. Credentials are those of\n" +
			"docker login or podman login. Two who push at once may lose one push: push again.",
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts := []name.Option{name.StrictValidation}
			if insecure {
				opts = append(opts, name.Insecure)
			}
			tag, err := name.NewTag(args[len(args)-1], opts...)
			if err != nil {
				return fmt.Errorf("push policy: %w", err)
			}
			var list []fetch.Listing
			for _, at := range args[:len(args)-1] {
				l, err := listings(at)
				if err != nil {
					return fmt.Errorf("push policy %s: %w", at, err)
				}
				list = append(list, l...)
			}
			d, err := pushPolicies(tag, list)
			if err != nil {
				return fmt.Errorf("push policy: %w", err)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), d)
			return err
		},
	}
	cmd.Flags().BoolVar(&insecure, "insecure", false, "speak plain HTTP to a registry that is not on this machine")
	return cmd
}

// listings reads a layout, or every layout and the root of a policy directory.
func listings(at string) (out []fetch.Listing, err error) {
	files, err := bundle.ReadDir(at)
	if err != nil {
		return nil, err
	}
	if layout.Is(files) {
		l, err := fetch.ListLayout(files)
		return []fetch.Listing{l}, err
	}
	roots, layouts := map[string][]byte{}, map[string]map[string][]byte{}
	for name, data := range files {
		switch first, rest, _ := strings.Cut(name, "/"); {
		case name == "root.json" || first == "roots":
			roots[name] = data
		case first == "node" || first == "namespaces":
			place, inner := first, rest
			if first == "namespaces" {
				ns, below, _ := strings.Cut(rest, "/")
				place, inner = first+"/"+ns, below
			}
			if layouts[place] == nil {
				layouts[place] = map[string][]byte{}
			}
			layouts[place][inner] = data
		}
	}
	for _, place := range slices.Sorted(maps.Keys(layouts)) {
		if !layout.Is(layouts[place]) {
			return nil, badAnswer{fmt.Errorf("%s: no layout; make one with sallyport policy build", place)}
		}
		l, err := fetch.ListLayout(layouts[place])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.FromSlash(place), err)
		}
		out = append(out, l)
	}
	if len(roots) > 0 {
		l, err := fetch.ListRoot(roots)
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	if len(out) == 0 {
		return nil, badAnswer{errors.New("it holds no policy")}
	}
	return out, nil
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

// pushPolicies uploads blobs, manifests and at last the index, and returns its digest.
func pushPolicies(tag name.Tag, list []fetch.Listing) (ref.Digest, error) {
	repo := tag.Context()
	auth := remote.WithAuthFromKeychain(authn.DefaultKeychain)
	var before []byte
	desc, err := remote.Get(tag, auth)
	var answer *transport.Error
	switch {
	case err == nil:
		var doc struct {
			Manifests json.RawMessage `json:"manifests"`
		}
		if json.Unmarshal(desc.Manifest, &doc) != nil || doc.Manifests == nil {
			return ref.Digest{}, fmt.Errorf("%s is no index of policies; use another tag", tag)
		}
		before = desc.Manifest
	case !errors.As(err, &answer) || answer.StatusCode != http.StatusNotFound:
		return ref.Digest{}, err
	}
	index, err := fetch.Index(before, func(d ref.Digest) ([]byte, error) {
		m, err := remote.Get(repo.Digest(d.String()), auth)
		if err != nil {
			return nil, err
		}
		return m.Manifest, nil
	}, list...)
	if err != nil {
		return ref.Digest{}, err
	}
	for _, l := range list {
		for _, data := range l.Blobs {
			if err := remote.WriteLayer(repo, static.NewLayer(data, "application/octet-stream"), auth); err != nil {
				return ref.Digest{}, err
			}
		}
	}
	for _, l := range list {
		for _, m := range ordered(l.Manifests) {
			if err := remote.Put(repo.Digest(ref.DigestOf(m).String()), document{m, types.OCIManifestSchema1}, auth); err != nil {
				return ref.Digest{}, err
			}
		}
	}
	return ref.DigestOf(index), remote.Put(tag, document{index, types.OCIImageIndex}, auth)
}

// ordered puts what other manifests are about first: a registry lists referrers of what it has.
func ordered(in map[ref.Digest][]byte) (out [][]byte) {
	var about [][]byte
	for _, m := range in {
		var doc struct {
			Subject json.RawMessage `json:"subject"`
		}
		if json.Unmarshal(m, &doc) == nil && doc.Subject != nil {
			about = append(about, m)
		} else {
			out = append(out, m)
		}
	}
	return append(out, about...)
}
