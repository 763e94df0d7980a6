package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/internal/doctor"
	"sallyport/test/node"
)

func (w *world) doctor() doctor.Options {
	return doctor.Options{Root: w.Path("root"), State: "/run/" + filepath.Base(scratch), Cgroups: []string{node.CgroupParent(scratch)}, CNIConf: w.Path("cni/net.d"),
		CNIPlugins: []string{filepath.Join(w.Deps, "cni", "bin")}}
}

func (w *world) examine(o doctor.Options) doctor.Report {
	w.t.Helper()
	r, err := doctor.Examine(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// lose removes the records of an object, as nothing of ours does.
func (w *world) lose(id string) {
	w.t.Helper()
	paths, _ := filepath.Glob(filepath.Join(w.doctor().State, "sandbox/keys/*/record.json"))
	for _, path := range paths {
		var r struct{ ID string }
		data, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(data, &r)
		}
		if err != nil {
			w.t.Fatal(err)
		}
		if r.ID == id {
			if err := os.RemoveAll(filepath.Dir(path)); err != nil {
				w.t.Fatal(err)
			}
			return
		}
	}
	w.t.Fatalf("no record of %s", id)
}

// orphan makes a pod with a container and a first process that nobody has a record of any more.
func (w *world) orphan(image, imageID, name string) (podID, id string) {
	w.t.Helper()
	cfg := w.Pod("default", name)
	c := node.Container("main", image, imageID, "/bin/sleep", "100000")
	for _, o := range []*cri.NamespaceOption{cfg.Linux.SecurityContext.NamespaceOptions, c.Linux.SecurityContext.NamespaceOptions} {
		o.Pid = cri.NamespaceMode_POD
	}
	podID, err := w.RunPod(w.ctx, cfg)
	if err == nil {
		id, err = w.Create(w.ctx, podID, cfg, c)
	}
	if err == nil {
		err = w.Start(w.ctx, id)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return podID, id
}

// The doctor finds what belongs to no record, and nothing else; it removes it when no daemon runs, and a
// daemon then starts to which nothing has happened.
func TestDoctor(t *testing.T) {
	w := start(t, nil, "")
	reapOrphans(t)
	image := w.push("open/app", v1.Config{})
	_, stays, pod := w.running(image, "stays", "/bin/sleep", "100000")
	imageID := w.pulled(image, pod)
	before, was := w.state(stays), w.traces()
	if r := w.examine(w.doctor()); len(r.Findings) > 0 || !r.Running || r.Pods != 1 || r.Ctrs != 1 {
		t.Errorf("Examine() beside the daemon = %+v, want no finding, one pod and one container", r)
	}
	if _, err := doctor.Repair(w.ctx, w.doctor()); !errors.Is(err, doctor.ErrRunning) {
		t.Errorf("Repair() beside the daemon = %v, want ErrRunning", err)
	}
	podID, id := w.orphan(image, imageID, "lost")
	half, _ := w.orphan(image, imageID, "half-lost")
	if err := w.StopDaemon(); err != nil {
		t.Fatal(err)
	}
	if r := w.examine(w.doctor()); len(r.Findings) > 0 || r.Running || r.Pods != 3 || r.Ctrs != 3 {
		t.Errorf("Examine() = %+v, want no finding of three pods and three containers", r)
	}
	for _, lost := range []string{podID, id, half} {
		w.lose(lost)
	}
	if err := w.StartDaemon(w.ctx); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("start with a container whose pod has no record: %v, want a refusal", err)
	}
	r := w.examine(w.doctor())
	var kinds []string
	for _, f := range r.Findings {
		kinds = append(kinds, f.Kind)
		if strings.Contains(f.What, stays) || f.ID == stays {
			t.Errorf("finding of what is on record: %+v", f)
		}
	}
	slices.Sort(kinds)
	want := []string{"attachment", "bundle", "cgroup", "layer", "mount", "netns", "pod", "process", "record", "runtime"}
	if got := slices.Compact(slices.Clone(kinds)); !slices.Equal(got, want) {
		t.Errorf("kinds of findings = %q, want %q", got, want)
	}
	removed, err := doctor.Repair(w.ctx, w.doctor())
	if err != nil || len(removed) != len(r.Findings) {
		t.Errorf("Repair() = %d removed, %v, want all %d", len(removed), err, len(r.Findings))
	}
	w.noTraces(was)
	if r := w.examine(w.doctor()); len(r.Findings) > 0 {
		t.Errorf("Examine() after Repair() = %+v, want no finding", r)
	}
	if err := w.StartDaemon(w.ctx); err != nil {
		t.Fatal(err)
	}
	if after := w.state(stays); !proto.Equal(before, after) {
		t.Errorf("what ran before is now %v, was %v", after, before)
	}
}

// Records of this boot that are not where the configuration says: the doctor names the place where the
// containers that live have theirs, and touches nothing. Without any that lives, it lets a daemon begin anew.
func TestDoctorLostState(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{})
	podID, id, _ := w.running(image, "lives", "/bin/sleep", "100000")
	if err := w.StopDaemon(); err != nil {
		t.Fatal(err)
	}
	wrong := w.doctor()
	wrong.State = w.Path("wrong-state")
	r := w.examine(wrong)
	i := slices.IndexFunc(r.Findings, func(f doctor.Finding) bool { return f.Kind == "state" })
	if i < 0 || !strings.Contains(r.Findings[i].Advice, w.doctor().State) {
		t.Errorf("Examine() of a wrong state directory = %+v, want the right one named", r)
	}
	if !slices.ContainsFunc(r.Findings, func(f doctor.Finding) bool {
		return f.Kind == "layer" && f.ID == id && strings.HasPrefix(f.Advice, "kept: conmon")
	}) {
		t.Errorf("Examine() of a wrong state directory = %+v, want the layer of what lives kept", r)
	}
	before := w.traces()
	if removed, err := doctor.Repair(w.ctx, wrong); !errors.Is(err, doctor.ErrLive) || len(removed) > 0 {
		t.Errorf("Repair() of a wrong state directory = %v, %v, want ErrLive", removed, err)
	}
	if after := w.traces(); !slices.Equal(before, after) {
		t.Errorf("traces = %q, were %q", after, before)
	}
	if err := w.StartDaemon(w.ctx); err != nil {
		t.Fatal(err)
	}
	if st := w.state(id); st.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container is %v", st.State)
	}
	if err := w.RemovePod(w.ctx, podID); err != nil {
		t.Fatal(err)
	}
	if err := w.StopDaemon(); err != nil {
		t.Fatal(err)
	}
	removed, err := doctor.Repair(w.ctx, wrong)
	if err != nil || len(removed) != 1 || removed[0].What != w.Path("root/boot-id") {
		t.Errorf("Repair() with no container = %+v, %v, want the mark of this boot removed", removed, err)
	}
	if err := w.StartDaemon(w.ctx); err != nil {
		t.Fatal(err)
	}
}
