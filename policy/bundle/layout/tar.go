package layout

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Bounds of the files in one archive. They are those of a policy directory.
const (
	MaxFile  = 16 << 20 // bytes
	MaxTotal = 64 << 20 // bytes
	MaxFiles = 1000
	maxDepth = 8 // directories
)

// Tar packs files, in the order of their names, with nothing of the machine in it: the same files give
// the same bytes.
func Tar(files map[string][]byte) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(files[name]))}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("pack %q: %w", name, err)
		}
		if _, err := w.Write(files[name]); err != nil {
			return nil, fmt.Errorf("pack %q: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	return b.Bytes(), nil
}

// Untar unpacks an archive into memory. It holds regular files alone, each once, with a clean path
// that stays within (CVE-2026-24137 and kin); directories are made by the files in them. Anything else
// refuses the whole.
func Untar(data []byte) (map[string][]byte, error) {
	r := tar.NewReader(bytes.NewReader(data))
	out := map[string][]byte{}
	total := 0
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("unpack: %w", err)
		}
		if err := fits(h); err != nil {
			return nil, err
		}
		if _, twice := out[h.Name]; twice {
			return nil, fmt.Errorf("unpack %.200q: it comes twice", h.Name)
		}
		if len(out) == MaxFiles {
			return nil, fmt.Errorf("unpack: more than %d files", MaxFiles)
		}
		text, err := io.ReadAll(io.LimitReader(r, MaxFile+1))
		if err != nil {
			return nil, fmt.Errorf("unpack %.200q: %w", h.Name, err)
		}
		if total += len(text); len(text) > MaxFile || total > MaxTotal {
			return nil, fmt.Errorf("unpack %.200q: larger than %d bytes, or than %d with the others", h.Name, MaxFile, MaxTotal)
		}
		out[h.Name] = text
	}
}

func fits(h *tar.Header) error {
	switch {
	case h.Typeflag != tar.TypeReg:
		return fmt.Errorf("unpack %.200q: type %q; a policy holds regular files only", h.Name, h.Typeflag)
	case !filepath.IsLocal(h.Name) || path.Clean(h.Name) != h.Name || strings.ContainsAny(h.Name, "\\\x00\n"):
		return fmt.Errorf("unpack %.200q: want a clean path within the policy", h.Name)
	case strings.HasPrefix(h.Name, ".") || strings.Contains(h.Name, "/."):
		return fmt.Errorf("unpack %.200q: a name that begins with a dot is not read from a directory either", h.Name)
	case strings.Count(h.Name, "/") > maxDepth:
		return fmt.Errorf("unpack %.200q: more than %d directories deep", h.Name, maxDepth)
	}
	return nil
}
