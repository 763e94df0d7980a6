package network

import (
	"context"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sync/errgroup"

	"sallyport/internal/durable"
)

// atOnce bounds the plugin chains of a sweep.
const atOnce = 4

// Recover detaches every pod that was attached in an earlier boot, or that live does not know, tells the
// plugins which attachments remain (GC, where the configuration's version has it), and lets Attach begin.
// An error says what could not be detached; it is kept for Sweep and does not keep Attach from beginning,
// for one broken attachment must not cost the node its network. Call it once, before the first Attach.
func (c *CNI) Recover(ctx context.Context, live func(podID string) bool) error {
	err := durable.Tidy(c.dir())
	err = errors.Join(err, c.sweep(ctx, func(r *record) bool { return r.BootID == c.o.BootID && live(r.PodID) }))
	// GC only here: while pods are being added, a plugin could take a new lease for a stale one.
	err = errors.Join(err, c.gc(ctx))
	c.recovered.Store(true)
	return err
}

// Sweep detaches every pod that live does not know: what failed calls left. live is asked after the
// records were listed, so it must know a pod before its Attach begins.
func (c *CNI) Sweep(ctx context.Context, live func(podID string) bool) error {
	return c.sweep(ctx, func(r *record) bool { return live(r.PodID) })
}

func (c *CNI) sweep(ctx context.Context, keep func(*record) bool) error {
	ids, err := c.attached()
	if err != nil {
		return err
	}
	errs := make([]error, len(ids))
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, id := range ids {
		g.Go(func() error {
			r, err := c.find(id)
			if err == nil && r != nil && !keep(r) {
				if err = c.del(ctx, r); err != nil {
					err = fmt.Errorf("detach pod %s from network %q: %w", id, r.Network, oneLine(err))
				}
			}
			errs[i] = err
			return nil
		})
	}
	g.Wait()
	return errors.Join(errs...)
}

// gc tells the plugins of the current network which attachments are valid. No network is no error.
func (c *CNI) gc(ctx context.Context) error {
	conf, err := c.ready()
	if errors.Is(err, ErrNoNetwork) {
		return nil
	}
	if err != nil {
		return err
	}
	ids, err := c.attached()
	if err != nil {
		return err
	}
	valid := make([]types.GCAttachment, 0, len(ids))
	for _, id := range ids {
		valid = append(valid, types.GCAttachment{ContainerID: id, IfName: ifName})
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	if err := c.lib.GCNetworkList(ctx, conf.list, &libcni.GCArgs{ValidAttachments: valid}); err != nil {
		return fmt.Errorf("collect stale attachments of network %q: %w", conf.list.Name, oneLine(err))
	}
	return nil
}
