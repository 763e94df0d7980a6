package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"sallyport/image/ref"
)

// TestLocal: a repository that lies on the disk is found by tag alone, and never asked of a registry.
func TestLocal(t *testing.T) {
	dir, name := saved(t)
	at := t.TempDir()
	if err := os.CopyFS(filepath.Join(at, "v1"), os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	e := newEnv(t)
	e.local = map[string]string{name.Repository(): at}
	src, err := e.Resolve(context.Background(), name, Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if src.Image().Name.String() != name.String() || len(src.Evidence().Bundles) != 1 {
		t.Errorf("Resolve(%s) = %+v with %d bundles", name, src.Image(), len(src.Evidence().Bundles))
	}
	other, err := ref.Parse(name.Repository() + ":v2")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []ref.Name{other, name.WithDigest(src.Image().Top)} {
		if _, err := e.Resolve(context.Background(), n, Credentials{}); !errors.Is(err, ErrNotFound) {
			t.Errorf("Resolve(%s) = %v, want ErrNotFound", n, err)
		}
	}
}
