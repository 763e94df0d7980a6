package image

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vbatts/tar-split/tar/asm"
	tarsplit "github.com/vbatts/tar-split/tar/storage"
	"golang.org/x/sys/unix"

	"sallyport/image/ref"
)

// rehash puts the archive of a stored layer together again, from the headers that containers/storage kept
// (tar-split) and the unpacked files, and hashes it. The library's own Diff does the same under a lock
// that pulls wait for. The headers come from beside the files, so this says nothing of what else a file
// has: that is treeDigest's.
func (s *Store) rehash(ctx context.Context, chain ref.Digest, p pace) (ref.Digest, error) {
	packed, err := os.Open(s.path("storage", "overlay-layers", chain.Hex()+".tar-split.gz"))
	if err != nil {
		return ref.Digest{}, differs(err)
	}
	defer packed.Close()
	headers, err := gzip.NewReader(packed)
	if err != nil {
		return ref.Digest{}, differs(err)
	}
	root, err := openPath(s.diffDir(chain))
	if err != nil {
		return ref.Digest{}, differs(err)
	}
	defer root.Close()
	files := &unpacked{ctx: ctx, root: root, pace: p}
	stream := asm.NewOutputTarStream(files, tarsplit.NewJSONUnpacker(headers))
	defer stream.Close()
	h := sha256.New()
	if _, err := io.Copy(h, stream); err != nil {
		return ref.Digest{}, differs(err)
	}
	return ref.ParseDigest("sha256:" + hex.EncodeToString(h.Sum(nil)))
}

// rehashFile hashes one file of an artifact.
func (s *Store) rehashFile(ctx context.Context, instance ref.Digest, l layer, p pace) (ref.Digest, error) {
	f, err := s.openFile(instance, l.Title)
	if err != nil {
		return ref.Digest{}, differs(err)
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Mode() != 0o444 {
		return ref.Digest{}, differs(errors.Join(err, errors.New("it is no file of mode 0444")))
	}
	h := sha256.New()
	if _, err := io.Copy(h, p.reader(ctx, f)); err != nil {
		return ref.Digest{}, differs(err)
	}
	return ref.ParseDigest("sha256:" + hex.EncodeToString(h.Sum(nil)))
}

// differs says that a layer is not what it was, unless the error is the machine's and not the layer's.
func differs(err error) error {
	for _, e := range []error{context.Canceled, context.DeadlineExceeded, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EINTR, unix.EACCES, unix.EPERM} {
		if errors.Is(err, e) {
			return err
		}
	}
	return fmt.Errorf("%w: %w; pull the image again", ErrCorrupt, flatError{err})
}

// unpacked gives the files of one layer. It is owned by one rehash; Get runs in the goroutine of the
// archive's stream and touches only what is constant.
type unpacked struct {
	ctx  context.Context // constant
	root *os.File        // constant
	pace pace            // constant
}

// Get opens one file for its bytes (tar-split's FileGetter).
func (u *unpacked) Get(name string) (io.ReadCloser, error) {
	f, err := u.open(name)
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", name, err)
	}
	return struct {
		io.Reader
		io.Closer
	}{u.pace.reader(u.ctx, f), f}, nil
}

func (u *unpacked) open(name string) (*os.File, error) {
	fd, err := unix.Openat2(int(u.root.Fd()), clean(name), &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV})
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("it is no regular file")
	}
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_RDONLY|unix.O_NOATIME, 0)
}

// treeDigest names what a directory's files are but for their bytes and times: path, kind, mode, owner,
// device, target of a link, and extended attributes, of which some give privileges and some make a
// directory hide what is below it. It is taken right after a layer was unpacked and lies in the record,
// under the node's key. inodes counts the entries, the directory included.
func treeDigest(dir string) (tree ref.Digest, inodes uint64, err error) {
	h := sha256.New()
	err = filepath.WalkDir(dir, func(at string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		inodes++
		var st unix.Stat_t
		if err := unix.Lstat(at, &st); err != nil {
			return err
		}
		fmt.Fprintf(h, "%q %o %d %d %d", strings.TrimPrefix(at, dir), st.Mode, st.Uid, st.Gid, st.Rdev)
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			fmt.Fprintf(h, " %d", st.Size) // an empty file has no bytes in tar-split's eyes
		}
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			target, err := os.Readlink(at)
			if err != nil {
				return err
			}
			fmt.Fprintf(h, " %q", target)
		}
		if err := attributes(h, at); err != nil {
			return err
		}
		_, err = h.Write([]byte{'\n'})
		return err
	})
	if err != nil {
		return ref.Digest{}, 0, err
	}
	tree, err = ref.ParseDigest("sha256:" + hex.EncodeToString(h.Sum(nil)))
	return tree, inodes, err
}

// attributes writes the extended attributes of a file, sorted by name, but for the label that the node's
// own SELinux policy gives it.
func attributes(h io.Writer, at string) error {
	names := make([]byte, 0)
	n, err := unix.Llistxattr(at, nil)
	if err == nil && n > 0 {
		names = make([]byte, n)
		n, err = unix.Llistxattr(at, names)
	}
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	list := strings.Split(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00")
	slices.Sort(list)
	value := make([]byte, 1<<16) // XATTR_SIZE_MAX
	for _, name := range list {
		if name == "security.selinux" {
			continue
		}
		n, err := unix.Lgetxattr(at, name, value)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, " %q=%q", name, value[:n])
	}
	return nil
}

// clean is the path below the layer's root that a name in an archive means; "" is the root.
func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// pace is how many bytes a second may be read; unpaced is as fast as they come.
type pace int64

const unpaced pace = 0

// reader reads at the pace, until ctx ends.
func (p pace) reader(ctx context.Context, r io.Reader) io.Reader { return &paced{ctx, r, p} }

type paced struct {
	ctx  context.Context
	r    io.Reader
	pace pace
}

func (p *paced) Read(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := p.r.Read(b)
	if p.pace == unpaced || n == 0 {
		return n, err
	}
	select {
	case <-p.ctx.Done():
		return n, p.ctx.Err()
	case <-time.After(time.Duration(int64(n) * int64(time.Second) / int64(p.pace))):
		return n, err
	}
}
