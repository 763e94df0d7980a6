package image

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"sallyport/enforce"
	"sallyport/image/ref"
	"sallyport/test/sigkit"
)

func attach(t *testing.T, repo string, d ref.Digest, text string, l sigkit.Layout) {
	t.Helper()
	if err := sigkit.Attach(repo, d, []byte(text), l); err != nil {
		t.Fatal(err)
	}
}

func indexOf(t *testing.T, img v1.Image) v1.ImageIndex {
	t.Helper()
	ix, err := sigkit.Index()
	if err != nil {
		t.Fatal(err)
	}
	return mutate.AppendManifests(ix, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &native}})
}

// bundle is enough of a bundle for a registry; nobody verifies it here.
func bundle(n int) string {
	return fmt.Sprintf(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","n":%d}`, n)
}

func TestEvidence(t *testing.T) {
	for _, l := range []sigkit.Layout{sigkit.Referrers, sigkit.FallbackTag} {
		t.Run(map[sigkit.Layout]string{sigkit.Referrers: "referrers API", sigkit.FallbackTag: "fallback tag"}[l], func(t *testing.T) {
			f := newFake(t, l)
			e := newEnv(t, f.host)
			repo := f.host + "/a"
			img := build(t, sigkit.ImageOptions{NoBusybox: true})
			top := push(t, repo+":v1", indexOf(t, img))
			inst := ref.DigestOf(raw(t, img))
			none := e.mustResolve(repo + ":v1").Evidence()
			if !none.Complete || none.Missing != "" || len(none.Bundles)+len(none.Simple) != 0 {
				t.Errorf("Evidence() without any = %+v, want complete and empty", none)
			}
			attach(t, repo, top, bundle(1), l)
			attach(t, repo, inst, bundle(2), l)
			key, err := sigkit.NewKey()
			if err != nil {
				t.Fatal(err)
			}
			n, err := ref.Parse(repo + ":v1")
			if err != nil {
				t.Fatal(err)
			}
			payload, notes, err := sigkit.Legacy(key, n, top)
			if err != nil {
				t.Fatal(err)
			}
			if err := sigkit.AttachLegacy(repo, top, payload, notes); err != nil {
				t.Fatal(err)
			}
			ev := e.mustResolve(repo + ":v1").Evidence()
			if !ev.Complete || len(ev.Bundles) != 2 || len(ev.Simple) != 1 {
				t.Fatalf("Evidence() = %d bundles, %d signatures, complete %v (%s)", len(ev.Bundles), len(ev.Simple), ev.Complete, ev.Missing)
			}
			by := map[ref.Digest]string{}
			for _, b := range ev.Bundles {
				by[b.Subject] = string(b.JSON)
			}
			if by[top] != bundle(1) || by[inst] != bundle(2) {
				t.Errorf("bundles by subject = %v", by)
			}
			if s := ev.Simple[0]; s.Subject != top || string(s.Payload) != string(payload) || s.Annotations["dev.cosignproject.cosign/signature"] != notes["dev.cosignproject.cosign/signature"] {
				t.Errorf("Simple = %+v", s)
			}
			if ref.DigestOf(ev.TopManifest) != top || ref.DigestOf(ev.InstanceManifest) != inst {
				t.Error("Evidence() carries other manifests")
			}
			// It is stored as it was, and read back whole.
			im := e.mustPull(repo + ":v1")
			e.reopen()
			c, err := e.Lookup(im.ID.String(), repo+":v1")
			if err != nil {
				t.Fatal(err)
			}
			if got := c[0].Evidence; len(got.Bundles) != 2 || len(got.Simple) != 1 || !got.Complete || string(got.Bundles[0].JSON) != string(ev.Bundles[0].JSON) {
				t.Errorf("stored evidence = %+v", got)
			}
		})
	}
}

// TestLegacyAttestation: attestations at the tag .att are noticed, and nothing else there is.
func TestLegacyAttestation(t *testing.T) {
	f := newFake(t, sigkit.Referrers)
	e := newEnv(t, f.host)
	d := push(t, f.host+"/a:v1", build(t, sigkit.ImageOptions{NoBusybox: true}))
	tag := "/manifests/" + strings.Replace(d.String(), ":", "-", 1) + ".att"
	list := func(mediaType string) string {
		return `{"schemaVersion":2,"layers":[{"mediaType":"` + mediaType + `","size":1,"digest":"` + d.String() + `"}]}`
	}
	for kind, want := range map[string]int{legacyAttestation: 1, "application/octet-stream": 0} {
		f.on(tag, answer(200, typeManifest, list(kind)))
		ev := e.mustResolve(f.host + "/a:v1").Evidence()
		if !ev.Complete || len(ev.Bundles) != want || want == 1 && (ev.Bundles[0].ArtifactType != legacyAttestation || ev.Bundles[0].Subject != d) {
			t.Errorf("Evidence() with %s = %+v, want %d told of", kind, ev.Bundles, want)
		}
	}
	f.on(tag, answer(500, "text/plain", ""))
	if ev := e.mustResolve(f.host + "/a:v1").Evidence(); !ev.Complete || len(ev.Bundles) != 0 {
		t.Errorf("Evidence() where .att fails = %+v, want complete and nothing", ev)
	}
}

// TestEvidenceIncomplete: evidence that could not be read is told from evidence that is not there.
func TestEvidenceIncomplete(t *testing.T) {
	f := newFake(t, sigkit.Referrers)
	e := newEnv(t, f.host)
	repo := f.host + "/a"
	d := push(t, repo+":v1", build(t, sigkit.ImageOptions{NoBusybox: true}))
	attach(t, repo, d, bundle(1), sigkit.Referrers)
	blob := "/blobs/" + ref.DigestOf([]byte(bundle(1))).String()
	referrers := "/referrers/" + d.String()
	legacy := "/manifests/" + strings.Replace(d.String(), ":", "-", 1) + ".sig"
	huge := `{"schemaVersion":2,"layers":[{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","size":2000000,"digest":"` + d.String() + `"}]}`
	many := `{"schemaVersion":2,"layers":[` + strings.TrimSuffix(strings.Repeat(`{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","size":1,"digest":"`+d.String()+`"},`, maxSignatures+1), ",") + `]}`
	for _, tc := range []struct {
		name, path, word string
		h                http.HandlerFunc
	}{
		{"referrers answer 503", referrers, "503", answer(503, "text/plain", "")},
		{"referrers are no JSON", referrers, "referrers", answer(200, typeIndex, "<html>")},
		{"referrers are refused", referrers, "401", answer(401, "text/plain", "")},
		{"bundle of other bytes", blob, "digest mismatch", answer(200, "application/octet-stream", bundle(2))},
		{"bundle gone", blob, "404", answer(404, "application/json", "{}")},
		{"signatures answer 500", legacy, "500", answer(500, "text/plain", "")},
		{"payload too large", legacy, "2000000", answer(200, typeManifest, huge)},
		{"too many signatures", legacy, "more than 128", answer(200, typeManifest, many)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f.on(tc.path, tc.h)
			defer f.on(tc.path, nil)
			ev := e.mustResolve(repo + ":v1").Evidence()
			if ev.Complete || !strings.Contains(ev.Missing, tc.word) {
				t.Errorf("Evidence() complete = %v, missing %q; want incomplete, %q", ev.Complete, ev.Missing, tc.word)
			}
		})
	}
	if ev := e.mustResolve(repo + ":v1").Evidence(); !ev.Complete || len(ev.Bundles) != 1 {
		t.Errorf("the twin: %+v", ev)
	}
}

// TestEvidenceBounds: whoever can push can pad, and gets no further than the bounds.
func TestEvidenceBounds(t *testing.T) {
	f := newFake(t, sigkit.Referrers)
	e := newEnv(t, f.host)
	repo := f.host + "/a"
	d := push(t, repo+":v1", build(t, sigkit.ImageOptions{NoBusybox: true}))
	attach(t, repo, d, bundle(1), sigkit.Referrers)
	list := func(n int, kind string) string {
		var b strings.Builder
		b.WriteString(`{"schemaVersion":2,"mediaType":"` + typeIndex + `","manifests":[`)
		for i := range n {
			if i > 0 {
				b.WriteString(",")
			}
			fmt.Fprintf(&b, `{"mediaType":%q,"artifactType":%q,"size":10,"digest":%q}`, typeManifest, kind, ref.DigestOf([]byte(fmt.Sprint(i))))
		}
		return b.String() + "]}"
	}
	f.on("/referrers/"+d.String(), answer(200, typeIndex, list(maxReferrers+1, sigkit.BundleType)))
	f.asked("")
	ev := e.mustResolve(repo + ":v1").Evidence()
	if ev.Complete || !strings.Contains(ev.Missing, fmt.Sprintf("more than %d", maxReferrers)) {
		t.Errorf("Evidence() of %d referrers: complete %v, %q", maxReferrers+1, ev.Complete, ev.Missing)
	}
	if n := f.asked("/manifests/sha256:"); n > maxReferrers {
		t.Errorf("%d referrers were fetched, at most %d", n, maxReferrers)
	}
	f.on("/referrers/"+d.String(), answer(200, typeIndex, list(5000, "application/spdx+json")))
	f.asked("")
	if ev = e.mustResolve(repo + ":v1").Evidence(); !ev.Complete {
		t.Errorf("Evidence() among 5000 of other kinds is incomplete: %s", ev.Missing)
	}
	if n := f.asked("/manifests/sha256:"); n != 0 {
		t.Errorf("%d referrers of other kinds were fetched, want 0", n)
	}
	// A referrer that is said to be about this image and is about another.
	other := push(t, repo+":other", build(t, sigkit.ImageOptions{NoBusybox: true, Files: map[string]string{"/x": "y"}}))
	attach(t, repo, other, bundle(7), sigkit.Referrers)
	f.on("/referrers/"+d.String(), func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = strings.Replace(r.URL.Path, d.String(), other.String(), 1)
		f.real.Config.Handler.ServeHTTP(w, r)
	})
	if ev = e.mustResolve(repo + ":v1").Evidence(); len(ev.Bundles) != 0 {
		t.Errorf("a bundle about another image was taken: %+v", ev.Bundles)
	}
}

func TestEvidenceBudget(t *testing.T) {
	c := newCollector(t.Context(), nil)
	defer c.stop()
	for i := range 5 {
		d := ref.DigestOf([]byte{byte(i)})
		if got, want := c.reserve(d, maxBundle), i < 4; got != want {
			t.Errorf("reserve() of bundle %d = %v, want %v", i, got, want)
		}
	}
	if ev := c.result(); ev.Complete {
		t.Error("evidence over the budget is complete")
	}
	var _ enforce.Evidence
}
