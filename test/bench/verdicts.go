package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sallyport/audit"
	"sallyport/enforce"
	"sallyport/enforce/enforcetest"
	"sallyport/image/ref"
	"sallyport/policy/bundle"
	"sallyport/test/sigkit"
)

// verdicts measures the gate by itself: the strict policy, one keyless signature with log entry,
// timestamp and SCT, offline. Means over many rounds.
func (b *bench) verdicts() error {
	dir := b.node.Path("verdicts")
	for name, text := range b.strict() {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	set, err := bundle.Load(dir)
	if err != nil {
		return err
	}
	req, err := b.pullRequest()
	if err != nil {
		return err
	}
	cold := testing.Benchmark(func(t *testing.B) {
		for t.Loop() {
			if v := set.Node().JudgeImage(context.Background(), req.Image, req.Evidence, time.Now()); !v.Allowed() {
				t.Fatal(v.Hits())
			}
		}
	})
	b.value("image verdict, cold (keyless, offline)", "us", "", float64(cold.NsPerOp())/1000)
	admit := testing.Benchmark(func(t *testing.B) {
		g, _ := enforcetest.With(t, enforce.Policies{Node: set.Node(), For: set.For})
		for t.Loop() {
			if _, err := g.AdmitPull(context.Background(), req); err != nil {
				t.Fatal(err)
			}
		}
	})
	b.value("AdmitPull, verdict warm, record durable", "us", "", float64(admit.NsPerOp())/1000)
	record := testing.Benchmark(func(t *testing.B) {
		log, err := audit.Open(audit.Options{Dir: t.TempDir(), Node: "bench", BootID: "bench"})
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		for t.Loop() {
			if _, err := log.Append(context.Background(), audit.Event{Type: "decision", Verb: "pull"}); err != nil {
				t.Fatal(err)
			}
		}
	})
	b.value("  of which the audit's write and fdatasync", "us", "", float64(record.NsPerOp())/1000)
	return nil
}

func (b *bench) pullRequest() (enforce.PullRequest, error) {
	name, err := ref.Parse(b.image)
	if err != nil {
		return enforce.PullRequest{}, err
	}
	id := ref.DigestOf([]byte("config"))
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"digest":%q}}`, id)
	at := ref.DigestOf(manifest)
	signed, err := b.kit.SignKeyless(at, signer)
	if err != nil {
		return enforce.PullRequest{}, err
	}
	return enforce.PullRequest{
		Namespace: "bench",
		Image:     enforce.Image{Name: name, Top: at, Instance: at, ID: id, OS: "linux", Arch: "amd64"},
		Evidence: enforce.Evidence{TopManifest: manifest, InstanceManifest: manifest, Complete: true,
			Bundles: []enforce.Bundle{{Subject: at, ArtifactType: sigkit.BundleType, JSON: signed}}},
	}, nil
}
