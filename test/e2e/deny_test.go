package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/test/node"
)

// Unsigned is refused at pull and signed admitted, which differ in the signature alone; stock text and
// code are what the kubelet reads.
func TestPullDenied(t *testing.T) {
	w := start(t, nil, "")
	signed := w.push("signed/app", v1.Config{})
	pod := w.Pod("default", "x")
	w.pulled(signed, pod)
	unsigned := w.host + "/signed/other:v1"
	w.push("open/other", v1.Config{Labels: map[string]string{"other": "1"}})
	w.copyTag("open/other", "signed/other")
	_, err := w.Pull(w.ctx, unsigned, pod)
	if status.Code(err) != codes.Unknown || !strings.HasPrefix(status.Convert(err).Message(), "SignatureValidationFailed: "+unsigned) ||
		!strings.Contains(err.Error(), `denied by rule "release-key"`) {
		t.Errorf("PullImage(unsigned) = %v, want Unknown SignatureValidationFailed by the rule", err)
	}
	if r, err := w.Images.ImageStatus(w.ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: unsigned}}); err != nil || r.Image != nil {
		t.Errorf("ImageStatus(denied) = %v, %v, want no image", r, err)
	}
	for _, name := range []string{"busybox", w.host + "/UPPER/x", ""} {
		if _, err := w.Pull(w.ctx, name, pod); status.Code(err) != codes.InvalidArgument {
			t.Errorf("PullImage(%q) = %v, want InvalidArgument", name, err)
		}
	}
	if _, err := w.Pull(w.ctx, w.host+"/open/none:v1", pod); status.Code(err) != codes.NotFound {
		t.Errorf("PullImage(absent) = %v, want NotFound", err)
	}
	w.registry.Close()
	if _, err := w.Pull(w.ctx, signed, pod); status.Code(err) != codes.Unknown || !strings.HasPrefix(status.Convert(err).Message(), "RegistryUnavailable") {
		t.Errorf("PullImage(registry down) = %v, want RegistryUnavailable", err)
	}
}

// The image is there, and what differs is the namespace's policy, or the request's own words.
func TestCreateDenied(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("signed/app", v1.Config{})
	podID, pod := w.pod("default", "allowed")
	c := node.Container("main", image, w.pulled(image, pod), "/bin/sleep", "1000")
	w.registry.Close() // create needs no network
	if _, err := w.Create(w.ctx, podID, pod, c); err != nil {
		t.Fatal(err)
	}
	strictID, strict := w.pod("strict", "denied")
	_, err := w.Create(w.ctx, strictID, strict, c)
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), `denied by rule "other-key"`) || len(status.Convert(err).Message()) > 1024 {
		t.Errorf("CreateContainer(strict) = %v, want PermissionDenied by other-key", err)
	}
	for _, tt := range []struct {
		name   string
		change func(*cri.PodSandboxMetadata)
	}{
		{"other namespace", func(m *cri.PodSandboxMetadata) { m.Namespace = "default" }},
		{"no namespace", func(m *cri.PodSandboxMetadata) { m.Namespace = "" }},
		{"other pod", func(m *cri.PodSandboxMetadata) { m.Uid = "other" }},
	} {
		lie := proto.Clone(strict).(*cri.PodSandboxConfig)
		tt.change(lie.Metadata)
		if _, err := w.Create(w.ctx, strictID, lie, c); status.Code(err) != codes.InvalidArgument {
			t.Errorf("CreateContainer(%s) = %v, want InvalidArgument", tt.name, err)
		}
	}
	never := proto.Clone(c).(*cri.ContainerConfig)
	never.Metadata.Name, never.Image = "never", &cri.ImageSpec{Image: w.host + "/open/never:v1"}
	if _, err := w.Create(w.ctx, podID, pod, never); status.Code(err) != codes.NotFound {
		t.Errorf("CreateContainer(image that was never pulled) = %v, want NotFound", err)
	}
	list, err := w.Runtime.ListContainers(w.ctx, &cri.ListContainersRequest{})
	if err != nil || len(list.Containers) != 1 {
		t.Errorf("ListContainers() = %v, %v, want the admitted one alone", list, err)
	}
}

// What weakens the sandbox is refused by name where the floor says so; the twin asks the same without it.
func TestFloorDenied(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{})
	hostNet := w.Pod("default", "hostnet")
	hostNet.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
	if _, err := w.RunPod(w.ctx, hostNet); status.Code(err) != codes.PermissionDenied {
		t.Errorf("RunPodSandbox(host network) = %v, want PermissionDenied", err)
	}
	sysctl := w.Pod("default", "sysctl")
	sysctl.Linux.Sysctls = map[string]string{"kernel.core_pattern": "|/bin/x"}
	if _, err := w.RunPod(w.ctx, sysctl); status.Code(err) != codes.PermissionDenied {
		t.Errorf("RunPodSandbox(kernel.core_pattern) = %v, want PermissionDenied", err)
	}
	handler := &cri.RunPodSandboxRequest{Config: w.Pod("default", "handler"), RuntimeHandler: "kata"}
	if _, err := w.Runtime.RunPodSandbox(w.ctx, handler); status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "kata") {
		t.Errorf("RunPodSandbox(unknown handler) = %v, want it named", err)
	}
	podID, pod := w.pod("default", "plain")
	imageID := w.pulled(image, pod)
	data := w.Path("data")
	if err := os.MkdirAll(data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*cri.ContainerConfig)
		want   codes.Code
	}{
		{"allowed mount", func(c *cri.ContainerConfig) { c.Mounts = []*cri.Mount{{ContainerPath: "/data", HostPath: data}} }, codes.OK},
		{"mount outside the floor", func(c *cri.ContainerConfig) { c.Mounts = []*cri.Mount{{ContainerPath: "/data", HostPath: "/etc"}} }, codes.PermissionDenied},
		{"our state", func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{ContainerPath: "/data", HostPath: w.Path("root")}}
		}, codes.PermissionDenied},
		{"our socket's directory", func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{ContainerPath: "/data", HostPath: filepath.Dir(w.Socket)}}
		}, codes.PermissionDenied},
		{"capability", func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.Capabilities = &cri.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
		}, codes.PermissionDenied},
		{"allowed capability", func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.Capabilities = &cri.Capability{AddCapabilities: []string{"SYS_CHROOT"}}
		}, codes.OK},
		{"privileged in a plain pod", func(c *cri.ContainerConfig) { c.Linux.SecurityContext.Privileged = true }, codes.InvalidArgument},
	} {
		c := node.Container(strings.ReplaceAll(tt.name, " ", "-"), image, imageID, "/bin/sleep", "1000")
		tt.change(c)
		if _, err := w.Create(w.ctx, podID, pod, c); status.Code(err) != tt.want {
			t.Errorf("CreateContainer(%s) = %v, want %s", tt.name, err, tt.want)
		}
	}
}

// One image has two names; where the request names none, each must pass.
func TestEveryName(t *testing.T) {
	half := map[string]string{"namespaces/half/bundle.yaml": "name: half\nrevision: 1\n"}
	w := start(t, half, "")
	p := w.policy()
	p["namespaces/half/bundle.yaml"] = half["namespaces/half/bundle.yaml"]
	p["namespaces/half/policy.json"] = fmt.Sprintf(`{"default": [{"type": "reject"}], "transports": {"docker": {"%s/open/yes": [{"type": "insecureAcceptAnything"}]}}}`, w.host)
	if err := w.SetPolicy(p); err != nil {
		t.Fatal(err)
	}
	if err := w.Reload(); err != nil {
		t.Fatal(err)
	}
	yes := w.push("open/yes", v1.Config{})
	w.copyTag("open/yes", "open/no")
	no := w.host + "/open/no:v1"
	id := w.pulled(yes, nil)
	if other := w.pulled(no, nil); other != id {
		t.Fatalf("the two names have the images %s and %s", id, other)
	}
	podID, pod := w.pod("half", "names")
	for i, tt := range []struct {
		name string
		want codes.Code
	}{{yes, codes.OK}, {no, codes.PermissionDenied}, {"", codes.PermissionDenied}} {
		c := node.Container(fmt.Sprintf("c%d", i), tt.name, id, "/bin/sleep", "1000")
		if _, err := w.Create(w.ctx, podID, pod, c); status.Code(err) != tt.want {
			t.Errorf("CreateContainer(user-specified %q) = %v, want %s", tt.name, err, tt.want)
		}
	}
}

// An image that was pulled with credentials runs in another namespace only after that has pulled it too.
func TestPrivateImage(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/private", v1.Config{})
	inner := w.registry.Config.Handler
	w.registry.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if user, pass, _ := r.BasicAuth(); user != "me" || pass != "secret" {
			rw.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(rw, r)
	})
	pull := func(pod *cri.PodSandboxConfig, auth *cri.AuthConfig) (string, error) {
		r, err := w.Images.PullImage(w.ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: image}, SandboxConfig: pod, Auth: auth})
		return r.GetImageRef(), err
	}
	ownerID, owner := w.pod("owner", "a")
	thiefID, thief := w.pod("thief", "b")
	if _, err := pull(owner, nil); err == nil {
		t.Error("PullImage(no credentials) = nil, want an error")
	}
	if _, err := pull(owner, &cri.AuthConfig{Username: "me", Password: "wrong"}); err == nil || strings.Contains(err.Error(), "wrong") {
		t.Errorf("PullImage(wrong credentials) = %v, want an error without them", err)
	}
	auth := &cri.AuthConfig{Username: "me", Password: "secret"}
	id, err := pull(owner, auth)
	if err != nil {
		t.Fatal(err)
	}
	c := node.Container("main", image, id, "/bin/sleep", "1000")
	if _, err := w.Create(w.ctx, ownerID, owner, c); err != nil {
		t.Errorf("CreateContainer(who pulled it) = %v", err)
	}
	if _, err := w.Create(w.ctx, thiefID, thief, c); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "image-access") {
		t.Errorf("CreateContainer(who did not pull it) = %v, want PermissionDenied by image-access", err)
	}
	if _, err := pull(thief, auth); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Create(w.ctx, thiefID, thief, c); err != nil {
		t.Errorf("CreateContainer(who proved access) = %v", err)
	}
}
