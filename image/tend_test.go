package image

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"sallyport/enforce"
	"sallyport/image/ref"
	"sallyport/test/sigkit"
)

// TestScrub: a layer that changed on disk is found without anybody using it, and the pace is kept.
func TestScrub(t *testing.T) {
	e, name, _, diff := spoiled(t)
	e.scrub(context.Background())
	if _, ok := e.Status(name); !ok {
		t.Fatal("a whole image was withdrawn")
	}
	flip(t, filepath.Join(diff, "bin/app"))
	e.scrub(context.Background())
	if _, ok := e.Status(name); ok || len(e.List()) != 0 {
		t.Error("a changed image is still there after a pass")
	}
	e.mustPull(name)
	e.scrubPace = 2000 // the layers hold about 1,000 bytes
	begun := time.Now()
	e.scrub(context.Background())
	if took := time.Since(begun); took < 400*time.Millisecond {
		t.Errorf("a pass over 1,000 bytes at 2,000 a second took %s", took)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	e.scrubPace = 1
	begun = time.Now()
	e.scrub(ctx)
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("a cancelled pass took %s", took)
	}
	if _, ok := e.Status(name); !ok {
		t.Error("a cancelled pass withdrew an image")
	}
}

// TestRefresh: newer evidence is added to a stored image, what is stored is never taken away, and a stale
// name is answered again when there is something new.
func TestRefresh(t *testing.T) {
	f := newFake(t, sigkit.Referrers)
	e := newEnv(t, f.host)
	name, repo := f.host+"/a:v1", f.host+"/a"
	img := build(t, sigkit.ImageOptions{NoBusybox: true})
	top := push(t, name, indexOf(t, img))
	inst := ref.DigestOf(raw(t, img))
	attach(t, repo, top, bundle(1), sigkit.Referrers)
	e.mustPull(name)
	n, _ := ref.Parse(name)
	refresh := func() error {
		t.Helper()
		f.asked("")
		return e.refresh(context.Background(), e.index.tagged(n))
	}
	count := func() int {
		t.Helper()
		e.reopen()
		c := e.lookup(name, "")
		if !c.Evidence.Complete {
			t.Errorf("Evidence = %+v, want complete", c.Evidence)
		}
		return len(c.Evidence.Bundles)
	}
	e.MarkStale(n)
	if err := refresh(); err != nil || count() != 1 {
		t.Fatalf("refresh() without news: %v", err)
	}
	e.MarkStale(n)
	attach(t, repo, inst, bundle(2), sigkit.Referrers)
	if err := refresh(); err != nil {
		t.Fatal(err)
	}
	if k := f.asked("GET /v2/a/blobs/"); k > 2 {
		t.Errorf("%d blobs were fetched, want the bundles alone", k)
	}
	if _, ok := e.Status(name); !ok {
		t.Error("newer evidence does not clear the stale mark")
	}
	if k := count(); k != 2 {
		t.Errorf("%d bundles after a refresh, want 2", k)
	}
	for _, d := range []ref.Digest{top, inst} {
		f.on("/referrers/"+d.String(), answer(200, typeIndex, `{"schemaVersion":2,"manifests":[]}`))
	}
	if err := refresh(); err != nil || count() != 2 {
		t.Errorf("a registry that forgot its signatures took them from the store (%v)", err)
	}
	for _, d := range []ref.Digest{top, inst} {
		f.on("/referrers/"+d.String(), answer(500, "text/plain", ""))
	}
	if err := refresh(); err != nil || count() != 2 {
		t.Errorf("a registry that fails made stored evidence incomplete (%v)", err)
	}
	f.on("/manifests/"+top.String(), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	wantErr(t, refresh(), ErrUnauthorized)
	if count() != 2 {
		t.Error("a registry that refuses took evidence from the store")
	}
	push(t, name, build(t, sigkit.ImageOptions{NoBusybox: true, Files: map[string]string{"/n": "n"}}))
	old := e.index.tagged(n)
	f.on("/manifests/"+top.String(), nil)
	f.on("/referrers/"+top.String(), nil)
	e.mustPull(name)
	attach(t, repo, top, bundle(3), sigkit.Referrers)
	if err := e.refresh(context.Background(), old); err != nil {
		t.Error(err)
	}
	if c := e.lookup(name, ""); c.Image.Top == top || len(c.Evidence.Bundles) != 0 {
		t.Errorf("evidence about another image came to the tag: %+v", c.Image)
	}
}

// TestMergeIsBounded: whoever can push can pad; what is stored stays.
func TestMergeIsBounded(t *testing.T) {
	d := ref.DigestOf(nil)
	var stored, fresh enforce.Evidence
	for i := range maxReferrers {
		stored.Bundles = append(stored.Bundles, enforce.Bundle{Subject: d, JSON: fmt.Appendf(nil, "old %d", i)})
		fresh.Bundles = append(fresh.Bundles, enforce.Bundle{Subject: d, JSON: fmt.Appendf(nil, "new %d", i)})
	}
	out, more := merge(stored, fresh)
	if !more || len(out.Bundles) != maxReferrers+maxSignatures || len(stored.Bundles) != maxReferrers {
		t.Errorf("merge() has %d bundles, want %d", len(out.Bundles), maxReferrers+maxSignatures)
	}
	big := enforce.Evidence{Bundles: []enforce.Bundle{{Subject: d, JSON: make([]byte, maxEvidence)}}}
	if _, more := merge(stored, big); more {
		t.Error("evidence beyond the bound was added")
	}
	if _, more := merge(big, stored); more {
		t.Error("evidence was added to a store that is full")
	}
	if out, more := merge(stored, enforce.Evidence{Complete: true}); !more || !out.Complete {
		t.Error("a complete fetch does not complete what was cut short")
	}
	stored.Complete = true
	if out, more := merge(stored, enforce.Evidence{Missing: "x"}); more || !out.Complete {
		t.Error("a fetch that was cut short made stored evidence incomplete")
	}
}

// TestDueIsSpread: the images of a node do not ask at once.
func TestDueIsSpread(t *testing.T) {
	s := &Store{key: make([]byte, 32), refreshEvery: time.Hour}
	seen := map[time.Duration]bool{}
	for i := range 100 {
		d := s.due(fmt.Sprint(i))
		if d < 45*time.Minute || d > 75*time.Minute {
			t.Errorf("due() = %s, want within a quarter of an hour", d)
		}
		seen[d] = true
	}
	if len(seen) < 80 {
		t.Errorf("100 images have %d times", len(seen))
	}
}
