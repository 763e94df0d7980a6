package node

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Build makes the daemon and its helper as they are in the tree now, so that no stale one is tested, in a
// new folder that is the caller's to remove.
func Build() (string, error) {
	dir, err := os.MkdirTemp("/var/tmp", "sallyport-bin-")
	if err != nil {
		return "", err
	}
	for _, p := range []struct{ name, cgo string }{{"sallyportd", "1"}, {"sallyport-init", "0"}} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, p.name), "sallyport/cmd/"+p.name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+p.cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			os.RemoveAll(dir)
			return "", fmt.Errorf("%w: %s", err, out)
		}
	}
	return dir, nil
}
