package policy

import "testing"

func TestGlob(t *testing.T) {
	tests := []struct {
		glob, repository string
		want             bool
	}{
		{"registry.example/app", "registry.example/app", true},
		{"registry.example/app", "registry.example/app2", false},
		{"registry.example/app", "registryxexample/app", false},
		{"registry.example/*", "registry.example/app", true},
		{"registry.example/*", "registry.example/team/app", false},
		{"registry.example/*", "registryxexample/app", false},
		{"registry.example/**", "registry.example/team/app", true},
		{"registry.example/**", "registry.example.evil/app", false},
		{"registry.example/team-*/app", "registry.example/team-a/app", true},
		{"registry.example/team-*/app", "registry.example/team-a/b/app", false},
		{"registry.example/**/app", "registry.example/a/b/app", true},
		{"*.example/app", "registry.example/app", true},
		{"*.example/app", "evil.org/x.example/app", false},
		{"localhost:5000/**", "localhost:5000/a", true},
		{"**", "anything.example/at/all", true},
	}
	for _, tt := range tests {
		g, err := parseGlob(tt.glob)
		if err != nil {
			t.Errorf("parseGlob(%q) = %v", tt.glob, err)
			continue
		}
		if got := g.match(tt.repository); got != tt.want {
			t.Errorf("%q matches %q = %v, want %v", tt.glob, tt.repository, got, tt.want)
		}
	}
	if (glob{}).match("registry.example/app") {
		t.Error("the zero glob matches")
	}
}
