package policy

import (
	"slices"
	"time"

	"sallyport/image/ref"
)

// Override is a break-glass document that was verified: it lets one image pass named rules in one
// namespace, for a while and a number of times. It is immutable.
type Override struct {
	ID        string // sha256 of the document, hex
	Name      string // of its file
	Ticket    string
	Reason    string
	Namespace string
	Digest    ref.Digest // of the image's manifest or index
	Verbs     []Verb     // pull and run alone: what is about an image
	Rules     []string   // exact names
	NotBefore time.Time
	NotAfter  time.Time
	MaxUses   int
	// Spend counts one use on disk before it is made, and says how many there were with it. An error is
	// that there is none left, or that the count cannot be kept: then the override does not apply.
	Spend func() (int, error)
	// Uses is the count now.
	Uses func() (int, error)
}

// Active reports whether o is within its time.
func (o Override) Active(now time.Time) bool {
	return !now.IsZero() && !now.Before(o.NotBefore) && now.Before(o.NotAfter)
}

// Excuses finds the first override that covers everything that denies act. Only what a rule of a layer
// says of an image can be covered: not what the floor or the gate itself refuses, no fault of an engine or
// of evidence (they are transient verdicts), and nothing that is revoked.
func Excuses(act Act, verdicts []Verdict, overrides []Override) (Override, bool) {
	var rules []string
	for _, v := range verdicts {
		if v.Allowed() {
			continue
		}
		if v.Transient() {
			return Override{}, false
		}
		for _, h := range v.Hits() {
			if h.Rule == "revoked" {
				return Override{}, false
			}
			rules = append(rules, h.Rule)
		}
	}
	if len(rules) == 0 || act.Image == nil || act.Namespace == "" {
		return Override{}, false
	}
	for _, o := range overrides {
		about := !o.Digest.IsZero() && (o.Digest == act.Image.Top || o.Digest == act.Image.Instance)
		if about && o.Namespace == act.Namespace && slices.Contains(o.Verbs, act.Verb) && o.Active(act.Now) &&
			!slices.ContainsFunc(rules, func(r string) bool { return !slices.Contains(o.Rules, r) }) {
			return o, true
		}
	}
	return Override{}, false
}
