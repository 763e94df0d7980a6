package bundle

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The marks of every released version are read: else an upgrade would let an older policy back in. What this
// version does not know is an error, not a fresh node.
func TestGoldenStateLoads(t *testing.T) {
	text, err := os.ReadFile("testdata/v1-policy-state.json")
	if err != nil {
		t.Fatal(err)
	}
	m := memory{dir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(m.dir, stateFile), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.load(); err != nil {
		t.Fatal(err)
	}
	if node, pay := m.state.Marks[""], m.state.Marks["pay"]; node.Revision != 7 || pay.Revision != 3 || !pay.Tombstone {
		t.Errorf("load() = %+v, want the golden marks", m.state)
	}
	newer := strings.Replace(string(text), "policy-state/v1", "policy-state/v2", 1)
	if err := os.WriteFile(filepath.Join(m.dir, stateFile), []byte(newer), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.load(); err == nil {
		t.Error("load() of a newer state = nil, want an error")
	}
}
