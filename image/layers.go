package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"go.podman.io/storage"
	"go.podman.io/storage/pkg/archive"
	"golang.org/x/sync/errgroup"

	"sallyport/image/internal/registry"
	"sallyport/image/ref"
	"sallyport/internal/failpoint"
	"sallyport/internal/span"
)

// downloads is how many layers of one pull are fetched at once.
const downloads = 3

// A layer of more than bombSize bytes must not unpack to more than bombRatio times what was downloaded:
// programs and data do not, archives made to fill disks do (gzip reaches 1,000, zstd more).
const (
	bombSize  = 1 << 30
	bombRatio = 200
)

// transfer brings the layers of one pull into storage. It is owned by one Pull.
type transfer struct {
	store     *Store
	source    *Source
	namespace string
	chains    []ref.Digest
	files     []chan string // by layer: the temporary file of a verified blob, or "" for one already held
	made      []string      // layers put into storage by this transfer, lowest first
	room      int64         // bytes that the layers may still unpack to; owned by the goroutine that unpacks
}

// run copies what is missing and returns the layers, lowest first. Blobs are downloaded in parallel,
// hashed while they arrive and unpacked in order; a layer is committed only when the compressed bytes
// hashed to the manifest's digest and the uncompressed ones to the config's diff ID.
func (t *transfer) run(ctx context.Context) ([]layer, error) {
	m, c := t.source.manifest, t.source.config
	t.chains, t.room = chainIDs(c.diffIDs), t.store.unpacked
	t.files = make([]chan string, len(m.Layers))
	for i := range t.files {
		t.files[i] = make(chan string, 1)
	}
	dir, err := os.MkdirTemp(t.store.path("tmp"), "pull-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	g, ctx := errgroup.WithContext(ctx)
	out := make([]layer, len(m.Layers))
	g.Go(func() error { return t.download(ctx, dir, out) })
	g.Go(func() error {
		for i := range m.Layers {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case file := <-t.files[i]:
				_, sp := span.Start(ctx, span.Unpack)
				sp.Set(span.Digest, m.Layers[i].Digest.String())
				err := t.unpack(i, file, &out[i])
				if sp.End(&err); err != nil {
					return fmt.Errorf("unpack layer %s: %w", m.Layers[i].Digest, err)
				}
			}
		}
		return nil
	})
	return out, g.Wait()
}

// download fetches every layer that may not be reused into dir.
func (t *transfer) download(ctx context.Context, dir string, out []layer) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(downloads)
	for i, desc := range t.source.manifest.Layers {
		out[i] = layer{Blob: desc.Digest, DiffID: t.source.config.diffIDs[i], Chain: t.chains[i], Origin: t.source.repo.Host()}
		g.Go(func() error {
			if t.reusable(ctx, &out[i]) {
				t.store.moved.reused.Add(1)
				t.files[i] <- ""
				return nil
			}
			path := filepath.Join(dir, fmt.Sprintf("%d", i))
			if err := t.fetch(ctx, desc, path); err != nil {
				return fmt.Errorf("fetch layer %s: %w", desc.Digest, err)
			}
			t.store.moved.downloaded.Add(1)
			t.store.moved.bytes.Add(uint64(desc.Size))
			t.files[i] <- path
			return nil
		})
	}
	return g.Wait()
}

// reusable reports whether the stored layer may stand for the blob without a download: this namespace
// has itself downloaded and hashed that blob, or the host that answers now is the host that first
// served it and serves it to these credentials too. Without this rule a registry that serves a manifest
// and a config alone is given another tenant's private layer (gate.md).
func (t *transfer) reusable(ctx context.Context, l *layer) bool {
	held, ok := t.proved(ctx, l)
	if !ok || t.store.checked.isBroken(l.Chain) || !t.store.storage.Exists(l.Chain.Hex()) {
		return false
	}
	l.Size, l.Inodes, l.Tree, l.Origin = held.Size, held.Inodes, held.Tree, held.Origin
	return true
}

// proved is the held blob of l, if this pull need not bring its bytes once more to have a right to them.
func (t *transfer) proved(ctx context.Context, l *layer) (held layer, ok bool) {
	held, byNamespace, byHost := t.store.index.held(l.Blob, t.namespace, l.Origin)
	if held.DiffID != l.DiffID {
		return layer{}, false
	}
	if !byNamespace && !(byHost && t.source.repo.HasBlob(ctx, l.Blob)) {
		return layer{}, false
	}
	return held, true
}

// fetch downloads one blob into path and checks its size and digest.
func (t *transfer) fetch(ctx context.Context, desc descriptor, path string) (err error) {
	ctx, sp := span.Start(ctx, span.Fetch)
	defer sp.End(&err)
	sp.Set(span.Digest, desc.Digest.String())
	body, err := t.source.repo.Blob(ctx, desc.Digest)
	if err != nil {
		return err
	}
	defer body.Close()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(body, desc.Size+1))
	if err != nil {
		return err
	}
	if n != desc.Size {
		return fmt.Errorf("%w: size differs from the manifest's %d bytes", registry.ErrDigest, desc.Size)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != desc.Digest.Hex() {
		return fmt.Errorf("%w: the registry sent bytes of sha256:%s", registry.ErrDigest, got)
	}
	failpoint.Hit("blob-fetched")
	return f.Close()
}

// unpack commits layer i. file is "" for a layer that may be reused.
func (t *transfer) unpack(i int, file string, l *layer) error {
	id := l.Chain.Hex()
	parent := ""
	if i > 0 {
		parent = t.chains[i-1].Hex()
	}
	if file != "" {
		if err := t.store.replace(l); err != nil {
			return err
		}
	}
	stored, err := t.store.storage.Layer(id)
	if file == "" {
		t.room -= l.Size
		return err
	}
	src, err2 := os.Open(file)
	if err2 != nil {
		return err2
	}
	defer func() { src.Close(); os.Remove(file) }()
	plain, err2 := archive.DecompressStream(src)
	if err2 != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err2)
	}
	defer plain.Close()
	v := &verifier{src: plain, hash: sha256.New(), want: l.DiffID, most: t.most(t.source.manifest.Layers[i].Size)}
	defer func() { t.room -= v.size }()
	if err == nil { // the chain is in storage already; the blob was downloaded to prove access
		if _, err := io.Copy(io.Discard, v); err != nil {
			return err
		}
	} else {
		stored, _, err = t.store.storage.PutLayer(id, parent, nil, "", false, &storage.LayerOptions{}, v)
		if errors.Is(err, storage.ErrDuplicateID) { // another pull was faster
			stored, err = t.store.storage.Layer(id)
			if err == nil && !v.done {
				_, err = io.Copy(io.Discard, v)
			}
		} else if err == nil {
			t.made = append(t.made, id)
			t.store.checked.mark(l.Chain)
			failpoint.Hit("layer-committed")
		}
		if v.err != nil {
			return v.err
		}
		if err != nil {
			return flatError{err}
		}
	}
	if !v.done {
		return fmt.Errorf("%w: the archive was not read to its end", ErrInvalid)
	}
	// Storage has hashed what it unpacked; the two counts must agree.
	if stored.UncompressedDigest.String() != l.DiffID.String() || stored.Parent != parent {
		return fmt.Errorf("%w: stored layer has diff ID %s", ErrCorrupt, stored.UncompressedDigest)
	}
	l.Size = v.size
	if known := t.store.index.chain(l.Chain); !known.Tree.IsZero() { // what was unpacked then, not what lies there now
		l.Tree, l.Inodes = known.Tree, known.Inodes
		return nil
	}
	l.Tree, l.Inodes, err = treeDigest(t.store.diffDir(l.Chain))
	return err
}

// most is what a layer of so many compressed bytes may unpack to.
func (t *transfer) most(compressed int64) int64 {
	return min(t.room, max(bombSize, min(compressed, math.MaxInt64/bombRatio)*bombRatio))
}

// verifier passes an uncompressed archive through and fails instead of ending if it does not hash to
// the diff ID, so that storage never commits it.
type verifier struct {
	src  io.Reader
	hash hash.Hash
	want ref.Digest
	size int64
	most int64 // bytes; what goes beyond fails
	done bool  // read to the end and right
	err  error // what was wrong
}

// flatError is an error of containers/storage, which can be of several lines, in one.
type flatError struct{ error }

func (e flatError) Error() string { return strings.Join(strings.Fields(e.error.Error()), " ") }
func (e flatError) Unwrap() error { return e.error }

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.src.Read(p)
	if v.size == 0 && n > 0 && archive.DetectCompression(p[:n]) != archive.Uncompressed {
		v.err = fmt.Errorf("%w: layer is compressed twice", ErrInvalid)
		return 0, v.err
	}
	if v.size += int64(n); v.size > v.most {
		v.err = fmt.Errorf("%w: layer unpacks to more than %d bytes: past image.max_unpacked for the whole image, or %d times its download; see docs/images.md", ErrInvalid, max(v.most, 0), bombRatio)
		return 0, v.err
	}
	v.hash.Write(p[:n])
	if err == io.EOF {
		if got := hex.EncodeToString(v.hash.Sum(nil)); got != v.want.Hex() {
			v.err = fmt.Errorf("%w: layer unpacks to diff ID sha256:%s, the config says %s", registry.ErrDigest, got, v.want)
			return n, v.err
		}
		v.done = true
	}
	return n, err
}

// pullCount lets layers that no image names be removed only while no pull is building on them.
type pullCount struct {
	mu     sync.Mutex // guards the rest; held over a sweep
	active int
	litter bool
}

// beginPull is called before a pull looks at layers; the returned function ends it, and says whether
// the pull left layers that no image names.
func (s *Store) beginPull() func(litter bool) {
	s.pulls.mu.Lock()
	defer s.pulls.mu.Unlock()
	s.pulls.active++
	return func(litter bool) {
		s.pulls.mu.Lock()
		defer s.pulls.mu.Unlock()
		s.pulls.active--
		s.pulls.litter = s.pulls.litter || litter
		if s.pulls.active == 0 && s.pulls.litter {
			s.pulls.litter = false
			s.sweepLayers()
		}
	}
}

// sweep removes images that no record directory names, and then the layers that no image names.
func (s *Store) sweep() error {
	images, err := s.storage.Images()
	if err != nil {
		return fmt.Errorf("list storage: %w", err)
	}
	inUse := map[string]bool{}
	s.uses.mu.Lock()
	for _, id := range s.uses.of {
		inUse[id.Hex()] = true
	}
	for _, held := range s.uses.volumes {
		for _, id := range held {
			inUse[id.Hex()] = true
		}
	}
	s.uses.mu.Unlock()
	if err := s.sweepArtifacts(inUse); err != nil {
		return err
	}
	for _, im := range images {
		if _, err := os.Stat(s.path("images", im.ID)); errors.Is(err, fs.ErrNotExist) && !inUse[im.ID] {
			if _, err := s.storage.DeleteImage(im.ID, true); err != nil {
				s.index.problem("remove image " + im.ID + ": " + err.Error())
			}
		}
	}
	s.sweepLayers()
	return nil
}

func (s *Store) sweepLayers() {
	used, err := s.usedLayers()
	if err != nil {
		s.index.problem("list storage: " + err.Error())
		return
	}
	layers, err := s.storage.Layers()
	if err != nil {
		s.index.problem("list storage: " + err.Error())
		return
	}
	for again := true; again; { // children before parents
		again = false
		for _, l := range layers {
			if !used[l.ID] && s.storage.DeleteLayer(l.ID) == nil {
				used[l.ID], again = true, true
			}
		}
	}
}

// usedLayers are those of images, with all below them. An image that a container uses is never removed.
func (s *Store) usedLayers() (map[string]bool, error) {
	layers, err := s.storage.Layers()
	if err != nil {
		return nil, err
	}
	parent := map[string]string{}
	for _, l := range layers {
		parent[l.ID] = l.Parent
	}
	used := map[string]bool{}
	mark := func(id string) {
		for id != "" && !used[id] {
			used[id] = true
			id = parent[id]
		}
	}
	images, err := s.storage.Images()
	if err != nil {
		return nil, err
	}
	for _, im := range images {
		mark(im.TopLayer)
	}
	return used, nil
}
