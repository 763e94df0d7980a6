package enforce_test

import (
	"testing"

	"sallyport/enforce"
	"sallyport/enforce/enforcetest"
	"sallyport/image/ref"
	"sallyport/policy"
	"sallyport/policy/baseline"
)

// The self-test's layer judges pulls of its repository in its namespace, and gives nobody else anything.
func TestProbeWidensNothing(t *testing.T) {
	floor := baseline.ForLevel(baseline.Baseline)
	all := enforcetest.AnyImage(t, floor)
	none := enforcetest.Layer(t, "node", "policies: [{name: closed, images: [{glob: '**'}], authorities: [{static: {action: fail, message: 'closed'}}]}]", floor)
	probe := enforcetest.Layer(t, "selftest", "policies: [{name: probe, images: [{glob: '"+policy.ProbeRepository+"'}], authorities: [{static: {action: pass}}]}]", baseline.Floor{})
	other, ev := image(t)
	own := other
	own.Name, _ = ref.Parse(policy.ProbeRepository + ":signed")
	for _, tt := range []struct {
		name, namespace string
		img             enforce.Image
		p               enforce.Policies
		want            string
	}{
		{"a probe", policy.ProbeNamespace, own, enforce.Policies{Node: none, Probe: probe}, ""},
		{"another image in its namespace", policy.ProbeNamespace, other, enforce.Policies{Node: all, Probe: probe}, "no-rule"},
		{"a probe in another namespace", "shop", own, enforce.Policies{Node: none, Probe: probe}, "closed"},
		{"a probe without a namespace", "", own, enforce.Policies{Node: none, Probe: probe}, "closed"},
		{"no layer for it", policy.ProbeNamespace, own, enforce.Policies{Node: all}, "no-policy"},
		{"no node policy", policy.ProbeNamespace, own, enforce.Policies{Probe: probe}, "no-policy"},
		{"a policy of its namespace's own", policy.ProbeNamespace, own, enforce.Policies{Node: none, Probe: probe,
			For: func(string) (*policy.Layer, *policy.Hit) { return all, nil }}, ""},
	} {
		g, _ := enforcetest.With(t, tt.p)
		_, err := g.AdmitPull(t.Context(), enforce.PullRequest{Namespace: tt.namespace, Image: tt.img, Evidence: ev})
		if tt.want != "" {
			rule(t, err, tt.want)
		} else if err != nil {
			t.Errorf("%s: AdmitPull() = %v, want it admitted", tt.name, err)
		}
	}
	g, _ := enforcetest.With(t, enforce.Policies{Node: all, Probe: probe})
	pod := policy.Pod{Namespace: policy.ProbeNamespace, Name: "p", UID: "u"}
	_, err := g.AdmitPod(t.Context(), enforce.PodRequest{Pod: pod, PodID: "p", Config: "{}"})
	rule(t, err, "selftest-namespace")
	pod.Namespace = "shop"
	if _, err := g.AdmitPod(t.Context(), enforce.PodRequest{Pod: pod, PodID: "p", Config: "{}"}); err != nil {
		t.Errorf("the same pod in another namespace: %v", err)
	}
	r := run(t)
	if _, err := g.AdmitRun(t.Context(), r); err != nil {
		t.Errorf("a container in another namespace: %v", err)
	}
	r.Pod.Namespace = policy.ProbeNamespace
	_, err = g.AdmitRun(t.Context(), r)
	rule(t, err, "selftest-namespace")
}
