package image

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"io"
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
		{"compressed twice", twice.String(), ref.DigestOf(twice.Bytes()), ErrInvalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := &verifier{src: strings.NewReader(tc.body), hash: sha256.New(), want: tc.want}
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
