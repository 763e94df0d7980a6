package cri

import (
	"errors"
	"testing"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/enforce"
	"sallyport/image/ref"
	"sallyport/sandbox"
	"sallyport/sandbox/spec"

	"google.golang.org/grpc/status"
)

func TestMountOfAnImage(t *testing.T) {
	usual := func() *v1.Mount {
		return &v1.Mount{ContainerPath: "/v", Readonly: true, Image: &v1.ImageSpec{Image: "sha256:1", UserSpecifiedImage: "x/y:1"}, ImageSubPath: "a/b", MountOptions: []string{"noexec"}}
	}
	m, err := mount(usual())
	if err != nil || m.Image == nil || m.Image.UserSpecified != "x/y:1" || m.ImageSubPath != "a/b" || len(m.Options) != 1 {
		t.Fatalf("mount() = %+v, %v", m, err)
	}
	for name, change := range map[string]func(*v1.Mount){
		"writable":            func(m *v1.Mount) { m.Readonly = false },
		"propagating":         func(m *v1.Mount) { m.Propagation = v1.MountPropagation_PROPAGATION_HOST_TO_CONTAINER },
		"of the host too":     func(m *v1.Mount) { m.HostPath = "/x" },
		"sub path of nothing": func(m *v1.Mount) { m.Image, m.HostPath = nil, "/x" },
		"loosening option":    func(m *v1.Mount) { m.MountOptions = []string{"suid"} },
		"two words":           func(m *v1.Mount) { m.MountOptions = []string{"noexec,dev"} },
	} {
		m := usual()
		change(m)
		if _, err := mount(m); err == nil {
			t.Errorf("%s: mount() succeeded, want an error", name)
		}
	}
}

// TestVolumeErrors: the kubelet reads the reason from the first word.
func TestVolumeErrors(t *testing.T) {
	for err, want := range map[error]string{
		&enforce.Denied{Subject: "x/y:1", Volume: "/v"}: "ImageVolumeMountFailed: x/y:1",
		errors.Join(sandbox.ErrImageVolume):             "ImageVolumeMountFailed: image volume",
		errors.Join(spec.ErrRecursiveReadOnly):          "RROUnsupported: ",
		&enforce.Denied{Subject: "x/y:1", Verb: "run"}:  "x/y:1 denied",
	} {
		if got := status.Convert(toStatus(err)).Message(); len(got) < len(want) || got[:len(want)] != want {
			t.Errorf("message = %q, want it to begin with %q", got, want)
		}
	}
}

// TestStale: what lacks evidence is pulled again, and only that.
func TestStale(t *testing.T) {
	own, vol := mustName(t, "x.example/own:1"), mustName(t, "x.example/vol:1")
	req := enforce.RunRequest{Image: enforce.Image{Name: own}, Resolved: []enforce.Mount{{Destination: "/v"}}, Volumes: []enforce.Volume{{Image: enforce.Image{Name: vol}}}}
	hits := []enforce.Hit{{Rule: "evidence-incomplete"}}
	for name, tt := range map[string]struct {
		err  error
		want []ref.Name
	}{
		"own":        {&enforce.Denied{Hits: hits, Refetch: true}, []ref.Name{own}},
		"volume":     {&enforce.Denied{Volume: "/v", Hits: hits, Refetch: true}, []ref.Name{vol}},
		"more wrong": {&enforce.Denied{Hits: hits}, nil},
		"no denial":  {errors.New("x"), nil},
	} {
		got := stale(req, tt.err)
		if len(got) != len(tt.want) || len(got) > 0 && got[0] != tt.want[0] {
			t.Errorf("%s: stale() = %v, want %v", name, got, tt.want)
		}
	}
}

func mustName(t *testing.T, s string) ref.Name {
	t.Helper()
	n, err := ref.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
