package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"sallyport/enforce"
	"sallyport/image"
	"sallyport/internal/cdi"
	"sallyport/internal/nri"
	"sallyport/sandbox"
	"sallyport/sandbox/spec"
)

// integration is what the node's own integrations make of one container: CDI devices and the wishes of
// NRI plugins. The zero value changes nothing.
type integration struct {
	edits    spec.Edits
	cdi      []string         // names of the devices given
	devices  []enforce.Device // the nodes that they bring
	refusals []enforce.Hit    // what cannot be had; the gate denies by them
	changes  []nri.Change     // of other containers
	evict    []nri.Eviction   //
	asked    *nri.Container   // as plugins know it; nil: they were not asked
}

// integrate asks CDI and NRI about a container, for whose image the gate has said yes before: foreign
// code hears of no other. It opens the sources of what they want mounted. Whoever calls it tells plugins
// (abandoned) where no container comes of it.
func (s *Server) integrate(ctx context.Context, res *sandbox.Reservation, cfg spec.ContainerConfig, found []image.Candidate) (in integration, err error) {
	names, err := cdi.Asked(cfg.CDI, cfg.Annotations)
	if err != nil {
		return in, fmt.Errorf("%w: %w", errInvalid, err)
	}
	pod := podToNRI(res.Pod())
	ask := s.o.NRI.Active(pod, cfg.Name)
	if len(names) == 0 && !ask {
		return in, nil
	}
	for _, c := range found {
		req := enforce.RunRequest{Pod: podFacts(res.Pod().Config()), PodID: res.Pod().ID(), Container: containerFacts(cfg, res.ID(), nil), Image: c.Image, Evidence: c.Evidence}
		if !c.UsableIn(res.Pod().Config().Namespace) {
			req.Refusals = append(req.Refusals, noAccess(c, res.Pod().Config().Namespace))
		}
		if err := s.o.Gate.VetImage(ctx, req); err != nil {
			s.markStale(req, err)
			return in, err
		}
	}
	if ask {
		if err := s.askPlugins(ctx, res, cfg, found[0], &in); err != nil {
			return in, err
		}
		names = append(names, in.cdi...)
		slices.Sort(names) // a plugin may ask for what the pod has
		names = slices.Compact(names)
	}
	in.cdi = names
	if len(names) > 0 && len(in.refusals) == 0 {
		in.giveDevices(s.o.CDI)
	}
	if len(in.refusals) > 0 {
		in.edits, in.devices = spec.Edits{}, nil
		return in, nil
	}
	res.Given(in.cdi, in.devices)
	return in, res.Edit(in.edits.Unmount, in.edits.Mounts)
}

// giveDevices adds what the CDI devices consist of. An unknown one is a refusal by name.
func (in *integration) giveDevices(r *cdi.Registry) {
	if r == nil {
		in.refuse("cdi", "CDI is off (cdi.spec_dirs is empty)")
		return
	}
	edits, nodes, err := r.Edits(in.cdi)
	if err != nil {
		in.refuse("cdi", err.Error())
		return
	}
	in.edits = edits.Join(in.edits)
	for _, n := range nodes {
		in.devices = append(in.devices, enforce.Device{CDI: n.CDI, Path: n.Node.Path, Type: n.Node.Type, Major: n.Node.Major, Minor: n.Node.Minor})
	}
}

func (in *integration) refuse(rule, msg string) {
	in.refusals = append(in.refusals, enforce.Hit{Layer: "gate", Rule: rule, Msg: msg})
}

// askPlugins shows plugins the container as it would be without them.
func (s *Server) askPlugins(ctx context.Context, res *sandbox.Reservation, cfg spec.ContainerConfig, c image.Candidate, in *integration) error {
	out, err := s.buildSpec(ctx, res, cfg, c)
	if err != nil {
		return err
	}
	in.asked = nri.ContainerOf(&nri.Description{ID: res.ID(), PodID: res.Pod().ID(), Config: cfg, Mounts: res.Mounts(), Spec: out.Spec, Image: imageToNRI(c.Image)})
	answer, err := s.o.NRI.Create(ctx, podToNRI(res.Pod()), in.asked)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		in.refuse("nri", err.Error())
		return nil
	}
	for _, r := range answer.Refused {
		in.refuse("nri", "an NRI plugin asks for what containers cannot have: "+r)
	}
	in.edits, in.cdi, in.changes, in.evict = answer.Edits, answer.CDI, answer.Changes, answer.Evict
	return nil
}

// apply lays the edits over a built spec and tells the gate what they are.
func (in *integration) apply(out spec.Output, host spec.Host, req *enforce.RunRequest) (spec.Output, error) {
	req.CDI, req.Devices = in.cdi, in.devices
	req.Refusals = append(req.Refusals, in.refusals...)
	if in.edits.Empty() {
		return out, nil
	}
	out, err := out.With(in.edits, host)
	if err != nil {
		return out, err
	}
	req.Hooks, err = hookFiles(out.Spec.Hooks)
	if err != nil {
		req.Refusals = append(req.Refusals, enforce.Hit{Layer: "gate", Rule: "hooks", Msg: err.Error()})
	}
	return out, nil
}

// abandoned tells plugins that a container which they were asked about came to nothing.
func (s *Server) abandoned(ctx context.Context, pod *sandbox.Pod, in *integration) {
	if in.asked == nil {
		return
	}
	s.o.NRI.Made(in.asked.GetId())
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.o.CreateTimeout)
	defer cancel()
	if err := s.o.NRI.Remove(ctx, podToNRI(pod), in.asked); err != nil {
		s.o.Log.Warn("tell NRI plugins of a container that came to nothing", "id", in.asked.GetId(), "err", err)
	}
}

// judgedAgain are the facts about a container's integrations when the gate is asked once more, at its
// start: its hooks as they are now, its devices as its own spec and CDI names give them.
func (s *Server) judgedAgain(c *sandbox.Container, text []byte, req *enforce.RunRequest) error {
	var have specs.Spec
	if err := json.Unmarshal(text, &have); err != nil {
		return fmt.Errorf("read spec of %s: %w", c.ID(), err)
	}
	req.CDI, req.Devices = c.Sealed().CDI, c.Sealed().Devices
	var err error
	if req.Hooks, err = hookFiles(have.Hooks); err != nil {
		req.Refusals = append(req.Refusals, enforce.Hit{Layer: "gate", Rule: "hooks", Msg: err.Error()})
	}
	return nil
}
