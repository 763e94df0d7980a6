package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"time"

	"github.com/opencontainers/go-digest"
	"go.podman.io/storage"
	"golang.org/x/sys/unix"

	"sallyport/enforce"
	"sallyport/image/ref"
	"sallyport/internal/failpoint"
	"sallyport/internal/span"
)

// Pull redeems adm at the store's gate and copies exactly what src.Image says, from the connection that
// src already has. Nothing is downloaded before the admission is redeemed. When it returns the image is
// on disk, whole, with its verification record; on an error nothing new can be listed or used, and
// layers that nobody needs are removed. Concurrent pulls of one image for one namespace share the work.
func (s *Store) Pull(ctx context.Context, src *Source, adm enforce.PullAdmission) (Image, error) {
	if src == nil {
		return Image{}, errors.New("pull image: no source")
	}
	g, err := s.gate.RedeemPull(adm)
	if err != nil {
		return Image{}, fmt.Errorf("pull %s: %w", src.image.Name, err)
	}
	if !g.Valid() || g.Verb() != "pull" || g.Image() != src.image || g.Subject() != src.image.Instance.String() {
		return Image{}, fmt.Errorf("pull %s: %w image", src.image.Name, ErrGrant)
	}
	// The key holds whether credentials were used: a pull without them must not ride on one with them.
	key := fmt.Sprintf("%q %s %s %t", g.Namespace(), src.image.Name, src.image.Instance, src.private)
	if src.private {
		key += fmt.Sprintf(" %p", src)
	}
	for {
		ch := s.flights.DoChan(key, func() (any, error) { return s.copy(ctx, src, g.Namespace()) })
		select {
		case <-ctx.Done():
			return Image{}, fmt.Errorf("pull %s: %w", src.image.Name, ctx.Err())
		case r := <-ch:
			if errors.Is(r.Err, context.Canceled) && ctx.Err() == nil {
				continue // the caller who did the work went away
			}
			if r.Err != nil {
				return Image{}, fmt.Errorf("pull %s: %w", src.image.Name, r.Err)
			}
			return r.Val.(Image), nil
		}
	}
}

// copy brings the layers in, then the image, then the record. A concurrent removal can take a layer away
// that was to be reused: then it starts over, once.
func (s *Store) copy(ctx context.Context, src *Source, namespace string) (im Image, err error) {
	for range 2 {
		im, err = s.copyOnce(ctx, src, namespace)
		if err == nil || !errors.Is(err, storage.ErrLayerUnknown) && !errors.Is(err, storage.ErrParentUnknown) && !errors.Is(err, storage.ErrImageUnknown) {
			return im, err
		}
	}
	return im, err
}

func (s *Store) copyOnce(ctx context.Context, src *Source, namespace string) (_ Image, err error) {
	end := s.beginPull()
	defer func() {
		end(err != nil)
		if err != nil && src.image.Artifact != "" {
			s.recordMu.Lock()
			defer s.recordMu.Unlock()
			_ = s.dropArtifact(src.image.Instance) // or Open sweeps it
		}
	}()
	layers, err := s.bring(ctx, src, namespace)
	if err != nil {
		return Image{}, err
	}
	failpoint.Hit("image-stored")
	// What the record says is held must be on disk before the record is (power cut).
	if err := syncfs(s.path("storage")); err != nil {
		return Image{}, err
	}
	if err := s.record(src, layers, namespace); err != nil {
		return Image{}, err
	}
	im, ok := s.Status(src.image.ID.String())
	if !ok {
		return Image{}, fmt.Errorf("%w: it was removed meanwhile", ErrNotFound)
	}
	return im, nil
}

// bring puts what src is about into storage, whole.
func (s *Store) bring(ctx context.Context, src *Source, namespace string) (_ []layer, err error) {
	ctx, sp := span.Start(ctx, span.Pull)
	defer sp.End(&err)
	sp.Set(span.Digest, src.image.Instance.String())
	if src.image.Artifact != "" {
		return s.copyArtifact(ctx, src, namespace)
	}
	t := &transfer{store: s, source: src, namespace: namespace}
	layers, err := t.run(ctx)
	if err != nil {
		return nil, err
	}
	return layers, s.putImage(src, layers)
}

// manifestKey names a manifest among the big data of a storage image: one image ID can have several.
func manifestKey(d ref.Digest) string { return "manifest-" + d.String() }

// putImage makes the storage image, or adds this manifest to it, and reads both documents back.
func (s *Store) putImage(src *Source, layers []layer) error {
	id, top := src.image.ID.Hex(), ""
	if len(layers) > 0 {
		top = layers[len(layers)-1].Chain.Hex()
	}
	inst := digest.Digest(src.image.Instance.String())
	data := []storage.ImageBigDataOption{
		{Key: src.image.ID.String(), Data: src.raw, Digest: digest.Digest(src.image.ID.String())},
		{Key: storage.ImageDigestBigDataKey, Data: src.evidence.InstanceManifest, Digest: inst},
		{Key: manifestKey(src.image.Instance), Data: src.evidence.InstanceManifest, Digest: inst},
	}
	_, err := s.storage.CreateImage(id, nil, top, "", &storage.ImageOptions{BigData: data})
	if errors.Is(err, storage.ErrDuplicateID) {
		for _, d := range data {
			if err := s.storage.SetImageBigData(id, d.Key, d.Data, func([]byte) (digest.Digest, error) { return d.Digest, nil }); err != nil {
				return fmt.Errorf("store manifest: %w", err)
			}
		}
	} else if err != nil {
		return fmt.Errorf("store image: %w", err)
	}
	return s.verify(src.image.ID, src.image.Instance, src.config.diffIDs)
}

// record writes the verification record and takes the tag from the image that had it before.
func (s *Store) record(src *Source, layers []layer, namespace string) error {
	evidence, err := json.Marshal(src.evidence)
	if err != nil {
		return err
	}
	im := src.image
	r := &record{Version: recordVersion, Name: im.Name, Top: im.Top, Instance: im.Instance, ID: im.ID, OS: im.OS, Arch: im.Arch, Artifact: im.Artifact,
		Layers: layers, Config: src.config.config, Evidence: ref.DigestOf(evidence), Pulled: time.Now().UTC(),
		Private: src.private, Proved: []string{namespace}}
	r.Size = int64(len(src.raw) + len(src.evidence.InstanceManifest))
	for _, l := range layers {
		r.Size += l.Size
		r.Inodes += l.Inodes
	}
	s.recordMu.Lock()
	defer s.recordMu.Unlock()
	if im.Artifact != "" && !s.holds(r) { // removed meanwhile
		return storage.ErrImageUnknown
	}
	for _, old := range s.index.records(im.ID) {
		if old.Name == r.Name && old.Top == r.Top && old.Instance == r.Instance {
			r.Private = r.Private && old.Private
			r.Proved = union(r.Proved, old.Proved)
		}
	}
	if err := s.save(r, evidence); err != nil {
		return err
	}
	s.evidence.put(r.Evidence, src.evidence, len(evidence))
	old := s.index.tagged(r.Name)
	s.index.put(r)
	if old != nil && old.ID != r.ID {
		return s.untag(old)
	}
	return nil
}

// untag gives the record of an image that lost its tag the digest as its name: the image is still
// there, for containers that use it and for look-ups by digest or ID.
func (s *Store) untag(old *record) error {
	evidence, err := s.readEvidence(old)
	if err != nil {
		s.index.drop(old)
		return s.forget(old)
	}
	moved := *old
	moved.Name = old.Name.WithDigest(old.Top)
	if err := s.save(&moved, evidence); err != nil {
		return err
	}
	s.index.put(&moved)
	s.index.drop(old)
	return s.forget(old)
}

func union(a, b []string) []string {
	out := append(slices.Clone(a), b...)
	sort.Strings(out)
	return slices.Compact(out)
}

func syncfs(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
