package main

import (
	"context"

	"golang.org/x/sync/errgroup"

	"sallyport/internal/cdi"
	"sallyport/internal/cri"
	"sallyport/internal/nri"
)

// plugins is the hub of NRI plugins; nil where none is allowed.
func (d *daemon) plugins() (*nri.Hub, error) {
	n := d.c.NRI
	if len(n.Plugins) == 0 {
		return nil, nil
	}
	return nri.New(nri.Options{Socket: n.Socket, Plugins: n.PluginDir, Config: n.ConfDir, Allowed: n.Plugins, Required: n.Required, Permit: n.Permit,
		Version: version, Register: n.Register, Answer: n.Answer, Log: d.log})
}

// devices is the registry of CDI devices; nil where there is no directory of them.
func (d *daemon) devices() (*cdi.Registry, error) {
	if len(d.c.CDI.Dirs) == 0 {
		return nil, nil
	}
	return cdi.Open(d.c.CDI.Dirs)
}

// runPlugins lets plugins connect until ctx ends.
func (d *daemon) runPlugins(ctx context.Context, server *cri.Server) error {
	if d.cdi != nil {
		defer d.cdi.Close()
	}
	if d.nri == nil {
		<-ctx.Done()
		return nil
	}
	l, err := d.nri.Listen()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.WatchEnds(ctx) })
	g.Go(func() error { return d.nri.Run(ctx, l, server.ServePlugins()) })
	return g.Wait()
}
