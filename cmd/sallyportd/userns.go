package main

import (
	"context"
	"os"

	"sallyport/sandbox"
)

// proveUserNamespaces leaves the fact that a runtime can mount with ID maps only where the whole way
// works on this node: Status tells of what was tried.
func (d *daemon) proveUserNamespaces(ctx context.Context, facts map[string]sandbox.RuntimeFacts) {
	// A pod's root walks through the state directory to its own runtime bundle. It cannot list it, and
	// everything else in it is closed.
	err := os.Chmod(d.c.State, 0o711)
	if err == nil {
		err = d.pods.ProbeUserNamespaces(ctx, d.images)
	}
	if err == nil {
		return
	}
	d.log.Warn("pods cannot have user namespaces", "err", err)
	for name, f := range facts {
		f.IDMap = false
		facts[name] = f
	}
}
