// Package roottest says what a test needs of the machine. A test that lacks it is skipped with the
// reason, or fails where SALLYPORT_REQUIRE_ROOT=1 (CI): no test passes because it did not run.
package roottest

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// Need skips (or, in CI, fails) the test unless it runs as root.
func Need(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		lack(tb, "needs root")
	}
}

// Deps is the folder of real components that "make deps" fills: $SALLYPORT_DEPS, or .deps in the
// repository.
func Deps() string {
	if d := os.Getenv("SALLYPORT_DEPS"); d != "" {
		return d
	}
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", ".deps")
}

// CNIBin is the folder of real CNI plugins.
func CNIBin() string { return filepath.Join(Deps(), "cni", "bin") }

// Binary returns the path of a real component, from Deps or else PATH.
func Binary(tb testing.TB, name string) string {
	tb.Helper()
	for _, dir := range []string{filepath.Join(Deps(), "bin"), CNIBin()} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		lack(tb, "needs "+name+`; run "make deps"`)
	}
	return path
}

func lack(tb testing.TB, why string) {
	tb.Helper()
	if os.Getenv("SALLYPORT_REQUIRE_ROOT") == "1" {
		tb.Fatalf("%s, and SALLYPORT_REQUIRE_ROOT=1 forbids to skip", why)
	}
	tb.Skip(why)
}
