package inspect

import (
	"strings"
	"testing"
)

// Every endpoint says what it does; what acts names its way through the gate.
func TestEffects(t *testing.T) {
	acts := 0
	for pattern, effect := range Effects() {
		switch acting := strings.Contains(pattern, "pause"); {
		case acting && !strings.Contains(effect, "AdmitFreeze"), !acting && effect != Reads, effect == "":
			t.Errorf("%s: effect %q", pattern, effect)
		case acting:
			acts++
		}
	}
	if acts != 2 {
		t.Errorf("%d endpoints act, want pause and unpause", acts)
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(Options{}); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("New() without parts = %v, want an error", err)
	}
}
