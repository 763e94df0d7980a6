package image

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"io"
	"math"
	"strings"
	"testing"

	"go.podman.io/storage"

	"sallyport/image/internal/registry"
	"sallyport/image/ref"
	"sallyport/test/sigkit"
)

func TestVerifier(t *testing.T) {
	var twice bytes.Buffer
	w := gzip.NewWriter(&twice)
	io.WriteString(w, "archive")
	w.Close()
	for _, tc := range []struct {
		name, body string
		want       ref.Digest
		err        error
	}{
		{"right", "archive", ref.DigestOf([]byte("archive")), nil},
		{"wrong", "archivE", ref.DigestOf([]byte("archive")), registry.ErrDigest},
		{"no digest", "archive", ref.Digest{}, registry.ErrDigest},
		{"empty", "", ref.DigestOf([]byte("archive")), registry.ErrDigest},
		{"as large as may be", strings.Repeat("a", 64), ref.DigestOf([]byte(strings.Repeat("a", 64))), nil},
		{"larger", strings.Repeat("a", 65), ref.DigestOf([]byte(strings.Repeat("a", 65))), ErrInvalid},
		{"compressed twice", twice.String(), ref.DigestOf(twice.Bytes()), ErrInvalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := &verifier{src: strings.NewReader(tc.body), hash: sha256.New(), want: tc.want, most: 64}
			_, err := io.ReadAll(v)
			if tc.err == nil {
				if err != nil || !v.done {
					t.Fatalf("Read() = %v, done %v", err, v.done)
				}
				return
			}
			if v.done {
				t.Error("done")
			}
			if err == nil {
				t.Fatal("Read() ends without an error")
			}
			wantErr(t, err, tc.err)
		})
	}
}

// TestForeignLayerUnderOurChain: what lies in storage under a chain ID is not believed for its name.
func TestForeignLayerUnderOurChain(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	e := newEnv(t, host)
	img := build(t, sigkit.ImageOptions{NoBusybox: true})
	push(t, host+"/a:v1", img)
	src := e.mustResolve(host + "/a:v1")
	chain := chainIDs(src.config.diffIDs)[0].Hex()
	other := layered(t, []tarHeader{file("planted", "x")})
	ls, err := other.Layers()
	if err != nil {
		t.Fatal(err)
	}
	rc, err := ls[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if _, _, err := e.storage.PutLayer(chain, "", nil, "", false, &storage.LayerOptions{}, rc); err != nil {
		t.Fatal(err)
	}
	l, err := e.storage.Layer(chain)
	if err != nil || l.UncompressedDigest == "" {
		t.Fatal(l, err)
	}
	tr := &transfer{store: e.Store, source: src, namespace: "team"}
	_, err = tr.run(t.Context())
	if err == nil {
		t.Fatal("a foreign layer under our chain ID was taken")
	}
	wantErr(t, err, ErrCorrupt)
	if err := e.storage.DeleteLayer(chain); err != nil { // the twin
		t.Fatal(err)
	}
	if _, err := tr.run(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestUsableIn(t *testing.T) {
	for _, tc := range []struct {
		c    Candidate
		ns   string
		want bool
	}{
		{Candidate{}, "any", true},
		{Candidate{Private: true}, "any", false},
		{Candidate{Private: true, Proved: []string{"team"}}, "team", true},
		{Candidate{Private: true, Proved: []string{"team"}}, "other", false},
		{Candidate{Private: true, Proved: []string{""}}, "", false}, // a pull without a namespace proves for none
	} {
		if got := tc.c.UsableIn(tc.ns); got != tc.want {
			t.Errorf("UsableIn(%q) of %+v = %v, want %v", tc.ns, tc.c, got, tc.want)
		}
	}
}

// TestBombs: an image that unpacks to more than it may is refused by name, and nothing of it stays.
func TestBombs(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	e := newEnv(t, host)
	push(t, host+"/a:v1", build(t, sigkit.ImageOptions{NoBusybox: true, Files: map[string]string{"/zeros": strings.Repeat("0", 1<<20)}}))
	e.opts.MaxUnpacked = 1 << 20
	e.reopen()
	_, err := e.pull(host+"/a:v1", "team")
	wantErr(t, err, ErrInvalid, "image.max_unpacked")
	if layers, err := e.storage.Layers(); err != nil || len(layers) > 0 {
		t.Errorf("%d layers are left, %v", len(layers), err)
	}
	e.opts.MaxUnpacked = 2 << 20
	e.reopen()
	e.mustPull(host + "/a:v1")
}

// TestBombRatio: how much a layer may unpack to follows from its download, and from what the image has left.
func TestBombRatio(t *testing.T) {
	for _, tt := range []struct{ room, compressed, want int64 }{
		{1 << 40, 1, bombSize},
		{1 << 40, bombSize, bombSize * bombRatio},
		{1 << 20, bombSize, 1 << 20},
		{math.MaxInt64, math.MaxInt64, math.MaxInt64 / bombRatio * bombRatio},
		{-1, 1, -1},
	} {
		if got := (&transfer{room: tt.room}).most(tt.compressed); got != tt.want {
			t.Errorf("most(%d) with %d left = %d, want %d", tt.compressed, tt.room, got, tt.want)
		}
	}
}

// TestBombsOfManyLayers: the layers of an image share what it may unpack to.
func TestBombsOfManyLayers(t *testing.T) {
	host, _ := newRegistry(t, sigkit.Referrers)
	e := newEnv(t, host)
	push(t, host+"/a:v1", build(t, sigkit.ImageOptions{NoBusybox: true, Pad: 1 << 20, Files: map[string]string{"/zeros": strings.Repeat("0", 1<<20)}}))
	e.opts.MaxUnpacked = 3 << 19
	e.reopen()
	_, err := e.pull(host+"/a:v1", "team")
	wantErr(t, err, ErrInvalid, "image.max_unpacked")
	e.opts.MaxUnpacked = 3 << 20
	e.reopen()
	e.mustPull(host + "/a:v1")
}
