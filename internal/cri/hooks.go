package cri

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"sallyport/enforce"
)

// maxHook is the largest program that is hashed for a hook, in bytes (nvidia-ctk has 15 MB).
const maxHook = 256 << 20

// hookFiles opens the program of each hook and hashes its bytes, once per path. The runtime opens the
// path again when it runs the hook; what was hashed is what runs because nobody but root can change any
// part of the path or the file, which is looked at here, and root on the node is out of scope.
func hookFiles(h *specs.Hooks) (out []enforce.Hook, err error) {
	if h == nil {
		return nil, nil
	}
	seen := map[string]bool{}
	for _, list := range [][]specs.Hook{h.Prestart, h.CreateRuntime, h.CreateContainer, h.StartContainer, h.Poststart, h.Poststop} { //nolint:staticcheck // prestart is deprecated and still run
		for _, k := range list {
			if seen[k.Path] {
				continue
			}
			seen[k.Path] = true
			digest, err := hookDigest(k.Path)
			if err != nil {
				return nil, fmt.Errorf("open hook %.200q: %w", k.Path, err)
			}
			out = append(out, enforce.Hook{Path: k.Path, Digest: digest})
		}
	}
	return out, nil
}

func hookDigest(path string) (string, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return "", errors.New("not a clean absolute path")
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		var st unix.Stat_t
		if err := unix.Lstat(dir, &st); err != nil {
			return "", err
		}
		if err := rootsAlone(dir, st); err != nil {
			return "", err
		}
		if dir == "/" {
			break
		}
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return "", fmt.Errorf("it must be a file, with no symbolic link on the way: %w", err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > maxHook {
		return "", fmt.Errorf("not a regular file of at most %d bytes", maxHook)
	}
	if err := rootsAlone(path, st); err != nil {
		return "", err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(f, maxHook)); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// rootsAlone refuses what others than root can write. A directory with the sticky bit, such as /tmp, lets
// nobody replace root's files, but lets anybody make what is not there yet.
func rootsAlone(path string, st unix.Stat_t) error {
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return fmt.Errorf("%s is a symbolic link; name the file itself", path)
	}
	if st.Uid != 0 || st.Mode&0o022 != 0 {
		return fmt.Errorf("%s can be written by others than root", path)
	}
	return nil
}
