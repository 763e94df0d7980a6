package e2e

import (
	"os"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/test/node"
)

// TestAppArmor: where the node has AppArmor and the packaged profile is loaded, a container that asks for
// none, or for no confinement, runs under it, and so does a command in it.
func TestAppArmor(t *testing.T) {
	loaded, err := os.ReadFile("/sys/kernel/security/apparmor/profiles")
	if err != nil || !strings.Contains(string(loaded), "sallyport-default (") {
		t.Skip("the node has no AppArmor, or packaging/apparmor is not loaded; make test-vm runs this")
	}
	w := start(t, map[string]string{"node/hardening.yaml": "level: baseline\nappArmor: override\n"}, "[runtime]\napparmor_profile = \"sallyport-default\"\n")
	image := w.push("open/app", v1.Config{})
	for name, asks := range map[string]*cri.SecurityProfile{
		"nothing": nil, "default": {ProfileType: cri.SecurityProfile_RuntimeDefault}, "unconfined": {ProfileType: cri.SecurityProfile_Unconfined},
	} {
		podID, pod := w.pod("default", name)
		c := node.Container("main", image, w.pulled(image, pod), "/bin/sleep", "1000")
		c.Linux.SecurityContext.Apparmor = asks
		id, err := w.Create(w.ctx, podID, pod, c)
		if err == nil {
			err = w.Start(w.ctx, id)
		}
		if err != nil {
			t.Fatal(err)
		}
		var r *cri.ExecSyncResponse
		for range 10 { // an emulated machine may miss Rego's deadline of 200 ms, which denies
			r, err = w.Runtime.ExecSync(w.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/cat", "/proc/1/attr/current", "/proc/self/attr/current"}, Timeout: 200})
			if err == nil {
				break
			}
		}
		if err != nil || strings.Count(string(r.Stdout), "sallyport-default (enforce)") != 2 {
			t.Errorf("%s: labels = %q, %v, want the default profile twice", name, r.GetStdout(), err)
		}
	}
}
