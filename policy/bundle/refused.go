package bundle

import (
	"errors"

	"sallyport/image/ref"
	"sallyport/policy"
)

// The rules by which a policy is refused.
const (
	RuleBroken     = "policy-broken"     // it does not read or compile
	RuleUnsigned   = "policy-unsigned"   // a plain directory, where policy.source is "signed"
	RuleSignature  = "policy-signature"  // fewer than k of n signed it
	RuleDelegation = "policy-delegation" // it is for somebody for whom its signers may not speak
	RuleRollback   = "policy-rollback"   // an older one, or another one of the same revision
	RuleRoot       = "policy-root"       // root.json itself
	RuleTest       = "policy-test"       // its own cases do not hold
)

// Refused is a policy that was not accepted, and why.
type Refused struct {
	Rule string
	Msg  string // one line
}

// Error is the message.
func (r *Refused) Error() string { return r.Msg }

// RuleOf is the rule that refused, RuleBroken where err names none.
func RuleOf(err error) string {
	var r *Refused
	if errors.As(err, &r) {
		return r.Rule
	}
	return RuleBroken
}

// signatures are Sigstore bundles that are said to be about a digest.
type signatures struct {
	digest  ref.Digest
	bundles [][]byte
}

func (s signatures) evidence() policy.Evidence {
	ev := policy.Evidence{Complete: true}
	for _, b := range s.bundles {
		ev.Bundles = append(ev.Bundles, policy.Bundle{Subject: s.digest, JSON: b})
	}
	return ev
}
