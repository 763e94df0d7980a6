package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
)

// maxMsg is the longest text of one hit, in bytes; the whole denial must fit the 1,024 of an event
// (events.k8s.io, note).
const maxMsg = 500

// text is the objection: what was wanted and what was found, on one line.
func text(wants, misses []string, in ImageInput) string {
	var parts []string
	wants = slices.DeleteFunc(wants, func(s string) bool { return s == "" })
	if len(wants) > 0 {
		parts = append(parts, "no "+strings.Join(slices.Compact(wants), " and no "))
	}
	parts = append(parts, misses...)
	if len(wants) > 0 {
		parts = append(parts, found(in))
	}
	return bounded(strings.Join(parts, "; "))
}

// bounded cuts a message to maxMsg.
func bounded(msg string) string {
	if len(msg) > maxMsg {
		msg = strings.ToValidUTF8(msg[:maxMsg], "") + "…"
	}
	return msg
}

// found lists who did sign, or why nothing proved anything.
func found(in ImageInput) string {
	var who []string
	signatures := 0
	for _, c := range in.Claims {
		name := by(c)
		if t := kindOf(c.Fields().PredicateType); t != "" {
			name = "attestation " + clean(t) + " by " + name
		} else {
			signatures++
		}
		if !slices.Contains(who, name) {
			who = append(who, name)
		}
	}
	if signatures == len(in.Claims) && signatures > 0 {
		return fmt.Sprintf("found %d, by %s", signatures, strings.Join(who, ", "))
	}
	if len(who) > 0 {
		return "found " + strings.Join(who, ", ")
	}
	if len(in.Reasons) > 0 {
		return fmt.Sprintf("found %d that prove nothing: %s", len(in.Reasons), clean(in.Reasons[0]))
	}
	return "found none"
}

// by names the signer of a claim.
func by(c Claim) string {
	f := c.Fields()
	if f.Kind == "key" {
		return "key " + short(f.KeyID)
	}
	return clean(f.SAN)
}

func rootLabel(name string) string {
	if name == "" {
		return "trusted_root.json"
	}
	return fmt.Sprintf("trusted root %q", clean(name))
}

func short(id string) string {
	if len(id) > 12 {
		return id[:12]
	}
	return id
}

// clean makes text of a certificate fit for one line of a message.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > 160 {
		s = strings.ToValidUTF8(s[:160], "") + "…"
	}
	return s
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "no known time"
	}
	return t.UTC().Format(time.RFC3339)
}

func window(k Key) string {
	if k.NotAfter.IsZero() {
		return "from " + stamp(k.NotBefore)
	}
	if k.NotBefore.IsZero() {
		return "until " + stamp(k.NotAfter)
	}
	return "from " + stamp(k.NotBefore) + " until " + stamp(k.NotAfter)
}
