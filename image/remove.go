package image

import (
	"errors"
	"fmt"

	"go.podman.io/storage"

	"sallyport/image/ref"
	"sallyport/internal/failpoint"
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
	recs, err := s.withdraw(id)
	if err != nil {
		return fmt.Errorf("remove image %s: %w", id, err)
	}
	// Records go first: half a removal leaves an image that nobody can use, and Open sweeps it.
	for _, r := range recs {
		if err := s.forget(r); err != nil {
			return fmt.Errorf("remove image %s: %w; it is gone until the next restart", id, err)
		}
	}
	failpoint.Hit("image-forgotten")
	s.users.drop(id)
	if len(recs) > 0 && recs[0].Artifact != "" {
		if err := s.dropArtifact(id); err != nil {
			return fmt.Errorf("remove image %s: %w", id, err)
		}
		return nil
	}
	_, err = s.storage.DeleteImage(id.Hex(), true)
	failpoint.Hit("image-deleted")
	switch {
	case err == nil, errors.Is(err, storage.ErrImageUnknown), errors.Is(err, storage.ErrNotAnImage):
		return nil
	default:
		return fmt.Errorf("remove image %s: %w", id, flatError{err})
	}
}

// withdraw takes an image out of the index, unless a container uses it. Nobody can begin to use it then.
func (s *Store) withdraw(id ref.Digest) ([]*record, error) {
	s.uses.mu.Lock()
	defer s.uses.mu.Unlock()
	if container, ok := s.uses.users(id); ok {
		return nil, fmt.Errorf("%w by container %s", ErrInUse, container)
	}
	recs := s.index.records(id)
	for _, r := range recs {
		s.index.drop(r)
	}
	return recs, nil
}
