package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/test/node"
	"sallyport/test/sigkit"
)

// model pushes an OCI artifact of two files and returns its name.
func (w *world) model(repo string) string {
	w.t.Helper()
	img, err := sigkit.Artifact("application/vnd.example.model.v1+json", map[string]string{"weights": "weights\n", "conf/a": "a\n"})
	if err != nil {
		w.t.Fatal(err)
	}
	at := w.host + "/" + repo + ":v1"
	if _, err := sigkit.Push(at, img); err != nil {
		w.t.Fatal(err)
	}
	return at
}

// TestArtifactVolume: an OCI artifact is pulled through the gate, listed, shown as files, whole and by
// sub path, with and without a user namespace, and removed; it is refused as a container's own image.
func TestArtifactVolume(t *testing.T) {
	w := start(t, nil, "")
	app, model := w.push("open/app", v1.Config{}), w.model("open/model")
	modelID := w.pulled(model, nil)
	list, err := w.Images.ListImages(w.ctx, &cri.ListImagesRequest{})
	if err != nil || !slices.ContainsFunc(list.Images, func(i *cri.Image) bool {
		return i.Id == modelID && slices.Contains(i.RepoTags, model) && i.Size > 10
	}) {
		t.Errorf("ListImages() = %v, %v; want the artifact in it", list, err)
	}
	for name, users := range map[string]*cri.UserNamespace{"plain": {Mode: cri.NamespaceMode_NODE}, "users": userNamespace()} {
		pod := w.Pod("default", name)
		pod.Linux.SecurityContext.NamespaceOptions.UsernsOptions = users
		podID, err := w.RunPod(w.ctx, pod)
		if err != nil {
			t.Fatal(err)
		}
		c := node.Container("main", app, w.pulled(app, pod), "/bin/sh", "-c",
			"cat /m/weights /m/conf/a /w; busybox stat -c %u:%g:%a /m/weights; touch /m/x 2>/dev/null || echo refused; sleep 1000")
		c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = users
		c.Mounts = []*cri.Mount{imageMount("/m", model, modelID, ""), imageMount("/w", model, modelID, "weights")}
		id, err := w.Create(w.ctx, podID, pod, c)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Start(w.ctx, id); err != nil {
			t.Fatal(err)
		}
		var text string
		wait(t, "the log", func() bool {
			text, _ = w.ContainerLog(pod, c)
			return strings.Contains(text, "refused\n")
		})
		if want := "weights\na\nweights\n0:0:444\nrefused\n"; !sameLines(text, want) {
			t.Errorf("%s: inside: %s\nwant %s", name, text, want)
		}
		if _, err := w.Images.RemoveImage(w.ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: modelID}}); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("%s: RemoveImage() of a mounted artifact = %v, want FailedPrecondition", name, err)
		}
		if err := w.RemovePod(w.ctx, podID); err != nil {
			t.Fatal(err)
		}
	}
	podID, pod := w.pod("default", "root")
	_, err = w.Create(w.ctx, podID, pod, node.Container("main", model, modelID, "/weights"))
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), `"artifact-root"`) {
		t.Errorf("CreateContainer() from an artifact = %v, want artifact-root", err)
	}
	if _, err := w.Images.RemoveImage(w.ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: modelID}}); err != nil {
		t.Errorf("RemoveImage() after the containers = %v", err)
	}
}

// TestArtifactDenied: an artifact is judged when it is pulled and again when it is mounted, by the
// namespace's own policy. The twin of each differs in the namespace alone.
func TestArtifactDenied(t *testing.T) {
	w := prepare(t)
	n, err := node.New(w.ctx, w.options(map[string]string{
		"namespaces/narrow/bundle.yaml": "name: narrow\nrevision: 1\n",
		"namespaces/narrow/policy.json": fmt.Sprintf(`{"default": [{"type": "reject"}], "transports": {"docker": {"%s/open/app": [{"type": "insecureAcceptAnything"}]}}}`, w.host),
	}, ""))
	if err != nil {
		t.Fatal(err)
	}
	w.Node = n
	t.Cleanup(func() {
		w.clear()
		if err := n.StopDaemon(); err != nil {
			t.Error(err)
		}
	})
	app, model := w.push("open/app", v1.Config{}), w.model("open/model")
	appID, modelID := w.pulled(app, nil), w.pulled(model, nil)
	for _, tt := range []struct {
		namespace string
		pull, run codes.Code
	}{{"narrow", codes.Unknown, codes.PermissionDenied}, {"wide", codes.OK, codes.OK}} {
		podID, pod := w.pod(tt.namespace, "p")
		_, err := w.Images.PullImage(w.ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: model}, SandboxConfig: pod})
		if status.Code(err) != tt.pull || err != nil && !strings.Contains(err.Error(), "SignatureValidationFailed: "+model) {
			t.Errorf("%s: PullImage() = %v, want %s", tt.namespace, err, tt.pull)
		}
		c := node.Container("main", app, appID, "true")
		c.Mounts = []*cri.Mount{imageMount("/m", model, modelID, "")}
		_, err = w.Create(w.ctx, podID, pod, c)
		if status.Code(err) != tt.run || err != nil && (!strings.Contains(err.Error(), "ImageVolumeMountFailed: "+model) || !strings.Contains(err.Error(), `denied by rule "no-rule"`)) {
			t.Errorf("%s: CreateContainer() = %v, want %s", tt.namespace, err, tt.run)
		}
	}
}
