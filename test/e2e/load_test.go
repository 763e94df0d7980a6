package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/test/node"
	"sallyport/test/roottest"
)

// An OCI runtime that hangs while it creates one container keeps nobody else, says at what stage it is, and
// ends at its deadline; the retry that comes when it no longer hangs succeeds.
func TestHungCreate(t *testing.T) {
	hang, fake := filepath.Join(scratch, "hang"), filepath.Join(scratch, "hanging-runc")
	runc := roottest.Binary(t, "runc")
	script := "#!/bin/sh\nif [ -e " + hang + " ]; then for a; do [ \"$a\" = create ] && grep -q hang-here \"$PWD/config.json\" && exec sleep 1000; done; fi\nexec " + runc + " \"$@\"\n"
	if err := os.WriteFile(fake, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hang, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w := start(t, nil, "[limits]\ncreates = 2\n[timeout]\nruntime = \"12s\"\n[runtime.handlers.runc]\npath = \""+fake+"\"\n")
	image := w.push("open/app", v1.Config{})
	podID, pod := w.pod("default", "load")
	imageID := w.pulled(image, pod)
	create := func(name, arg string, wait time.Duration) (string, error) {
		ctx, cancel := context.WithTimeout(w.ctx, wait)
		defer cancel()
		return w.Create(ctx, podID, pod, node.Container(name, image, imageID, "/bin/sleep", "1000", arg))
	}
	for i, stage := range []string{"monitor and runtime create", "monitor and runtime create", "wait for a turn"} {
		_, err := create(fmt.Sprint("hangs-", i), "hang-here", 1500*time.Millisecond)
		if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), stage) || !strings.Contains(err.Error(), "a retry joins it") {
			t.Errorf("CreateContainer() of what hangs = %v, want DeadlineExceeded at stage %q", err, stage)
		}
	}
	begin := time.Now()
	if _, err := w.Runtime.ListContainers(w.ctx, &cri.ListContainersRequest{}); err != nil || time.Since(begin) > time.Second {
		t.Errorf("ListContainers() beside what hangs: %v, took %s", err, time.Since(begin))
	}
	if _, err := create("other", "x", 30*time.Second); err != nil {
		t.Errorf("CreateContainer() beside what hangs = %v", err)
	}
	if _, err := create("hangs-0", "hang-here", 30*time.Second); err == nil || !strings.Contains(err.Error(), "no answer from conmon and hanging-runc in 12s") {
		t.Errorf("CreateContainer() of what hangs, joined = %v, want its deadline", err)
	}
	if err := os.Remove(hang); err != nil {
		t.Fatal(err)
	}
	if _, err := create("hangs-0", "hang-here", 30*time.Second); err != nil {
		t.Errorf("CreateContainer() when nothing hangs any more = %v", err)
	}
}
