package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"sallyport/enforce"
	"sallyport/image/ref"
)

// Lookup proves which layers an image has; it is blind to a byte that changed inside one. So the bytes
// themselves are hashed when they are first used after a boot, by a slow pass in the background, and
// before every start where the namespace's floor says so. What a pull has just hashed and unpacked counts
// as checked. What was found lies in RunRoot, by boot, so that a restart of the daemon costs nothing.

// checked remembers which layers, and files of artifacts, were found whole since the machine started.
type checked struct {
	dir     string             // constant; one empty file for each
	flights singleflight.Group // by chain ID
	mu      sync.Mutex         // guards the rest
	whole   map[ref.Digest]bool
	broken  map[ref.Digest]bool // found changed, and still in storage because a container uses it
}

const bootIDFile = "/proc/sys/kernel/random/boot_id"

// openChecked reads what was found since this boot and forgets what was found before.
func openChecked(dir string) (*checked, error) {
	boot, err := os.ReadFile(bootIDFile)
	if err != nil {
		return nil, fmt.Errorf("read boot ID: %w", err)
	}
	c := &checked{dir: filepath.Join(dir, strings.TrimSpace(string(boot))), whole: map[ref.Digest]bool{}, broken: map[ref.Digest]bool{}}
	boots, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, b := range boots {
		if path := filepath.Join(dir, b.Name()); path != c.dir {
			if err := os.RemoveAll(path); err != nil {
				return nil, err
			}
		}
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, err
	}
	names, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if d, err := ref.ParseDigest("sha256:" + n.Name()); err == nil {
			c.whole[d] = true
		}
	}
	return c, nil
}

// mark notes that a layer is whole. Where the note cannot be written the layer is hashed again after a
// restart, no more.
func (c *checked) mark(chain ref.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.whole[chain] = true
	delete(c.broken, chain)
	if f, err := os.OpenFile(filepath.Join(c.dir, chain.Hex()), os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
		f.Close()
	}
}

// forget drops what is known of a layer.
func (c *checked) forget(chain ref.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.whole, chain)
	delete(c.broken, chain)
	os.Remove(filepath.Join(c.dir, chain.Hex()))
}

func (c *checked) spoil(chain ref.Digest) {
	c.forget(chain)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken[chain] = true
}

func (c *checked) isWhole(chain ref.Digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.whole[chain]
}

func (c *checked) isBroken(chain ref.Digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken[chain]
}

// CheckOnce hashes the stored bytes of an image, of those layers for which that was not done since the
// machine started. A difference is ErrCorrupt: no image that has the layer is usable any more, and those
// that no container uses are removed, so that the next pull fetches it anew. Concurrent calls share the
// work. Any other error says nothing of the bytes.
func (s *Store) CheckOnce(ctx context.Context, img enforce.Image) error {
	return s.checkBytes(ctx, img, func(chain ref.Digest) bool { return s.checked.isWhole(chain) })
}

// CheckBytes is CheckOnce, but for all layers, whatever is known of them: about 400 MB a second.
func (s *Store) CheckBytes(ctx context.Context, img enforce.Image) error {
	return s.checkBytes(ctx, img, func(ref.Digest) bool { return false })
}

func (s *Store) checkBytes(ctx context.Context, img enforce.Image, skip func(chain ref.Digest) bool) error {
	r := s.index.instance(img.ID, img.Instance)
	if r == nil {
		return fmt.Errorf("check bytes of %s: %w", img.Name, ErrNotFound)
	}
	found := make([]error, len(r.Layers))
	g := new(errgroup.Group)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, l := range r.Layers {
		if !skip(l.Chain) {
			g.Go(func() error { found[i] = s.checkLayer(ctx, r.Instance, l); return nil })
		}
	}
	g.Wait()
	var first error
	for i, err := range found { // only now: what is withdrawn takes the other layers with it
		if errors.Is(err, ErrCorrupt) {
			s.condemn(r.Layers[i])
		}
		if first == nil || errors.Is(err, ErrCorrupt) && !errors.Is(first, ErrCorrupt) {
			first = err
		}
	}
	if first != nil {
		return fmt.Errorf("check bytes of %s: %w", img.Name, first)
	}
	return nil
}

// checkLayer hashes one layer and remembers it if it is whole.
func (s *Store) checkLayer(ctx context.Context, instance ref.Digest, l layer) error {
	_, err, _ := s.checked.flights.Do(l.Chain.Hex(), func() (any, error) {
		err := s.hashLayer(ctx, instance, l, unpaced)
		if err == nil {
			s.checked.mark(l.Chain)
		}
		return nil, err
	})
	if err != nil && errors.Is(err, context.Canceled) && ctx.Err() == nil {
		return s.checkLayer(ctx, instance, l) // the caller who did the work went away
	}
	return err
}

func (s *Store) hashLayer(ctx context.Context, instance ref.Digest, l layer, p pace) error {
	var got ref.Digest
	var err error
	what := "layer " + l.DiffID.String()
	if l.Title == "" {
		got, err = s.rehash(ctx, l.Chain, p)
	} else {
		what = fmt.Sprintf("file %q of artifact %s", l.Title, instance)
		got, err = s.rehashFile(ctx, instance, l, p)
	}
	if err != nil {
		return fmt.Errorf("hash %s: %w", what, err)
	}
	if got != l.DiffID {
		return fmt.Errorf("%w: stored %s hashes to %s; pull the image again", ErrCorrupt, what, got)
	}
	if l.Tree.IsZero() {
		return nil
	}
	tree, _, err := treeDigest(s.diffDir(l.Chain))
	if err != nil {
		return fmt.Errorf("look at %s: %w", what, differs(err))
	}
	if tree != l.Tree {
		return fmt.Errorf("%w: stored %s has a file with another mode, owner or attribute, one more or one less; pull the image again", ErrCorrupt, what)
	}
	return nil
}

// condemn withdraws every image that has a layer which was found changed. One that a container uses stays,
// without a name that Status answers, and cannot be used for another.
func (s *Store) condemn(l layer) {
	s.checked.spoil(l.Chain)
	for _, r := range s.index.withChain(l.Chain) {
		s.index.markStale(r.Name)
		s.users.drop(r.ID)
		s.index.problem(fmt.Sprintf("%s: layer %s was changed on disk", r.Name, l.DiffID))
		_ = s.Remove(r.ID.String()) // in use: it stays, and is refused
	}
	if !s.storage.Exists(l.Chain.Hex()) && l.Title == "" || l.Title != "" && len(s.index.withChain(l.Chain)) == 0 {
		s.checked.forget(l.Chain)
	}
}

// replace takes a layer out of storage that was found changed, so that it can be unpacked anew.
func (s *Store) replace(l *layer) error {
	if !s.checked.isBroken(l.Chain) || !s.storage.Exists(l.Chain.Hex()) {
		return nil
	}
	if err := s.storage.DeleteLayer(l.Chain.Hex()); err != nil {
		s.condemn(*l) // when it was found, a container may have used it that is gone by now
		if !s.storage.Exists(l.Chain.Hex()) {
			return nil
		}
		for _, r := range s.index.withChain(l.Chain) {
			if c, used := s.user(r.ID); used {
				return fmt.Errorf("%w: stored layer %s was changed on disk and container %s uses it; remove that container", ErrCorrupt, l.DiffID, c)
			}
		}
		return fmt.Errorf("%w: stored layer %s was changed on disk: %w", ErrCorrupt, l.DiffID, flatError{err})
	}
	s.checked.forget(l.Chain)
	return nil
}

func (s *Store) user(img ref.Digest) (container string, used bool) {
	s.uses.mu.Lock()
	defer s.uses.mu.Unlock()
	return s.uses.users(img)
}

// diffDir is where containers/storage unpacked a layer.
func (s *Store) diffDir(chain ref.Digest) string {
	return s.path("storage", "overlay", chain.Hex(), "diff")
}
