package policy

import (
	"testing"
	"time"

	"sallyport/image/ref"
)

// What is revoked is never excused, also where the objection is a rule's and no fault; its twin is.
func TestExcuses(t *testing.T) {
	now := time.Now()
	d := ref.DigestOf([]byte("image"))
	act := Act{Verb: VerbRun, Now: now, Namespace: "pay", Image: &Image{Top: d}}
	deny := func(rules ...string) Verdict {
		v := &verdict{layer: "node"}
		for _, r := range rules {
			v.hits = append(v.hits, Hit{Layer: "node", Rule: r})
		}
		return Verdict{v}
	}
	o := Override{Namespace: "pay", Digest: d, Verbs: []Verb{VerbRun}, Rules: []string{"release", "revoked"}, NotBefore: now, NotAfter: now.Add(time.Hour)}
	node := act
	node.Namespace = ""
	for _, tt := range []struct {
		name     string
		act      Act
		verdicts []Verdict
		want     bool
	}{
		{"a rule", act, []Verdict{deny("release")}, true},
		{"beside a layer that admits", act, []Verdict{{&verdict{allowed: true}}, deny("release")}, true},
		{"revoked", act, []Verdict{deny("release", "revoked")}, false},
		{"no verdict", act, nil, false},
		{"the zero verdict", act, []Verdict{{}}, false},
		{"a denial without a reason", act, []Verdict{deny()}, false},
		{"a fault beside it", act, []Verdict{deny("release"), Refusal("gate", "release", "x")}, false},
		{"no image", Act{Verb: VerbRun, Now: now, Namespace: "pay"}, []Verdict{deny("release")}, false},
		{"no namespace", node, []Verdict{deny("release")}, false},
	} {
		if _, got := Excuses(tt.act, tt.verdicts, []Override{o}); got != tt.want {
			t.Errorf("%s: Excuses() = %t, want %t", tt.name, got, tt.want)
		}
	}
}
