package monitor

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sallyport/sandbox/internal/ociruntime"
	"sallyport/test/roottest"
)

func TestParseSync(t *testing.T) {
	for in, want := range map[string]string{
		`{"pid": 0}`: "no pid and no reason", `{"pid": -1, "message": "warn\nno room"}`: "no room",
		`{"pid": 1}`: "no pid", `{}`: "no pid", `[]`: "parse", ``: "parse", `{"pid":"5"}`: "parse", `{"exit_code":1,"message":"x"}`: "x",
	} {
		if pid, err := ParseSync([]byte(in)); err == nil || !strings.Contains(err.Error(), want) || pid != 0 {
			t.Errorf("ParseSync(%s) = %d, %v, want an error with %q", in, pid, err, want)
		}
	}
	if pid, err := ParseSync([]byte(`{"pid": 4711}`)); err != nil || pid != 4711 {
		t.Errorf("ParseSync() = %d, %v, want 4711", pid, err)
	}
}

func TestReadSyncIsBounded(t *testing.T) {
	if _, err := readSync(strings.NewReader(strings.Repeat("x", 10*maxSync))); err == nil {
		t.Error("readSync() of a flood = nil, want an error")
	}
	if _, err := readSync(strings.NewReader("")); err == nil || !strings.Contains(err.Error(), "without an answer") {
		t.Errorf("readSync() of nothing = %v", err)
	}
}

func TestReadExit(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadExit(dir, "none"); !errors.Is(err, ErrNoExit) {
		t.Errorf("ReadExit() = %v, want ErrNoExit", err)
	}
	for text, want := range map[string]int{"0": 0, "137\n": 137, "-1": -1} {
		os.WriteFile(filepath.Join(dir, "id"), []byte(text), 0o600)
		if got, err := ReadExit(dir, "id"); err != nil || got.Code != want || got.At.IsZero() {
			t.Errorf("ReadExit(%q) = %+v, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "x", "256", "1e2", strings.Repeat("1", 100)} {
		os.WriteFile(filepath.Join(dir, "id"), []byte(text), 0o600)
		if got, err := ReadExit(dir, "id"); err == nil {
			t.Errorf("ReadExit(%q) = %+v, want an error", text, got)
		}
	}
}

// A path with a colon is not taken for a log driver.
func TestLogDriver(t *testing.T) {
	m := New("/usr/bin/conmon", 0)
	args := m.args(Container{ID: "id", Bundle: "/b", Log: "journald:/x.log", Runtime: ociruntime.New(ociruntime.Options{Path: "/r"})})
	if i := slices.Index(args, "--log-path"); i < 0 || args[i+1] != "k8s-file:journald:/x.log" {
		t.Errorf("args = %q, want the driver named", args)
	}
}

func TestProbe(t *testing.T) {
	if v, err := New(roottest.Binary(t, "conmon"), 0).Probe(t.Context()); err != nil || v == "" {
		t.Errorf("Probe() = %q, %v", v, err)
	}
	if _, err := New("/bin/true", 0).Probe(t.Context()); err == nil {
		t.Error("Probe() of what is not conmon = nil, want an error")
	}
}
