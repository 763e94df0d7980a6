package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"sallyport/policy/baseline"
)

// Layer is one compiled policy: the node's, or one namespace's. It is immutable once built (by
// policy/bundle) and may be used concurrently. The zero Layer denies everything.
type Layer struct {
	Name     string         // "node" or "namespace <name>"
	Hash     string         // sha256 over every file of the policy with its keys and roots, hex
	Revision uint64         // from bundle.yaml; 0 if it has none
	Mode     Mode           // governs this layer's own rules only
	NotAfter time.Time      // zero: no end
	Verifier Verifier       // nil: no evidence proves anything
	Images   []ImageRule    // an image that none matches is denied, those that match must all pass
	Acts     []ActRule      // all must be silent
	Floor    baseline.Floor // hardening
	// Revocations are the node's, in every layer: what they name proves nothing to anybody. Hash covers
	// them.
	Revocations *Revocations
	// Rejudge says what becomes of running containers that this layer would no longer admit.
	Rejudge Rejudge
	// Allowances are floors that the node's layer gives some namespaces instead of Floor; the first
	// that applies counts. A namespace's layer has none.
	Allowances []Allowance
}

// Rejudge is what a layer does about containers that run and that it denies by now. The zero value
// reports and stops nothing.
type Rejudge struct {
	Stop    bool          // false: report
	Grace   time.Duration // between the finding and the stop
	Max     int           // containers in all on this node, then halt; until the policy changes
	Percent int           // of the running containers, a minute; at least one
}

// Allowance is an exception that the node policy makes for some namespaces.
type Allowance struct {
	Applies func(namespace string) bool
	Floor   baseline.Floor
}

// FloorFor is the hardening that l gives a namespace; "" is none of them and gets Floor.
func (l *Layer) FloorFor(namespace string) baseline.Floor {
	for _, a := range l.Allowances {
		if namespace != "" && a.Applies != nil && a.Applies(namespace) {
			return a.Floor
		}
	}
	return l.Floor
}

// Verdict is what one layer says of one image or act; only this package can make an allowing one. The
// zero Verdict denies. It is immutable.
type Verdict struct{ v *verdict }

type verdict struct {
	layer, hash string
	allowed     bool
	hits        []Hit
	warnings    []Hit
	shadow      []Hit
	rules       []string
	claims      []Claim
	used        []Claim
	reasons     []string
	until       time.Time
	fault       bool
}

// Refusal is a verdict that denies by name. Anybody may make one: it can only tighten. A fault is an
// engine error, a timeout or missing evidence; it is never cached and no mode governs it.
func Refusal(layer, rule, msg string) Verdict {
	return Verdict{&verdict{layer: layer, hits: []Hit{{Layer: layer, Rule: rule, Msg: msg}}, fault: true}}
}

// Allowed reports whether the layer admits.
func (v Verdict) Allowed() bool { return v.v != nil && v.v.allowed }

// Layer is the name of the layer that spoke; "" for the zero Verdict.
func (v Verdict) Layer() string { return v.read().layer }

// Hash is the content hash of the layer that spoke.
func (v Verdict) Hash() string { return v.read().hash }

// Hits are the objections that deny, in the order of the rules.
func (v Verdict) Hits() []Hit { return slices.Clone(v.read().hits) }

// Warnings are objections that a mode or a Rego warn rule let pass.
func (v Verdict) Warnings() []Hit { return slices.Clone(v.read().warnings) }

// Shadow are objections of rules in mode shadow; the answer does not depend on them.
func (v Verdict) Shadow() []Hit { return slices.Clone(v.read().shadow) }

// Rules are the names of the rules that matched.
func (v Verdict) Rules() []string { return slices.Clone(v.read().rules) }

// Claims are all claims that the layer's own verifier proved.
func (v Verdict) Claims() []Claim { return slices.Clone(v.read().claims) }

// Used are the claims that made it pass.
func (v Verdict) Used() []Claim { return slices.Clone(v.read().used) }

// Reasons say, one line each, why evidence proved nothing to the layer.
func (v Verdict) Reasons() []string { return slices.Clone(v.read().reasons) }

// Until is the earliest end of anything that the verdict rests on; zero: no limit.
func (v Verdict) Until() time.Time { return v.read().until }

// Transient reports whether the verdict came from a fault and must not be cached.
func (v Verdict) Transient() bool { return v.v == nil || v.v.fault }

var denied = &verdict{layer: "none", fault: true, hits: []Hit{{Layer: "none", Rule: "zero-verdict", Msg: "no verdict was made; this is a fault in the daemon"}}}

func (v Verdict) read() *verdict {
	if v.v == nil {
		return denied
	}
	return v.v
}

// JudgeImage verifies the evidence with this layer's own keys and roots and asks its image rules. now
// is the judged time. The verdict may be cached until Until unless it is Transient.
func (l *Layer) JudgeImage(ctx context.Context, img Image, ev Evidence, now time.Time) (out Verdict) {
	defer l.refuseOnPanic(&out)
	if l.missing() {
		return Refusal("none", "no-policy", "no policy is installed; install one in /etc/sallyport/policy/node (docs/policy.md)")
	}
	if v, over := l.expired(now); over {
		return v
	}
	if img.Name.IsZero() || img.Top.IsZero() || img.Instance.IsZero() || img.ID.IsZero() {
		return Refusal(l.Name, "image-facts", "name, digests or image ID are missing; this is a fault in the daemon")
	}
	if v, dead := l.Revocations.refuse(l.Name, img, now); dead {
		return v
	}
	in := ImageInput{Image: img, Evidence: ev, Now: now}
	if l.Verifier != nil {
		var err error
		if in.Claims, in.Reasons, err = l.Verifier.Verify(ctx, img, ev, now); err != nil {
			return Refusal(l.Name, "verify", err.Error())
		}
	}
	var gone []string
	in.Claims, gone = l.Revocations.sift(in.Claims)
	v := &verdict{layer: l.Name, hash: l.Hash, claims: in.Claims, reasons: in.Reasons, until: earlier(l.NotAfter, l.Revocations.end())}
	for _, c := range in.Claims {
		v.until = earlier(v.until, c.Fields().NotAfter)
	}
	matched := false
	for _, rule := range l.Images {
		f, err := rule.JudgeImage(ctx, in)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return Refusal(l.Name, "verify", err.Error())
		}
		for _, h := range f.Shadow {
			v.shadow = append(v.shadow, Hit{Layer: l.Name, Rule: h.Rule, Msg: h.Msg, Mode: string(Shadow)})
		}
		if !f.Matched {
			continue
		}
		matched = true
		v.rules = append(v.rules, f.Rules...)
		v.used = append(v.used, f.Used...)
		v.until = earlier(v.until, f.Until)
		for _, h := range f.Hits {
			v.hits = append(v.hits, Hit{Layer: l.Name, Rule: h.Rule, Msg: h.Msg})
		}
		if k, ok := rule.(Keyed); ok {
			v.hits = append(v.hits, l.revokedKeys(k)...)
		}
		for _, h := range f.Warnings {
			v.warnings = append(v.warnings, Hit{Layer: l.Name, Rule: h.Rule, Msg: h.Msg})
		}
	}
	if !matched {
		v.hits = append(v.hits, Hit{Layer: l.Name, Rule: "no-rule", Msg: fmt.Sprintf("no rule in policy.json or requirements.yaml is about %s; add one", img.Name.Repository())})
	}
	if len(gone) > 0 && len(v.hits) > 0 { // the reason before its consequence
		v.hits = append([]Hit{{Layer: l.Name, Rule: "revoked", Msg: bounded(strings.Join(gone, "; "))}}, v.hits...)
	}
	return l.settle(v)
}

// revokedKeys are objections to a rule that verifies with keys of its own. The times of its signatures
// are not known here, so a key that is revoked in part is revoked.
func (l *Layer) revokedKeys(k Keyed) (hits []Hit) {
	if l.Revocations == nil {
		return nil
	}
	for _, id := range k.KeyIDs() {
		if reason, out := l.Revocations.key(id); out {
			hits = append(hits, Hit{Layer: l.Name, Rule: "revoked", Msg: fmt.Sprintf("policy.json accepts key %s, which is revoked (%s); take it out", short(id), reason)})
		}
	}
	return hits
}

// JudgeAct asks this layer's act rules (Rego). claims are those of the layer's own image verdict.
func (l *Layer) JudgeAct(ctx context.Context, act Act, claims []Claim) (out Verdict) {
	defer l.refuseOnPanic(&out)
	if l.missing() {
		return Refusal("none", "no-policy", "no policy is installed; install one in /etc/sallyport/policy/node (docs/policy.md)")
	}
	if v, over := l.expired(act.Now); over {
		return v
	}
	v := &verdict{layer: l.Name, hash: l.Hash, until: l.NotAfter}
	for _, rule := range l.Acts {
		deny, warn, err := rule.JudgeAct(ctx, act, claims)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return Refusal(l.Name, "rego", err.Error())
		}
		for _, h := range deny {
			v.hits = append(v.hits, Hit{Layer: l.Name, Rule: h.Rule, Msg: h.Msg})
		}
		for _, h := range warn {
			v.warnings = append(v.warnings, Hit{Layer: l.Name, Rule: h.Rule, Msg: h.Msg})
		}
	}
	return l.settle(v)
}

// missing reports that there is no policy: a layer is made whole or not at all.
func (l *Layer) missing() bool { return l == nil || l.Name == "" || l.Hash == "" }

// settle applies the layer's mode. An unknown mode is read as Enforce.
func (l *Layer) settle(v *verdict) Verdict {
	if l.Mode == Warn {
		v.warnings, v.hits = append(v.warnings, v.hits...), nil
	}
	v.allowed = len(v.hits) == 0
	return Verdict{v}
}

func (l *Layer) expired(now time.Time) (Verdict, bool) {
	if now.IsZero() {
		return Refusal(l.Name, "time", "the judged time is missing; this is a fault in the daemon"), true
	}
	if !l.NotAfter.IsZero() && !now.Before(l.NotAfter) {
		return Refusal(l.Name, "policy-expired", fmt.Sprintf("the policy ended at %s; install a newer one", l.NotAfter.UTC().Format(time.RFC3339))), true
	}
	return Verdict{}, false
}

func (l *Layer) refuseOnPanic(out *Verdict) {
	if p := recover(); p != nil {
		name := "none"
		if l != nil {
			name = l.Name
		}
		*out = Refusal(name, "panic", fmt.Sprintf("a rule panicked: %.200v; report this as a defect", p))
	}
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

// Decision is the answer to one act: every layer must admit. The zero Decision denies. It is
// immutable and carries the act that it is about.
type Decision struct {
	act   Act
	parts []Verdict
}

// Decide joins verdicts. No verdict at all denies; one that denies, denies. Adding a verdict can only
// make the answer tighter.
func Decide(act Act, verdicts ...Verdict) Decision {
	return Decision{act: act, parts: slices.Clone(verdicts)}
}

// Allowed reports whether every layer admits.
func (d Decision) Allowed() bool {
	for _, v := range d.parts {
		if v.Allowed() {
			continue
		}
		return false // one is enough
	}
	return len(d.parts) > 0
}

// Act is what was decided.
func (d Decision) Act() Act { return d.act }

// Verdicts are the parts, in the order given to Decide.
func (d Decision) Verdicts() []Verdict { return slices.Clone(d.parts) }

// Hits are the objections of all layers.
func (d Decision) Hits() (hits []Hit) {
	for _, v := range d.parts {
		if !v.Allowed() {
			hits = append(hits, v.Hits()...)
		}
	}
	if len(d.parts) == 0 {
		return denied.hits
	}
	return hits
}
