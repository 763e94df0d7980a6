package policy

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// signV1 is the predicateType of the statement that cosign v3 signs by default: a signature, not an
// attestation.
const signV1 = "https://sigstore.dev/cosign/sign/v1"

// Requirements is a compiled requirements.yaml: who must have signed which images. All policies that
// match an image must pass (AND), each by one of its authorities (OR). It is immutable and may be
// used concurrently; the zero value matches no image.
type Requirements struct {
	policies []requirement
	keys     []Key
	scopes   scopes // of policies
}

var _ ImageRule = (*Requirements)(nil)

type requirement struct {
	name        string
	globs       []glob
	authorities []authority
	minimum     minimum
	mode        Mode
}

// authority is one way to pass: exactly one of static, quorum, key and identities is set.
type authority struct {
	name         string
	static       *static
	quorum       *quorum
	key          *Key
	identities   []identity
	root         string // name of the trusted root that must vouch; "" is trusted_root.json
	demand       demand
	side         side
	attestations []attestation
	built        time.Time // nothing proved to be of before then counts; zero: any time
}

type static struct {
	pass    bool
	message string
}

// identity is an OIDC issuer and a subject of a certificate; exactly one of subject and pattern is set.
type identity struct {
	issuer, subject string
	pattern         *regexp.Regexp // anchored at both ends
	raw             string         // pattern as written
	claims          map[string]string
}

// side says which manifest must have been signed.
type side uint8

const (
	either side = iota
	index
	instance
)

type attestation struct {
	name, predicateType string
	maxAge              time.Duration // denyAfter in the text; 0: any age
	warnAfter           time.Duration // older than this passes with a warning; 0: never
	side                side
}

// Keys are the public keys that some authority names, each once, in the order of the file.
func (r *Requirements) Keys() []Key { return slices.Clone(r.keys) }

// RootRef is a trusted root that a policy needs; Name is "" for trusted_root.json.
type RootRef struct{ Policy, Name string }

// Roots are the trusted roots that keyless authorities need, in the order of the file.
func (r *Requirements) Roots() (out []RootRef) {
	for _, p := range r.policies {
		for _, a := range p.signers() {
			if ref := (RootRef{p.name, a.root}); len(a.identities) > 0 && !slices.Contains(out, ref) {
				out = append(out, ref)
			}
		}
	}
	return out
}

// Lowered says what some keyless authority does without: the verifier must let pass what is in no
// transparency log (rekor: none) or whose certificate is in no certificate log (sct: none). The other
// authorities go by the numbers in the claims.
func (r *Requirements) Lowered() (unlogged, withoutSCT bool) {
	for _, p := range r.policies {
		for _, a := range p.signers() {
			if len(a.identities) > 0 {
				unlogged = unlogged || a.demand.logs == 0
				withoutSCT = withoutSCT || a.demand.scts == 0
			}
		}
	}
	return unlogged, withoutSCT
}

// Globs lists the globs of every policy by the policy's name, but for those in mode shadow.
func (r *Requirements) Globs() map[string][]string {
	out := map[string][]string{}
	for _, p := range r.policies {
		if p.mode == Shadow {
			continue
		}
		for _, g := range p.globs {
			out[p.name] = append(out[p.name], g.text)
		}
	}
	return out
}

// JudgeImage asks every policy whose glob matches the image's repository.
func (r *Requirements) JudgeImage(ctx context.Context, in ImageInput) (ImageFinding, error) {
	var f ImageFinding
	repository := in.Image.Name.Repository()
	for _, i := range r.scopes.find(repository) {
		p := r.policies[i]
		if !slices.ContainsFunc(p.globs, func(g glob) bool { return g.match(repository) }) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return ImageFinding{}, err
		}
		ok, msg := p.judge(in)
		f.Until = earlier(f.Until, ok.until)
		if p.mode == Shadow { // it matches nothing, or it would admit what no other rule is about
			if msg != "" {
				f.Shadow = append(f.Shadow, Hit{Rule: p.name, Msg: msg})
			}
			continue
		}
		f.Matched = true
		f.Rules = append(f.Rules, p.name)
		for _, w := range ok.warnings {
			f.Warnings = append(f.Warnings, Hit{Rule: p.name, Msg: w})
		}
		switch {
		case msg == "":
			f.Used = append(f.Used, ok.used...)
		case p.mode == Warn:
			f.Warnings = append(f.Warnings, Hit{Rule: p.name, Msg: msg})
		default:
			f.Hits = append(f.Hits, Hit{Rule: p.name, Msg: msg})
		}
	}
	return f, nil
}

// passed is why an authority is content.
type passed struct {
	used     []Claim
	until    time.Time
	warnings []string // about what is soon too old
}

// and is what both rest on.
func (p passed) and(q passed) passed {
	return passed{append(p.used, q.used...), earlier(p.until, q.until), append(p.warnings, q.warnings...)}
}

// judge returns what made the policy pass, or a message that names everything amiss.
func (p requirement) judge(in ImageInput) (passed, string) {
	ok, msg := p.anyOf(in)
	if low := p.minimum.below(in.Image.Name); low != "" {
		return passed{}, bounded(strings.TrimSuffix(low+"; "+msg, "; "))
	}
	return ok, msg
}

// signers are the authorities that sign, those of quorums among them.
func (p requirement) signers() (out []authority) {
	for _, a := range p.authorities {
		if a.quorum != nil {
			out = append(out, a.quorum.of...)
			continue
		}
		out = append(out, a)
	}
	return out
}

// anyOf asks the authorities in their order; the first that passes is enough.
func (p requirement) anyOf(in ImageInput) (passed, string) {
	var wants, misses []string
	for _, a := range p.authorities {
		if a.static != nil {
			if a.static.pass {
				return passed{}, ""
			}
			misses = append(misses, a.static.message)
			continue
		}
		ok, miss := a.judge(in)
		if miss.none() {
			return ok, ""
		}
		wants, misses = append(wants, miss.want), append(misses, miss.near...)
	}
	return passed{}, text(wants, misses, in)
}

// miss is what an authority lacks: want when there was nothing by its signer, near for each claim by
// its signer that did not do.
type miss struct {
	want string
	near []string
}

func (m miss) none() bool { return m.want == "" && len(m.near) == 0 }

// judge asks for a signature, or where attestations are listed for one of each.
func (a authority) judge(in ImageInput) (passed, miss) {
	if a.quorum != nil {
		return a.quorum.judge(in)
	}
	if len(a.attestations) == 0 {
		return a.find(in, attestation{side: a.side})
	}
	var ok passed
	for _, att := range a.attestations {
		one, m := a.find(in, att)
		if !m.none() {
			return passed{}, m
		}
		ok = ok.and(one)
	}
	return ok, miss{}
}

// find looks for one claim by the authority's signer: of att's predicate type, or a signature where
// att names none. Of several the one that holds longest is taken, and of those the youngest.
func (a authority) find(in ImageInput, att attestation) (passed, miss) {
	var best Claim
	var until time.Time
	var m miss
	for _, c := range in.Claims {
		f := c.Fields()
		if kindOf(f.PredicateType) != att.predicateType {
			continue
		}
		mine, near := a.signed(c)
		if !mine && near == "" {
			continue
		}
		if near == "" {
			near = a.objection(in, c, att)
		}
		if near != "" {
			m.near = append(m.near, near)
			continue
		}
		end := a.end(c, att)
		longer := end.IsZero() && !until.IsZero() || !until.IsZero() && end.After(until)
		if best.IsZero() || longer || end.Equal(until) && f.Signed.After(best.Fields().Signed) {
			best, until = c, end
		}
	}
	if !best.IsZero() {
		return a.pass(best, until, in.Now, att), miss{}
	}
	if len(m.near) == 0 {
		m.want = a.want(att)
	}
	return passed{}, m
}

// pass is what c gives that did, until then: with a warning where it is old.
func (a authority) pass(c Claim, until, now time.Time, att attestation) passed {
	ok := passed{used: []Claim{c}, until: until}
	if att.warnAfter == 0 {
		return ok
	}
	signed := c.Fields().Signed
	if old := signed.Add(att.warnAfter); now.Before(old) {
		ok.until = earlier(until, old)
	} else {
		ok.warnings = []string{fmt.Sprintf("attestation %s by %s is of %s, older than %s", att.predicateType, by(c), stamp(signed), att.warnAfter)}
	}
	return ok
}

// kindOf is "" for a signature, else the predicate type of the attestation.
func kindOf(predicateType string) string {
	if predicateType == signV1 {
		return ""
	}
	return predicateType
}

// signed reports whether c is by this authority's signer; near is set where it is by somebody alike.
func (a authority) signed(c Claim) (mine bool, near string) {
	f := c.Fields()
	if a.key != nil {
		return f.Kind == "key" && f.KeyID == a.key.ID, ""
	}
	if f.Kind != "keyless" {
		return false, ""
	}
	for _, id := range a.identities {
		if !id.names(f.SAN) {
			continue
		}
		if f.Root != a.root {
			near = fmt.Sprintf("certificate of %s is vouched for by %s, want %s", by(c), rootLabel(f.Root), rootLabel(a.root))
			continue
		}
		if f.Issuer != id.issuer {
			near = fmt.Sprintf("%s is vouched for by %s, want %s", by(c), clean(f.Issuer), id.issuer)
			continue
		}
		if name, found := id.differs(f.Extensions); name != "" {
			near = fmt.Sprintf("certificate of %s has %s %q, want %q", by(c), name, clean(found), id.claims[name])
			continue
		}
		return true, ""
	}
	return false, near
}

func (id identity) names(san string) bool {
	if id.pattern != nil {
		return id.pattern.MatchString(san)
	}
	return id.subject != "" && san == id.subject
}

// differs names the first wanted claim that the certificate does not have, and what it has instead.
func (id identity) differs(have map[string]string) (name, found string) {
	for n, want := range id.claims {
		if have[n] != want && (name == "" || n < name) {
			name, found = n, have[n]
		}
	}
	return name, found
}

// objection says why a claim by the right signer does not do, or "".
func (a authority) objection(in ImageInput, c Claim, att attestation) string {
	f := c.Fields()
	what := "signature"
	if att.predicateType != "" {
		what = "attestation " + att.predicateType
	}
	switch {
	case f.Subject != in.Image.Top && f.Subject != in.Image.Instance:
		return fmt.Sprintf("%s by %s is about %s, another manifest", what, by(c), f.Subject)
	case att.side == index && f.Subject != in.Image.Top:
		return fmt.Sprintf("%s by %s is about the platform's manifest, want the index", what, by(c))
	case att.side == instance && f.Subject != in.Image.Instance:
		return fmt.Sprintf("%s by %s is about the index, want this platform's manifest", what, by(c))
	case a.key != nil && !a.key.valid(in.Now):
		return fmt.Sprintf("%s by %s: the key is valid %s", what, by(c), window(*a.key))
	case !f.NotAfter.IsZero() && !in.Now.Before(f.NotAfter):
		return fmt.Sprintf("%s by %s lapsed at %s", what, by(c), stamp(f.NotAfter))
	case f.Logged < a.demand.logs:
		return fmt.Sprintf("%s by %s is in %s transparency log%s", what, by(c), count(f.Logged), missing("rekor", f.Logged, a.demand.logs))
	case f.SCTs < a.demand.scts:
		return fmt.Sprintf("%s by %s: its certificate is in %s certificate log%s", what, by(c), count(f.SCTs), missing("sct", f.SCTs, a.demand.scts))
	case a.demand.timestamped && f.Signed.IsZero():
		return fmt.Sprintf("%s by %s has no verified time (timestamp: required)", what, by(c))
	case !a.built.IsZero() && f.Signed.Before(a.built):
		return fmt.Sprintf("%s by %s is of %s, before minimum.built %s", what, by(c), stamp(f.Signed), stamp(a.built))
	case att.maxAge > 0 && (f.Signed.IsZero() || !in.Now.Before(f.Signed.Add(att.maxAge))):
		return fmt.Sprintf("%s by %s is of %s, older than %s", what, by(c), stamp(f.Signed), att.maxAge)
	}
	return ""
}

// end is when the claim stops doing; zero: never.
func (a authority) end(c Claim, att attestation) time.Time {
	f := c.Fields()
	end := f.NotAfter
	if a.key != nil {
		end = earlier(end, a.key.NotAfter)
	}
	if att.maxAge > 0 {
		end = earlier(end, f.Signed.Add(att.maxAge))
	}
	return end
}

// want says what would have passed.
func (a authority) want(att attestation) string {
	what := "signature"
	if att.predicateType != "" {
		what = "attestation " + att.predicateType
	}
	if a.key != nil {
		return fmt.Sprintf("%s by key %s", what, a.label())
	}
	var who []string
	for _, id := range a.identities {
		if id.pattern != nil {
			who = append(who, fmt.Sprintf("anyone like %q", id.raw))
		} else {
			who = append(who, id.subject)
		}
	}
	return what + " by " + strings.Join(who, " or ")
}

func (a authority) label() string {
	if a.name != "" {
		return fmt.Sprintf("%q (%s)", a.name, short(a.key.ID))
	}
	return short(a.key.ID)
}
