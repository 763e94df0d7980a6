package admin

import (
	"cmp"
	"context"
	"slices"

	"sallyport/internal/admin/wire"
	"sallyport/sandbox"
)

// ps lists the containers with what they run and by which record.
func (s *Server) ps(context.Context, wire.Empty) (wire.Ps, error) {
	all := s.o.Pods.Containers()
	out := wire.Ps{Containers: make([]wire.Container, 0, len(all))}
	for _, c := range all {
		out.Containers = append(out.Containers, s.container(c))
	}
	slices.SortFunc(out.Containers, func(a, b wire.Container) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Name, b.Name), a.Created.Compare(b.Created))
	})
	return out, nil
}

func (s *Server) container(c *sandbox.Container) wire.Container {
	pod, img, st := c.Pod().Config(), c.Image(), c.Status()
	name := img.Name.String()
	if img.Name.Digest().IsZero() {
		name += "@" + img.Top.String()
	}
	f, _ := s.o.Judge.Finding(c.ID())
	return wire.Container{
		Findings: hits(f.Hits), Override: f.Override, Aged: f.Aged, Due: f.Due,
		ID: c.ID(), Name: c.Config().Name, Namespace: pod.Namespace, Pod: pod.Name, PodID: c.Pod().ID(),
		State: string(st.State), Created: st.Created, Image: name, Instance: img.Instance.String(),
		SpecHash: c.SpecHash(), Audit: c.Audit(), Effective: s.o.Gate.Effective(pod.Namespace),
	}
}

func (s *Server) policyStatus(context.Context, wire.Empty) (wire.Policy, error) {
	return s.o.Policy(), nil
}
