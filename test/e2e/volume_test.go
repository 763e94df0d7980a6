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

// data pushes an image with files for a volume and returns its name.
func (w *world) data(repo string) string {
	w.t.Helper()
	img, err := sigkit.Image(sigkit.ImageOptions{Config: v1.Config{Labels: map[string]string{"repo": repo}},
		Files: map[string]string{"/data/model": "weights\n", "/data/sub/part": "part\n"}})
	if err != nil {
		w.t.Fatal(err)
	}
	at := w.host + "/" + repo + ":v1"
	if _, err := sigkit.Push(at, img); err != nil {
		w.t.Fatal(err)
	}
	return at
}

func imageMount(at, name, id, sub string) *cri.Mount {
	return &cri.Mount{ContainerPath: at, Readonly: true, Image: &cri.ImageSpec{Image: id, UserSpecifiedImage: name}, ImageSubPath: sub}
}

// TestImageVolume: whole and by sub path, read-only, executable, with and without a user namespace; the
// image stays while it is mounted.
func TestImageVolume(t *testing.T) {
	w := start(t, nil, "")
	app, data := w.push("open/app", v1.Config{}), w.data("open/data")
	for name, users := range map[string]*cri.UserNamespace{"plain": {Mode: cri.NamespaceMode_NODE}, "users": userNamespace()} {
		t.Run(name, func(t *testing.T) {
			pod := w.Pod("default", name)
			pod.Linux.SecurityContext.NamespaceOptions.UsernsOptions = users
			podID, err := w.RunPod(w.ctx, pod)
			if err != nil {
				t.Fatal(err)
			}
			dataID := w.pulled(data, pod)
			c := node.Container("main", app, w.pulled(app, pod), "/bin/sh", "-c",
				"cat /vol/data/model /sub/part /up/model; busybox stat -c %u:%g /vol/data/model; touch /vol/x || echo refused; /vol/bin/echo runs; grep -c nosuid,nodev /proc/mounts > /dev/null; sleep 1000")
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = users
			c.Mounts = []*cri.Mount{imageMount("/vol", data, dataID, ""), imageMount("/sub", data, dataID, "data/sub"), imageMount("/up", data, dataID, "../../data")}
			c.Mounts[1].MountOptions = []string{"noexec"}
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
				return strings.Contains(text, "runs\n")
			})
			if want := "weights\npart\nweights\n0:0\ntouch: /vol/x: Read-only file system\nrefused\nruns\n"; !sameLines(text, want) {
				t.Errorf("inside: %s\nwant %s", text, want)
			}
			out, err := w.Runtime.ExecSync(w.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/grep", " /sub ", "/proc/mounts"}, Timeout: 10})
			if err != nil || !strings.Contains(string(out.Stdout), "ro,nosuid,nodev,noexec") {
				t.Errorf("/sub is mounted %s, %v; want the options asked for", out.GetStdout(), err)
			}
			if got := w.state(id).Mounts; len(got) != 3 || got[0].Image.GetImageRef() != dataID {
				t.Errorf("mounts in status = %v, want the image's ID", got)
			}
			if _, err := w.Images.RemoveImage(w.ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: dataID}}); status.Code(err) != codes.FailedPrecondition {
				t.Errorf("RemoveImage() of a mounted volume = %v, want FailedPrecondition", err)
			}
			if err := w.RemovePod(w.ctx, podID); err != nil {
				t.Fatal(err)
			}
		})
	}
	id := w.pulled(data, nil)
	if _, err := w.Images.RemoveImage(w.ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: id}}); err != nil {
		t.Errorf("RemoveImage() after the container = %v", err)
	}
}

// sameLines compares the lines of two streams, between which there is no order.
func sameLines(a, b string) bool {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	slices.Sort(x)
	slices.Sort(y)
	return slices.Equal(x, y)
}

// TestImageVolumeDenied: a volume's image is judged as one that runs, whatever the container's own image
// is. Twins: the same create in a namespace whose policy admits the image, and TestImageVolume.
func TestImageVolumeDenied(t *testing.T) {
	extra := map[string]string{"namespaces/narrow/bundle.yaml": "name: narrow\nrevision: 1\n"}
	w := prepare(t)
	extra["namespaces/narrow/policy.json"] = fmt.Sprintf(`{"default": [{"type": "reject"}], "transports": {"docker": {"%s/open/app": [{"type": "insecureAcceptAnything"}]}}}`, w.host)
	n, err := node.New(w.ctx, w.options(extra, ""))
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
	app, data := w.push("open/app", v1.Config{}), w.data("open/data")
	appID, dataID := w.pulled(app, nil), w.pulled(data, nil)
	for _, tt := range []struct {
		name, namespace string
		change          func(*cri.Mount)
		code            codes.Code
		want            []string
	}{
		{"by its policy", "narrow", nil, codes.PermissionDenied, []string{"ImageVolumeMountFailed: " + data, "denied by rule"}},
		{"by another's policy", "wide", nil, codes.OK, nil},
		{"sub path that is not there", "wide", func(m *cri.Mount) { m.ImageSubPath = "data/none" }, codes.Unknown, []string{"ImageVolumeMountFailed: "}},
		{"sub path that is there", "wide", func(m *cri.Mount) { m.ImageSubPath = "data/sub" }, codes.OK, nil},
		{"image that is not there", "wide", func(m *cri.Mount) { m.Image.Image = "sha256:" + strings.Repeat("0", 64) }, codes.Unknown, []string{"ImageVolumeMountFailed: "}},
		{"name that was never pulled", "wide", func(m *cri.Mount) { m.Image.UserSpecifiedImage = w.host + "/open/other:v1" }, codes.Unknown, []string{"ImageVolumeMountFailed: "}},
		{"writable", "wide", func(m *cri.Mount) { m.Readonly = false }, codes.InvalidArgument, []string{"read-only"}},
		{"option that loosens", "wide", func(m *cri.Mount) { m.MountOptions = []string{"dev"} }, codes.InvalidArgument, []string{"mount_options"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			podID, pod := w.pod(tt.namespace, "p")
			c := node.Container("main", app, appID, "true")
			c.Mounts = []*cri.Mount{imageMount("/vol", data, dataID, "")}
			if tt.change != nil {
				tt.change(c.Mounts[0])
			}
			_, err := w.Create(w.ctx, podID, pod, c)
			if status.Code(err) != tt.code {
				t.Fatalf("CreateContainer() = %v, want %s", err, tt.code)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("CreateContainer() = %v, want %q in it", err, want)
				}
			}
		})
	}
}
