package enforce

import (
	"fmt"
	"io"
	"strings"
	"time"

	"sallyport/audit"
	"sallyport/policy"
)

// override reports whether a signed break-glass document lets pass what was denied. The use is counted on
// disk before it is made; one that cannot be counted is none.
func (j *judgement) override() bool {
	if j.decision.Allowed() || j.stepped {
		return false
	}
	o, ok := j.excused()
	if !ok {
		return false
	}
	n, err := o.Spend()
	if err != nil {
		j.detail["override"] = fmt.Sprintf("%s (ticket %s) does not apply: %v", o.Name, o.Ticket, err)
		return false
	}
	j.detail["override"], j.detail["ticket"], j.detail["overrideID"] = o.Name, o.Ticket, o.ID
	j.detail["overrideUse"] = fmt.Sprintf("%d of %d", n, o.MaxUses)
	return true
}

// excused finds the override that covers everything that denies, without using it.
func (j *judgement) excused() (policy.Override, bool) {
	return policy.Excuses(j.act, j.judged, j.gate.policies.Load().Overrides)
}

// overrode marks the record: it was allowed, and these rules denied it.
func (j *judgement) overrode(ev *audit.Event) {
	ev.Outcome = "allow"
	for _, h := range ev.Hits {
		h.Mode = "override"
		ev.Warnings = append(ev.Warnings, h)
	}
	ev.Hits = nil
}

// activeOverrides describes the overrides in force at now, on one line; "" for none.
func activeOverrides(all []policy.Override, now time.Time) string {
	var out []string
	for _, o := range all {
		if o.Active(now) {
			out = append(out, fmt.Sprintf("override %s (ticket %s) in namespace %s until %s", o.Name, o.Ticket, o.Namespace, o.NotAfter.UTC().Format(time.RFC3339)))
		}
	}
	return strings.Join(out, "; ")
}

// nameOverrides writes which overrides there are for a namespace: what they admitted ends with them.
func nameOverrides(w io.Writer, all []policy.Override, namespace string) {
	for _, o := range all {
		if o.Namespace == namespace {
			fmt.Fprintf(w, "override %q\n", o.ID)
		}
	}
}
