// Package inittest builds the real sallyport-init for tests that start it.
package inittest

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// Build compiles sallyport-init as it is shipped (static, stripped) into a directory of the test, and
// returns its path. The build cache makes all but the first call cheap.
func Build(tb testing.TB) string {
	tb.Helper()
	if path := os.Getenv("SALLYPORT_TEST_INIT"); path != "" { // built elsewhere: in the test VM there is no compiler
		return path
	}
	_, file, _, _ := runtime.Caller(0)
	path := filepath.Join(tb.TempDir(), "sallyport-init")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "sallyport/cmd/sallyport-init")
	cmd.Dir = filepath.Dir(file)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("build sallyport-init: %v\n%s", err, out)
	}
	return path
}
