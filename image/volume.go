package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"sallyport/enforce"
	"sallyport/image/ref"
	"sallyport/internal/failpoint"
)

// MountVolume mounts the judged image of one of the container's mounts, read-only, and returns the
// place. The image cannot be removed before the container's layer is released, which takes the mount
// away too. Mount comes first. A grant without that volume is refused with ErrGrant.
func (s *Store) MountVolume(ctx context.Context, g enforce.Grant, mount int) (Rootfs, error) {
	vols := g.Volumes()
	i := slices.IndexFunc(vols, func(v enforce.VolumeImage) bool { return v.Mount == mount })
	if !g.Valid() || g.Verb() != "run" || i < 0 || vols[i].Image.ID.IsZero() || !plainName(g.Subject()) {
		return Rootfs{}, fmt.Errorf("mount image volume: %w: want an admitted volume", ErrGrant)
	}
	if err := ctx.Err(); err != nil {
		return Rootfs{}, err
	}
	defer s.lockRootfs(g.Subject())()
	path, err := s.mountVolume(g, vols[i])
	if err != nil {
		return Rootfs{}, fmt.Errorf("mount image volume %s for container %s: %w", vols[i].Image.Name, g.Subject(), err)
	}
	return Rootfs{Path: path}, nil
}

func (s *Store) mountVolume(g enforce.Grant, v enforce.VolumeImage) (string, error) {
	spec, err := readRunSpec(g.Spec())
	if err != nil {
		return "", err
	}
	dir := s.path("containers", g.Subject(), "volumes", strconv.Itoa(v.Mount))
	if err := s.hold(g.Subject(), v.Image.ID); err != nil {
		return "", err
	}
	merged := filepath.Join(dir, "merged")
	if is, err := mounted(merged); err == nil && is {
		return merged, nil
	}
	if err := os.MkdirAll(merged, 0o700); err != nil {
		return "", err
	}
	files, err := s.volumeFiles(v.Image)
	if err != nil {
		return "", err
	}
	defer func() { closeAll(files) }()
	for len(files) < 2 { // overlay wants two where nothing is written
		empty, err := emptyLayer(dir)
		if err != nil {
			return "", err
		}
		files = append(files, empty)
	}
	err = mountReadOnly(dir, files, spec)
	failpoint.Hit("volume-mounted")
	return merged, err
}

// volumeFiles opens what a volume shows, topmost first. The caller closes it.
func (s *Store) volumeFiles(img enforce.Image) ([]*os.File, error) {
	if img.Artifact != "" {
		if len(s.index.records(img.ID)) == 0 {
			return nil, fmt.Errorf("%w: image %s", ErrNotFound, img.ID)
		}
		f, err := openPath(filepath.Join(s.artifactDir(img.Instance), "files"))
		if err != nil {
			return nil, fmt.Errorf("%w: artifact %s: %w", ErrCorrupt, img.Instance, err)
		}
		return []*os.File{f}, nil
	}
	chains, err := s.chainsOf(img.ID, img.Instance)
	if err != nil {
		return nil, err
	}
	return s.lowers(chains)
}

// mountReadOnly mounts layers, topmost first, on dir/merged. Programs in it can run, as Kubernetes has
// it (KEP-4639): the image was judged as one that runs.
func mountReadOnly(dir string, files []*os.File, spec runSpec) error {
	if err := checkLabel(spec.label); err != nil {
		return err
	}
	if spec.userNS != "" {
		twins, done, err := mapIDs(dir, files, spec.userNS)
		if err != nil {
			return err
		}
		defer done()
		files = twins
	}
	opts := overlayOptions + lowerOption(files)
	if spec.label != "" {
		opts += `,context="` + spec.label + `"`
	}
	return unix.Mount("overlay", filepath.Join(dir, "merged"), "overlay", unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID, opts)
}

// hold notes that a container uses an image as a volume, for as long as it has a layer. The note lies
// beside the layer.
func (s *Store) hold(container string, img ref.Digest) error {
	s.uses.mu.Lock()
	defer s.uses.mu.Unlock()
	if _, ok := s.uses.of[container]; !ok {
		return fmt.Errorf("%w: the container has no layer", ErrGrant)
	}
	if len(s.index.records(img)) == 0 {
		return fmt.Errorf("%w: image %s", ErrNotFound, img)
	}
	held := s.uses.volumes[container]
	if slices.Contains(held, img) {
		return nil
	}
	held = append(slices.Clone(held), img)
	var text strings.Builder
	for _, d := range held {
		text.WriteString(d.String() + "\n")
	}
	if err := os.WriteFile(s.path("containers", container, "volume-images"), []byte(text.String()), 0o600); err != nil {
		return err
	}
	s.uses.volumes[container] = held
	return nil
}

func (s *Store) loadHeld(container string) (held []ref.Digest) {
	b, _ := os.ReadFile(s.path("containers", container, "volume-images"))
	for _, line := range strings.Fields(string(b)) {
		if d, err := ref.ParseDigest(line); err == nil {
			held = append(held, d)
		}
	}
	return held
}

// users are the containers that use an image, for their root or as a volume. uses.mu is held.
func (u *uses) users(img ref.Digest) (container string, ok bool) {
	for c, id := range u.of {
		if id == img || slices.Contains(u.volumes[c], img) {
			return c, true
		}
	}
	return "", false
}

// unmountVolumes takes the volumes of a container away.
func (s *Store) unmountVolumes(id string) error {
	dir := s.path("containers", id, "volumes")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		at := filepath.Join(dir, e.Name())
		if err := detachLayers(at); err != nil {
			return err
		}
		if err := unmountAll(filepath.Join(at, "merged")); err != nil {
			return err
		}
	}
	return nil
}
