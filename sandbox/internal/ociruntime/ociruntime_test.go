package ociruntime

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/test/roottest"
)

func TestSafe(t *testing.T) {
	for _, c := range []struct {
		name, version string
		seccomp, want bool
	}{
		{"runc", "1.5.2", true, true},
		{"runc", "1.5.0", true, true},
		{"runc", "1.5.0-rc.1", true, false},
		{"runc", "1.4.3", true, true},
		{"runc", "1.4.2", true, false},
		{"runc", "1.3.6", true, true},
		{"runc", "1.3.6+ds1", true, true},
		{"runc", "1.3.5", true, false},
		{"runc", "1.1.5+ds1", true, false}, // Debian 12
		{"runc", "1.2.99", true, false},
		{"runc", "2.0.0", true, true},
		{"runc", "1.5.2", false, false},
		{"runc", "new", true, false},
		{"runc", "", true, false},
		{"crun", "1.20", true, true},
		{"crun", "1.8.1", true, false},
		{"runsc", "release-20260905.0", true, true},
		{"runsc", "release-20260105.0-12-gabc", true, true},
		{"runsc", "release-20251215.0", true, false},
		{"runsc", "release-20260905.0", false, false},
		{"runsc", "VERSION_MISSING", true, false}, // built without a version
		{"youki", "9.9.9", true, false},
		{"", "", true, false},
	} {
		err := Facts{Name: c.name, Version: c.version, Seccomp: c.seccomp}.Safe()
		if (err == nil) != c.want || err != nil && !errors.Is(err, ErrUnsafe) {
			t.Errorf("Safe(%s %q, seccomp %v) = %v, want safe: %v", c.name, c.version, c.seccomp, err, c.want)
		}
	}
}

func TestProbe(t *testing.T) {
	f, err := New(Options{Path: roottest.Binary(t, "runc"), Root: t.TempDir()}).Probe(t.Context())
	if err != nil || f.Name != "runc" || !f.Seccomp {
		t.Errorf("Probe() = %+v, %v, want a safe runc", f, err)
	}
}

func fake(t *testing.T, script string) *Runtime {
	t.Helper()
	path := filepath.Join(t.TempDir(), "runc")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return New(Options{Handler: "fake", Path: path, Root: t.TempDir(), Deadline: 500 * time.Millisecond})
}

func TestProbeRefuses(t *testing.T) {
	for name, script := range map[string]string{
		"old":         `case "$*" in *--version) echo runc version 1.1.5+ds1;; *) echo '{"linux":{"seccomp":{"enabled":true}}}';; esac`,
		"no seccomp":  `case "$*" in *--version) echo runc version 1.5.2;; *) echo '{}';; esac`,
		"no features": `case "$*" in *--version) echo runc version 1.5.2;; *) exit 1;; esac`,
		"not one":     `echo hello`,
	} {
		if _, err := fake(t, script).Probe(t.Context()); !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s: Probe() = %v, want ErrUnsafe", name, err)
		}
	}
	if _, err := fake(t, `case "$*" in *--version) echo runc version 1.5.2;; *) echo '{"linux":{"seccomp":{"enabled":true}}}';; esac`).Probe(t.Context()); err != nil {
		t.Errorf("Probe() of the allowed twin = %v, want nil", err)
	}
}

func TestRunDeadline(t *testing.T) {
	begun := time.Now()
	err := fake(t, "sleep 100 & sleep 100").Start(t.Context(), "id")
	if err == nil || !strings.Contains(err.Error(), "no answer in") || time.Since(begun) > 5*time.Second {
		t.Errorf("Start() of a hung runtime = %v after %v", err, time.Since(begun))
	}
}

func TestRunErrors(t *testing.T) {
	r := fake(t, `echo '{"level":"warning","msg":"hm"}' >&2; printf '{"level":"error","msg":"bad\\nthing"}\n' >&2; exit 1`)
	if err := r.Start(t.Context(), "id"); err == nil || err.Error() != "run fake start: bad thing" {
		t.Errorf("Start() = %v, want the runtime's last error in one line", err)
	}
	if err := r.Start(t.Context(), "--help"); err == nil || !strings.Contains(err.Error(), "bad container ID") {
		t.Errorf("Start(--help) = %v, want a refusal", err)
	}
	gone := fake(t, `echo '{"level":"error","msg":"container does not exist"}' >&2; exit 1`)
	if err := gone.Delete(t.Context(), "id"); err != nil {
		t.Errorf("Delete() of an unknown container = %v, want nil", err)
	}
	if _, err := gone.State(t.Context(), "id"); !errors.Is(err, ErrNotFound) {
		t.Errorf("State() = %v, want ErrNotFound", err)
	}
}

// io.Copy must not find a way round the limit.
func TestCapped(t *testing.T) {
	c := capped{limit: 10}
	n, err := io.Copy(&c, struct{ io.Reader }{strings.NewReader(strings.Repeat("x", 1000))})
	if err != nil || n != 1000 || len(c.Bytes()) != 10 || c.dropped != 990 {
		t.Errorf("copied %d, %v, kept %d, dropped %d, want 1000, 10, 990", n, err, len(c.Bytes()), c.dropped)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() { io.WriteString(w, strings.Repeat("y", 1000)); w.Close() }()
	c = capped{limit: 10}
	if io.Copy(&c, r); len(c.Bytes()) != 10 {
		t.Errorf("kept %d bytes of a pipe, want 10", len(c.Bytes()))
	}
}
