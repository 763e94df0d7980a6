package image

import (
	"context"
	"fmt"
	"testing"

	"sallyport/test/sigkit"
)

// BenchmarkLookup, BenchmarkMount and BenchmarkPull measure what a create and a pull pay here.
func BenchmarkLookup(b *testing.B) {
	e, im := benchEnv(b, 0)
	name := im.Tags[0]
	for b.Loop() {
		if _, err := e.Lookup(im.ID.String(), name); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMount(b *testing.B) {
	e, im := benchEnv(b, 0)
	c := e.lookup(im.ID.String(), "")
	n := 0
	for b.Loop() {
		b.StopTimer()
		id := fmt.Sprintf("c%d", n)
		n++
		g := e.run(c, id)
		b.StartTimer()
		if _, err := e.Mount(context.Background(), g); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if n%10 != 0 { // nine in ten stay, as on a full node
			b.StartTimer()
			continue
		}
		if err := e.Release(id); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkRelease(b *testing.B) {
	e, im := benchEnv(b, 0)
	c := e.lookup(im.ID.String(), "")
	n := 0
	for b.Loop() {
		b.StopTimer()
		id := fmt.Sprintf("c%d", n)
		n++
		if _, err := e.Mount(context.Background(), e.run(c, id)); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := e.Release(id); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUserFilesCold(b *testing.B) {
	e, im := benchEnv(b, 0)
	c := e.lookup(im.ID.String(), "")
	for b.Loop() {
		e.users.drop(im.ID)
		if _, _, err := e.UserFiles(context.Background(), c.Image.Instance, im.ID); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPull100MB(b *testing.B) {
	e, im := benchEnv(b, 100<<20)
	name := im.Tags[0]
	for b.Loop() {
		b.StopTimer()
		if err := e.Remove(name); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		e.mustPull(name)
	}
}

func BenchmarkOpen(b *testing.B) {
	e, _ := benchEnv(b, 0)
	for b.Loop() {
		e.reopen()
	}
}

func benchEnv(b *testing.B, pad int64) (*env, Image) {
	srv := sigkit.NewRegistry(sigkit.Referrers)
	b.Cleanup(srv.Close)
	host := sigkit.Host(srv)
	e := newEnv(b, host)
	img, err := sigkit.Image(sigkit.ImageOptions{Pad: pad})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := sigkit.Push(host+"/a:v1", img); err != nil {
		b.Fatal(err)
	}
	return e, e.mustPull(host + "/a:v1")
}
