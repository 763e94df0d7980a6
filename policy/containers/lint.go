package containers

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/signature"
)

// document is a policy.json with its requirements unread.
type document struct {
	Default    []json.RawMessage                       `json:"default"`
	Transports map[string]map[string][]json.RawMessage `json:"transports,omitempty"`
}

// requirement is one entry of a list, as far as it is looked at here; containers/image itself refuses
// unknown fields.
type requirement struct {
	Type                string   `json:"type"`
	KeyType             string   `json:"keyType"`
	KeyPath             string   `json:"keyPath"`
	KeyPaths            []string `json:"keyPaths"`
	KeyData             []byte   `json:"keyData"`
	KeyDatas            [][]byte `json:"keyDatas"`
	RekorPublicKeyPath  string   `json:"rekorPublicKeyPath"`
	RekorPublicKeyPaths []string `json:"rekorPublicKeyPaths"`
	RekorPublicKeyData  []byte   `json:"rekorPublicKeyData"`
	RekorPublicKeyDatas [][]byte `json:"rekorPublicKeyDatas"`
	Fulcio              *struct {
		CAPath       string `json:"caPath"`
		CAData       []byte `json:"caData"`
		OIDCIssuer   string `json:"oidcIssuer"`
		SubjectEmail string `json:"subjectEmail"`
	} `json:"fulcio"`
	PKI *struct {
		CARootsPath         string `json:"caRootsPath"`
		CARootsData         []byte `json:"caRootsData"`
		CAIntermediatesPath string `json:"caIntermediatesPath"`
		CAIntermediatesData []byte `json:"caIntermediatesData"`
		SubjectEmail        string `json:"subjectEmail"`
		SubjectHostname     string `json:"subjectHostname"`
	} `json:"pki"`
	SignedIdentity *struct {
		Type   string `json:"type"`
		Prefix string `json:"prefix"`
	} `json:"signedIdentity"`
}

// transports are the names that containers/image gives them. Those other than docker say nothing of
// images from registries, but stand in policies that are shared with other tools.
var transports = []string{"atomic", "containers-storage", "dir", "docker", "docker-archive", "docker-daemon", "oci", "oci-archive", "ostree", "sif", "tarball"}

// lint finds what containers/image would parse and then never match or never verify. Errors begin with
// the JSON path.
func lint(policyJSON []byte) (document, error) {
	var doc document
	dec := json.NewDecoder(bytes.NewReader(policyJSON))
	if err := dec.Decode(&doc); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return document{}, fmt.Errorf("line %d: %w", 1+bytes.Count(policyJSON[:min(int(syntax.Offset), len(policyJSON))], []byte("\n")), err)
		}
		return document{}, err
	}
	if len(doc.Default) == 0 {
		return document{}, errors.New(`default: missing; write [{"type": "reject"}]`)
	}
	if err := lintList("default", doc.Default); err != nil {
		return document{}, err
	}
	for _, t := range slices.Sorted(maps.Keys(doc.Transports)) {
		path := "transports." + t
		if !slices.Contains(transports, t) {
			return document{}, fmt.Errorf("%s: unknown transport; images from registries are judged under \"docker\"", path)
		}
		for _, s := range slices.Sorted(maps.Keys(doc.Transports[t])) {
			at := fmt.Sprintf("%s[%q]", path, s)
			if t == "docker" {
				if err := lintScope(s); err != nil {
					return document{}, fmt.Errorf("%s: %w", at, err)
				}
				if err := lintRemap(s, at, doc.Transports[t][s]); err != nil {
					return document{}, err
				}
			}
			if err := lintList(at, doc.Transports[t][s]); err != nil {
				return document{}, err
			}
		}
	}
	return doc, nil
}

// lintScope accepts what PolicyConfigurationIdentity and PolicyConfigurationNamespaces of a docker
// reference can be, and nothing else.
func lintScope(s string) error {
	if s == "" {
		return nil
	}
	name, _, _ := strings.Cut(s, "@")
	if slash := strings.LastIndex(name, "/"); slash >= 0 {
		last, _, _ := strings.Cut(name[slash:], ":") // a tag may have upper-case letters
		name = name[:slash] + last
	}
	if name != strings.ToLower(name) {
		return errors.New("has upper-case letters, so it never matches: names are lower case")
	}
	if domain, ok := strings.CutPrefix(s, "*."); ok {
		if strings.ContainsAny(domain, "/:*@") {
			return errors.New("never matches: a wildcard stands for a domain alone, as *.example.com")
		}
		s = "any." + domain
	}
	if !strings.Contains(s, "/") {
		named, err := reference.ParseNormalizedNamed(s + "/x")
		if err != nil || reference.Domain(named) != s {
			return fmt.Errorf("never matches: want a registry host with its dot or port, as registry.example, or docker.io/library/%s", s)
		}
		return nil
	}
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return fmt.Errorf("never matches: %w", err)
	}
	if named.String() != s {
		// docker.io/team is a namespace, though as a name it reads docker.io/library/team.
		if host, path, _ := strings.Cut(s, "/"); host == "docker.io" && !strings.ContainsAny(path, "/:@") {
			return nil
		}
		return fmt.Errorf("never matches: the full name is %s", named)
	}
	if _, both := named.(reference.Canonical); both && strings.Contains(strings.TrimPrefix(strings.Split(s, "@")[0], reference.Domain(named)), ":") {
		return errors.New("never matches: write the tag or the digest, not both")
	}
	return nil
}

// lintRemap finds a remapIdentity that remaps no image of the scope.
func lintRemap(scope, path string, list []json.RawMessage) error {
	for i, raw := range list {
		var r requirement
		if err := json.Unmarshal(raw, &r); err != nil || r.SignedIdentity == nil || r.SignedIdentity.Type != "remapIdentity" {
			continue // what cannot be read is refused by lintList
		}
		if p := r.SignedIdentity.Prefix; !meets(scope, p) {
			return fmt.Errorf("%s[%d].signedIdentity.prefix: no image of this scope is below %q, so nothing is remapped", path, i, p)
		}
	}
	return nil
}

// meets reports whether some image's name may be in the scope and below the prefix.
func meets(scope, prefix string) bool {
	if domain, ok := strings.CutPrefix(scope, "*"); ok {
		host, _, _ := strings.Cut(prefix, "/")
		return strings.HasSuffix(host, domain)
	}
	return scope == "" || below(scope, prefix) || below(prefix, scope)
}

// below reports whether name is whole, or of it and more components, a tag or a digest.
func below(name, whole string) bool {
	rest, ok := strings.CutPrefix(name, whole)
	return ok && (rest == "" || strings.ContainsAny(rest[:1], "/:@"))
}

func lintList(path string, list []json.RawMessage) error {
	if len(list) == 0 {
		return fmt.Errorf("%s: empty; write at least one requirement", path)
	}
	types := map[string]bool{}
	for i, raw := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		var r requirement
		if err := json.Unmarshal(raw, &r); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		if err := r.lint(); err != nil {
			return fmt.Errorf("%s.%w", at, err)
		}
		types[r.Type] = true
	}
	if len(list) > 1 && types["reject"] {
		return fmt.Errorf("%s: contradicts itself: all requirements of a list must pass, and one of them is reject", path)
	}
	return nil
}

// lint checks one requirement. Errors begin with the field.
func (r requirement) lint() error {
	switch r.Type {
	case "insecureAcceptAnything", "reject":
		return nil
	case "signedBaseLayer":
		return errors.New("type: signedBaseLayer is parsed by containers/image and never verifies; use signedBy")
	case "signedBy":
		if r.KeyType != "GPGKeys" {
			return fmt.Errorf("keyType: %q is parsed by containers/image and never verifies; use GPGKeys", r.KeyType)
		}
		return r.lintRing()
	case "sigstoreSigned":
		return r.lintSigstore()
	}
	return fmt.Errorf("type: unknown requirement %.80q", r.Type)
}

func (r requirement) lintRing() error {
	if r.KeyData == nil {
		return nil
	}
	mech, ids, err := signature.NewEphemeralGPGSigningMechanism(r.KeyData)
	if err != nil {
		return fmt.Errorf("keyData: read GPG keys: %w", err)
	}
	defer mech.Close()
	if len(ids) == 0 {
		return errors.New("keyData: holds no GPG key")
	}
	return nil
}

func (r requirement) lintSigstore() error {
	for name, list := range map[string][][]byte{"keyData": {r.KeyData}, "keyDatas": r.KeyDatas, "rekorPublicKeyData": {r.RekorPublicKeyData}, "rekorPublicKeyDatas": r.RekorPublicKeyDatas} {
		for _, key := range list {
			if key == nil {
				continue
			}
			if _, err := publicKey(key); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if r.Fulcio != nil {
		if r.Fulcio.CAData != nil && !x509.NewCertPool().AppendCertsFromPEM(r.Fulcio.CAData) {
			return errors.New("fulcio.caData: holds no PEM certificate")
		}
	}
	if r.PKI != nil {
		if r.PKI.CARootsData != nil && !x509.NewCertPool().AppendCertsFromPEM(r.PKI.CARootsData) {
			return errors.New("pki.caRootsData: holds no PEM certificate")
		}
		if r.PKI.CAIntermediatesData != nil && !x509.NewCertPool().AppendCertsFromPEM(r.PKI.CAIntermediatesData) {
			return errors.New("pki.caIntermediatesData: holds no PEM certificate")
		}
	}
	return nil
}

// publicKey returns the PKIX DER of a PEM public key.
func publicKey(text []byte) ([]byte, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New("want one PEM block PUBLIC KEY")
	}
	if _, err := x509.ParsePKIXPublicKey(block.Bytes); err != nil {
		return nil, fmt.Errorf("read public key: %w", err)
	}
	return block.Bytes, nil
}

// byPath names the field of a requirement that still names a file, or "".
func (r requirement) byPath() string {
	switch {
	case r.KeyPath != "":
		return "keyPath"
	case r.KeyPaths != nil:
		return "keyPaths"
	case r.RekorPublicKeyPath != "":
		return "rekorPublicKeyPath"
	case r.RekorPublicKeyPaths != nil:
		return "rekorPublicKeyPaths"
	case r.Fulcio != nil && r.Fulcio.CAPath != "":
		return "fulcio.caPath"
	case r.PKI != nil && r.PKI.CARootsPath != "":
		return "pki.caRootsPath"
	case r.PKI != nil && r.PKI.CAIntermediatesPath != "":
		return "pki.caIntermediatesPath"
	}
	return ""
}

// inlined refuses a policy that would read key files at every evaluation.
func (d document) inlined() error {
	return d.each(func(path string, raw json.RawMessage) error {
		var r requirement
		if err := json.Unmarshal(raw, &r); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if field := r.byPath(); field != "" {
			return fmt.Errorf("%s.%s: names a file; the keys must be inlined", path, field)
		}
		return nil
	})
}

// each calls f with every requirement and its JSON path, in order.
func (d document) each(f func(path string, raw json.RawMessage) error) error {
	for i, raw := range d.Default {
		if err := f(fmt.Sprintf("default[%d]", i), raw); err != nil {
			return err
		}
	}
	for _, t := range slices.Sorted(maps.Keys(d.Transports)) {
		for _, s := range slices.Sorted(maps.Keys(d.Transports[t])) {
			for i, raw := range d.Transports[t][s] {
				if err := f(fmt.Sprintf("transports.%s[%q][%d]", t, s, i), raw); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// locate finds the requirement that containers/image refuses and puts its path before the error.
func (d document) locate(whole error) error {
	err := d.each(func(path string, raw json.RawMessage) error {
		doc, err := json.Marshal(document{Default: []json.RawMessage{raw}})
		if err == nil {
			_, err = signature.NewPolicyFromBytes(doc)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return whole
}

// onlyReject reports whether a list is a plain reject.
func onlyReject(list []json.RawMessage) bool {
	for _, raw := range list {
		var r requirement
		if json.Unmarshal(raw, &r) != nil || r.Type != "reject" {
			return false
		}
	}
	return len(list) > 0
}

// describe says what a list wants, for a denial.
func describe(list []json.RawMessage) string {
	var out []string
	for _, raw := range list {
		var r requirement
		if json.Unmarshal(raw, &r) != nil {
			continue
		}
		out = append(out, r.describe())
	}
	return strings.Join(out, " and ")
}

func (r requirement) describe() string {
	switch {
	case r.Type == "reject":
		return "nothing (reject)"
	case r.Type == "signedBy":
		mech, ids, err := signature.NewEphemeralGPGSigningMechanism(r.KeyData)
		if err != nil {
			return "a GPG signature"
		}
		defer mech.Close()
		return "a GPG signature by " + strings.Join(ids, " or ")
	case r.Fulcio != nil:
		return fmt.Sprintf("a .sig signature by %s of %s", r.Fulcio.SubjectEmail, r.Fulcio.OIDCIssuer)
	case r.PKI != nil:
		return fmt.Sprintf("a .sig signature by %s%s of a private CA", r.PKI.SubjectEmail, r.PKI.SubjectHostname)
	case r.Type == "sigstoreSigned":
		var ids []string
		for _, key := range append([][]byte{r.KeyData}, r.KeyDatas...) {
			if der, err := publicKey(key); err == nil {
				ids = append(ids, fmt.Sprintf("%.12x", sha256.Sum256(der)))
			}
		}
		return "a .sig signature by key " + strings.Join(ids, " or ")
	}
	return r.Type
}
