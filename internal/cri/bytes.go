package cri

import (
	"context"
	"errors"
	"fmt"

	"sallyport/enforce"
	"sallyport/image"
	"sallyport/sandbox"
)

// ruleBytes is the gate's rule for a stored image whose bytes are not those that were pulled.
const ruleBytes = "RootfsDigestMismatch"

// wholeBytes has the store hash what it did not since the machine started. A difference is a reason for
// the gate to refuse; the image is then gone, and the kubelet's next sync pulls it.
func (s *Server) wholeBytes(ctx context.Context, img enforce.Image) ([]enforce.Hit, error) {
	return refusedBytes(s.o.Images.CheckOnce(ctx, img))
}

func refusedBytes(err error) ([]enforce.Hit, error) {
	if errors.Is(err, image.ErrCorrupt) {
		return []enforce.Hit{{Layer: "gate", Rule: ruleBytes, Msg: err.Error()}}, nil
	}
	return nil, err
}

// startBytes hashes everything that a container is about to run or show, where its namespace's floor wants
// that before every start. A difference is refused by the gate.
func (s *Server) startBytes(ctx context.Context, c *sandbox.Container) error {
	if !s.o.Gate.Floor(c.Pod().Config().Namespace).EveryStart() {
		return nil
	}
	all := []enforce.Image{c.Image()}
	for _, v := range c.Volumes() {
		all = append(all, v.Image)
	}
	for _, img := range all {
		refused, err := refusedBytes(s.o.Images.CheckBytes(ctx, img))
		if err == nil && len(refused) > 0 {
			_, err = s.admitStart(ctx, c, refused)
		}
		if err != nil {
			return fmt.Errorf("start container %s: %w", c.ID(), err)
		}
	}
	return nil
}
