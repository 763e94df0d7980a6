package enforce

import (
	"fmt"
	"strings"
	"unicode"

	"sallyport/policy"
)

// maxNote is the longest message that an event shows whole, in bytes (events.k8s.io, note).
const maxNote = 1024

// Denied says that the gate refused, by which rule, what was found and where to read more. Its text
// is one line of at most 1,024 bytes, the decisive part first, with stable wording for the same
// refusal.
type Denied struct {
	Verb       policy.Verb
	Subject    string // image, pod or command
	Volume     string // where the subject is an image volume: its mount's destination
	Hits       []policy.Hit
	Seq        uint64 // audit record; 0 if it could not be recorded
	Refetch    bool   // nothing but the stored evidence was wanting: newer evidence could change the answer
	unrecorded error
}

// Error is the line that users see in an event.
func (d *Denied) Error() string {
	rule, msg := "none", "denied"
	if len(d.Hits) > 0 {
		rule, msg = d.Hits[0].Rule, d.Hits[0].Msg
	}
	tail := fmt.Sprintf(` (audit #%d); run "sallyport explain %d"`, d.Seq, d.Seq)
	if d.Seq == 0 {
		tail = fmt.Sprintf(" (not recorded: %.200v)", d.unrecorded)
	}
	if n := len(d.Hits) - 1; n > 0 {
		tail = fmt.Sprintf("; and %d more", n) + tail
	}
	head := oneLine(fmt.Sprintf("%s denied by rule %q: %s", d.Subject, rule, msg))
	tail = oneLine(tail)
	if room := maxNote - len(tail); len(head) > room {
		head = strings.ToValidUTF8(head[:room-3], "") + "..."
	}
	return head + tail
}

// Unwrap gives the audit fault of a denial that could not be recorded.
func (d *Denied) Unwrap() error { return d.unrecorded }

// oneLine replaces control characters, which an event or a log would render as lines of its own.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Bidi_Control, r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
