package registry

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"sallyport/image/ref"
)

// maxLayout bounds the entries of a layout's index.json.
const maxLayout = 1024

// refName is the annotation by which a layout's index.json tags an entry (OCI image spec, annotations.md).
const refName = "org.opencontainers.image.ref.name"

// layout answers the requests of a Repo from a directory (OCI image spec, image-layout.md), so that what
// comes from a disk passes the same bounds and hashes as what comes from a network. It is immutable.
type layout struct {
	root    *os.Root // constant
	entries []Descriptor
}

// OpenLayout opens the image n in an OCI layout: the entry with n's digest, or tagged with n or its tag,
// or the only entry that is about no other. The Repo's Close closes the directory.
func OpenLayout(dir string, n ref.Name, limit int64) (*Repo, Manifest, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, Manifest{}, fmt.Errorf("open layout: %w", err)
	}
	l := &layout{root: root}
	m, err := l.find(n, limit)
	if err != nil {
		root.Close()
		return nil, Manifest{}, fmt.Errorf("open layout %s: %w", dir, err)
	}
	return &Repo{
		// No two layouts are one host: what one of them has proves nothing of another.
		host:   "oci-layout-" + rand.Text(),
		base:   url.URL{Scheme: "https", Host: "oci-layout", Path: "/v2/layout/"},
		client: &http.Client{Transport: l},
		pool:   &http.Transport{},
		done:   root.Close,
		stall:  stall,
	}, m, nil
}

func (l *layout) find(n ref.Name, limit int64) (Manifest, error) {
	text, err := l.read("index.json", limit)
	if err != nil {
		return Manifest{}, err
	}
	if l.entries, err = parseIndex(text); err != nil {
		return Manifest{}, err
	}
	if len(l.entries) > maxLayout {
		return Manifest{}, fmt.Errorf("%w: index.json has %d entries, at most %d", ErrTooLarge, len(l.entries), maxLayout)
	}
	var tagged, alone []Descriptor
	for _, d := range l.entries {
		switch name := d.Annotations[refName]; {
		case !n.Digest().IsZero():
			if d.Digest == n.Digest() {
				tagged = append(tagged, d)
			}
		case name != "" && (name == n.String() || name == n.Tag()):
			tagged = append(tagged, d)
		case n.Digest().IsZero() && l.subject(d, limit).IsZero() && !strings.HasPrefix(name, "sha256-"):
			alone = append(alone, d)
		}
	}
	found := tagged
	if len(found) == 0 {
		found = alone
	}
	if len(found) != 1 {
		return Manifest{}, fmt.Errorf("%w: index.json has %d entries that could be %s, want one; tag it there with %s", ErrNotFound, len(found), n, refName)
	}
	b, err := l.read(blobPath(found[0].Digest), limit)
	if err != nil {
		return Manifest{}, err
	}
	if got := ref.DigestOf(b); got != found[0].Digest {
		return Manifest{}, fmt.Errorf("%w: blob %s has bytes of %s", ErrDigest, found[0].Digest, got)
	}
	return Manifest{Bytes: b, ContentType: found[0].MediaType}, nil
}

// subject is what the manifest d is about; zero if it is about none or cannot be read.
func (l *layout) subject(d Descriptor, limit int64) ref.Digest {
	b, err := l.read(blobPath(d.Digest), limit)
	var a Artifact
	if err != nil || json.Unmarshal(b, &a) != nil {
		return ref.Digest{}
	}
	return a.Subject.Digest
}

func blobPath(d ref.Digest) string { return filepath.Join("blobs", "sha256", d.Hex()) }

// open opens a regular file of the layout; a pipe in its place does not hold us up.
func (l *layout) open(name string) (*os.File, error) {
	f, err := l.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		f.Close()
		return nil, errors.Join(err, fmt.Errorf("%s is no regular file", name))
	}
	return f, nil
}

func (l *layout) read(name string, limit int64) ([]byte, error) {
	f, err := l.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, limit)
}

// RoundTrip answers one request as a registry would.
func (l *layout) RoundTrip(r *http.Request) (*http.Response, error) {
	what, which, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/layout/"), "/")
	d, err := ref.ParseDigest(which)
	switch {
	case what == "manifests" && err != nil:
		for _, e := range l.entries {
			if e.Annotations[refName] == which {
				return l.blob(r, e.Digest, e.MediaType), nil
			}
		}
	case what == "manifests":
		return l.blob(r, d, ""), nil
	case what == "blobs" && err == nil:
		return l.blob(r, d, ""), nil
	case what == "referrers" && err == nil:
		return l.referrers(r, d)
	}
	return reply(r, http.StatusNotFound, http.NoBody), nil
}

func (l *layout) blob(r *http.Request, d ref.Digest, mediaType string) *http.Response {
	f, err := l.open(blobPath(d))
	if errors.Is(err, fs.ErrNotExist) {
		return reply(r, http.StatusNotFound, http.NoBody)
	}
	if err != nil {
		return reply(r, http.StatusInternalServerError, http.NoBody)
	}
	res := reply(r, http.StatusOK, f)
	if mediaType != "" {
		res.Header.Set("Content-Type", mediaType)
	}
	return res
}

// referrers lists the entries of index.json whose subject is d.
func (l *layout) referrers(r *http.Request, d ref.Digest) (*http.Response, error) {
	doc := struct {
		Manifests []Descriptor `json:"manifests"`
	}{[]Descriptor{}}
	for _, e := range l.entries {
		b, err := l.read(blobPath(e.Digest), maxReferrer)
		var a Artifact
		if err != nil || json.Unmarshal(b, &a) != nil || a.Subject.Digest != d {
			continue
		}
		if e.ArtifactType = a.ArtifactType; e.ArtifactType == "" {
			e.ArtifactType = a.Config.MediaType
		}
		doc.Manifests = append(doc.Manifests, e)
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	return reply(r, http.StatusOK, io.NopCloser(bytes.NewReader(text))), nil
}

// maxReferrer bounds the manifest of a referrer in a layout, in bytes.
const maxReferrer = 4 << 20

func reply(r *http.Request, status int, body io.ReadCloser) *http.Response {
	return &http.Response{StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: body, ContentLength: -1, Request: r}
}
