package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What an operator types and sees on a node with nothing on it, and on one with a record that cannot be
// read. The doctor's work is held by test/e2e.TestDoctor.
func TestDoctor(t *testing.T) {
	dir := t.TempDir()
	conf := filepath.Join(dir, "sallyport.toml")
	text := fmt.Sprintf("root = %q\nstate = %q\n", filepath.Join(dir, "root"), filepath.Join(dir, "state"))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "state/sandbox/keys/k")
	for _, tt := range []struct {
		name   string
		record string
		flag   string
		code   int
		want   []string
	}{
		{"empty", "", "--json=false", 0, []string{"daemon stopped; 0 pods and 0 containers on record; 0 findings"}},
		{"empty, repaired", "", "--repair", 0, []string{"0 removed"}},
		{"broken", "{", "--json", 1, []string{`"kind": "record"`, "move its directory away", "belongs to no record"}},
		{"whole", `{"id":"` + strings.Repeat("a", 64) + `","pod":{}}`, "--json=false", 0, []string{"1 pods"}},
		{"no such flag", "", "--force", 2, []string{"--force"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.record != "" {
				if err := os.MkdirAll(key, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(key, "record.json"), []byte(tt.record), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var out bytes.Buffer
			if code := run([]string{"doctor", "--config", conf, tt.flag}, &out, &out); code != tt.code {
				t.Errorf("exit code %d, want %d: %s", code, tt.code, out.String())
			}
			for _, want := range tt.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("output %q lacks %q", out.String(), want)
				}
			}
		})
	}
}
