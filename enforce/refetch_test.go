package enforce_test

import (
	"errors"
	"testing"

	"sallyport/enforce"
	"sallyport/enforce/enforcetest"
	"sallyport/policy"
	"sallyport/policy/baseline"
)

// TestRefetch: a denial says whether newer evidence could change it, and says so only if nothing else is
// wrong.
func TestRefetch(t *testing.T) {
	floor := baseline.ForLevel(baseline.Baseline)
	signed := enforcetest.Layer(t, "node", "policies:\n- name: release\n  images: [{glob: \"**\"}]\n  authorities:\n  - keyless:\n      identities: [{issuer: \"https://x.example\", subject: a@x.example}]\n", floor)
	elsewhere := enforcetest.Layer(t, "node", "policies:\n- name: release\n  images: [{glob: \"other.example/**\"}]\n  authorities: [{static: {action: pass}}]\n", floor)
	for name, tt := range map[string]struct {
		layer  *policy.Layer
		change func(*enforce.RunRequest)
		want   bool
	}{
		"no signature":       {signed, func(*enforce.RunRequest) {}, true},
		"not all was read":   {enforcetest.AnyImage(t, floor), func(r *enforce.RunRequest) { r.Evidence.Complete = false }, true},
		"both":               {signed, func(r *enforce.RunRequest) { r.Evidence.Complete = false }, true},
		"no rule":            {elsewhere, func(*enforce.RunRequest) {}, false},
		"and the floor":      {signed, func(r *enforce.RunRequest) { r.Refusals = []policy.Hit{{Rule: "x", Msg: "x"}} }, false},
		"and other bytes":    {signed, func(r *enforce.RunRequest) { r.Evidence.TopManifest = []byte("{}") }, false},
		"and an absent fact": {signed, func(r *enforce.RunRequest) { r.PodID = "" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			g, _ := enforcetest.With(t, enforce.Policies{Node: tt.layer})
			r := run(t)
			tt.change(&r)
			_, err := g.AdmitRun(t.Context(), r)
			var d *enforce.Denied
			if !errors.As(err, &d) {
				t.Fatalf("AdmitRun() = %v, want a denial", err)
			}
			if d.Refetch != tt.want {
				t.Errorf("Refetch = %v for %v, want %v", d.Refetch, d.Hits, tt.want)
			}
		})
	}
}
