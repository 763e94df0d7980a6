package enforce_test

import (
	"strings"
	"testing"

	"sallyport/audit"
	"sallyport/enforce"
	"sallyport/enforce/enforcetest"
	"sallyport/policy"
	"sallyport/policy/baseline"
)

const (
	anyImage = "policies:\n- name: any\n  images: [{glob: \"**\"}]\n  authorities: [{static: {action: pass}}]\n"
	noImage  = "policies:\n- name: none\n  images: [{glob: \"**\"}]\n  authorities: [{static: {action: fail, message: not here}}]\n"
	onTrial  = "- name: next\n  images: [{glob: \"**\"}]\n  authorities: [{static: {action: fail, message: not here}}]\n  mode: shadow\n"
)

// What is on trial never changes the outcome; where it differs, that is recorded and counted.
func TestShadowDecidesNothing(t *testing.T) {
	floor := baseline.ForLevel(baseline.Baseline)
	layer := func(name, text string, mode policy.Mode) *policy.Layer {
		l := enforcetest.Layer(t, name, text, floor)
		l.Mode = mode
		return l
	}
	panics := layer("shadow node", anyImage, policy.Shadow)
	panics.Images = []policy.ImageRule{nil}
	for _, tt := range []struct {
		name    string
		node    string
		shadow  *policy.Layer
		allowed bool
		counted string
		rule    string
	}{
		{"agree", anyImage, layer("shadow node", anyImage, policy.Shadow), true, "", ""},
		{"agree to deny", noImage, layer("shadow node", noImage, policy.Shadow), false, "", "none"},
		{"would deny", anyImage, layer("shadow node", noImage, policy.Shadow), true, "run would-deny", "none"},
		{"would admit", noImage, layer("shadow node", anyImage, policy.Shadow), false, "run would-admit", "would-admit"},
		{"a namespace's", anyImage, layer("shadow namespace shop", noImage, policy.Shadow), true, "run would-deny", "none"},
		{"panics", anyImage, panics, true, "run would-deny", "panic"},
		{"one policy on trial", anyImage + onTrial, nil, true, "run would-deny", "next"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g, dir := enforcetest.With(t, enforce.Policies{Node: layer("node", tt.node, policy.Enforce), Shadow: func(ns string) []*policy.Layer {
				if tt.shadow == nil {
					return nil
				}
				return []*policy.Layer{tt.shadow}
			}})
			_, err := g.AdmitRun(t.Context(), run(t))
			if (err == nil) != tt.allowed {
				t.Fatalf("AdmitRun() = %v, want allowed %v whatever is on trial", err, tt.allowed)
			}
			if err != nil {
				rule(t, err, "none")
			}
			st := g.State()
			if tt.counted == "" && len(st.Shadow) != 0 || tt.counted != "" && (st.Shadow[tt.counted] != 1 || len(st.Shadow) != 1) {
				t.Errorf("State().Shadow = %v, want %q", st.Shadow, tt.counted)
			}
			var last audit.Record
			if err := audit.Read(dir, func(r audit.Record) error { last = r; return nil }); err != nil {
				t.Fatal(err)
			}
			w := last.Event.Warnings
			if tt.rule == "" && len(w) != 0 || tt.rule != "" && (len(w) != 1 || w[0].Rule != tt.rule || w[0].Mode != "shadow") {
				t.Errorf("recorded %v, want rule %q in mode shadow", w, tt.rule)
			}
			for _, h := range last.Event.Hits {
				if strings.HasPrefix(h.Layer, "shadow") {
					t.Errorf("a policy on trial denied: %v", h)
				}
			}
		})
	}
}
