package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/enforce"
	"sallyport/image/ref"
	"sallyport/internal/failpoint"
	"sallyport/internal/span"
)

// uses says which container's layer is over which image.
type uses struct {
	mu sync.Mutex            // guards of; an image leaves the index, or a use begins, only under it
	of map[string]ref.Digest // container ID -> image ID; the zero Digest if the layer does not say
	// container ID -> image IDs of its image volumes
	volumes map[string][]ref.Digest
}

// loadUses reads what an earlier daemon left.
func (s *Store) loadUses() error {
	if err := private(s.path("containers")); err != nil {
		return err
	}
	dirs, err := os.ReadDir(s.path("containers"))
	if err != nil {
		return err
	}
	s.uses.of, s.uses.volumes = map[string]ref.Digest{}, map[string][]ref.Digest{}
	for _, d := range dirs {
		b, _ := os.ReadFile(s.path("containers", d.Name(), "image"))
		id, _ := ref.ParseDigest(string(b))
		s.uses.of[d.Name()] = id
		s.uses.volumes[d.Name()] = s.loadHeld(d.Name())
	}
	return nil
}

// begin notes that a container uses an image, which must be in the index.
func (s *Store) begin(id string, img ref.Digest) (fresh bool, err error) {
	s.uses.mu.Lock()
	defer s.uses.mu.Unlock()
	if has, ok := s.uses.of[id]; ok {
		if has != img {
			return false, fmt.Errorf("%w: its layer is over image %s", ErrGrant, has)
		}
		return false, nil
	}
	if len(s.index.records(img)) == 0 {
		return false, fmt.Errorf("%w: image %s", ErrNotFound, img)
	}
	s.uses.of[id] = img
	return true, nil
}

func (s *Store) end(id string) {
	s.uses.mu.Lock()
	defer s.uses.mu.Unlock()
	delete(s.uses.of, id)
	delete(s.uses.volumes, id)
	s.usage.mu.Lock()
	defer s.usage.mu.Unlock()
	delete(s.usage.of, id)
}

// Mount makes the read-write layer of the container that g is about, over the judged image, mounts it
// and returns the place. The layer is keyed by the container ID, g.Subject; calling again with a grant
// for the same container gives the same mount. The layer is volatile: no sync waits for it, and it does
// not outlive a reboot. A grant of another verb, or the zero Grant, is refused with ErrGrant.
func (s *Store) Mount(ctx context.Context, g enforce.Grant) (_ Rootfs, err error) {
	ctx, sp := span.Start(ctx, span.Mount)
	defer sp.End(&err)
	sp.Set(span.Container, g.Subject())
	if !g.Valid() || g.Verb() != "run" || g.Subject() == "" || g.Image().ID.IsZero() {
		return Rootfs{}, fmt.Errorf("mount image: %w: want an admitted run", ErrGrant)
	}
	if err := ctx.Err(); err != nil {
		return Rootfs{}, err
	}
	id := g.Subject()
	if !plainName(id) {
		return Rootfs{}, fmt.Errorf("mount image: container ID %.80q is no plain name", id)
	}
	defer s.lockRootfs(id)()
	path, err := s.mount(id, g)
	if err != nil {
		return Rootfs{}, fmt.Errorf("mount image %s for container %s: %w", g.Image().Name, id, err)
	}
	return Rootfs{Path: path}, nil
}

func (s *Store) mount(id string, g enforce.Grant) (string, error) {
	spec, err := readRunSpec(g.Spec())
	if err != nil {
		return "", err
	}
	img := g.Image()
	chains, err := s.chainsOf(img.ID, img.Instance)
	if err != nil {
		return "", err
	}
	fresh, err := s.begin(id, img.ID)
	if err != nil {
		return "", err
	}
	dir := s.path("containers", id)
	merged := filepath.Join(dir, "merged")
	if !fresh {
		if is, err := mounted(merged); err == nil && is {
			return merged, nil
		}
	}
	err = func() error {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "image"), []byte(img.ID.String()), 0o600); err != nil {
			return err
		}
		failpoint.Hit("layer-owned")
		err := s.mountRootfs(dir, chains, spec)
		failpoint.Hit("layer-mounted")
		return err
	}()
	if err == nil && fresh {
		s.note(id, Usage{Inodes: 1, At: time.Now()}) // an empty directory
	}
	if err != nil && fresh {
		err = errors.Join(err, s.release(id))
	}
	return merged, err
}

// chainsOf are the layers of a verified image, lowest first.
func (s *Store) chainsOf(id, instance ref.Digest) ([]ref.Digest, error) {
	for _, r := range s.index.records(id) {
		if r.Artifact != "" {
			return nil, fmt.Errorf("%w: image %s is an artifact and has no layers", ErrInvalid, id)
		}
		if r.Instance == instance {
			return chainIDs(diffIDs(r)), nil
		}
	}
	return nil, fmt.Errorf("%w: image %s", ErrNotFound, id)
}

func plainName(id string) bool {
	return id != "" && id != "." && id != ".." && filepath.Base(id) == id && len(id) <= 255
}

// Unmount takes the root filesystem of a container away, if it is mounted. The layer stays.
func (s *Store) Unmount(id string) error {
	if !plainName(id) {
		return nil
	}
	defer s.lockRootfs(id)()
	return s.unmount(id)
}

func (s *Store) unmount(id string) error {
	err := s.unmountVolumes(id)
	if err == nil {
		err = unmountAll(s.path("containers", id, "merged"))
	}
	if err != nil {
		return fmt.Errorf("unmount container %s: %w", id, err)
	}
	return nil
}

// unmountAll takes away whatever is mounted on dir, which need not exist.
func unmountAll(dir string) error {
	for {
		is, err := mounted(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !is {
			return err
		}
		err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) { // a process that died a moment ago; the mount ends with its last user
			err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		if err != nil {
			return err
		}
	}
}

// Release unmounts and removes the read-write layer of a container. One that is gone is success.
func (s *Store) Release(id string) error {
	if !plainName(id) {
		return nil
	}
	defer s.lockRootfs(id)()
	err := s.release(id)
	if err == nil {
		s.rootfs.Delete(id)
	}
	return err
}

func (s *Store) release(id string) error {
	if err := s.unmount(id); err != nil {
		return err
	}
	failpoint.Hit("layer-unmounted")
	if err := detachLayers(s.path("containers", id)); err != nil {
		return fmt.Errorf("remove layer of container %s: %w", id, err)
	}
	if err := os.RemoveAll(s.path("containers", id)); err != nil {
		return fmt.Errorf("remove layer of container %s: %w", id, err)
	}
	failpoint.Hit("layer-removed")
	s.end(id)
	return nil
}

// Containers lists the containers that have a layer, for the removal of those that nobody knows.
func (s *Store) Containers() ([]string, error) {
	s.uses.mu.Lock()
	defer s.uses.mu.Unlock()
	out := make([]string, 0, len(s.uses.of))
	for id := range s.uses.of {
		out = append(out, id)
	}
	return out, nil
}

// lockRootfs serialises what happens to one container's root filesystem.
func (s *Store) lockRootfs(id string) (unlock func()) {
	mu, _ := s.rootfs.LoadOrStore(id, new(sync.Mutex))
	mu.(*sync.Mutex).Lock()
	return mu.(*sync.Mutex).Unlock
}
