package main

import (
	"fmt"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/test/sigkit"
)

// growth shows how the cost of everyday calls grows with what the node holds.
func (b *bench) growth() error {
	var pods []started
	for _, n := range []int{100, 250, 500} {
		for len(pods) < n {
			s, err := b.start(b.node.Pod("bench", fmt.Sprintf("grow-%d", len(pods))))
			if err != nil {
				return err
			}
			pods = append(pods, s)
		}
		b.many = n
		if err := b.another(fmt.Sprintf("%d pods", n)); err != nil {
			return err
		}
		if err := b.memory(fmt.Sprintf("%d pods", n), ""); err != nil {
			return err
		}
		if err := b.calls(pods[0]); err != nil {
			return err
		}
		if err := b.restart(); err != nil {
			return err
		}
	}
	for _, s := range pods {
		if err := b.stop(s); err != nil {
			return err
		}
	}
	return b.images()
}

// another measures one more pod.
func (b *bench) another(beside string) error {
	var start, stop []time.Duration
	for i := range 10 {
		var s started
		d, err := timed(func() (err error) { s, err = b.start(b.node.Pod("bench", fmt.Sprintf("another-%d", i))); return err })
		if err != nil {
			return err
		}
		start = append(start, d)
		if d, err = timed(func() error { return b.stop(s) }); err != nil {
			return err
		}
		stop = append(stop, d)
	}
	b.add("start one more pod beside "+beside, "", start)
	b.add("stop and remove it beside "+beside, "", stop)
	return nil
}

// images measures with many signed images that share their only layer.
func (b *bench) images() error {
	pod := b.node.Pod("bench", "pull")
	held := 1 // the one of the pods
	for _, n := range []int{100, 1000, 5000} {
		var last string
		var pulls []time.Duration
		for ; held < n; held++ {
			last = fmt.Sprintf("%s/grow:%d", sigkit.Host(b.registry), held)
			o := sigkit.ImageOptions{Config: v1.Config{Entrypoint: []string{"/bin/busybox"}, Labels: map[string]string{"n": fmt.Sprint(held)}}}
			if err := b.push(last, o); err != nil {
				return err
			}
			d, err := timed(func() error { _, err := b.node.Pull(b.ctx, last, pod); return err })
			if err != nil {
				return err
			}
			if held >= n-50 {
				pulls = append(pulls, d)
			}
		}
		at := fmt.Sprintf(" at %d images", n)
		b.add("pull one more image, its layer is there"+at, "", pulls)
		for _, c := range []struct {
			name string
			call func() error
		}{
			{"ImageStatus", func() error {
				r, err := b.node.Images.ImageStatus(b.ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: last}})
				if err == nil && r.Image == nil {
					err = fmt.Errorf("%s is not there", last)
				}
				return err
			}},
			{"ListImages", func() error {
				r, err := b.node.Images.ListImages(b.ctx, &cri.ListImagesRequest{})
				if err == nil && len(r.Images) != n {
					err = fmt.Errorf("%d images, want %d", len(r.Images), n)
				}
				return err
			}},
			{"ImageFsInfo", func() error {
				_, err := b.node.Images.ImageFsInfo(b.ctx, &cri.ImageFsInfoRequest{})
				return err
			}},
		} {
			var samples []time.Duration
			for range 30 {
				d, err := timed(c.call)
				if err != nil {
					return fmt.Errorf("%s: %w", c.name, err)
				}
				samples = append(samples, d)
			}
			b.add(c.name+at, "", samples)
		}
		if err := b.another(fmt.Sprintf("%d images", n)); err != nil {
			return err
		}
		if err := b.memory(fmt.Sprintf("%d images", n), ""); err != nil {
			return err
		}
		if err := b.node.StopDaemon(); err != nil {
			return err
		}
		d, err := timed(func() error { return b.node.StartDaemon(b.ctx) })
		if err != nil {
			return err
		}
		b.value("start to serving with "+fmt.Sprint(n)+" images", "s", "", d.Seconds())
	}
	return nil
}
