package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	measureGap   = 15 * time.Second // between two passes over the writable layers
	measureShare = 10               // a pass takes at most one part of so many of one processor
	maxEntries   = 1 << 20          // of one layer; what is beyond is not counted
	maxDepth     = 256              // of directories; each level holds a descriptor
	maxLinked    = 1 << 16          // hard-linked files that are told apart in one layer
)

// Usage is what a container's writable layer takes.
type Usage struct {
	Bytes   uint64 // blocks allocated
	Inodes  uint64
	Partial bool // the layer is too large or too deep to be counted whole
	At      time.Time
}

// usage is what the last pass found.
type usage struct {
	mu sync.Mutex       // guards of
	of map[string]Usage // by container ID
}

// Usage is what the last pass over the container's writable layer found; ok is false if none has been
// there yet. It never touches the disk.
func (s *Store) Usage(containerID string) (u Usage, ok bool) {
	s.usage.mu.Lock()
	defer s.usage.mu.Unlock()
	u, ok = s.usage.of[containerID]
	return u, ok
}

// measureLoop measures the writable layers from time to time until ctx ends: an overlay's upper directory
// can only be walked.
func (s *Store) measureLoop(ctx context.Context) error {
	for {
		s.measureAll(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(measureGap):
		}
	}
}

func (s *Store) measureAll(ctx context.Context) {
	ids, _ := s.Containers()
	for _, id := range ids {
		begun := time.Now()
		u, err := measure(s.path("containers", id, "upper"))
		if err != nil {
			continue // it is being removed
		}
		s.note(id, u)
		select {
		case <-ctx.Done():
			return
		case <-time.After((measureShare - 1) * time.Since(begun)):
		}
	}
	s.usage.mu.Lock()
	defer s.usage.mu.Unlock()
	for id := range s.usage.of {
		if !s.uses.has(id) {
			delete(s.usage.of, id)
		}
	}
}

func (s *Store) note(id string, u Usage) {
	s.usage.mu.Lock()
	defer s.usage.mu.Unlock()
	if s.usage.of == nil {
		s.usage.of = map[string]Usage{}
	}
	s.usage.of[id] = u
}

func (u *uses) has(id string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, ok := u.of[id]
	return ok
}

// walk counts one layer. It is owned by one goroutine.
type walk struct {
	Usage
	linked map[[2]uint64]bool // hard-linked inodes that were counted, by device and number
}

// measure walks the directory dir. The tree belongs to a container that changes it meanwhile, so every
// directory is opened by its parent's descriptor and no link is followed.
func measure(dir string) (Usage, error) {
	root, err := openPath(dir)
	if err != nil {
		return Usage{}, err
	}
	defer root.Close()
	w := walk{linked: map[[2]uint64]bool{}}
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return Usage{}, err
	}
	w.count(&st)
	err = w.descend(root, ".", 0)
	w.At = time.Now()
	return w.Usage, err
}

// descend counts what is in the directory name of parent. What vanishes meanwhile is passed over.
func (w *walk) descend(parent *os.File, name string, depth int) error {
	if depth == maxDepth {
		w.Partial = true
		return nil
	}
	fd, err := unix.Openat(int(parent.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	if err != nil {
		return nil
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(256)
		for _, n := range names {
			if w.Inodes >= maxEntries {
				w.Partial = true
				return nil
			}
			var st unix.Stat_t
			if unix.Fstatat(fd, n, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || !w.count(&st) || st.Mode&unix.S_IFMT != unix.S_IFDIR {
				continue
			}
			if err := w.descend(dir, n, depth+1); err != nil {
				return err
			}
		}
		if err != nil || len(names) == 0 {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		}
	}
}

// count adds one file, once if it has several names.
func (w *walk) count(st *unix.Stat_t) bool {
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		key := [2]uint64{uint64(st.Dev), st.Ino}
		if w.linked[key] {
			return false
		}
		if len(w.linked) < maxLinked {
			w.linked[key] = true
		}
	}
	w.Inodes++
	w.Bytes += uint64(st.Blocks) * 512
	return true
}

// Capacity is the filesystem that holds images and writable layers.
type Capacity struct{ Bytes, Inodes, FreeInodes uint64 }

// Capacity asks the filesystem: one system call.
func (s *Store) Capacity() (Capacity, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.root, &st); err != nil {
		return Capacity{}, fmt.Errorf("look at filesystem of %s: %w", s.root, err)
	}
	return Capacity{Bytes: st.Blocks * uint64(st.Bsize), Inodes: st.Files, FreeInodes: st.Ffree}, nil
}
