package bundle

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Limits of one bundle directory.
const (
	maxFile  = 16 << 20 // bytes
	maxTotal = 64 << 20 // bytes
	maxFiles = 1000
	maxDepth = 8
)

// files is a bundle directory in memory: slash-separated path to bytes. What was read once is hashed,
// compiled and judged; nothing is read again.
type files map[string][]byte

// readFiles reads every file beneath dir, which opens at r. Names that begin with a dot are left out
// (editors, and the ..data links of a ConfigMap). Links may lead to files within r only; anything but
// a regular file, and whatever another user may change, is refused by name.
func readFiles(r *os.Root, dir string) (files, error) {
	w := walk{root: r, dir: dir, out: files{}}
	if err := w.into(".", 0); err != nil {
		return nil, err
	}
	return w.out, nil
}

type walk struct {
	root  *os.Root
	dir   string // for messages
	out   files
	total int64
}

func (w *walk) into(name string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("read %s: more than %d directories deep", w.path(name), maxDepth)
	}
	d, err := w.root.Open(name)
	if err != nil {
		return fmt.Errorf("read %s: %w", w.path(name), cause(err))
	}
	defer d.Close()
	if err := trusted(d, w.path(name)); err != nil {
		return err
	}
	entries, err := d.ReadDir(maxFiles + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read %s: %w", w.path(name), cause(err))
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if len(w.out) >= maxFiles || len(entries) > maxFiles {
			return fmt.Errorf("read %s: more than %d files", w.dir, maxFiles)
		}
		at := path.Join(name, e.Name())
		if e.IsDir() {
			err = w.into(at, depth+1)
		} else {
			err = w.file(at)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// file reads one file. It opens without blocking, since the name may be a pipe, and asks the open
// descriptor what it is.
func (w *walk) file(name string) error {
	f, err := w.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("read %s: %w", w.path(name), cause(err))
	}
	defer f.Close()
	if err := trusted(f, w.path(name)); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read %s: %w", w.path(name), cause(err))
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("read %s: not a regular file", w.path(name))
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", w.path(name), cause(err))
	}
	w.total += int64(len(data))
	if len(data) > maxFile {
		return fmt.Errorf("read %s: larger than %d bytes", w.path(name), maxFile)
	}
	if w.total > maxTotal {
		return fmt.Errorf("read %s: larger than %d bytes in all", w.dir, maxTotal)
	}
	w.out[name] = data
	return nil
}

func (w *walk) path(name string) string { return filepath.Join(w.dir, name) }

// trusted refuses what anybody but root and ourselves may change.
func trusted(f *os.File, name string) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read %s: %w", name, cause(err))
	}
	if info.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf("read %s: anybody may write to it; run chmod o-w on it", name)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("read %s: it belongs to user %d; policy belongs to root", name, st.Uid)
	}
	return nil
}

// cause is err without the path, which the caller names whole.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// hash is sha256 over every path and its bytes, in the order of paths, each with its length before it.
func (f files) hash() string {
	h := sha256.New()
	put := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	for _, name := range slices.Sorted(maps.Keys(f)) {
		put([]byte(name))
		put(f[name])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// read returns a file that another file of the bundle names, e.g. a public key.
func (f files) read(name string) ([]byte, error) {
	if !filepath.IsLocal(name) || path.Clean(name) != name {
		return nil, fmt.Errorf("%q: write a path within the bundle and put the file there", name)
	}
	data, ok := f[name]
	if !ok {
		return nil, fmt.Errorf("%q: no such file in the bundle", name)
	}
	return data, nil
}
