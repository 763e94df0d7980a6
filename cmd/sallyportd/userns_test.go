package main

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"sallyport/enforce/enforcetest"
	"sallyport/image"
	"sallyport/internal/config"
	"sallyport/policy/baseline"
	"sallyport/sandbox"
)

// TestUserNamespacesAreProved: what the runtime says of itself is not enough for Status.
func TestUserNamespacesAreProved(t *testing.T) {
	dir := t.TempDir()
	closed := filepath.Join(dir, "closed")
	state := filepath.Join(closed, "state")
	if err := os.MkdirAll(state, 0o700); err != nil {
		t.Fatal(err)
	}
	pods, err := sandbox.New(sandbox.Options{Root: state, State: dir, Conmon: "/x", Init: "/x", Runtimes: map[string]string{"": "/x"},
		Gate: enforcetest.Gate(t, baseline.Floor{}), Images: &image.Store{}})
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{c: config.Config{State: state}, pods: pods, log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	facts := map[string]sandbox.RuntimeFacts{"": {IDMap: true, RRO: true}, "runc": {IDMap: true, RRO: true}}
	d.proveUserNamespaces(t.Context(), facts)
	for name, f := range facts {
		if f.IDMap || !f.RRO {
			t.Errorf("facts of handler %q = %+v, want no ID maps and the rest as it was", name, f)
		}
	}
}
