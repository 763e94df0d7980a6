package node

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Build makes the daemon, its helper and further programs of cmd as they are in the tree now, so that no
// stale one is tested, in a new folder that is the caller's to remove.
func Build(more ...string) (string, error) {
	dir, err := os.MkdirTemp("/var/tmp", "sallyport-bin-")
	if err != nil {
		return "", err
	}
	for _, name := range append(more, "sallyportd", "sallyport-init") {
		cgo := "1"
		if name == "sallyport-init" {
			cgo = "0"
		}
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), "sallyport/cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			os.RemoveAll(dir)
			return "", fmt.Errorf("%w: %s", err, out)
		}
	}
	return dir, nil
}
