package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"go.podman.io/storage"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"sallyport/image/ref"
)

// An OCI artifact is a manifest whose config is not that of a container image (OCI image spec,
// manifest.md, Guidelines for Artifact Usage). A volume shows its blobs as files, each at the path of its
// title annotation. Such a directory lies under artifacts/<manifest digest> and stands where an image's
// unpacked layers would. An artifact's image ID is the digest of its manifest: many share one empty
// config.

const (
	// titleAnnotation names a blob's file (OCI image spec, annotations.md).
	titleAnnotation = "org.opencontainers.image.title"

	maxTitle      = 1024 // bytes of a path; ours, well under PATH_MAX
	maxTitleName  = 255  // bytes of one name in it (NAME_MAX)
	maxTitleDepth = 16   // names in a path; ours
)

// artifact is the type of an OCI artifact, "" for any other document. Docker's schema has none.
func (d document) artifact() string {
	if d.mediaType != typeManifest || d.Config.MediaType == "" || d.Config.MediaType == typeConfig || d.Config.MediaType == typeDockerConfig {
		return ""
	}
	if d.ArtifactType != "" {
		return d.ArtifactType
	}
	return d.Config.MediaType
}

// files are the blobs of an artifact that have a title; its others cannot be shown and are not fetched.
// An artifact without any, and one with a title that is no plain path below a directory, is refused.
func (d document) files() ([]descriptor, error) {
	if len(d.ArtifactType) > 255 || len(d.Config.MediaType) > 255 {
		return nil, fmt.Errorf("%w: the artifact's type is longer than 255 bytes", ErrInvalid)
	}
	if len(d.Layers) > maxLayers {
		return nil, fmt.Errorf("%w: %d blobs, at most %d", ErrInvalid, len(d.Layers), maxLayers)
	}
	var out []descriptor
	taken := map[string]bool{} // titles and, true as well, the directories above them
	for i, l := range d.Layers {
		title, ok := l.Annotations[titleAnnotation]
		if !ok {
			continue
		}
		if err := plainTitle(title); err != nil {
			return nil, fmt.Errorf("%w: blob %d of the artifact: %w", ErrInvalid, i, err)
		}
		if len(l.URLs) > 0 {
			return nil, fmt.Errorf("%w: blob %d is to be fetched from another place (urls)", ErrInvalid, i)
		}
		if l.Digest.IsZero() || l.Size < 0 {
			return nil, fmt.Errorf("%w: blob %d has no digest or a negative size", ErrInvalid, i)
		}
		if taken[title] {
			return nil, fmt.Errorf("%w: blob %d of the artifact: title %q is taken", ErrInvalid, i, title)
		}
		taken[title] = true
		out = append(out, l)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: config media type %.100q is not that of a container image, and no blob has a title to be a file of a volume", ErrInvalid, d.Config.MediaType)
	}
	for _, l := range out {
		for dir := path.Dir(l.Annotations[titleAnnotation]); dir != "."; dir = path.Dir(dir) {
			if taken[dir] {
				return nil, fmt.Errorf("%w: title %q of the artifact is a file and a directory", ErrInvalid, dir)
			}
		}
	}
	return out, nil
}

// plainTitle refuses a title that could mean a place outside the volume, or another place to somebody
// else who reads it.
func plainTitle(title string) error {
	switch {
	case len(title) > maxTitle:
		return fmt.Errorf("title is longer than %d bytes", maxTitle)
	case title == "." || !fs.ValidPath(title): // absolute, climbing, empty, not UTF-8
		return fmt.Errorf("title %q is no plain path", title)
	case strings.ContainsRune(title, '\\') || strings.ContainsFunc(title, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("title %q has a backslash or an unprintable character", title)
	}
	names := strings.Split(title, "/")
	if len(names) > maxTitleDepth {
		return fmt.Errorf("title %q is more than %d names deep", title, maxTitleDepth)
	}
	for _, n := range names {
		if len(n) > maxTitleName {
			return fmt.Errorf("title %q has a name of more than %d bytes", title, maxTitleName)
		}
		if strings.HasPrefix(n, ".wh.") {
			return fmt.Errorf("title %q has a name that overlay reserves", title)
		}
	}
	return nil
}

// ParseArtifact reads an artifact manifest as Resolve does and returns its titles, in the order of the
// manifest. It exists for tools and fuzzing.
func ParseArtifact(manifest []byte, contentType string) (titles []string, err error) {
	doc, err := parseDocument(manifest, contentType)
	if err != nil {
		return nil, err
	}
	if doc.artifact() == "" {
		return nil, fmt.Errorf("%w: it is no artifact", ErrInvalid)
	}
	files, err := doc.files()
	for _, f := range files {
		titles = append(titles, f.Annotations[titleAnnotation])
	}
	return titles, err
}

// fileChain names one file of one artifact among the layers of all images.
func fileChain(instance ref.Digest, title string) ref.Digest {
	return ref.DigestOf([]byte("artifact " + instance.String() + " " + title))
}

func (s *Store) artifactDir(instance ref.Digest) string { return s.path("artifacts", instance.Hex()) }

// copyArtifact brings the files of an artifact in, each hashed while it arrives, and publishes them whole.
// Where they are here already, the rule of reusable says whether they must be downloaded all the same.
func (s *Store) copyArtifact(ctx context.Context, src *Source, namespace string) ([]layer, error) {
	files, err := src.manifest.files()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(s.path("tmp"), "pull-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	tree := filepath.Join(dir, "files")
	if err := mkdirMode(tree, 0o755); err != nil {
		return nil, err
	}
	t := &transfer{store: s, source: src, namespace: namespace}
	out := make([]layer, len(files))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(downloads)
	for i, f := range files {
		title := f.Annotations[titleAnnotation]
		out[i] = layer{Blob: f.Digest, DiffID: f.Digest, Chain: fileChain(src.image.Instance, title), Origin: src.repo.Host(), Title: title,
			Size: f.Size, Inodes: 1}
		g.Go(func() error {
			if t.reusableFile(ctx, &out[i]) {
				return nil
			}
			if err := t.fetchFile(ctx, f, filepath.Join(tree, filepath.FromSlash(title))); err != nil {
				return fmt.Errorf("fetch file %q: %w", title, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return out, s.publishArtifact(src.image.Instance, dir, out)
}

// fetchFile downloads one file of an artifact into path, read-only for everybody, whatever the daemon's
// umask is. The directories above it are made.
func (t *transfer) fetchFile(ctx context.Context, desc descriptor, path string) error {
	if err := mkdirMode(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := t.fetch(ctx, desc, path); err != nil {
		return err
	}
	return os.Chmod(path, 0o444)
}

// mkdirMode makes a directory and those above it that are missing, below one that exists.
func mkdirMode(dir string, mode fs.FileMode) error {
	if err := os.Mkdir(dir, mode); errors.Is(err, fs.ErrExist) {
		return nil
	} else if errors.Is(err, fs.ErrNotExist) {
		if err := mkdirMode(filepath.Dir(dir), mode); err != nil {
			return err
		}
		return mkdirMode(dir, mode)
	} else if err != nil {
		return err
	}
	return os.Chmod(dir, mode)
}

// publishArtifact moves dir into its place, unless the artifact is there. Then what was downloaded has
// proved access and is not needed.
func (s *Store) publishArtifact(instance ref.Digest, dir string, files []layer) error {
	s.recordMu.Lock()
	defer s.recordMu.Unlock()
	if s.checkArtifact(instance, files) == nil {
		return nil
	}
	for _, f := range files {
		if _, err := os.Lstat(filepath.Join(dir, "files", filepath.FromSlash(f.Title))); err != nil {
			return fmt.Errorf("%w: file %q went away", storage.ErrLayerUnknown, f.Title) // start over
		}
	}
	if c, used := s.user(instance); used {
		return fmt.Errorf("%w: the stored files of artifact %s are not those of its manifest and container %s uses them; remove that container", ErrCorrupt, instance, c)
	}
	if err := os.RemoveAll(s.artifactDir(instance)); err != nil {
		return err
	}
	if err := os.Rename(dir, s.artifactDir(instance)); err != nil {
		return err
	}
	for _, f := range files {
		s.checked.mark(f.Chain)
	}
	return nil
}

// checkArtifact looks whether the files of a record are there, of the right kind and size. It reads none.
func (s *Store) checkArtifact(instance ref.Digest, files []layer) error {
	root, err := os.OpenRoot(filepath.Join(s.artifactDir(instance), "files"))
	if err != nil {
		return fmt.Errorf("%w: artifact %s: %w", ErrCorrupt, instance, err)
	}
	defer root.Close()
	titles := map[string]bool{}
	for _, f := range files {
		titles[f.Title] = true
		st, err := root.Lstat(filepath.FromSlash(f.Title))
		if err != nil {
			return fmt.Errorf("%w: file %q of artifact %s: %w", ErrCorrupt, f.Title, instance, err)
		}
		if !st.Mode().IsRegular() || st.Size() != f.Size {
			return fmt.Errorf("%w: file %q of artifact %s is no file of %d bytes; remove the image and pull it again", ErrCorrupt, f.Title, instance, f.Size)
		}
	}
	return fs.WalkDir(root.FS(), ".", func(at string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !titles[at] {
			err = errors.New("the manifest has no such file")
		}
		if err != nil {
			return fmt.Errorf("%w: file %q of artifact %s: %w", ErrCorrupt, at, instance, err)
		}
		return nil
	})
}

// verifyArtifact hashes the stored manifest of an artifact again and compares it with the record.
func (s *Store) verifyArtifact(r *record) error {
	ev, err := s.loadEvidence(r)
	if err != nil {
		return err
	}
	if got := ref.DigestOf(ev.InstanceManifest); got != r.Instance || r.ID != r.Instance {
		return fmt.Errorf("%w: stored manifest %s hashes to %s; remove the image and pull it again", ErrCorrupt, r.Instance, got)
	}
	doc, err := parseDocument(ev.InstanceManifest, typeManifest)
	if err != nil || doc.artifact() != r.Artifact {
		return fmt.Errorf("%w: stored manifest %s is not of an artifact of type %.100q", ErrCorrupt, r.Instance, r.Artifact)
	}
	files, err := doc.files()
	if err != nil {
		return fmt.Errorf("%w: stored manifest: %w", ErrCorrupt, err)
	}
	same := slices.EqualFunc(files, r.Layers, func(f descriptor, l layer) bool {
		return f.Digest == l.Blob && f.Size == l.Size && f.Annotations[titleAnnotation] == l.Title
	})
	if !same {
		return fmt.Errorf("%w: the record names other files than the manifest", ErrCorrupt)
	}
	return s.checkArtifact(r.Instance, r.Layers)
}

// holds reports whether what a record is about is in storage.
func (s *Store) holds(r *record) bool {
	if r.Artifact == "" {
		return s.storage.Exists(r.ID.Hex())
	}
	_, err := os.Lstat(s.artifactDir(r.Instance))
	return err == nil
}

// dropArtifact removes the files of an artifact that no record names. recordMu is held, or nobody else
// is there yet.
func (s *Store) dropArtifact(instance ref.Digest) error {
	if len(s.index.records(instance)) > 0 {
		return nil
	}
	return os.RemoveAll(s.artifactDir(instance))
}

// sweepArtifacts removes what a crash left: files of artifacts that no record names and no container uses.
func (s *Store) sweepArtifacts(inUse map[string]bool) error {
	dirs, err := os.ReadDir(s.path("artifacts"))
	if err != nil {
		return err
	}
	for _, d := range dirs {
		if _, err := os.Stat(s.path("images", d.Name())); !errors.Is(err, fs.ErrNotExist) || inUse[d.Name()] {
			continue
		}
		if err := os.RemoveAll(s.path("artifacts", d.Name())); err != nil {
			s.index.problem("remove artifact " + d.Name() + ": " + err.Error())
		}
	}
	return nil
}

// reusableFile is reusable for a file of an artifact.
func (t *transfer) reusableFile(ctx context.Context, l *layer) bool {
	if t.store.checked.isBroken(l.Chain) || t.store.checkArtifact(t.source.image.Instance, []layer{*l}) != nil {
		return false
	}
	held, ok := t.proved(ctx, l)
	if ok {
		l.Origin = held.Origin
	}
	return ok
}

// openFile opens a file of an artifact for reading.
func (s *Store) openFile(instance ref.Digest, title string) (*os.File, error) {
	root, err := os.OpenRoot(filepath.Join(s.artifactDir(instance), "files"))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.OpenFile(filepath.FromSlash(title), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}
