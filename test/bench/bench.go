package main

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/image/ref"
	"sallyport/test/node"
	"sallyport/test/sigkit"
)

var signer = sigkit.Identity{SAN: "https://github.com/acme/app/.github/workflows/release.yml@refs/heads/main", Issuer: "https://token.actions.githubusercontent.com"}

// bench is one run.
type bench struct {
	ctx                context.Context
	scratch, bin, deps string
	pods, many         int
	node               *node.Node
	kit                *sigkit.Kit
	registry           *httptest.Server
	figures            []figure
	image, imageID     string
}

func (b *bench) run(stages []func() error) (err error) {
	if b.kit, err = sigkit.New(); err != nil {
		return err
	}
	b.registry = sigkit.NewRegistry(sigkit.Referrers)
	defer b.registry.Close()
	host := sigkit.Host(b.registry)
	b.node, err = node.New(b.ctx, node.Options{Scratch: b.scratch, Bin: b.bin, Deps: b.deps, Masq: true,
		Insecure: []string{host}, Policy: b.strict()})
	if err != nil {
		return err
	}
	for _, stage := range stages {
		if err := stage(); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) strict() map[string]string {
	return map[string]string{
		"node/bundle.yaml": "name: node\nrevision: 1\nnamespaces: {unlisted: allow}\n",
		"node/requirements.yaml": fmt.Sprintf("policies:\n- name: signed\n  images:\n  - glob: \"**\"\n  authorities:\n  - keyless:\n      identities:\n      - issuer: %s\n        subject: %s\n",
			signer.Issuer, signer.SAN),
		"node/trusted_root.json": string(b.kit.TrustedRoot()),
	}
}

func permissive() map[string]string {
	return map[string]string{
		"node/bundle.yaml": "name: node\nrevision: 2\nnamespaces: {unlisted: allow}\n",
		"node/policy.json": `{"default": [{"type": "insecureAcceptAnything"}]}`,
	}
}

// push publishes and signs an image.
func (b *bench) push(name string, o sigkit.ImageOptions) error {
	img, err := sigkit.Image(o)
	if err != nil {
		return err
	}
	at, err := sigkit.Push(name, img)
	if err != nil {
		return err
	}
	bundle, err := b.kit.SignKeyless(at, signer)
	if err != nil {
		return err
	}
	n, err := ref.Parse(name)
	if err != nil {
		return err
	}
	return sigkit.Attach(n.Repository(), at, bundle, sigkit.Referrers)
}

func (b *bench) publish() (err error) {
	b.image = sigkit.Host(b.registry) + "/app:v1"
	if err := b.push(b.image, sigkit.ImageOptions{Config: v1.Config{Entrypoint: []string{"/bin/busybox", "sleep", "1000000"}}}); err != nil {
		return err
	}
	b.imageID, err = b.node.Pull(b.ctx, b.image, b.node.Pod("bench", "pull"))
	return err
}

func (b *bench) idle() error {
	time.Sleep(2 * time.Second)
	return b.memory("idle", "CRI-O 57, containerd 41")
}

// started is a running pod with one container.
type started struct{ pod, container string }

func (b *bench) start(cfg *cri.PodSandboxConfig) (s started, err error) {
	if s.pod, err = b.node.RunPod(b.ctx, cfg); err != nil {
		return s, err
	}
	if s.container, err = b.node.Create(b.ctx, s.pod, cfg, node.Container("app", b.image, b.imageID)); err != nil {
		return s, err
	}
	return s, b.node.Start(b.ctx, s.container)
}

func (b *bench) stop(s started) error {
	if _, err := b.node.Runtime.StopContainer(b.ctx, &cri.StopContainerRequest{ContainerId: s.container}); err != nil {
		return err
	}
	if _, err := b.node.Runtime.RemoveContainer(b.ctx, &cri.RemoveContainerRequest{ContainerId: s.container}); err != nil {
		return err
	}
	return b.node.RemovePod(b.ctx, s.pod)
}

// onePod measures pods one after the other, stage by stage.
func (b *bench) onePod() error {
	var run, create, start, all, stop []time.Duration
	for i := range b.pods + 3 {
		cfg := b.node.Pod("bench", fmt.Sprintf("one-%d", i))
		var s started
		t0 := time.Now()
		var err error
		if s.pod, err = b.node.RunPod(b.ctx, cfg); err != nil {
			return err
		}
		t1 := time.Now()
		if s.container, err = b.node.Create(b.ctx, s.pod, cfg, node.Container("app", b.image, b.imageID)); err != nil {
			return err
		}
		t2 := time.Now()
		if err := b.node.Start(b.ctx, s.container); err != nil {
			return err
		}
		t3 := time.Now()
		d, err := timed(func() error { return b.stop(s) })
		if err != nil {
			return err
		}
		if i < 3 { // warm-up
			continue
		}
		run, create, start = append(run, t1.Sub(t0)), append(create, t2.Sub(t1)), append(start, t3.Sub(t2))
		all, stop = append(all, t3.Sub(t0)), append(stop, d)
	}
	b.add("RunPodSandbox + CreateContainer + StartContainer", "CRI-O 127, containerd 182", all)
	b.add("  RunPodSandbox", "", run)
	b.add("  CreateContainer", "", create)
	b.add("  StartContainer", "", start)
	b.add("StopContainer + RemoveContainer + StopPodSandbox + RemovePodSandbox", "CRI-O 230, containerd 172", stop)
	return nil
}

// manyPods starts many pods 8 at a time and measures what a kubelet does with them.
func (b *bench) manyPods() error {
	var mu sync.Mutex
	var pods []started
	cfgs := make(chan *cri.PodSandboxConfig, b.many)
	for i := range b.many {
		cfgs <- b.node.Pod("bench", fmt.Sprintf("many-%d", i))
	}
	close(cfgs)
	var errs error
	d, _ := timed(func() error {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for cfg := range cfgs {
					s, err := b.start(cfg)
					mu.Lock()
					pods, errs = append(pods, s), errors.Join(errs, err)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		return nil
	})
	if errs != nil {
		return errs
	}
	b.value(fmt.Sprintf("%d pods, 8 at a time", b.many), "pods/s", "CRI-O 11.8, containerd 8.9", float64(b.many)/d.Seconds())
	if err := b.memory(fmt.Sprintf("%d pods", b.many), "CRI-O 87 + 22, containerd 123 + 527"); err != nil {
		return err
	}
	if err := b.calls(pods[0]); err != nil {
		return err
	}
	if err := b.restart(); err != nil {
		return err
	}
	for _, s := range pods {
		if err := b.stop(s); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) calls(s started) error {
	for _, c := range []struct {
		name, peer string
		n          int
		call       func() error
	}{
		{"ListContainers", "CRI-O 0.66, containerd 0.76", 300, func() error {
			_, err := b.node.Runtime.ListContainers(b.ctx, &cri.ListContainersRequest{})
			return err
		}},
		{"ListPodSandbox", "CRI-O 0.78, containerd 0.56", 300, func() error {
			_, err := b.node.Runtime.ListPodSandbox(b.ctx, &cri.ListPodSandboxRequest{})
			return err
		}},
		{"ContainerStatus", "CRI-O 0.23, containerd 0.55", 300, func() error {
			_, err := b.node.Runtime.ContainerStatus(b.ctx, &cri.ContainerStatusRequest{ContainerId: s.container})
			return err
		}},
		{"ListContainerStats", "CRI-O 177, containerd 182", 50, func() error {
			_, err := b.node.Runtime.ListContainerStats(b.ctx, &cri.ListContainerStatsRequest{})
			return err
		}},
		{"ExecSync", "CRI-O 45, containerd 38", 50, func() error {
			r, err := b.node.Runtime.ExecSync(b.ctx, &cri.ExecSyncRequest{ContainerId: s.container, Cmd: []string{"/bin/busybox", "true"}, Timeout: 10})
			if err == nil && r.ExitCode != 0 {
				err = fmt.Errorf("exec exited %d", r.ExitCode)
			}
			return err
		}},
	} {
		var samples []time.Duration
		for range c.n {
			d, err := timed(c.call)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			samples = append(samples, d)
		}
		b.add(fmt.Sprintf("%s at %d pods", c.name, b.many), c.peer, samples)
	}
	return nil
}

func (b *bench) restart() error {
	if err := b.node.StopDaemon(); err != nil {
		return err
	}
	d, err := timed(func() error { return b.node.StartDaemon(b.ctx) })
	if err != nil {
		return err
	}
	r, err := b.node.Runtime.ListContainers(b.ctx, &cri.ListContainersRequest{})
	if err != nil {
		return err
	}
	if len(r.Containers) != b.many {
		return fmt.Errorf("after the restart %d of %d containers are there", len(r.Containers), b.many)
	}
	b.value(fmt.Sprintf("start to serving with %d pods", b.many), "s", "CRI-O 2.0, containerd 1.2", d.Seconds())
	return nil
}

// pulls compares pulls under the strict policy with pulls under one that accepts anything, in turn, so
// that both see the same machine.
func (b *bench) pulls() error {
	const size, rounds = 100 << 20, 6
	kinds := []struct {
		name   string
		policy map[string]string
	}{{"pull 100 MB, keyless signature verified", b.strict()}, {"pull 100 MB, policy accepts anything", permissive()}}
	samples := make([][]time.Duration, len(kinds))
	for i := range rounds {
		for k, kind := range kinds {
			if err := b.node.SetPolicy(kind.policy); err != nil {
				return err
			}
			if err := b.node.Reload(); err != nil {
				return err
			}
			name := fmt.Sprintf("%s/big-%d:%d", sigkit.Host(b.registry), k, i)
			if err := b.push(name, sigkit.ImageOptions{Pad: size}); err != nil {
				return err
			}
			syscall.Sync()
			d, err := timed(func() error { _, err := b.node.Pull(b.ctx, name, b.node.Pod("bench", "pull")); return err })
			if err != nil {
				return err
			}
			if i > 0 { // warm-up
				samples[k] = append(samples[k], d)
			}
			if _, err := b.node.Images.RemoveImage(b.ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: name}}); err != nil {
				return err
			}
		}
	}
	for k, kind := range kinds {
		b.add(kind.name, "81.5 MB: CRI-O 1220, containerd 830", samples[k])
	}
	return nil
}

// memory reports the proportional set size and the anonymous part of the daemon, and of all monitors.
func (b *bench) memory(when, peer string) error {
	pss, anon, err := rollup(b.node.Daemon.Process.Pid)
	if err != nil {
		return err
	}
	b.value("daemon PSS, "+when, "MiB", peer, pss)
	b.value("daemon anonymous memory, "+when, "MiB", "", anon)
	var monitors float64
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil || strings.TrimSpace(string(comm)) != "conmon" {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if pss, _, err := rollup(pid); err == nil {
			monitors += pss
		}
	}
	if monitors > 0 {
		b.value("all monitors PSS, "+when, "MiB", "", monitors)
	}
	return nil
}

func rollup(pid int) (pss, anon float64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, _ := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "Pss:":
			pss = kib / 1024
		case "Pss_Anon:":
			anon = kib / 1024
		}
	}
	return pss, anon, nil
}
