// Package e2e drives the real daemon through its CRI socket, with a registry, conmon, runc, CNI
// plugins and the audit log, in namespaces of its own.
package e2e

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/test/node"
	"sallyport/test/roottest"
	"sallyport/test/sigkit"
)

// binEnv names the folder with the programs that were built for this run.
const binEnv = "SALLYPORT_E2E_BIN"

var scratch string // of this run; "" without root

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		os.Exit(m.Run()) // every test asks for root
	}
	if !node.Inside() {
		if os.Getenv(binEnv) != "" { // built elsewhere: in the test VM there is no compiler
			os.Exit(node.Isolate(nil))
		}
		bin, err := node.Build()
		if err != nil {
			fmt.Fprintln(os.Stderr, "build the daemon:", err)
			os.Exit(1)
		}
		os.Setenv(binEnv, bin)
		code := node.Isolate(nil)
		os.RemoveAll(bin)
		os.Exit(code)
	}
	os.Exit(node.Isolate(func(dir string) int {
		scratch = dir
		return m.Run()
	}))
}

// world is a node with a registry that holds what the tests pull.
type world struct {
	*node.Node
	ctx      context.Context
	t        *testing.T
	registry *httptest.Server
	host     string
	key      *sigkit.Key
	images   bool // traces counts images too
}

// start runs a node for one test. Its end is registered.
func start(t *testing.T, extra map[string]string, config string) *world {
	t.Helper()
	roottest.Need(t)
	w := prepare(t)
	n, err := node.New(w.ctx, w.options(extra, config))
	if err != nil {
		t.Fatal(err)
	}
	w.Node = n
	t.Cleanup(func() {
		w.clear()
		if err := n.StopDaemon(); err != nil {
			t.Errorf("stop the daemon: %v; its log ends:\n%s", err, n.LogTail(5))
		}
		if t.Failed() {
			t.Logf("the daemon's log ends:\n%s", n.LogTail(15))
		}
	})
	return w
}

func prepare(t *testing.T) *world {
	t.Helper()
	roottest.Binary(t, "runc")
	roottest.Binary(t, "conmon")
	roottest.Binary(t, "bridge")
	ctx, cancel := context.WithTimeout(context.Background(), node.Patience(3*time.Minute))
	t.Cleanup(cancel)
	w := &world{ctx: ctx, t: t, registry: sigkit.NewRegistry(sigkit.Referrers)}
	t.Cleanup(w.registry.Close)
	w.host = sigkit.Host(w.registry)
	var err error
	if w.key, err = sigkit.NewKey(); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) options(extra map[string]string, config string) node.Options {
	policy := w.policy()
	for name, text := range extra {
		policy[name] = text
	}
	deps, _ := filepath.Abs(roottest.Deps())
	os.RemoveAll(filepath.Join(scratch, "sallyport.toml.d"))
	os.RemoveAll(filepath.Join(scratch, "root"))
	os.RemoveAll(filepath.Join("/run", filepath.Base(scratch)))
	return node.Options{Scratch: scratch, Bin: os.Getenv(binEnv), Deps: deps, Policy: policy, Config: config, Insecure: []string{w.host}}
}

// policy admits <host>/open/** as it is, <host>/signed/** with our key, and in namespace strict only
// what another key signed. A Rego rule refuses one command.
func (w *world) policy() map[string]string {
	other, err := sigkit.NewKey()
	if err != nil {
		w.t.Fatal(err)
	}
	return map[string]string{
		"node/bundle.yaml": "name: node\nrevision: 1\nrego: [sallyport.exec]\nnamespaces:\n  required: [strict]\n  unlisted: allow\n",
		"node/policy.json": fmt.Sprintf(`{"default": [{"type": "reject"}], "transports": {"docker": {"%s/open": [{"type": "insecureAcceptAnything"}]}}}`, w.host),
		"node/requirements.yaml": fmt.Sprintf("policies:\n- name: release-key\n  images:\n  - glob: %q\n  authorities:\n  - name: key\n    key:\n      data: |\n%s\n",
			w.host+"/signed/**", indent(w.key.PEM())),
		"node/hardening.yaml":           "level: baseline\nhostPaths: [/var/tmp]\n",
		"node/rego/exec.rego":           "package sallyport.exec\n\ndeny contains {\"rule\": \"no-forbidden\", \"msg\": \"the command is forbidden\"} if input.exec.argv[0] == \"/bin/forbidden\"\n",
		"namespaces/strict/bundle.yaml": "name: strict\nrevision: 1\n",
		"namespaces/strict/requirements.yaml": fmt.Sprintf("policies:\n- name: other-key\n  images:\n  - glob: \"**\"\n  authorities:\n  - name: key\n    key:\n      data: |\n%s\n",
			indent(other.PEM())),
	}
}

func indent(pem []byte) string {
	return "        " + strings.ReplaceAll(strings.TrimSpace(string(pem)), "\n", "\n        ")
}

// push builds an image, pushes it and returns its name; under signed/ it is signed with our key.
func (w *world) push(repo string, c v1.Config) string {
	w.t.Helper()
	img, err := sigkit.Image(sigkit.ImageOptions{Config: c})
	if err != nil {
		w.t.Fatal(err)
	}
	at := w.host + "/" + repo + ":v1"
	d, err := sigkit.Push(at, img)
	if err != nil {
		w.t.Fatal(err)
	}
	if strings.HasPrefix(repo, "signed/") {
		b, err := sigkit.SignKey(w.key, d)
		if err == nil {
			err = sigkit.Attach(w.host+"/"+repo, d, b, sigkit.Referrers)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	return at
}

// pod makes a pod in a namespace; pulled pulls an image for it.
func (w *world) pod(namespace, name string) (string, *cri.PodSandboxConfig) {
	w.t.Helper()
	cfg := w.Pod(namespace, name)
	id, err := w.RunPod(w.ctx, cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return id, cfg
}

func (w *world) pulled(name string, pod *cri.PodSandboxConfig) string {
	w.t.Helper()
	id, err := w.Pull(w.ctx, name, pod)
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

// running makes a pod with one container that runs command.
func (w *world) running(image, name string, command ...string) (podID, id string, pod *cri.PodSandboxConfig) {
	w.t.Helper()
	podID, pod = w.pod("default", name)
	c := node.Container("main", image, w.pulled(image, pod), command...)
	id, err := w.Create(w.ctx, podID, pod, c)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.Start(w.ctx, id); err != nil {
		w.t.Fatal(err)
	}
	return podID, id, pod
}

func (w *world) state(id string) *cri.ContainerStatus {
	w.t.Helper()
	r, err := w.Runtime.ContainerStatus(w.ctx, &cri.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		w.t.Fatal(err)
	}
	return r.Status
}

// clear removes all pods.
func (w *world) clear() {
	r, err := w.Runtime.ListPodSandbox(w.ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		w.t.Errorf("list pods: %v", err)
		return
	}
	for _, p := range r.Items {
		if err := w.RemovePod(w.ctx, p.Id); err != nil {
			w.t.Errorf("remove pod: %v", err)
		}
	}
}

// copyTag gives the image of one repository a name in another, without its signatures.
func (w *world) copyTag(from, to string) {
	w.t.Helper()
	src, err := name.ParseReference(w.host+"/"+from+":v1", name.Insecure)
	if err != nil {
		w.t.Fatal(err)
	}
	img, err := remote.Image(src)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := sigkit.Push(w.host+"/"+to+":v1", img); err != nil {
		w.t.Fatal(err)
	}
}
