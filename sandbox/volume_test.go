package sandbox

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"sallyport/enforce"
	"sallyport/image/ref"
	"sallyport/policy"
	"sallyport/sandbox/spec"
)

func otherImage() (policy.Image, policy.Evidence) {
	img, ev := busyboxImage(), evidence()
	text := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
"config":{"digest":%q,"size":1}}`, ref.DigestOf([]byte("x")))
	img.Top = ref.DigestOf([]byte(text))
	img.Instance, img.ID = img.Top, ref.DigestOf([]byte("x"))
	ev.TopManifest, ev.InstanceManifest = []byte(text), []byte(text)
	return img, ev
}

// TestVolumeOfTheGrant: an image volume is mounted from the grant alone; after a restart, an admission
// with another image for it does not start the container.
func TestVolumeOfTheGrant(t *testing.T) {
	n := newNode(t)
	p := n.pod(podConfig("a"))
	cfg := script("app", "cat /vol/bin/busybox /sub/busybox > /dev/null")
	cfg.Mounts = []spec.Mount{{Destination: "/vol", ReadOnly: true, Image: &spec.ImageRef{Image: "busybox"}}, {Destination: "/sub", ReadOnly: true, Image: &spec.ImageRef{Image: "busybox"}, ImageSubPath: "bin"}}
	r, err := p.Reserve(t.Context(), cfg)
	must(t, err)
	defer r.Cancel()
	img, ev := otherImage()
	volumes := func(img policy.Image, ev policy.Evidence) (out []enforce.Volume) {
		for i, m := range r.Resolved() {
			if m.Kind == "image" {
				out = append(out, enforce.Volume{Mount: i, Image: img, Evidence: ev})
			}
		}
		return out
	}
	req := n.request(r)
	req.Volumes = volumes(img, ev)
	adm, err := n.gate.AdmitRun(t.Context(), req)
	must(t, err)
	c, err := p.Create(t.Context(), adm)
	must(t, err)
	c.Publish()
	n.Close()
	n.start()
	c, err = n.Container(c.ID())
	must(t, err)
	if got := c.Volumes(); len(got) != 2 || got[0].Image != img {
		t.Errorf("Volumes() after a restart = %v, want the two judged ones", got)
	}
	again := func(v []enforce.Volume) enforce.RunAdmission {
		req.Volumes = v
		adm, err := n.gate.AdmitRun(t.Context(), req)
		must(t, err)
		return adm
	}
	if err := c.StartAdmitted(t.Context(), again(volumes(busyboxImage(), evidence()))); !errors.Is(err, ErrMismatch) {
		t.Fatalf("StartAdmitted() with another volume = %v, want ErrMismatch", err)
	}
	must(t, c.StartAdmitted(t.Context(), again(volumes(img, ev))))
	if st := waitExit(t, c); st.ExitCode != 0 {
		t.Errorf("reading both volumes: exit code %d", st.ExitCode)
	}
}

// TestVolumePathThatIsNotThere leaves nothing behind (harness) and says that it is the volume.
func TestVolumePathThatIsNotThere(t *testing.T) {
	n := newNode(t)
	p := n.pod(podConfig("a"))
	cfg := script("app", "true")
	cfg.Mounts = []spec.Mount{{Destination: "/vol", ReadOnly: true, Image: &spec.ImageRef{Image: "busybox"}, ImageSubPath: "none"}}
	r, err := p.Reserve(t.Context(), cfg)
	must(t, err)
	defer r.Cancel()
	req := n.request(r)
	img, ev := otherImage()
	for i, m := range req.Resolved {
		if m.Kind == "image" {
			req.Volumes = append(req.Volumes, enforce.Volume{Mount: i, Image: img, Evidence: ev})
		}
	}
	adm, err := n.gate.AdmitRun(t.Context(), req)
	must(t, err)
	if _, err := p.Create(t.Context(), adm); !errors.Is(err, ErrImageVolume) || !strings.Contains(err.Error(), "/vol") {
		t.Errorf("Create() = %v, want ErrImageVolume that names the mount", err)
	}
}
