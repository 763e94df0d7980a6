package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/test/node"
	"sallyport/test/sigkit"
)

// kubeletConfig is a kubelet without a cluster: it runs the pods whose manifests lie in a folder.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
staticPodPath: %s
containerRuntimeEndpoint: unix://%s
cgroupRoot: %s
cgroupDriver: cgroupfs
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
address: 127.0.0.1
syncFrequency: 1s
fileCheckFrequency: 1s
podLogsDir: %s
evictionHard: {memory.available: "0%%", nodefs.available: "0%%", imagefs.available: "0%%"}
featureGates: {PodAndContainerStatsFromCRI: true}
`

// manifest is a pod as an operator writes it.
const manifest = `apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: shop}
spec:
  terminationGracePeriodSeconds: 1
%s`

var kubeletPods = map[string]string{
	"web": `
  initContainers:
  - {name: first, image: IMAGE, command: [/bin/busybox, sh, -c, "echo made > /data/first"], volumeMounts: [{name: data, mountPath: /data}]}
  containers:
  - name: app
    image: IMAGE
    command: [/bin/busybox, sh, -c, "echo hello; exec /bin/busybox sleep 100000"]
    resources: {limits: {memory: 64Mi, cpu: 500m}}
    readinessProbe: {exec: {command: [/bin/busybox, test, -f, /data/first]}, periodSeconds: 1}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
`,
	"again": `
  containers: [{name: app, image: IMAGE, command: [/bin/busybox, sh, -c, "exit 3"]}]
`,
	"unsigned": `
  containers: [{name: app, image: UNSIGNED, command: [/bin/busybox, sleep, "100000"]}]
`,
	"mapped": `
  hostUsers: false
  containers: [{name: app, image: IMAGE, command: [/bin/busybox, sleep, "100000"]}]
`,
}

// trial is a kubelet and what it is asked.
type trial struct {
	ctx    context.Context
	n      *node.Node
	dir    string
	client *http.Client
	failed int
}

// kubelet runs a kubelet, built elsewhere, on a node that judges signatures, and returns how much of what
// an operator expects did not come true.
func kubelet(ctx context.Context, o options, scratch string) (failed int, err error) {
	kit, err := sigkit.New()
	if err != nil {
		return 0, err
	}
	server := sigkit.NewRegistry(sigkit.Referrers)
	defer server.Close()
	host := sigkit.Host(server)
	signer := sigkit.Identity{SAN: "https://github.com/acme/app/.github/workflows/release.yml@refs/heads/main", Issuer: "https://token.actions.githubusercontent.com"}
	signed, unsigned := host+"/shop/app:v1", host+"/shop/app:unsigned"
	for _, name := range []string{signed, unsigned} {
		img, err := sigkit.Image(sigkit.ImageOptions{Config: v1.Config{Labels: map[string]string{"name": name}}})
		if err != nil {
			return 0, err
		}
		at, err := sigkit.Push(name, img)
		if err != nil {
			return 0, err
		}
		if name == unsigned {
			continue
		}
		bundle, err := kit.SignKeyless(at, signer)
		if err != nil {
			return 0, err
		}
		if err := sigkit.Attach(host+"/shop/app", at, bundle, sigkit.Referrers); err != nil {
			return 0, err
		}
	}
	opts := node.Options{Config: fmt.Sprintf("[runtime]\nkubelet_dir = %q\n", filepath.Join(scratch, "kubelet")), Scratch: scratch, Bin: o.bin, Deps: o.deps, Masq: true, Insecure: []string{host}, Policy: map[string]string{
		"node/bundle.yaml": "name: node\nrevision: 1\nnamespaces: {unlisted: allow}\n",
		"node/requirements.yaml": fmt.Sprintf("policies:\n- name: released\n  images:\n  - glob: \"**\"\n  authorities:\n  - keyless:\n      identities:\n      - issuer: %s\n        subject: %s\n",
			signer.Issuer, signer.SAN),
		"node/trusted_root.json": string(kit.TrustedRoot()),
	}}
	n, err := node.New(ctx, opts)
	if err != nil {
		return 0, err
	}
	t := &trial{ctx: ctx, n: n, dir: filepath.Join(scratch, "manifests"),
		client: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}} // its own, made at its start, on loopback
	stop, err := t.start(o)
	if err != nil {
		return 0, err
	}
	defer stop()
	for name, spec := range kubeletPods {
		spec = strings.NewReplacer("UNSIGNED", unsigned, "IMAGE", signed).Replace(spec)
		if err := os.WriteFile(filepath.Join(t.dir, name+".yaml"), []byte(fmt.Sprintf(manifest, name, spec)), 0o600); err != nil {
			return 0, err
		}
	}
	t.expectations()
	return t.failed, n.StopDaemon()
}

func (t *trial) start(o options) (stop func(), err error) {
	conf := t.n.Path("kubelet.yaml")
	logs := t.n.Path("kubelet-pods")
	for _, dir := range []string{t.dir, logs, t.n.Path("kubelet")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	text := fmt.Sprintf(kubeletConfig, t.dir, t.n.Socket, node.CgroupParent(t.n.Scratch), logs)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	controllers, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil {
		return nil, err
	}
	for _, c := range controllers {
		if err := os.MkdirAll(filepath.Join(filepath.Dir(c), node.CgroupParent(t.n.Scratch)), 0o755); err != nil {
			return nil, err
		}
	}
	cmd := exec.CommandContext(t.ctx, o.kubelet, "--config", conf, "--root-dir", t.n.Path("kubelet"), "--cert-dir", t.n.Path("kubelet/pki"),
		"--hostname-override", "node1", "--v", "2")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	dir := o.out
	if dir == "" {
		dir = t.n.Scratch
	} else if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "kubelet.log"))
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() {
		_ = cmd.Cancel()
		_ = cmd.Wait()
		log.Close()
	}, nil
}

// step is one expectation; it is tried for a while.
func (t *trial) step(name string, try func() error) {
	deadline := time.Now().Add(90 * time.Second)
	for {
		err := try()
		if err == nil {
			fmt.Printf("ok    kubelet: %s\n", name)
			return
		}
		if time.Now().After(deadline) || t.ctx.Err() != nil {
			t.failed++
			fmt.Printf("FAIL  kubelet: %s: %v\n", name, err)
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// pod is the part of a pod's status that we ask about.
type pod struct {
	Metadata struct{ Name string }
	Status   struct {
		Phase             string
		PodIP             string
		ContainerStatuses []struct {
			Ready        bool
			RestartCount int
			ImageID      string
			State        struct {
				Waiting struct{ Reason, Message string }
			}
		}
	}
}

func (t *trial) pod(name string) (p pod, err error) {
	text, err := t.get("/pods", nil)
	if err != nil {
		return p, err
	}
	var list struct{ Items []pod }
	if err := json.Unmarshal(text, &list); err != nil {
		return p, err
	}
	for _, p := range list.Items {
		if p.Metadata.Name == name+"-node1" && len(p.Status.ContainerStatuses) == 1 {
			return p, nil
		}
	}
	return p, fmt.Errorf("no status of pod %s yet", name)
}

// get asks the kubelet's own API; with a form it posts.
func (t *trial) get(path string, form url.Values) ([]byte, error) {
	method, body := http.MethodGet, io.Reader(nil)
	if form != nil {
		method, body = http.MethodPost, bytes.NewReader(nil)
		path += "?" + form.Encode()
	}
	req, err := http.NewRequestWithContext(t.ctx, method, "https://127.0.0.1:10250"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := t.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s: %.200s", path, resp.Status, text)
	}
	return text, err
}

func (t *trial) contains(path string, form url.Values, want ...string) func() error {
	return func() error {
		text, err := t.get(path, form)
		for _, w := range want {
			if err == nil && !bytes.Contains(text, []byte(w)) {
				err = fmt.Errorf("%s answers %.300q, want %q in it", path, text, w)
			}
		}
		return err
	}
}

func (t *trial) ready(name string) func() error {
	return func() error {
		p, err := t.pod(name)
		if err == nil && (p.Status.Phase != "Running" || !p.Status.ContainerStatuses[0].Ready) {
			err = fmt.Errorf("%+v", p.Status)
		}
		return err
	}
}

func (t *trial) expectations() {
	t.step("a pod with an init container, a volume, limits and a probe gets ready", t.ready("web"))
	t.step("a pod in a user namespace gets ready", t.ready("mapped"))
	t.step("an unsigned image is refused, and the reason is the pod's", func() error {
		p, err := t.pod("unsigned")
		if err == nil {
			if w := p.Status.ContainerStatuses[0].State.Waiting; w.Reason != "SignatureValidationFailed" && w.Reason != "ImagePullBackOff" || !strings.Contains(w.Message, `rule "released"`) {
				err = fmt.Errorf("waiting because of %q: %q, want SignatureValidationFailed by the rule", w.Reason, w.Message)
			}
		}
		return err
	})
	t.step("a container that exits is started again", func() error {
		p, err := t.pod("again")
		if err == nil && p.Status.ContainerStatuses[0].RestartCount < 2 {
			err = fmt.Errorf("%d restarts", p.Status.ContainerStatuses[0].RestartCount)
		}
		return err
	})
	t.step("logs", t.contains("/containerLogs/shop/web-node1/app", nil, "hello"))
	t.step("a command in a container", t.contains("/run/shop/web-node1/app", url.Values{"cmd": {"/bin/busybox cat /data/first"}}, "made"))
	t.step("statistics", t.contains("/stats/summary", nil, `"usageCoreNanoSeconds"`, `"workingSetBytes"`, `"rxBytes"`, `"web-node1"`))
	t.step("the metrics that cAdvisor gave", t.contains("/metrics/cadvisor", nil, "container_cpu_usage_seconds_total{", "container_memory_working_set_bytes{", `container_network_receive_bytes_total{`, `pod="web-node1"`))
	t.step("a restart of the daemon leaves the pod as it is", func() error {
		before, err := t.pod("web")
		if err != nil {
			return err
		}
		if err := errors.Join(t.n.StopDaemon(), t.n.StartDaemon(t.ctx)); err != nil {
			return err
		}
		time.Sleep(5 * time.Second)
		after, err := t.pod("web")
		if err == nil && (after.Status.ContainerStatuses[0].RestartCount != before.Status.ContainerStatuses[0].RestartCount || after.Status.PodIP != before.Status.PodIP) {
			err = fmt.Errorf("before %+v, after %+v", before.Status, after.Status)
		}
		return err
	})
	for name := range kubeletPods {
		_ = os.Remove(filepath.Join(t.dir, name+".yaml"))
	}
	t.step("pods that are withdrawn end and are removed", func() error {
		pods, err := t.n.Runtime.ListPodSandbox(t.ctx, &cri.ListPodSandboxRequest{})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("%d pods are left", len(pods.Items))
		}
		return err
	})
}
