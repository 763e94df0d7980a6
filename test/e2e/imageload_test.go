package e2e

import (
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"sallyport/internal/admin/wire"
	"sallyport/test/node"
	"sallyport/test/sigkit"
)

// TestImageLoad: an image comes from a disk with its signature, is judged by the same rules, and runs
// without a registry. The twin that is refused has no signature.
func TestImageLoad(t *testing.T) {
	w := start(t, nil, "")
	load := func(from, name string) error {
		t.Helper()
		dir := t.TempDir()
		if err := sigkit.Save(from, dir); err != nil {
			t.Fatal(err)
		}
		return w.operator().Do(w.ctx, wire.CallLoad, wire.Load{Layout: dir, Name: name}, &wire.Loaded{})
	}
	signed, open := w.push("signed/app", v1.Config{}), w.push("open/app", v1.Config{Labels: map[string]string{"unsigned": "yes"}})
	var refused *wire.Refused
	if err := load(open, w.host+"/signed/other:v1"); !errors.As(err, &refused) || refused.Status != http.StatusForbidden || !strings.Contains(refused.Msg, `denied by rule "release-key"`) {
		t.Errorf("load of an unsigned image = %v, want release-key", err)
	}
	if w.has(w.host + "/signed/other:v1") {
		t.Error("an image that was refused is stored")
	}
	if err := load(signed, signed); err != nil {
		t.Fatal(err)
	}
	w.registry.Close()
	podID, pod := w.pod("default", "p")
	id, err := w.Create(w.ctx, podID, pod, node.Container("main", signed, signed, "true"))
	if err == nil {
		err = w.Start(w.ctx, id)
	}
	if err != nil {
		t.Errorf("container from a loaded image: %v", err)
	}
	for _, in := range []wire.Load{{Layout: "relative", Name: signed}, {Layout: filepath.Join(w.Scratch, "none"), Name: signed}, {Layout: t.TempDir(), Name: "short"}} {
		if err := w.operator().Do(w.ctx, wire.CallLoad, in, &wire.Loaded{}); !errors.As(err, &refused) || refused.Status >= 500 {
			t.Errorf("load of %+v = %v, want a refusal", in, err)
		}
	}
}
