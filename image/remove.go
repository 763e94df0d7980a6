package image

import (
	"errors"
	"fmt"

	"go.podman.io/storage"
)

// Remove removes the image that a name or ID means, with all its names (CRI v1, RemoveImage; the kubelet
// expects no name to be left). One that is gone is success. One whose layers a container uses is
// ErrInUse, and stays whole.
func (s *Store) Remove(nameOrID string) error {
	id, ok := s.index.find(nameOrID)
	if !ok {
		return nil
	}
	s.recordMu.Lock()
	defer s.recordMu.Unlock()
	containers, err := s.storage.Containers()
	if err != nil {
		return fmt.Errorf("remove image %s: %w", id, err)
	}
	for _, c := range containers {
		if c.ImageID == id.Hex() {
			return fmt.Errorf("remove image %s: %w by container %s", id, ErrInUse, c.ID)
		}
	}
	// Records go first: half a removal leaves an image that nobody can use, and Open sweeps it.
	for _, r := range s.index.records(id) {
		if err := s.forget(r); err != nil {
			return fmt.Errorf("remove image %s: %w", id, err)
		}
		s.index.drop(r)
	}
	s.users.drop(id)
	_, err = s.storage.DeleteImage(id.Hex(), true)
	switch {
	case err == nil, errors.Is(err, storage.ErrImageUnknown), errors.Is(err, storage.ErrNotAnImage):
		return nil
	default:
		return fmt.Errorf("remove image %s: %w", id, err)
	}
}
