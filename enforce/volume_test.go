package enforce_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"sallyport/audit"
	"sallyport/enforce"
	"sallyport/enforce/enforcetest"
	"sallyport/image/ref"
	"sallyport/policy"
	"sallyport/policy/baseline"
)

// volumeRun is run with an image volume; its image is another than the container's own.
func volumeRun(t testing.TB) enforce.RunRequest {
	t.Helper()
	r := run(t)
	name, err := ref.Parse("registry.example/data:v1")
	if err != nil {
		t.Fatal(err)
	}
	id := ref.DigestOf([]byte("data"))
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"config":{"digest":%q}}`, id)
	d := ref.DigestOf(manifest)
	r.Resolved = []enforce.Mount{
		{Destination: "/etc/hostname", Source: "/run/sallyport/h", Kind: "file"},
		{Destination: "/vol", Source: "/", Kind: "image", ReadOnly: true},
	}
	r.Volumes = []enforce.Volume{{Mount: 1, Image: enforce.Image{Name: name, Top: d, Instance: d, ID: id},
		Evidence: enforce.Evidence{TopManifest: manifest, InstanceManifest: manifest, Complete: true}}}
	return r
}

// TestAdmitRunVolumes: the grant names the volume's image, and both decisions are on record.
func TestAdmitRunVolumes(t *testing.T) {
	floor := baseline.ForLevel(baseline.Baseline)
	g, dir := enforcetest.With(t, enforce.Policies{Node: enforcetest.AnyImage(t, floor)})
	r := volumeRun(t)
	adm, err := g.AdmitRun(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	grant, err := g.Redeem(adm)
	if err != nil {
		t.Fatal(err)
	}
	got := grant.Volumes()
	if len(got) != 1 || got[0].Mount != 1 || got[0].Image != r.Volumes[0].Image {
		t.Errorf("Volumes() = %v, want that of mount 1", got)
	}
	got[0].Image = enforce.Image{}
	if grant.Volumes()[0].Image != r.Volumes[0].Image {
		t.Error("a caller can change what a grant holds")
	}
	found := map[string]string{}
	err = audit.Read(dir, func(rec audit.Record) error {
		if rec.Event.Verb == "run" {
			found[rec.Event.Image] = rec.Event.Detail["volume"]
		}
		return nil
	})
	if err != nil || len(found) != 2 || found["registry.example/data:v1"] != "/vol" || found["registry.example/app:v1"] != "" {
		t.Errorf("records of the run = %v, %v, want one for each image", found, err)
	}
}

// TestVolumesDenied: each differs from TestAdmitRunVolumes in one fact.
func TestVolumesDenied(t *testing.T) {
	other := ref.DigestOf([]byte("other"))
	for _, tt := range []struct {
		name, rule, volume string
		change             func(*enforce.RunRequest)
	}{
		{"not given", "volume-facts", "", func(r *enforce.RunRequest) { r.Volumes = nil }},
		{"given for another mount", "volume-facts", "", func(r *enforce.RunRequest) { r.Volumes[0].Mount = 0 }},
		{"given for a file too", "volume-facts", "", func(r *enforce.RunRequest) {
			more := r.Volumes[0]
			more.Mount = 0
			r.Volumes = append(r.Volumes, more)
		}},
		{"given for no mount", "volume-facts", "", func(r *enforce.RunRequest) { r.Volumes = append(r.Volumes, enforce.Volume{Mount: 2}) }},
		{"given for a negative mount", "volume-facts", "", func(r *enforce.RunRequest) { r.Volumes = append(r.Volumes, enforce.Volume{Mount: -1}) }},
		{"manifest swapped", "digest-mismatch", "/vol", func(r *enforce.RunRequest) { r.Volumes[0].Evidence.TopManifest = []byte("{}") }},
		{"image ID of another", "digest-mismatch", "/vol", func(r *enforce.RunRequest) { r.Volumes[0].Image.ID = other }},
		{"evidence incomplete", "evidence-incomplete", "/vol", func(r *enforce.RunRequest) { r.Volumes[0].Evidence.Complete = false }},
		{"another's", "image-access", "/vol", func(r *enforce.RunRequest) {
			r.Volumes[0].Refusals = []policy.Hit{{Rule: "image-access", Msg: "pulled with credentials"}}
		}},
		{"one of two names", "digest-mismatch", "/vol", func(r *enforce.RunRequest) {
			bad := r.Volumes[0]
			bad.Image.Top = other
			r.Volumes = []enforce.Volume{bad, r.Volumes[0]}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := gate(t)
			r := volumeRun(t)
			tt.change(&r)
			adm, err := g.AdmitRun(t.Context(), r)
			d := rule(t, err, tt.rule)
			if d.Volume != tt.volume || tt.volume != "" && !strings.HasPrefix(d.Error(), "registry.example/data:v1") {
				t.Errorf("Denied = %v of volume %q, want it to name the volume %q", d, d.Volume, tt.volume)
			}
			if _, err := g.Redeem(adm); !errors.Is(err, enforce.ErrForged) {
				t.Errorf("Redeem() of a denied run = %v, want ErrForged", err)
			}
		})
	}
}

// TestVolumeMeetsThePolicy: a policy that admits the container's image alone denies a volume of another
// repository.
func TestVolumeMeetsThePolicy(t *testing.T) {
	r := volumeRun(t)
	if _, err := gate(t).AdmitRun(t.Context(), r); err != nil {
		t.Fatalf("AdmitRun() under a policy that admits any image = %v", err)
	}
	app := enforcetest.Layer(t, "node", `policies:
- name: app
  images: [{glob: "registry.example/app"}]
  authorities: [{static: {action: pass}}]
`, baseline.ForLevel(baseline.Baseline))
	g, _ := enforcetest.With(t, enforce.Policies{Node: app})
	_, err := g.AdmitRun(t.Context(), r)
	if d := rule(t, err, "no-rule"); d.Volume != "/vol" {
		t.Errorf("Denied.Volume = %q, want /vol", d.Volume)
	}
	r.Resolved, r.Volumes = r.Resolved[:1], nil
	if _, err := g.AdmitRun(t.Context(), r); err != nil {
		t.Errorf("AdmitRun() without the volume = %v", err)
	}
}
