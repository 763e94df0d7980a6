package enforce

import (
	"context"
	"fmt"

	"sallyport/policy"
)

// kindImage is the kind of a mount that shows an image.
const kindImage = "image"

// volumes judges each image that a mount of the container shows, as one that runs: what it holds can be
// executed or read as code. Each decision leaves a record of its own. The container's own image is not
// judged before all of them are admitted. A mount of kind image that nobody gave an image for is refused
// with the container.
func (j *judgement) volumes(ctx context.Context, r RunRequest) ([]VolumeImage, error) {
	given := map[int]Image{}
	for _, v := range r.Volumes {
		if v.Mount < 0 || v.Mount >= len(r.Resolved) || r.Resolved[v.Mount].Kind != kindImage {
			j.add(policy.Refusal("gate", "volume-facts", fmt.Sprintf("an image is given for mount %d, which shows none", v.Mount)))
			continue
		}
		if err := j.volume(ctx, r, v); err != nil {
			return nil, err
		}
		given[v.Mount] = v.Image
	}
	var out []VolumeImage
	for i, m := range r.Resolved {
		if m.Kind != kindImage {
			continue
		}
		img, ok := given[i]
		if !ok {
			j.add(policy.Refusal("gate", "volume-facts", fmt.Sprintf("the mount at %q shows an image that was not judged", m.Destination)))
			continue
		}
		out = append(out, VolumeImage{Mount: i, Image: img})
	}
	return out, nil
}

func (j *judgement) volume(ctx context.Context, r RunRequest, v Volume) error {
	jv := j.gate.judgement(policy.VerbRun, r.Pod.Namespace)
	jv.act.Image, jv.act.Pod, jv.act.Container, jv.podID = &v.Image, &r.Pod, &r.Container, r.PodID
	jv.act.Volume, jv.act.Spec, jv.specHash = r.Resolved[v.Mount].Destination, j.act.Spec, j.specHash
	jv.detail["volume"] = jv.act.Volume
	jv.require("run-facts", r.Pod.Namespace, r.PodID, r.Container.ID, jv.act.Volume)
	jv.refuse(v.Refusals)
	jv.image(ctx, v.Evidence)
	_, err := jv.settle(ctx)
	return err
}
