package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"sallyport/image/ref"
)

// maxUserFile bounds /etc/passwd and /etc/group of an image, in bytes (CVE-2025-4437, CVE-2026-47262).
const maxUserFile = 1 << 20

// userFileCache keeps the files of images lately used: they cannot change.
type userFileCache struct {
	mu   sync.Mutex // guards byID
	byID map[ref.Digest][2][]byte
}

const userFileCacheSize = 128

func newUserFileCache() *userFileCache { return &userFileCache{byID: map[ref.Digest][2][]byte{}} }

func (c *userFileCache) drop(id ref.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.byID, id)
}

// UserFiles reads /etc/passwd and /etc/group of a stored image, as its processes would see them:
// whiteouts hide, symbolic links stay inside the image. It runs nothing and needs no grant. A file that
// is absent, no regular file or larger than 1 MiB is nil, nil: names are then not resolved, numbers are.
// The caller must not change the slices.
func (s *Store) UserFiles(ctx context.Context, instance, id ref.Digest) (passwd, group []byte, err error) {
	if recs := s.index.records(id); len(recs) > 0 && recs[0].Artifact != "" {
		return nil, nil, nil // the gate refuses it as a root
	}
	if _, err := s.chainsOf(id, instance); err != nil {
		return nil, nil, fmt.Errorf("read users: %w", err)
	}
	s.users.mu.Lock()
	held, ok := s.users.byID[id]
	s.users.mu.Unlock()
	if ok {
		return held[0], held[1], nil
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if passwd, group, err = s.readUserFiles(id, instance); err != nil {
		return nil, nil, fmt.Errorf("read users of image %s: %w", id, err)
	}
	s.users.mu.Lock()
	defer s.users.mu.Unlock()
	if len(s.users.byID) >= userFileCacheSize {
		clear(s.users.byID)
	}
	s.users.byID[id] = [2][]byte{passwd, group}
	return passwd, group, nil
}

func (s *Store) readUserFiles(id, instance ref.Digest) (passwd, group []byte, err error) {
	chains, err := s.chainsOf(id, instance)
	if err != nil {
		return nil, nil, err
	}
	root, err := s.view(chains)
	if err != nil || root == nil {
		return nil, nil, err
	}
	defer root.Close()
	if passwd, err = readInRoot(root, "etc/passwd", maxUserFile); err != nil {
		return nil, nil, err
	}
	group, err = readInRoot(root, "etc/group", maxUserFile)
	return passwd, group, err
}

// readInRoot reads a regular file of at most limit bytes as if root were "/". A hostile image can make
// it a link to the host, a device or a pipe: links are resolved inside root (openat2, RESOLVE_IN_ROOT),
// nothing is opened before its kind is known, and magic links are not followed.
func readInRoot(root *os.File, name string, limit int64) ([]byte, error) {
	fd, err := unix.Openat2(int(root.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("stat %s: %w", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > limit {
		return nil, nil
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return nil, nil
	}
	return b, nil
}
