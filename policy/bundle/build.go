package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sallyport/image/ref"
	"sallyport/policy/bundle/layout"
)

// ReadDir reads every file of a bundle directory, or of the layout of one, under the rules by which the
// daemon does.
func ReadDir(dir string) (map[string][]byte, error) {
	r, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", dir, cause(err))
	}
	defer r.Close()
	return readFiles(r, dir)
}

// Build compiles the bundle directory dir as the daemon would and makes the layout of it that is to be
// signed; the revision is that of bundle.yaml. With namespaces it is a policy of theirs, with none the
// node's.
func Build(dir string, namespaces ...string) (map[string][]byte, ref.Digest, error) {
	f, err := ReadDir(dir)
	if err != nil {
		return nil, ref.Digest{}, err
	}
	if layout.Is(f) {
		return nil, ref.Digest{}, fmt.Errorf("build policy %s: it is a layout already", dir)
	}
	kind := Namespace
	if len(namespaces) == 0 {
		kind = Node
	}
	c, err := compile(f, kind, string(kind), means{})
	if err != nil {
		return nil, ref.Digest{}, fmt.Errorf("build policy %s: %w", dir, err)
	}
	return layout.Build(layout.Config{Node: kind == Node, Namespaces: namespaces, Revision: c.manifest.revision}, f)
}

// isOverride reports whether text says that it is an override.
func isOverride(text []byte) bool {
	var y struct {
		Schema string `json:"schema"`
	}
	return json.Unmarshal(text, &y) == nil && y.Schema == overrideSchema
}

// ToSign is what a signature of the policy, the override or the root at path is about: the digest, and a
// root's version (0: another thing).
func ToSign(path string) (ref.Digest, uint64, error) {
	st, err := os.Stat(path)
	if err != nil {
		return ref.Digest{}, 0, fmt.Errorf("read %s: %w", path, cause(err))
	}
	if st.IsDir() {
		f, err := ReadDir(path)
		if err != nil {
			return ref.Digest{}, 0, err
		}
		if !layout.Is(f) {
			return ref.Digest{}, 0, fmt.Errorf("read %s: no layout; make one with sallyport policy build", path)
		}
		a, err := layout.Open(f)
		if err != nil {
			return ref.Digest{}, 0, fmt.Errorf("read %s: %w", path, err)
		}
		return a.Digest, 0, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return ref.Digest{}, 0, fmt.Errorf("read %s: %w", path, cause(err))
	}
	if isOverride(text) {
		o, err := parseOverride(text)
		if err != nil {
			return ref.Digest{}, 0, fmt.Errorf("read %s: %w", path, err)
		}
		return o.digest, 0, nil
	}
	r, err := ParseRoot(text)
	if err != nil {
		return ref.Digest{}, 0, fmt.Errorf("read %s: %w", path, err)
	}
	return r.digest(), r.version, nil
}

// WithSignature are the files to write so that the Sigstore bundle b about the policy or the root at path
// lies where the daemon looks for it: path to content. signer tells signatures of a root apart.
func WithSignature(path, signer string, b []byte) (map[string][]byte, error) {
	_, version, err := ToSign(path)
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	if filepath.Base(signer) != signer || strings.HasPrefix(signer, ".") {
		return nil, errors.New("sign: the signer's name is no file name")
	}
	if version > 0 {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, cause(err))
		}
		roots := filepath.Join(filepath.Dir(path), "roots")
		out[filepath.Join(roots, fmt.Sprintf("%d.json", version))] = text
		out[filepath.Join(roots, fmt.Sprintf("%d.%s.sigstore.json", version, signer))] = b
		return out, nil
	}
	if st, err := os.Stat(path); err == nil && !st.IsDir() {
		return map[string][]byte{strings.TrimSuffix(path, ".json") + "." + signer + ".sigstore.json": b}, nil
	}
	f, err := ReadDir(path)
	if err != nil {
		return nil, err
	}
	after, err := layout.Attach(f, b)
	if err != nil {
		return nil, err
	}
	for name, data := range after {
		if f[name] == nil || string(f[name]) != string(data) {
			out[filepath.Join(path, filepath.FromSlash(name))] = data
		}
	}
	return out, nil
}
