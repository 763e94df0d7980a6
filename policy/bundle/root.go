package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"sallyport/image/ref"
	"sallyport/policy"
	"sallyport/policy/internal/strict"
	"sallyport/policy/sigstore"
)

const (
	rootSchema = "sallyport.policy-root/v1"
	// signPredicate is what "cosign sign" states: a signature. An attestation about a policy (a scan, say)
	// is by the same key and is none.
	signPredicate  = "https://sigstore.dev/cosign/sign/v1"
	maxSigners     = 256
	maxDelegations = 1000
)

// rootYAML is the form of root.json.
type rootYAML struct {
	Schema  string    `yaml:"schema"`
	Version uint64    `yaml:"version"`
	Expires time.Time `yaml:"expires"`
	Keys    map[string]struct {
		PublicKey string `yaml:"publicKey"`
		Keyless   *struct {
			Issuer  string `yaml:"issuer"`
			Subject string `yaml:"subject"`
		} `yaml:"keyless"`
	} `yaml:"keys"`
	TrustedRoot yaml.Node `yaml:"trustedRoot"`
	Root        *roleYAML `yaml:"root"`
	Node        *roleYAML `yaml:"node"`
	Cluster     string    `yaml:"cluster"`
	Override    *roleYAML `yaml:"override"`
	Namespaces  []struct {
		Pattern  string `yaml:"pattern"`
		roleYAML `yaml:",inline"`
	} `yaml:"namespaces"`
}

type roleYAML struct {
	Signers     []string `yaml:"signers"`
	Threshold   int      `yaml:"threshold"`
	MinRevision uint64   `yaml:"minRevision"`
}

// Root is a checked root.json: who may sign the root itself, the node policy and the policy of each
// namespace, how many of them must, and the lowest revisions that count. Immutable.
type Root struct {
	version    uint64
	expires    time.Time
	text       string
	signers    map[string]signer
	verifier   policy.Verifier
	root, node role
	namespaces []delegation
	cluster    string // name, which overrides must say; "" where there are none
	override   *role  // nil: nobody may sign overrides
}

// signer is a public key, or a keyless identity.
type signer struct{ keyID, issuer, subject string }

// role is what some signers may sign together.
type role struct {
	what      string // for messages
	signers   []string
	threshold int
	minimum   uint64 // revision
}

type delegation struct {
	pattern namespaces
	role    role
}

var signerName = regexp.MustCompile(`\A[a-zA-Z0-9]([a-zA-Z0-9._@-]{0,62}[a-zA-Z0-9])?\z`)

// ParseRoot reads root.json strictly: an unknown or repeated field, a threshold of 0 or above the number
// of signers, and one key under two names are errors (CVE-2026-23992, CVE-2022-36056 and kin). It says
// nothing of who signed it.
func ParseRoot(text []byte) (*Root, error) {
	var y rootYAML
	if err := strict.DecodeJSON(text, &y); err != nil {
		return nil, err
	}
	r := &Root{version: y.Version, expires: y.Expires, text: string(text), signers: map[string]signer{}}
	switch {
	case y.Schema != rootSchema:
		return nil, fmt.Errorf("schema: %.80q, want %q", y.Schema, rootSchema)
	case y.Version == 0:
		return nil, errors.New("version: missing; the first is 1")
	case y.Expires.IsZero():
		return nil, errors.New("expires: missing; a root that is for ever cannot be withdrawn")
	case len(y.Keys) > maxSigners:
		return nil, fmt.Errorf("keys: %d, want at most %d", len(y.Keys), maxSigners)
	case len(y.Namespaces) > maxDelegations:
		return nil, fmt.Errorf("namespaces: %d, want at most %d", len(y.Namespaces), maxDelegations)
	case y.Root == nil || y.Node == nil:
		return nil, errors.New("root, node: both are required; say who may sign them")
	}
	if err := r.trust(y); err != nil {
		return nil, err
	}
	var err error
	if r.root, err = r.role("root", *y.Root); err != nil {
		return nil, err
	}
	if y.Root.MinRevision != 0 {
		return nil, errors.New("root.minRevision: the root's own version takes its place")
	}
	if r.node, err = r.role("node", *y.Node); err != nil {
		return nil, err
	}
	for i, n := range y.Namespaces {
		at := fmt.Sprintf("namespaces[%d]", i)
		d := delegation{}
		if d.pattern, err = parsePattern(n.Pattern); err != nil {
			return nil, fmt.Errorf("%s.pattern: %w", at, err)
		}
		for _, before := range r.namespaces {
			if before.pattern.text == n.Pattern || d.pattern.literal() && before.pattern.re.MatchString(n.Pattern) {
				return nil, fmt.Errorf("%s.pattern: %q is never reached: %q comes before it, and the first that matches counts", at, n.Pattern, before.pattern.text)
			}
		}
		if d.role, err = r.role(at, n.roleYAML); err != nil {
			return nil, err
		}
		d.role.what = fmt.Sprintf("namespaces %q", n.Pattern)
		r.namespaces = append(r.namespaces, d)
	}
	return r, r.overriders(y)
}

// overriders reads who may sign overrides. A key that breaks glass signs nothing else: who can make policy
// needs no override, and who holds the one must not slip in the other.
func (r *Root) overriders(y rootYAML) error {
	r.cluster = y.Cluster
	if y.Override == nil {
		return nil
	}
	o, err := r.role("override", *y.Override)
	if err != nil {
		return err
	}
	if y.Override.MinRevision != 0 {
		return errors.New("override.minRevision: overrides have no revisions")
	}
	if !bundleName.MatchString(y.Cluster) {
		return fmt.Errorf("cluster: %.80q; overrides must name the cluster, so give it a name", y.Cluster)
	}
	others := []role{r.root, r.node}
	for _, d := range r.namespaces {
		others = append(others, d.role)
	}
	for _, other := range others {
		for _, s := range other.signers {
			if slices.Contains(o.signers, s) {
				return fmt.Errorf("override.signers: %s signs %s too; a key for overrides signs nothing else", s, other.what)
			}
		}
	}
	r.override = &o
	return nil
}

// Version is the root's own revision.
func (r *Root) Version() uint64 { return r.version }

// Expires is when the root, and with it everything that it vouches for, ends.
func (r *Root) Expires() time.Time { return r.expires }

// digest is what is signed: that of the file.
func (r *Root) digest() ref.Digest { return ref.DigestOf([]byte(r.text)) }

// trust compiles the keys and identities.
func (r *Root) trust(y rootYAML) error {
	var o sigstore.Options
	seen := map[signer]string{}
	keyless := ""
	for name, k := range y.Keys {
		if !signerName.MatchString(name) {
			return fmt.Errorf("keys: %.80q: want a name of letters, digits, '.', '_', '@' and '-'", name)
		}
		var s signer
		switch {
		case (k.PublicKey == "") == (k.Keyless == nil):
			return fmt.Errorf("keys.%s: want either publicKey or keyless", name)
		case k.Keyless != nil:
			if k.Keyless.Issuer == "" || k.Keyless.Subject == "" {
				return fmt.Errorf("keys.%s.keyless: want issuer and subject, both exact", name)
			}
			s, keyless = signer{issuer: k.Keyless.Issuer, subject: k.Keyless.Subject}, name
		default:
			key, err := policy.ParseKey([]byte(k.PublicKey))
			if err != nil {
				return fmt.Errorf("keys.%s.publicKey: %w", name, err)
			}
			s = signer{keyID: key.ID}
			o.Keys = append(o.Keys, key)
		}
		if before, again := seen[s]; again {
			return fmt.Errorf("keys: %s and %s are one key; it would count twice", min(before, name), max(before, name))
		}
		seen[s], r.signers[name] = name, s
	}
	if !y.TrustedRoot.IsZero() {
		var tree any
		err := y.TrustedRoot.Decode(&tree)
		if err == nil {
			var text []byte
			if text, err = json.Marshal(tree); err == nil {
				o.Roots = [][]byte{text}
			}
		}
		if err != nil {
			return fmt.Errorf("trustedRoot: %w", err)
		}
	} else if keyless != "" {
		return fmt.Errorf("trustedRoot: missing; keys.%s is keyless", keyless)
	}
	var err error
	if r.verifier, err = sigstore.New(o); err != nil {
		return fmt.Errorf("keys, trustedRoot: %w", err)
	}
	return nil
}

func (r *Root) role(at string, y roleYAML) (role, error) {
	seen := map[string]bool{}
	for _, s := range y.Signers {
		if _, known := r.signers[s]; !known || seen[s] {
			return role{}, fmt.Errorf("%s.signers: %.80q is no key of this root, or comes twice", at, s)
		}
		seen[s] = true
	}
	if y.Threshold < 1 || y.Threshold > len(y.Signers) {
		return role{}, fmt.Errorf("%s.threshold: %d of %d signers; want at least 1 and at most all", at, y.Threshold, len(y.Signers))
	}
	return role{what: at, signers: y.Signers, threshold: y.Threshold, minimum: y.MinRevision}, nil
}

// delegated is the role that may sign for namespace ("" is the node): of the patterns that match it, the
// first.
func (r *Root) delegated(namespace string) (role, error) {
	if namespace == "" {
		return r.node, nil
	}
	for _, d := range r.namespaces {
		if d.pattern.re.MatchString(namespace) {
			return d.role, nil
		}
	}
	return role{}, &Refused{RuleDelegation, fmt.Sprintf("root.json (version %d) lets nobody sign for namespace %q", r.version, namespace)}
}

// signed counts distinct signers of the role, never signatures, over the claims that verification
// proved, and refuses fewer than the threshold.
func (r *Root) signed(ctx context.Context, o role, s signatures, now time.Time) error {
	claims, reasons, err := r.verifier.Verify(ctx, policy.Image{Top: s.digest, Instance: s.digest}, s.evidence(), now)
	if err != nil {
		return &Refused{RuleSignature, err.Error()}
	}
	var by []string
	for _, name := range o.signers {
		if slices.ContainsFunc(claims, func(c policy.Claim) bool { return r.signers[name].made(c, s) }) {
			by = append(by, name)
		}
	}
	if len(by) >= o.threshold {
		return nil
	}
	found := "nobody"
	if len(by) > 0 {
		found = strings.Join(by, ", ")
	}
	msg := fmt.Sprintf("%s is signed by %s, want %d of %s (root.json version %d, %s)", s.digest, found, o.threshold, strings.Join(o.signers, ", "), r.version, o.what)
	if len(reasons) > 0 {
		msg += "; " + reasons[0]
	}
	return &Refused{RuleSignature, msg}
}

// made reports whether c is a signature, not an attestation, by s over exactly the digest.
func (s signer) made(c policy.Claim, sigs signatures) bool {
	f := c.Fields()
	if f.Subject != sigs.digest || (f.PredicateType != "" && f.PredicateType != signPredicate) {
		return false
	}
	if s.keyID != "" {
		return f.Kind == "key" && f.KeyID == s.keyID
	}
	return f.Kind == "keyless" && f.Issuer == s.issuer && f.SAN == s.subject
}

// follows says whether r may take the place of old: signed by the thresholds of both, and newer.
func (r *Root) follows(ctx context.Context, old *Root, s signatures, now time.Time) error {
	refuse := func(format string, a ...any) error { return &Refused{RuleRoot, fmt.Sprintf(format, a...)} }
	if old != nil && r.version <= old.version {
		return refuse("version %d was followed already, version %d is in force; give a changed root a higher version", r.version, old.version)
	}
	if old != nil {
		if err := old.signed(ctx, old.root, s, now); err != nil {
			return refuse("version %d lacks the signatures that version %d asks for: %v", r.version, old.version, err)
		}
	}
	if err := r.signed(ctx, r.root, s, now); err != nil {
		return refuse("version %d lacks the signatures that it asks for itself: %v", r.version, err)
	}
	return nil
}
