package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// quorumYAML is an authority that several others make up together.
type quorumYAML struct {
	AtLeast         int             `yaml:"atLeast" need:"yes"`
	DistinctIssuers bool            `yaml:"distinctIssuers"`
	Of              []authorityYAML `yaml:"of" need:"yes"`
}

// quorum passes when atLeast of its members pass, each by a signer of its own.
type quorum struct {
	atLeast         int
	distinctIssuers bool
	of              []authority
}

// kinds counts what the authority is; one is right.
func (y authorityYAML) kinds() (n int) {
	for _, set := range []bool{y.Key != nil, y.Keyless != nil, y.Quorum != nil, y.Static != nil} {
		if set {
			n++
		}
	}
	return n
}

// demanding reports whether y says anything about a signature.
func (y authorityYAML) demanding() bool {
	return y.Rekor != "" || y.SCT != "" || y.Timestamp != "" || y.Subject != "" || len(y.Attestations) > 0
}

func (y authorityYAML) compileQuorum(read func(string) ([]byte, error)) (*quorum, error) {
	if y.demanding() {
		return nil, errors.New("quorum: set rekor, sct, timestamp, subject and attestations on its members (quorum.of)")
	}
	q := &quorum{atLeast: y.Quorum.AtLeast, distinctIssuers: y.Quorum.DistinctIssuers}
	n := len(y.Quorum.Of)
	if n > maxAuthorities {
		return nil, fmt.Errorf("quorum.of: %d are more than the limit of %d", n, maxAuthorities)
	}
	// A threshold of none is how an empty list of signatures came to be enough (CVE-2026-23992).
	if q.atLeast < 1 || q.atLeast > n {
		return nil, fmt.Errorf("quorum.atLeast: %d; want 1 to %d, the length of quorum.of", q.atLeast, n)
	}
	for i, my := range y.Quorum.Of {
		if my.Static != nil || my.Quorum != nil {
			return nil, fmt.Errorf("quorum.of[%d].key, keyless: give exactly one of them; a member signs", i)
		}
		m, err := my.compile(read)
		if err != nil {
			return nil, fmt.Errorf("quorum.of[%d].%w", i, err)
		}
		if m.name == "" {
			return nil, fmt.Errorf("quorum.of[%d].name: missing; denials name who did not sign", i)
		}
		for _, before := range q.of {
			if before.name == m.name {
				return nil, fmt.Errorf("quorum.of[%d].name: %q stands twice", i, m.name)
			}
			if before.key != nil && m.key != nil && before.key.ID == m.key.ID {
				return nil, fmt.Errorf("quorum.of[%d].key: is that of %q, and one key counts once", i, before.name)
			}
		}
		q.of = append(q.of, m)
	}
	if most := q.issuers(); q.distinctIssuers && most < q.atLeast {
		return nil, fmt.Errorf("quorum.distinctIssuers: the members have %d issuers, so %d can never come together", most, q.atLeast)
	}
	return q, nil
}

// issuers counts the issuers that the members name; a key is one of its own.
func (q *quorum) issuers() int {
	seen := map[string]bool{}
	for _, m := range q.of {
		if m.key != nil {
			seen["key "+m.key.ID] = true
		}
		for _, id := range m.identities {
			seen["keyless "+fold(id.issuer)] = true
		}
	}
	return len(seen)
}

// signer is who made a claim, for counting: two claims by one signer are one. A workflow at another
// ref is the same workflow. What the signature's bytes are does not matter: anybody makes a second
// valid ECDSA signature of a first.
func signer(c Claim) string {
	f := c.Fields()
	if f.Kind == "key" {
		return "key " + f.KeyID
	}
	san := f.SAN
	if strings.Contains(san, "://") {
		san, _, _ = strings.Cut(san, "@")
	}
	return "keyless " + fold(f.Issuer) + " " + strings.ToLower(san)
}

func issuerOf(c Claim) string {
	if f := c.Fields(); f.Kind != "key" {
		return "keyless " + fold(f.Issuer)
	}
	return signer(c)
}

// fold makes one text of the spellings of one issuer.
func fold(issuer string) string { return strings.TrimRight(strings.ToLower(issuer), "/") }

// voter is one signer with what it signed, and what it counts as: itself or its issuer.
type voter struct {
	name, counts string
	claims       []Claim
}

// counts is what may count but once.
func (q *quorum) counts(c Claim) string {
	if q.distinctIssuers {
		return issuerOf(c)
	}
	return signer(c)
}

func (q *quorum) voters(claims []Claim) (out []voter) {
	for _, c := range claims {
		name := signer(c)
		i := slices.IndexFunc(out, func(v voter) bool { return v.name == name })
		if i < 0 {
			v := voter{name: name, counts: q.counts(c)}
			i, out = len(out), append(out, v)
		}
		out[i].claims = append(out[i].claims, c)
	}
	return out
}

// judge seeks atLeast members and for each a voter of its own. A member's attestations must all be by
// the same one.
func (q *quorum) judge(in ImageInput) (passed, miss) {
	ballots := make([]map[string]passed, len(q.of)) // by member: what each voter gives it
	for i, m := range q.of {
		ballots[i] = map[string]passed{}
		for _, v := range q.voters(in.Claims) {
			own := in
			own.Claims = v.claims
			if ok, lacks := m.judge(own); lacks.none() {
				if _, before := ballots[i][v.counts]; !before {
					ballots[i][v.counts] = ok
				}
			}
		}
	}
	given := match(ballots)
	var all passed
	var have, names []string
	var lacks miss
	for i, m := range q.of {
		names = append(names, m.name)
		if v, ok := given[i]; ok && len(have) < q.atLeast {
			have, all = append(have, m.name), all.and(ballots[i][v])
		} else if !ok {
			_, why := m.judge(in)
			lacks.near = append(lacks.near, why.near...)
		}
	}
	if len(have) >= q.atLeast {
		return all, miss{}
	}
	lacks.want = fmt.Sprintf("quorum of %d of %s", q.atLeast, strings.Join(names, ", "))
	if q.distinctIssuers {
		lacks.want += " with distinct issuers"
	}
	lacks.want += fmt.Sprintf(", only %d", len(have))
	if len(have) > 0 {
		lacks.want += " (" + strings.Join(have, ", ") + ")"
	}
	return passed{}, lacks
}

// match gives as many members as can be a voter each, none twice: a maximum matching, by augmenting
// paths.
func match(ballots []map[string]passed) map[int]string {
	owner, given := map[string]int{}, map[int]string{}
	var assign func(member int, tried map[string]bool) bool
	assign = func(member int, tried map[string]bool) bool {
		for _, v := range sorted(ballots[member]) {
			if tried[v] {
				continue
			}
			tried[v] = true
			if other, taken := owner[v]; taken && !assign(other, tried) {
				continue
			}
			owner[v], given[member] = member, v
			return true
		}
		return false
	}
	for i := range ballots {
		assign(i, map[string]bool{})
	}
	return given
}
