//go:build sigstore

package e2esigstore

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/policy"
	"sallyport/test/node"
	"sallyport/test/roottest"
	"sallyport/test/sigkit"
)

// TestVerification: a real sigstore and cosign sign; with the sigstore gone, every image is pulled for a
// namespace that judges it; with the registries gone too, a container is created of it. Each denial names
// its rule, at pull and at create, and has a twin that is admitted and differs in one fact.
func TestVerification(t *testing.T) {
	w := start(t)
	now := time.Now().UTC().Truncate(time.Second)
	keys := map[string][]byte{}
	for _, name := range []string{"release", "other", "expired", "fresh", "leaked"} {
		pub, err := w.store.Key(w.ctx, name)
		w.must(err)
		keys[name] = pub
	}
	all := pairs(now)
	images := w.prepareAll(all)
	root, err := w.store.TrustedRoot()
	w.must(err)
	swap := w.swapping(images["unsigned-twin"], images["unsigned"])
	w.store.Stop()
	policy := files(t, all, images, keys, root)
	policy["namespaces/judged/requirements.yaml"] += fmt.Sprintf("- name: swapped\n  images: [{glob: %q}]\n  authorities: %s\n", swap.host+"/**", byMain)
	w.node(policy, swap.host)

	ids := map[string]string{}
	for _, p := range all {
		t.Run("pull "+p.name, func(t *testing.T) {
			for _, tr := range p.trials() {
				image := images[tr.name].repo + ":v1.2.0"
				id, err := w.Pull(w.ctx, image, nil) // judged by the node alone, which lets everything pass but what is revoked
				if err != nil && p.by != "revoked" {
					t.Errorf("pull without a namespace: %v", err)
				}
				ids[tr.name] = id
				_, err = w.Pull(w.ctx, image, w.Pod("judged", "x"))
				if tr.name == p.allowed.name {
					if err != nil {
						t.Errorf("twin: pull = %v, want it admitted", err)
					}
					continue
				}
				denied(t, p, err, codes.Unknown)
			}
		})
	}
	t.Run("swapped answers", func(t *testing.T) { swap.test(t, ids) })
	w.offline()
	podID, pod := w.pod("judged", "creates")
	for i, p := range all {
		t.Run("create "+p.name, func(t *testing.T) {
			for _, tr := range p.trials() {
				if ids[tr.name] == "" {
					continue // a revoked digest is not even stored
				}
				c := node.Container(fmt.Sprintf("c%d-%s", i, tr.name), images[tr.name].repo+":v1.2.0", ids[tr.name], "/bin/true")
				_, err := w.Create(w.ctx, podID, pod, c)
				if tr.name == p.allowed.name {
					if err != nil {
						t.Errorf("twin: create = %v, want it admitted", err)
					}
					continue
				}
				denied(t, p, err, codes.PermissionDenied)
			}
		})
	}
}

// prepareAll signs for all pairs, some at once, since most of it is waiting for the logs.
func (w *world) prepareAll(all []pair) map[string]*subject {
	w.t.Helper()
	var mu sync.Mutex // guards images
	images := map[string]*subject{}
	var g errgroup.Group
	g.SetLimit(6)
	for i := range all {
		p := &all[i]
		p.denied.name, p.allowed.name = p.name, p.name+"-twin"
		for _, tr := range p.trials() {
			switch tr.host {
			case "":
				tr.host = plain
			case referrers:
				tr.host = w.referrers
			}
			g.Go(func() error {
				s, err := w.prepare(tr)
				mu.Lock()
				defer mu.Unlock()
				images[tr.name] = s
				return err
			})
		}
	}
	w.must(g.Wait())
	return images
}

// denied wants the pair's rule and words, in at most the 1,024 bytes of an event.
func denied(t *testing.T, p pair, err error, code codes.Code) {
	t.Helper()
	rule := p.name
	if p.by != "" {
		rule = p.by
	}
	msg := status.Convert(err).Message()
	if status.Code(err) != code || !strings.Contains(msg, `denied by rule "`+rule) || !strings.Contains(msg, p.want) || len(msg) > 1024 {
		t.Errorf("= %v, want %s by rule %q: %s", err, code, rule, p.want)
	}
}

// files is the policy: the node lets everything pass that is not revoked, and namespace judged holds the
// trials' rules.
func files(t *testing.T, all []pair, images map[string]*subject, keys map[string][]byte, root []byte) map[string]string {
	t.Helper()
	kit, err := sigkit.New()
	if err != nil {
		t.Fatal(err)
	}
	leaked, err := policy.ParseKey(keys["leaked"])
	if err != nil {
		t.Fatal(err)
	}
	scopes := map[string]json.RawMessage{}
	var requirements strings.Builder
	for _, p := range all {
		for _, tr := range p.trials() {
			if tr.policy != "" {
				scopes[tr.host+"/"+tr.name] = json.RawMessage(tr.policy)
				continue
			}
			requirements.WriteString(tr.requirement())
		}
	}
	docker, err := json.Marshal(scopes)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{
		"node/bundle.yaml": "name: node\nrevision: 1\n",
		"node/policy.json": `{"default": [{"type": "insecureAcceptAnything"}]}`,
		"node/revocations.yaml": fmt.Sprintf("issued: %s\nmaxAge: 168h\ndigests: [{digest: %q, reason: CVE-2026-1234}]\nkeys: [{id: %s, reason: leaked}]\nidentities: [{issuer: %q, subject: %q, reason: leaked}]\n",
			time.Now().UTC().Format(time.RFC3339), images["revoked-digest"].top, leaked.ID, release.Issuer, "https://github.com/acme/pay/.github/workflows/leaked.yml@refs/heads/main"),
		"namespaces/judged/bundle.yaml":              "name: judged\nrevision: 1\n",
		"namespaces/judged/requirements.yaml":        "policies:\n" + requirements.String(),
		"namespaces/judged/policy.json":              `{"default": [{"type": "reject"}], "transports": {"docker": ` + string(docker) + `}}`,
		"namespaces/judged/trusted_root.json":        string(root),
		"namespaces/judged/trusted_roots/other.json": string(kit.TrustedRoot()),
	}
	for name, pub := range keys {
		out["namespaces/judged/"+name+".pub"] = string(pub)
	}
	return out
}

// node starts the daemon with a policy; hosts are further registries.
func (w *world) node(policy map[string]string, hosts ...string) {
	w.t.Helper()
	deps, err := filepath.Abs(roottest.Deps())
	w.must(err)
	os.RemoveAll(filepath.Join(scratch, "root")) // of the node before; its mount points stay
	os.RemoveAll(filepath.Join("/run", filepath.Base(scratch)))
	n, err := node.New(w.ctx, node.Options{Scratch: scratch, Bin: os.Getenv(binEnv), Deps: deps, Policy: policy, Insecure: append(hosts, plain, w.referrers)})
	w.must(err)
	w.Node = n
	w.t.Cleanup(func() {
		w.clear()
		if err := n.StopDaemon(); err != nil {
			w.t.Errorf("stop the daemon: %v", err)
		}
		if w.t.Failed() {
			w.t.Logf("the daemon's log ends:\n%s", n.LogTail(15))
		}
	})
}

func (w *world) pod(namespace, name string) (string, *cri.PodSandboxConfig) {
	w.t.Helper()
	cfg := w.Pod(namespace, name)
	id, err := w.RunPod(w.ctx, cfg)
	w.must(err)
	return id, cfg
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
