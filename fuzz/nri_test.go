package fuzz

import (
	"testing"

	"github.com/containerd/nri/pkg/api"
	"google.golang.org/protobuf/proto"

	"sallyport/internal/nri"
	"sallyport/policy/baseline"
	"sallyport/sandbox/spec"
)

// FuzzNRIAdjustment: whatever a plugin answers is read without a panic, and what comes of it in a spec
// gives no more than the floor: the judge finds it, or nothing is wrong with it.
func FuzzNRIAdjustment(f *testing.F) {
	add := func(change func(*api.ContainerAdjustment)) {
		a := &api.ContainerAdjustment{}
		change(a)
		data, err := proto.Marshal(a)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	add(func(a *api.ContainerAdjustment) { a.AddEnv("A=B", "c\x00"); a.RemoveEnv("PATH") })
	add(func(a *api.ContainerAdjustment) {
		a.AddMount(&api.Mount{Destination: "/a/../..", Source: "/", Type: "bind"})
	})
	add(func(a *api.ContainerAdjustment) {
		a.AddDevice(&api.LinuxDevice{Path: "/dev/mem", Type: "c", Major: 1, Minor: 1})
	})
	add(func(a *api.ContainerAdjustment) { a.AddHooks(&api.Hooks{Prestart: []*api.Hook{{Path: "/bin/sh"}}}) })
	add(func(a *api.ContainerAdjustment) {
		a.SetLinuxSeccompPolicy(&api.LinuxSeccomp{DefaultAction: "SCMP_ACT_ALLOW"})
	})
	add(func(a *api.ContainerAdjustment) {
		a.SetLinuxPidLimits(-1)
		a.SetLinuxMemoryLimit(-5)
		a.SetLinuxOomScoreAdj(new(int))
	})
	f.Fuzz(func(t *testing.T, data []byte) {
		a := &api.ContainerAdjustment{}
		if proto.Unmarshal(data, a) != nil {
			return
		}
		answer := nri.Read(a)
		in := askedNothing()
		out, err := spec.Build(in)
		if err != nil {
			t.Fatal(err)
		}
		if out, err = out.With(answer.Edits, in.Host); err != nil || len(answer.Refused) > 0 {
			return
		}
		found := baseline.Check(out.JSON, specFacts(in), in.Floor)
		weak := out.Spec.Hooks != nil || len(out.Spec.Linux.Devices) > 0 || out.Spec.Process.Args == nil
		if weak && len(found) == 0 {
			t.Fatalf("the judge finds nothing in %s", out.JSON)
		}
		for _, v := range found {
			if v.ID == "B01" {
				t.Fatalf("edits make a spec that is not in canonical form: %v", v)
			}
		}
	})
}
