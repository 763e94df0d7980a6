package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/image/ref"
	"sallyport/test/node"
	"sallyport/test/sigkit"
)

// flip changes one byte of etc/group in every stored layer that has it, as a bad disk would.
func (w *world) flip() {
	w.t.Helper()
	files, err := filepath.Glob(w.Path("root/image/storage/overlay/*/diff/etc/group"))
	if err != nil || len(files) == 0 {
		w.t.Fatalf("no stored layer has etc/group: %v", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			w.t.Fatal(err)
		}
		b[0] ^= 1
		if err := os.WriteFile(file, b, 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
}

// boot restarts the daemon as after a boot: nothing is known of the bytes any more.
func (w *world) boot() {
	w.t.Helper()
	if err := w.StopDaemon(); err != nil {
		w.t.Fatal(err)
	}
	err := filepath.WalkDir(filepath.Join("/run", filepath.Base(scratch)), func(at string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "checked" {
			os.RemoveAll(at)
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.StartDaemon(w.ctx); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) has(image string) bool {
	w.t.Helper()
	st, err := w.Images.ImageStatus(w.ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: image}})
	if err != nil {
		w.t.Fatal(err)
	}
	return st.Image != nil
}

// TestFlippedByte: a byte that changed in a stored layer is refused by name at its first use after a boot,
// and the kubelet's next sync finds no image and pulls it whole. In a namespace whose floor says
// every-start it is refused at the next start.
func TestFlippedByte(t *testing.T) {
	w := start(t, map[string]string{
		"namespaces/careful/bundle.yaml": "name: careful\nrevision: 1\n", "namespaces/careful/hardening.yaml": "level: baseline\nlayerBytes: every-start\n",
		"namespaces/careful/requirements.yaml": "policies:\n- name: any\n  images: [{glob: \"**\"}]\n  authorities: [{static: {action: pass}}]\n",
	}, "")
	app := w.push("open/app", v1.Config{})
	imageID := w.pulled(app, nil)
	w.flip()
	w.boot()
	podID, pod := w.pod("default", "p")
	c := node.Container("main", app, imageID, "true")
	_, err := w.Create(w.ctx, podID, pod, c)
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), `denied by rule "RootfsDigestMismatch"`) {
		t.Fatalf("CreateContainer() from a changed layer = %v, want RootfsDigestMismatch", err)
	}
	if w.has(app) {
		t.Error("ImageStatus() still answers the name")
	}
	w.pulled(app, pod)
	if _, err := w.Create(w.ctx, podID, pod, c); err != nil {
		t.Errorf("CreateContainer() after the pull = %v", err)
	}
	w.clear()
	for namespace, want := range map[string]codes.Code{"default": codes.OK, "careful": codes.PermissionDenied} {
		podID, pod := w.pod(namespace, "start")
		id, err := w.Create(w.ctx, podID, pod, node.Container("main", app, w.pulled(app, pod), "true"))
		if err != nil {
			t.Fatal(err)
		}
		w.flip()
		err = w.Start(w.ctx, id)
		if status.Code(err) != want || err != nil && !strings.Contains(err.Error(), `denied by rule "RootfsDigestMismatch"`) {
			t.Errorf("%s: StartContainer() over a changed layer = %v, want %s", namespace, err, want)
		}
		w.clear()
		if _, err := w.Images.RemoveImage(w.ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: app}}); err != nil {
			t.Fatal(err)
		}
		w.Images.RemoveImage(w.ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: imageID}})
	}
}

// TestStaleEvidence goes the kubelet's way under each pull policy: a create that is refused for want of a
// signature alone makes the name absent, and the pull that follows brings the signature and no layer.
func TestStaleEvidence(t *testing.T) {
	for _, policy := range []string{"IfNotPresent", "Always", "Never"} {
		t.Run(policy, func(t *testing.T) {
			w := start(t, nil, "")
			img, err := sigkit.Image(sigkit.ImageOptions{Config: v1.Config{}})
			if err != nil {
				t.Fatal(err)
			}
			// The store has the image without the signature: it was pulled for a namespace that wants none.
			app := w.host + "/open/app:v1"
			d, err := sigkit.Push(app, img)
			if err != nil {
				t.Fatal(err)
			}
			w.pulled(app, nil)
			files := w.policy()
			files["node/policy.json"] = `{"default": [{"type": "insecureAcceptAnything"}]}`
			files["node/requirements.yaml"] = strings.Replace(files["node/requirements.yaml"], w.host+"/signed/**", w.host+"/**", 1)
			if err := w.SetPolicy(files); err != nil {
				t.Fatal(err)
			}
			if err := w.Reload(); err != nil {
				t.Fatal(err)
			}
			podID, pod := w.pod("default", "p")
			sync := func() error { // one of the kubelet's, kuberuntime's EnsureImageExists and then a create
				if policy == "Always" || policy == "IfNotPresent" && !w.has(app) {
					if _, err := w.Pull(w.ctx, app, pod); err != nil {
						return err
					}
				}
				st, err := w.Images.ImageStatus(w.ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: app}})
				if err != nil || st.Image == nil {
					return status.Error(codes.NotFound, "ErrImageNeverPull")
				}
				_, err = w.Create(w.ctx, podID, pod, node.Container("main", app, st.Image.Id, "true"))
				return err
			}
			if err := sync(); err == nil || !strings.Contains(err.Error(), `denied by rule "release-key"`) {
				t.Fatalf("the first sync = %v, want release-key", err)
			}
			if policy != "Always" && w.has(app) {
				t.Error("ImageStatus() answers a name whose evidence was not enough")
			}
			list, err := w.Images.ListImages(w.ctx, &cri.ListImagesRequest{})
			if err != nil || len(list.Images) != 1 {
				t.Errorf("ListImages() = %v, %v, want the image", list, err)
			}
			b, err := sigkit.SignKey(w.key, ref.Digest(d))
			if err == nil {
				err = sigkit.Attach(w.host+"/open/app", d, b, sigkit.Referrers)
			}
			if err != nil {
				t.Fatal(err)
			}
			err = sync()
			if policy == "Never" {
				if status.Code(err) != codes.NotFound {
					t.Errorf("the second sync = %v, want ErrImageNeverPull", err)
				}
				return
			}
			if err != nil {
				t.Errorf("the second sync = %v", err)
			}
		})
	}
}
