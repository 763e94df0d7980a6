package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/semver"

	"sallyport/image/ref"
)

// minimumYAML is the floor below which an image is an old one brought back.
type minimumYAML struct {
	Built   time.Time `yaml:"built"`
	Version string    `yaml:"version"`
}

// minimum is the floor of a policy's tags; that of times stands in the authorities.
type minimum struct{ version string } // with its "v"; "" for none

func (y *minimumYAML) compile(p *requirement) error {
	if y.Built.IsZero() && y.Version == "" {
		return errors.New(": empty; give built, version or both")
	}
	if y.Version != "" {
		if p.minimum.version = canonical(y.Version); p.minimum.version == "" {
			return fmt.Errorf(".version: %q; want a semantic version such as 1.4.0", y.Version)
		}
	}
	if y.Built.IsZero() {
		return nil
	}
	for i := range p.authorities {
		a := &p.authorities[i]
		if a.quorum != nil {
			for j := range a.quorum.of {
				a.quorum.of[j].built = y.Built
			}
		}
		a.built = y.Built
	}
	for _, a := range p.signers() {
		// An old signature by a key can be stamped anew; that by a certificate cannot.
		if len(a.identities) == 0 {
			return errors.New(".built: the time of a key's signature cannot be known, and static proves none; use keyless")
		}
	}
	return nil
}

// canonical is a semantic version with its "v", or "".
func canonical(version string) string {
	v := "v" + strings.TrimPrefix(version, "v")
	if !semver.IsValid(v) {
		return ""
	}
	return v
}

// below says that the name's tag is under the floor, or "". A tag that is no version is: what cannot be
// compared is not known to be new.
func (m minimum) below(name ref.Name) string {
	if m.version == "" {
		return ""
	}
	tag := name.Tag()
	v := canonical(tag)
	switch {
	case tag == "":
		return fmt.Sprintf("no tag is named, want one of version %s or later (minimum.version)", m.version)
	case v == "":
		return fmt.Sprintf("tag %q is no version, want %s or later (minimum.version)", tag, m.version)
	case semver.Compare(v, m.version) < 0:
		return fmt.Sprintf("tag %q is older than %s (minimum.version)", tag, m.version)
	}
	return ""
}

// ages reads warnAfter and denyAfter.
func (y attestationYAML) ages(att *attestation, d demand) error {
	if y.MaxAge != "" && y.DenyAfter != "" {
		return errors.New("maxAge, denyAfter: two names of one thing; write denyAfter")
	}
	for _, w := range []struct {
		field, text string
		into        *time.Duration
	}{{"maxAge", y.MaxAge, &att.maxAge}, {"denyAfter", y.DenyAfter, &att.maxAge}, {"warnAfter", y.WarnAfter, &att.warnAfter}} {
		if w.text == "" {
			continue
		}
		age, err := time.ParseDuration(w.text)
		if err != nil || age <= 0 {
			return fmt.Errorf("%s: %q; want a duration such as 168h", w.field, w.text)
		}
		if !d.timestamped {
			return fmt.Errorf("%s: the age is known only with timestamp: required", w.field)
		}
		*w.into = age
	}
	if att.maxAge > 0 && att.warnAfter >= att.maxAge {
		return fmt.Errorf("warnAfter: %s; want less than denyAfter, %s", att.warnAfter, att.maxAge)
	}
	return nil
}

// ageField is the first age that the text gives.
func (y attestationYAML) ageField() string {
	switch {
	case y.MaxAge != "":
		return "maxAge"
	case y.DenyAfter != "":
		return "denyAfter"
	}
	return "warnAfter"
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
