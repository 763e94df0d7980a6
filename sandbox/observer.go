package sandbox

import "context"

// Observer hears of steps in the life of pods and containers while they are taken, so that what it does
// comes before what follows. Each function may be nil, may be called concurrently, and must end: the
// step waits for it.
type Observer struct {
	PodStopping   func(context.Context, *Pod)       // its containers have ended, its network is still there; once
	PodGone       func(context.Context, *Pod)       // it was removed
	ContainerGone func(context.Context, *Container) // it was removed
}

// Observe sets the observer. It comes before the first request.
func (p *Pods) Observe(o Observer) { p.observer.Store(&o) }

func (p *Pod) tellStopping(ctx context.Context) {
	if o := p.pods.observer.Load(); o != nil && o.PodStopping != nil && p.toldStopping.CompareAndSwap(false, true) {
		o.PodStopping(ctx, p)
	}
}

func (p *Pod) tellGone(ctx context.Context) {
	if o := p.pods.observer.Load(); o != nil && o.PodGone != nil {
		o.PodGone(ctx, p)
	}
}

func (c *Container) tellGone(ctx context.Context) {
	if o := c.pod.pods.observer.Load(); o != nil && o.ContainerGone != nil {
		o.ContainerGone(ctx, c)
	}
}
