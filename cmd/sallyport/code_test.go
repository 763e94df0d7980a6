package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestExitCodes: 1 is a bad answer, 2 is none.
func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	makeLog(dir)
	changed := t.TempDir()
	makeLog(changed)
	flip(changed+"/0000000001.log", "700")
	tests := []struct {
		args string
		want int
	}{
		{"version", 0},
		{"audit verify --dir " + dir, 0},
		{"audit verify --dir " + changed, 1},
		{"audit show --dir " + changed, 1},
		{"audit verify --dir " + dir + "/none", 2},
		{"explain --dir " + dir + " 3", 0},
		{"explain --dir " + dir + " 77", 1},
		{"explain --dir " + dir + " zzzzzz", 1},
		{"explain --dir " + dir + " f00d", 1},
		{"explain", 2},
		{"seccomp explain read", 0},
		{"seccomp explain raed", 1},
		{"policy check " + dir + "/none", 2},
		{"policy check " + dir, 1},
		{"frobnicate", 2},
	}
	for _, tt := range tests {
		var stdout, stderr bytes.Buffer
		if got := run(strings.Fields(tt.args), &stdout, &stderr); got != tt.want {
			t.Errorf("sallyport %s = %d, want %d: %s", tt.args, got, tt.want, &stderr)
		}
		if n := strings.Count(stderr.String(), "\n"); n != min(tt.want, 1) {
			t.Errorf("sallyport %s: %d lines on stderr: %s", tt.args, n, &stderr)
		}
	}
}
