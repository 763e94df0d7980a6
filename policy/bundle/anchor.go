package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
)

// openAnchor opens the policy directory that was installed with the node; nil where it is "" or absent.
func openAnchor(at string) (*os.Root, error) {
	if at == "" {
		return nil, nil
	}
	r, err := os.OpenRoot(at)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read policy %s: %w", at, cause(err))
	}
	if err := trustedDir(r, ".", at); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// rooted is a directory that may hold root.json.
type rooted struct {
	root *os.Root
	dir  string
}

// rootsToFollow are the directories whose root.json counts, in their order. Without an anchor that is
// Root. With one, it comes first where this node has followed none yet or it is newer; a root that was
// brought must follow from what is in force, and need not be there.
func (t *trust) rootsToFollow(root *os.Root, o Options) (out []rooted) {
	if o.Signed.Anchor == "" {
		return []rooted{{root, o.Root}}
	}
	installed := versionIn(t.anchor)
	if t.root == nil || installed > t.root.version {
		out = append(out, rooted{t.anchor, t.at})
	}
	if brought := versionIn(root); brought > installed && (t.root == nil || brought > t.root.version) {
		out = append(out, rooted{root, o.Root})
	}
	return out
}

// versionIn is the version that dir's root.json says it has; 0 if there is none. One that cannot be read
// counts as newest, so that following it says why.
func versionIn(dir *os.Root) uint64 {
	if dir == nil {
		return 0
	}
	w := walk{root: dir, out: files{}}
	err := w.file("root.json")
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	r, bad := ParseRoot(w.out["root.json"])
	if err != nil || bad != nil {
		return math.MaxUint64
	}
	return r.version
}
