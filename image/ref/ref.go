// Package ref holds parsed, opaque image names and digests. A value can only come from Parse or
// ParseDigest, so code that receives one need not check it again; the zero value is invalid and
// every consumer refuses it.
package ref

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/distribution/reference"
)

// MaxName is the longest name that Parse reads, in bytes (distribution spec: 255 for the repository,
// 128 for the tag, 71 for a sha256 digest, and separators).
const MaxName = 512

// ErrShortName says that a name has no registry host. Sallyport never guesses one: which registry
// answers decides whose code runs.
var ErrShortName = errors.New("short name")

// Name is an image name as a user wrote it, normalised: registry host, repository, and a tag or a
// digest or both. The zero value is invalid. Names are comparable and immutable.
type Name struct {
	repo   string
	tag    string
	digest Digest
}

// Parse reads a name such as registry.example/team/app:v1 or registry.example/app@sha256:... . A name
// without a tag and a digest gets the tag "latest". Short names (no registry host) are refused with
// ErrShortName.
func Parse(s string) (Name, error) {
	if len(s) > MaxName {
		return Name{}, fmt.Errorf("parse image name: longer than %d bytes", MaxName)
	}
	host, _, found := strings.Cut(s, "/")
	if !found || !(strings.ContainsAny(host, ".:") || host == "localhost") {
		return Name{}, fmt.Errorf("parse image name %q: %w: write the registry host, for example %q", s, ErrShortName, "docker.io/library/"+s)
	}
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return Name{}, fmt.Errorf("parse image name %q: %s", s, strings.Trim(strconv.Quote(err.Error()), `"`)) // the library's text can hold the name as it came
	}
	n := Name{repo: named.Name()}
	if t, ok := named.(reference.Tagged); ok {
		n.tag = t.Tag()
	}
	if d, ok := named.(reference.Digested); ok {
		if n.digest, err = ParseDigest(d.Digest().String()); err != nil {
			return Name{}, fmt.Errorf("parse image name %q: %w", s, err)
		}
	}
	if n.tag == "" && n.digest.IsZero() {
		n.tag = "latest"
	}
	return n, nil
}

// Repository is the name without tag and digest: registry.example/team/app.
func (n Name) Repository() string { return n.repo }

// Host is the registry host with its port, if any.
func (n Name) Host() string { h, _, _ := strings.Cut(n.repo, "/"); return h }

// Tag is the tag, or "" for a name that has only a digest.
func (n Name) Tag() string { return n.tag }

// Digest is the digest that the name itself carries, or the zero Digest.
func (n Name) Digest() Digest { return n.digest }

// IsZero reports whether n is the invalid zero value.
func (n Name) IsZero() bool { return n.repo == "" }

// WithDigest is the repository of n at d, without a tag.
func (n Name) WithDigest(d Digest) Name { return Name{repo: n.repo, digest: d} }

// String is the canonical form; the zero Name prints as "".
func (n Name) String() string {
	s := n.repo
	if n.tag != "" {
		s += ":" + n.tag
	}
	if !n.digest.IsZero() {
		s += "@" + n.digest.String()
	}
	return s
}

// MarshalText and UnmarshalText let a Name stand in records; reading one parses it again.
func (n Name) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText parses b; empty text gives the zero Name.
func (n *Name) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		*n = Name{}
		return nil
	}
	*n, err = Parse(string(b))
	return err
}

// Digest is a sha256 digest in the form of the OCI image spec (sha256: and 64 lower-case hex digits).
// Other algorithms are refused: no registry of note serves them, and each doubles what must be
// audited. The zero value is invalid.
type Digest struct{ hex string }

// ParseDigest reads "sha256:<64 lower-case hex digits>" and nothing else (CVE-2024-3727).
func ParseDigest(s string) (Digest, error) {
	h, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(h) != 2*sha256.Size {
		return Digest{}, fmt.Errorf("parse digest %.100q: want sha256: and 64 hex digits", s)
	}
	for _, c := range []byte(h) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return Digest{}, fmt.Errorf("parse digest %.100q: want sha256: and 64 hex digits", s)
		}
	}
	return Digest{hex: h}, nil
}

// DigestOf hashes b.
func DigestOf(b []byte) Digest {
	sum := sha256.Sum256(b)
	return Digest{hex: hex.EncodeToString(sum[:])}
}

// Hex is the 64 hex digits, or "" for the zero Digest.
func (d Digest) Hex() string { return d.hex }

// IsZero reports whether d is the invalid zero value.
func (d Digest) IsZero() bool { return d.hex == "" }

// String is "sha256:<hex>", or "" for the zero Digest.
func (d Digest) String() string {
	if d.hex == "" {
		return ""
	}
	return "sha256:" + d.hex
}

// MarshalText and UnmarshalText let a Digest stand in records; reading one parses it again.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText parses b; empty text gives the zero Digest.
func (d *Digest) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		*d = Digest{}
		return nil
	}
	*d, err = ParseDigest(string(b))
	return err
}
