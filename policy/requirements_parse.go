package policy

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"sallyport/policy/internal/strict"
)

// Limits of one requirements.yaml, far above any real one.
const (
	maxPolicies    = 4000
	maxAuthorities = 64
)

// The YAML form. Field names and their meaning are those of policy-controller's ClusterImagePolicy
// v1beta1; quorum, minimum, rekor, sct, timestamp, subject, ages and claims are ours.
type (
	requirementsYAML struct {
		Policies []policyYAML `yaml:"policies" need:"yes"`
	}
	policyYAML struct {
		Name        string          `yaml:"name" need:"yes"`
		Images      []imageYAML     `yaml:"images" need:"yes"`
		Authorities []authorityYAML `yaml:"authorities" need:"yes"`
		Minimum     *minimumYAML    `yaml:"minimum"`
		Mode        string          `yaml:"mode" enum:"enforce,warn,shadow"`
	}
	imageYAML struct {
		Glob string `yaml:"glob" need:"yes"`
	}
	authorityYAML struct {
		Name         string            `yaml:"name"`
		Keyless      *keylessYAML      `yaml:"keyless"`
		Key          *keyYAML          `yaml:"key"`
		Static       *staticYAML       `yaml:"static"`
		Quorum       *quorumYAML       `yaml:"quorum"`
		Rekor        string            `yaml:"rekor" enum:"required,none" count:"yes"`
		SCT          string            `yaml:"sct" enum:"required,none" count:"yes"`
		Timestamp    string            `yaml:"timestamp" enum:"required,none"`
		Subject      string            `yaml:"subject" enum:"any,index,instance"`
		Attestations []attestationYAML `yaml:"attestations"`
	}
	keylessYAML struct {
		Identities   []identityYAML `yaml:"identities" need:"yes"`
		TrustRootRef string         `yaml:"trustRootRef"`
	}
	identityYAML struct {
		Issuer        string            `yaml:"issuer" need:"yes"`
		IssuerRegExp  string            `yaml:"issuerRegExp"`
		Subject       string            `yaml:"subject"`
		SubjectRegExp string            `yaml:"subjectRegExp"`
		Claims        map[string]string `yaml:"claims"`
	}
	keyYAML struct {
		Data      string    `yaml:"data"`
		File      string    `yaml:"file"`
		NotBefore time.Time `yaml:"notBefore"`
		NotAfter  time.Time `yaml:"notAfter"`
	}
	staticYAML struct {
		Action  string `yaml:"action" need:"yes" enum:"pass,fail"`
		Message string `yaml:"message"`
	}
	attestationYAML struct {
		Name          string `yaml:"name"`
		PredicateType string `yaml:"predicateType" need:"yes"`
		MaxAge        string `yaml:"maxAge"` // denyAfter by its older name
		WarnAfter     string `yaml:"warnAfter"`
		DenyAfter     string `yaml:"denyAfter"`
		Subject       string `yaml:"subject" enum:"any,index,instance"`
	}
)

// ruleName is what may name a rule: it stands in denials and in the audit log.
var ruleName = regexp.MustCompile(`\A[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?\z`)

// predicateTypes are the short names of policy-controller and cosign.
var predicateTypes = map[string]string{
	"custom":          "https://cosign.sigstore.dev/attestation/v1",
	"slsaprovenance":  "https://slsa.dev/provenance/v0.2",
	"slsaprovenance1": "https://slsa.dev/provenance/v1",
	"spdx":            "https://spdx.dev/Document",
	"spdxjson":        "https://spdx.dev/Document",
	"cyclonedx":       "https://cyclonedx.org/bom",
	"link":            "https://in-toto.io/Link/v1",
	"vuln":            "https://cosign.sigstore.dev/attestation/vuln/v1",
	"openvex":         "https://openvex.dev/ns",
}

// extensions are the claims of a Fulcio certificate that an identity may ask for
// (github.com/sigstore/fulcio, docs/oid-info.md).
var extensions = map[string]bool{
	"BuildSignerURI": true, "BuildSignerDigest": true, "RunnerEnvironment": true,
	"SourceRepositoryURI": true, "SourceRepositoryDigest": true, "SourceRepositoryRef": true,
	"SourceRepositoryIdentifier": true, "SourceRepositoryOwnerURI": true, "SourceRepositoryOwnerIdentifier": true,
	"BuildConfigURI": true, "BuildConfigDigest": true, "BuildTrigger": true, "RunInvocationURI": true,
	"SourceRepositoryVisibilityAtSigning": true,
}

// ParseRequirements compiles a requirements.yaml. read returns a key file that the text names (file
// names are relative to the policy bundle); the bytes are taken over, so the file is not read again.
// An error names the field, e.g. policies[0].authorities[1].keyless.identities[0].issuer.
func ParseRequirements(yaml []byte, read func(name string) ([]byte, error)) (*Requirements, error) {
	var doc requirementsYAML
	if err := strict.Decode(yaml, &doc); err != nil {
		return nil, err
	}
	if len(doc.Policies) == 0 {
		return nil, errors.New("policies: empty; name at least one, or remove the file")
	}
	if len(doc.Policies) > maxPolicies {
		return nil, fmt.Errorf("policies: %d are more than the limit of %d", len(doc.Policies), maxPolicies)
	}
	r := &Requirements{}
	for i, y := range doc.Policies {
		p, err := y.compile(read)
		if err != nil {
			return nil, fmt.Errorf("policies[%d].%w", i, err)
		}
		r.policies = append(r.policies, p)
	}
	r.scopes = scopesOf(r.policies)
	if err := r.contradictions(); err != nil {
		return nil, err
	}
	return r, r.collectKeys()
}

func (y policyYAML) compile(read func(string) ([]byte, error)) (requirement, error) {
	p := requirement{name: y.Name}
	if !ruleName.MatchString(y.Name) {
		return p, fmt.Errorf("name: %q; want 1 to 63 of a-z, 0-9, '.' and '-'", y.Name)
	}
	if len(y.Images) == 0 {
		return p, errors.New("images: empty; give at least one glob")
	}
	for i, img := range y.Images {
		g, err := parseGlob(img.Glob)
		if err != nil {
			return p, fmt.Errorf("images[%d].glob: %w", i, err)
		}
		p.globs = append(p.globs, g)
	}
	if len(y.Authorities) == 0 {
		return p, errors.New("authorities: empty; name who may sign")
	}
	if len(y.Authorities) > maxAuthorities {
		return p, fmt.Errorf("authorities: %d are more than the limit of %d", len(y.Authorities), maxAuthorities)
	}
	names := map[string]int{}
	for i, ay := range y.Authorities {
		a, err := ay.compile(read)
		if err != nil {
			return p, fmt.Errorf("authorities[%d].%w", i, err)
		}
		if before, seen := names[a.name]; seen && a.name != "" {
			return p, fmt.Errorf("authorities[%d].name: %q is the name of authorities[%d] too", i, a.name, before)
		}
		if a.static != nil && len(y.Authorities) > 1 {
			return p, fmt.Errorf("authorities[%d].static: stands beside other authorities, of which one is enough; give it a policy of its own", i)
		}
		names[a.name] = i
		p.authorities = append(p.authorities, a)
	}
	switch y.Mode {
	case "", "enforce":
		p.mode = Enforce
	case "warn", "shadow":
		p.mode = Mode(y.Mode)
	default:
		return p, fmt.Errorf("mode: %q; want enforce, warn or shadow", y.Mode)
	}
	if y.Minimum != nil {
		if err := y.Minimum.compile(&p); err != nil {
			return p, fmt.Errorf("minimum%w", err)
		}
	}
	return p, nil
}

func (y authorityYAML) compile(read func(string) ([]byte, error)) (authority, error) {
	a := authority{name: y.Name}
	if y.Name != "" && !ruleName.MatchString(y.Name) {
		return a, fmt.Errorf("name: %q; want 1 to 63 of a-z, 0-9, '.' and '-'", y.Name)
	}
	var err error
	switch {
	case y.kinds() != 1:
		err = errors.New("key, keyless, quorum, static: give exactly one of them")
	case y.Static != nil:
		a.static, err = y.compileStatic()
		return a, err
	case y.Quorum != nil:
		a.quorum, err = y.compileQuorum(read)
		return a, err
	case y.Key != nil:
		a.key, err = y.Key.compile(read)
	default:
		a.identities, err = y.Keyless.compile()
		a.root = y.Keyless.TrustRootRef
		if err == nil && a.root != "" && !ruleName.MatchString(a.root) {
			err = fmt.Errorf("keyless.trustRootRef: %q; want the name of a file in trusted_roots, without .json", a.root)
		}
	}
	if err != nil {
		return a, err
	}
	if err := y.demands(&a); err != nil {
		return a, err
	}
	if a.side, err = parseSide(y.Subject, either); err != nil {
		return a, err
	}
	if y.Subject != "" && len(y.Attestations) > 0 {
		return a, errors.New("subject: is about signatures; set attestations[].subject")
	}
	for i, ty := range y.Attestations {
		att, err := ty.compile(a.demand)
		if err != nil {
			return a, fmt.Errorf("attestations[%d].%w", i, err)
		}
		// A certificate bounds the time of signing to its ten minutes. A key does not: whoever can push
		// has an old signature stamped or logged anew, and it is young.
		if a.key != nil && (att.maxAge > 0 || att.warnAfter > 0) {
			return a, fmt.Errorf("attestations[%d].%s: the age of a key's signature cannot be known; use keyless", i, ty.ageField())
		}
		a.attestations = append(a.attestations, att)
	}
	return a, nil
}

func (y authorityYAML) compileStatic() (*static, error) {
	if y.demanding() {
		return nil, errors.New("static: nothing is verified; remove rekor, sct, timestamp, subject and attestations")
	}
	switch y.Static.Action {
	case "pass":
		return &static{pass: true}, nil
	case "fail":
		msg := clean(y.Static.Message)
		if msg == "" {
			msg = "images of this repository are rejected"
		}
		return &static{message: msg}, nil
	}
	return nil, fmt.Errorf("static.action: %q; want pass or fail", y.Static.Action)
}

func (y *keylessYAML) compile() (ids []identity, err error) {
	if len(y.Identities) == 0 {
		return nil, errors.New("keyless.identities: empty; anyone at all has some identity")
	}
	for i, iy := range y.Identities {
		id, err := iy.compile()
		if err != nil {
			return nil, fmt.Errorf("keyless.identities[%d].%w", i, err)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func (y identityYAML) compile() (identity, error) {
	id := identity{issuer: y.Issuer, subject: y.Subject, raw: y.SubjectRegExp, claims: y.Claims}
	if y.IssuerRegExp != "" {
		return id, errors.New("issuerRegExp: not supported; issuers are exact, write issuer")
	}
	if u, err := url.Parse(y.Issuer); err != nil || u.Scheme == "" || u.Host == "" {
		return id, fmt.Errorf("issuer: %q; want the URL of an OIDC issuer", y.Issuer)
	}
	if (y.Subject == "") == (y.SubjectRegExp == "") {
		return id, errors.New("subject, subjectRegExp: give exactly one of them")
	}
	for name, value := range y.Claims {
		if !extensions[name] {
			return id, fmt.Errorf("claims: unknown claim %q; see docs/policy.md", name)
		}
		if value == "" {
			return id, fmt.Errorf("claims.%s: empty", name)
		}
	}
	if y.SubjectRegExp == "" {
		return id, nil
	}
	// Alone first: "a)|(.*" becomes well-formed when wrapped, and matches anything.
	if _, err := regexp.Compile(y.SubjectRegExp); err != nil {
		return id, fmt.Errorf("subjectRegExp: %w", err)
	}
	var err error
	if id.pattern, err = regexp.Compile(`\A(?:` + y.SubjectRegExp + `)\z`); err != nil {
		return id, fmt.Errorf("subjectRegExp: %w", err)
	}
	if id.pattern.MatchString("") && len(y.Claims) == 0 {
		return id, fmt.Errorf("subjectRegExp: %q matches the empty text; write one that names somebody, or add claims", y.SubjectRegExp)
	}
	return id, nil
}

func (y *keyYAML) compile(read func(string) ([]byte, error)) (*Key, error) {
	if (y.Data == "") == (y.File == "") {
		return nil, errors.New("key.data, key.file: give exactly one of them")
	}
	text, field := []byte(y.Data), "key.data"
	if y.File != "" {
		field = "key.file"
		if read == nil {
			return nil, errors.New("key.file: no files can be read here; write the key as key.data")
		}
		var err error
		if text, err = read(y.File); err != nil {
			return nil, fmt.Errorf("key.file: %w", err)
		}
	}
	k, err := parseKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	k.NotBefore, k.NotAfter = y.NotBefore, y.NotAfter
	if !k.NotAfter.IsZero() && !k.NotBefore.Before(k.NotAfter) {
		return nil, errors.New("key.notAfter: not after key.notBefore")
	}
	return &k, nil
}

func (y attestationYAML) compile(d demand) (attestation, error) {
	att := attestation{name: y.Name, predicateType: y.PredicateType}
	if full, ok := predicateTypes[y.PredicateType]; ok {
		att.predicateType = full
	}
	switch {
	case !strings.Contains(att.predicateType, "://"):
		return att, fmt.Errorf("predicateType: %q; want a URI, or one of the short names of cosign", y.PredicateType)
	case att.predicateType == signV1:
		return att, errors.New("predicateType: this is a signature; leave out attestations")
	}
	if err := y.ages(&att, d); err != nil {
		return att, err
	}
	var err error
	att.side, err = parseSide(y.Subject, instance)
	return att, err
}

func parseSide(word string, byDefault side) (side, error) {
	switch word {
	case "":
		return byDefault, nil
	case "any":
		return either, nil
	case "index":
		return index, nil
	case "instance":
		return instance, nil
	}
	return either, fmt.Errorf("subject: %q; want any, index or instance", word)
}
