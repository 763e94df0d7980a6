package policy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"sallyport/image/ref"
	"sallyport/policy/internal/strict"
)

// Limits of a revocations.yaml.
const (
	maxRevoked       = 10000
	maxRevocationAge = 90 * 24 * time.Hour // a list that may be older than this is nobody's watch
	clockSlack       = 5 * time.Minute     // how far ahead of judged time a list may be issued
)

// The YAML form of revocations.yaml.
type (
	revocationsYAML struct {
		Issued     time.Time         `yaml:"issued" need:"yes"`
		MaxAge     string            `yaml:"maxAge" need:"yes"`
		Digests    []digestYAML      `yaml:"digests"`
		Keys       []revokedKeyYAML  `yaml:"keys"`
		Identities []revokedNameYAML `yaml:"identities"`
	}
	digestYAML struct {
		Digest string `yaml:"digest" need:"yes"`
		Reason string `yaml:"reason"`
	}
	revokedKeyYAML struct {
		ID          string    `yaml:"id" need:"yes"`
		SignedAfter time.Time `yaml:"signedAfter"`
		Reason      string    `yaml:"reason"`
	}
	revokedNameYAML struct {
		Issuer        string            `yaml:"issuer" need:"yes"`
		Subject       string            `yaml:"subject"`
		SubjectRegExp string            `yaml:"subjectRegExp"`
		Claims        map[string]string `yaml:"claims"`
		SignedAfter   time.Time         `yaml:"signedAfter"`
		SignedBefore  time.Time         `yaml:"signedBefore"`
		Reason        string            `yaml:"reason"`
	}
)

// Revocations says which images, keys and identities count no more. It can only deny. It is immutable;
// nil revokes nothing.
type Revocations struct {
	issued, until time.Time
	digests       map[ref.Digest]string // to the reason
	keys          map[string]revoked
	identities    []revokedIdentity
}

// revoked is a span of signing times: after one and before the other, where they are set. What has no
// proved time lies within.
type revoked struct {
	after, before time.Time
	reason        string
}

type revokedIdentity struct {
	identity
	revoked
}

var keyID = regexp.MustCompile(`\A[0-9a-f]{64}\z`)

// ParseRevocations reads a revocations.yaml. Errors name the field.
func ParseRevocations(yaml []byte) (*Revocations, error) {
	var y revocationsYAML
	if err := strict.Decode(yaml, &y); err != nil {
		return nil, err
	}
	if y.Issued.IsZero() {
		return nil, errors.New("issued: missing; write when the list was drawn up")
	}
	age, err := time.ParseDuration(y.MaxAge)
	if err != nil || age <= 0 || age > maxRevocationAge {
		return nil, fmt.Errorf("maxAge: %q; want a duration of at most %s, such as 168h", y.MaxAge, maxRevocationAge)
	}
	if n := len(y.Digests) + len(y.Keys) + len(y.Identities); n > maxRevoked {
		return nil, fmt.Errorf("%d entries are more than the limit of %d", n, maxRevoked)
	}
	r := &Revocations{issued: y.Issued, until: y.Issued.Add(age), digests: map[ref.Digest]string{}, keys: map[string]revoked{}}
	for i, d := range y.Digests {
		digest, err := ref.ParseDigest(d.Digest)
		if err != nil {
			return nil, fmt.Errorf("digests[%d].digest: %w", i, err)
		}
		r.digests[digest] = because(d.Reason)
	}
	for i, k := range y.Keys {
		if !keyID.MatchString(k.ID) {
			return nil, fmt.Errorf("keys[%d].id: %.80q; want the sha256 of the key's DER, 64 hex digits, as denials name it", i, k.ID)
		}
		if _, twice := r.keys[k.ID]; twice {
			return nil, fmt.Errorf("keys[%d].id: stands twice", i)
		}
		r.keys[k.ID] = revoked{after: k.SignedAfter, reason: because(k.Reason)}
	}
	for i, n := range y.Identities {
		id, err := identityYAML{Issuer: n.Issuer, Subject: n.Subject, SubjectRegExp: n.SubjectRegExp, Claims: n.Claims}.compile()
		if err != nil {
			return nil, fmt.Errorf("identities[%d].%w", i, err)
		}
		if !n.SignedBefore.IsZero() && !n.SignedAfter.Before(n.SignedBefore) {
			return nil, fmt.Errorf("identities[%d].signedAfter: not before signedBefore, so nothing is revoked", i)
		}
		r.identities = append(r.identities, revokedIdentity{id, revoked{n.SignedAfter, n.SignedBefore, because(n.Reason)}})
	}
	return r, nil
}

func because(reason string) string {
	if reason = clean(reason); reason == "" {
		return "no reason given"
	}
	return reason
}

// Issued is when the list was drawn up.
func (r *Revocations) Issued() time.Time {
	if r == nil {
		return time.Time{}
	}
	return r.issued
}

// refuse says why no image, or not this one, may be admitted. No mode governs it.
func (r *Revocations) refuse(layer string, img Image, now time.Time) (Verdict, bool) {
	if r == nil {
		return Verdict{}, false
	}
	if !now.Before(r.until) {
		return Refusal(layer, "revocations-stale", fmt.Sprintf("revocations.yaml is of %s and its maxAge ended at %s; what was revoked since is not known, install a newer one", stamp(r.issued), stamp(r.until))), true
	}
	if now.Add(clockSlack).Before(r.issued) {
		return Refusal(layer, "revocations-stale", fmt.Sprintf("revocations.yaml was issued at %s, which is to come; set the clock or the list right", stamp(r.issued))), true
	}
	for _, d := range []ref.Digest{img.Top, img.Instance, img.ID} {
		if reason, ok := r.digests[d]; ok {
			return Refusal(layer, "revoked", fmt.Sprintf("%s is revoked: %s", d, reason)), true
		}
	}
	return Verdict{}, false
}

// end is when the list is too old; zero without one.
func (r *Revocations) end() time.Time {
	if r == nil {
		return time.Time{}
	}
	return r.until
}

// sift takes the revoked claims out and says why.
func (r *Revocations) sift(claims []Claim) (good []Claim, why []string) {
	if r == nil {
		return claims, nil
	}
	for _, c := range claims {
		if reason, out := r.hits(c); out {
			why = append(why, reason)
			continue
		}
		good = append(good, c)
	}
	return good, why
}

// key says why a key that is trusted by other means than claims counts no more.
func (r *Revocations) key(id string) (reason string, out bool) {
	if r == nil {
		return "", false
	}
	k, ok := r.keys[id]
	return k.reason, ok
}

func (r *Revocations) hits(c Claim) (string, bool) {
	f := c.Fields()
	if f.Kind == "key" {
		k, ok := r.keys[f.KeyID]
		if !ok || !k.covers(f.Signed) {
			return "", false
		}
		return k.about(c), true
	}
	for _, id := range r.identities {
		if !id.names(f.SAN) || fold(f.Issuer) != fold(id.issuer) || !id.covers(f.Signed) {
			continue
		}
		if name, _ := id.differs(f.Extensions); name == "" {
			return id.about(c), true
		}
	}
	return "", false
}

// covers reports whether a signature of that proved time is revoked. One without a proved time is.
func (v revoked) covers(signed time.Time) bool {
	if signed.IsZero() {
		return true
	}
	return !(!v.after.IsZero() && signed.Before(v.after)) && !(!v.before.IsZero() && !signed.Before(v.before))
}

func (v revoked) about(c Claim) string {
	var span []string
	if !v.after.IsZero() {
		span = append(span, " from "+stamp(v.after)+" on")
	}
	if !v.before.IsZero() {
		span = append(span, " before "+stamp(v.before))
	}
	return fmt.Sprintf("signatures by %s%s are revoked (%s); this one has %s", by(c), strings.Join(span, " and"), v.reason, stamp(c.Fields().Signed))
}
