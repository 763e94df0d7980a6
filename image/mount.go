package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"go.podman.io/storage"

	"sallyport/enforce"
	"sallyport/policy"
)

// Mount makes the read-write layer of the container that g is about, over the judged image, mounts it
// and returns the place. The layer is keyed by the container ID, g.Subject; calling again with a grant
// for the same container mounts the same layer. The layer is volatile: no sync waits for it, and it does
// not outlive a reboot. A grant of another verb, or the zero Grant, is refused with ErrGrant.
func (s *Store) Mount(ctx context.Context, g enforce.Grant) (Rootfs, error) {
	if !g.Valid() || g.Verb() != policy.VerbRun || g.Subject() == "" || g.Image().ID.IsZero() {
		return Rootfs{}, fmt.Errorf("mount image: %w: want an admitted run", ErrGrant)
	}
	if err := ctx.Err(); err != nil {
		return Rootfs{}, err
	}
	var labels struct {
		Process struct {
			SelinuxLabel string `json:"selinuxLabel"`
		} `json:"process"`
		Linux struct {
			MountLabel string `json:"mountLabel"`
		} `json:"linux"`
	}
	if err := json.Unmarshal([]byte(g.Spec()), &labels); err != nil {
		return Rootfs{}, fmt.Errorf("mount image of container %s: read spec: %w", g.Subject(), err)
	}
	id, img := g.Subject(), g.Image()
	defer s.lockRootfs(id)()
	opts := &storage.ContainerOptions{Volatile: true, LabelOpts: []string{"disable"}}
	if labels.Linux.MountLabel != "" && labels.Process.SelinuxLabel != "" {
		opts.Flags = map[string]any{"MountLabel": labels.Linux.MountLabel, "ProcessLabel": labels.Process.SelinuxLabel}
	}
	made := false
	c, err := s.storage.Container(id)
	switch {
	case err == nil:
		if c.ImageID != img.ID.Hex() {
			return Rootfs{}, fmt.Errorf("mount image of container %s: %w: its layer is over image %.80q", id, ErrGrant, c.ImageID)
		}
	case errors.Is(err, storage.ErrContainerUnknown):
		if _, err := s.storage.CreateContainer(id, nil, img.ID.Hex(), "", "", opts); err != nil {
			return Rootfs{}, fmt.Errorf("make layer of container %s: %w", id, err)
		}
		made = true
	default:
		return Rootfs{}, fmt.Errorf("mount image of container %s: %w", id, err)
	}
	path, err := s.storage.Mount(id, labels.Linux.MountLabel)
	if err != nil {
		if made {
			err = errors.Join(err, s.storage.DeleteContainer(id))
		}
		return Rootfs{}, fmt.Errorf("mount image of container %s: %w", id, err)
	}
	return Rootfs{Path: path}, nil
}

// Unmount takes the root filesystem of a container away, if it is mounted. The layer stays.
func (s *Store) Unmount(id string) error {
	defer s.lockRootfs(id)()
	return s.unmount(id)
}

func (s *Store) unmount(id string) error {
	if _, err := s.storage.Container(id); errors.Is(err, storage.ErrContainerUnknown) {
		return nil
	}
	_, err := s.storage.Unmount(id, true)
	if err != nil && !errors.Is(err, storage.ErrLayerNotMounted) && !errors.Is(err, storage.ErrContainerUnknown) && !errors.Is(err, storage.ErrLayerUnknown) {
		return fmt.Errorf("unmount container %s: %w", id, err)
	}
	return nil
}

// Release unmounts and removes the read-write layer of a container. One that is gone is success.
func (s *Store) Release(id string) error {
	defer s.lockRootfs(id)()
	if err := s.unmount(id); err != nil {
		return err
	}
	err := s.storage.DeleteContainer(id)
	if err != nil && !errors.Is(err, storage.ErrContainerUnknown) && !errors.Is(err, storage.ErrNotAContainer) {
		return fmt.Errorf("remove layer of container %s: %w", id, err)
	}
	s.rootfs.Delete(id)
	return nil
}

// Containers lists the containers that have a layer, for the removal of those that nobody knows.
func (s *Store) Containers() ([]string, error) {
	list, err := s.storage.Containers()
	if err != nil {
		return nil, fmt.Errorf("list container layers: %w", err)
	}
	out := make([]string, len(list))
	for i, c := range list {
		out[i] = c.ID
	}
	return out, nil
}

// lockRootfs serialises what happens to one container's root filesystem.
func (s *Store) lockRootfs(id string) (unlock func()) {
	mu, _ := s.rootfs.LoadOrStore(id, new(sync.Mutex))
	mu.(*sync.Mutex).Lock()
	return mu.(*sync.Mutex).Unlock
}
