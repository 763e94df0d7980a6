package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/test/node"
	"sallyport/test/roottest"
)

func TestStatus(t *testing.T) {
	w := start(t, nil, "")
	r, err := w.Runtime.Status(w.ctx, &cri.StatusRequest{Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Status.Conditions {
		if !c.Status {
			t.Errorf("condition %s is false: %s: %s", c.Type, c.Reason, c.Message)
		}
		if c.Type == "PolicyEnforced" && !strings.Contains(c.Message, "local-unsigned") {
			t.Errorf("PolicyEnforced says %q, want the source", c.Message)
		}
	}
	if len(r.Status.Conditions) != 3 || len(r.RuntimeHandlers) != 2 || r.Info["sallyport"] == "" {
		t.Errorf("Status() = %v", r)
	}
	v, err := w.Runtime.Version(w.ctx, &cri.VersionRequest{})
	if err != nil || v.RuntimeName != "sallyport" || v.RuntimeApiVersion != "v1" || v.RuntimeVersion == "" {
		t.Errorf("Version() = %v, %v", v, err)
	}
	rc, err := w.Runtime.RuntimeConfig(w.ctx, &cri.RuntimeConfigRequest{})
	if err != nil || rc.Linux.CgroupDriver != cri.CgroupDriver_CGROUPFS {
		t.Errorf("RuntimeConfig() = %v, %v", rc, err)
	}
	if _, err := w.Runtime.UpdateRuntimeConfig(w.ctx, &cri.UpdateRuntimeConfigRequest{}); err != nil {
		t.Errorf("UpdateRuntimeConfig() = %v", err)
	}
	st, err := os.Stat(w.Socket)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket mode = %v, %v, want 0600", st.Mode(), err)
	}
	// The state directory may be walked through where the node can run user namespaces (userns_test.go).
	for dir, most := range map[string]os.FileMode{w.Path("root"): 0o700, "/run/" + filepath.Base(scratch): 0o711} {
		if st, err := os.Stat(dir); err != nil || st.Mode().Perm()&^most != 0 {
			t.Errorf("mode of %s = %v, %v, want at most %o", dir, st.Mode(), err, most)
		}
	}
}

// Without a policy everything is denied, and Status tells so; RuntimeReady stays.
func TestNoPolicy(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{})
	for _, tt := range []struct {
		name, reason, rule string
		policy             map[string]string
	}{
		{"removed at run time: the last good one stays", "", "", map[string]string{"node/bundle.yaml": "nonsense: ["}},
	} {
		if err := w.SetPolicy(tt.policy); err != nil {
			t.Fatal(err)
		}
		if err := w.Reload(); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Pull(w.ctx, image, nil); err != nil {
			t.Errorf("%s: pull = %v, want it judged by the last good policy", tt.name, err)
		}
		if c := w.condition("PolicyEnforced"); c.Status || c.Reason != "PolicyBroken" || !strings.Contains(c.Message, "bundle.yaml") {
			t.Errorf("%s: PolicyEnforced = %v, want it false and the file named", tt.name, c)
		}
	}
	if err := w.StopDaemon(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, reason, rule string
		policy             map[string]string
	}{
		{"broken from the start", "PolicyBroken", "policy-broken", map[string]string{"node/bundle.yaml": "nonsense: ["}},
		{"none", "NoPolicy", "no-policy", nil},
	} {
		if err := w.SetPolicy(tt.policy); err != nil {
			t.Fatal(err)
		}
		if err := w.StartDaemon(w.ctx); err != nil {
			t.Fatal(err)
		}
		pod := w.Pod("default", "x")
		if _, err := w.Pull(w.ctx, image, pod); status.Code(err) != codes.Unknown || !strings.Contains(err.Error(), `rule "`+tt.rule+`"`) {
			t.Errorf("%s: pull = %v, want rule %s", tt.name, err, tt.rule)
		}
		if _, err := w.RunPod(w.ctx, pod); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: run pod = %v, want PermissionDenied", tt.name, err)
		}
		if c := w.condition("PolicyEnforced"); c.Status || c.Reason != tt.reason {
			t.Errorf("%s: PolicyEnforced = %v, want reason %s", tt.name, c, tt.reason)
		}
		if c := w.condition(cri.RuntimeReady); !c.Status {
			t.Errorf("%s: RuntimeReady = %v, want true", tt.name, c)
		}
		if tt.policy != nil {
			if err := w.StopDaemon(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (w *world) condition(name string) *cri.RuntimeCondition {
	w.t.Helper()
	r, err := w.Runtime.Status(w.ctx, &cri.StatusRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, c := range r.Status.Conditions {
		if c.Type == name {
			return c
		}
	}
	w.t.Fatalf("no condition %s", name)
	return nil
}

// Containers go on while the daemon is away; what ended meanwhile is known afterwards; what was only
// created needs a fresh admission, and gets it.
func TestRestart(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{})
	podID, id, pod := w.running(image, "stays", "/bin/sleep", "1000")
	_, brief, _ := w.running(image, "ends", "/bin/sh", "-c", "sleep 2; exit 5")
	c := node.Container("later", image, w.pulled(image, pod), "/bin/sleep", "1000")
	created, err := w.Create(w.ctx, podID, pod, c)
	if err != nil {
		t.Fatal(err)
	}
	before := w.state(id)
	if err := w.StopDaemon(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2500 * time.Millisecond)
	if err := w.StartDaemon(w.ctx); err != nil {
		t.Fatal(err)
	}
	if after := w.state(id); !proto.Equal(before, after) {
		t.Errorf("status after the restart = %v, want %v", after, before)
	}
	wait(t, "the exit code", func() bool {
		st := w.state(brief)
		return st.State == cri.ContainerState_CONTAINER_EXITED && st.ExitCode == 5
	})
	if err := w.Start(w.ctx, created); err != nil {
		t.Errorf("start what was created before the restart: %v", err)
	}
	if r, err := w.Runtime.ExecSync(w.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/true"}, Timeout: 10}); err != nil || r.ExitCode != 0 {
		t.Errorf("ExecSync() after the restart = %v, %v", r, err)
	}
	if err := w.StopDaemon(); err != nil {
		t.Fatal(err)
	}
	if err := w.SetPolicy(nil); err != nil {
		t.Fatal(err)
	}
	if err := w.StartDaemon(w.ctx); err != nil {
		t.Fatal(err)
	}
	if st := w.state(id); st.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("a running container ended when the policy went: %v", st)
	}
}

// A created container is not started under a policy that no longer admits it.
func TestStartAsksAgain(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{})
	podID, pod := w.pod("default", "again")
	id, err := w.Create(w.ctx, podID, pod, node.Container("main", image, w.pulled(image, pod), "/bin/sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	p := w.policy()
	open := p["node/policy.json"]
	p["node/policy.json"] = `{"default": [{"type": "reject"}]}`
	for _, tt := range []struct {
		json string
		want codes.Code
	}{{`{"default": [{"type": "reject"}]}`, codes.PermissionDenied}, {open, codes.OK}} {
		p["node/policy.json"] = tt.json
		if err := w.SetPolicy(p); err != nil {
			t.Fatal(err)
		}
		if err := w.Reload(); err != nil {
			t.Fatal(err)
		}
		if err := w.Start(w.ctx, id); status.Code(err) != tt.want {
			t.Errorf("StartContainer() = %v, want %s", err, tt.want)
		}
	}
}

func TestSecondDaemon(t *testing.T) {
	w := start(t, nil, "")
	out, err := exec.Command(filepath.Join(w.Bin, "sallyportd"), "--config", w.Path("sallyport.toml")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another sallyportd") || !strings.Contains(string(out), w.Path("root")) {
		t.Errorf("second daemon: %v: %s, want a refusal that names the root", err, out)
	}
	if _, err := w.Runtime.Version(w.ctx, &cri.VersionRequest{}); err != nil {
		t.Errorf("the first daemon no longer answers: %v", err)
	}
}

// A daemon that cannot do its work says so on one line and does not start.
func TestRefusesToStart(t *testing.T) {
	roottest.Need(t)
	w := prepare(t)
	old := filepath.Join(t.TempDir(), "runc")
	os.WriteFile(old, []byte("#!/bin/sh\ncase \"$*\" in *--version) echo runc version 1.1.5;; *) echo '{}';; esac\n"), 0o755)
	for _, tt := range []struct {
		name, config string
		want         []string
	}{
		{"unknown key", "[log]\nlevle = \"info\"\n", []string{"50-test.toml", "line 2", "log.levle"}},
		{"no runtime", "[runtime.handlers.runc]\npath = \"/nowhere/runc\"\n", []string{"runtime.handlers.runc.path", "/nowhere/runc"}},
		{"no conmon", "[runtime]\nconmon = \"/nowhere/conmon\"\n", []string{"runtime.conmon", "/nowhere/conmon"}},
		{"no init", "[runtime]\ninit = \"/nowhere/init\"\n", []string{"runtime.init", "/nowhere/init"}},
		{"exploitable runtime", "[runtime.handlers.runc]\npath = \"" + old + "\"\n", []string{"1.1.5", "runc", "runtime.handlers.runc.allow_unsafe_version"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, err := node.New(w.ctx, w.options(nil, tt.config))
			if err == nil {
				n.StopDaemon()
				t.Fatal("the daemon started")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
		})
	}
}

func TestNoNetwork(t *testing.T) {
	w := start(t, nil, "[network]\nconf_dir = \"/nowhere/net.d\"\n")
	if c := w.condition(cri.NetworkReady); c.Status || c.Message == "" {
		t.Errorf("NetworkReady = %v, want false with a message", c)
	}
	if c := w.condition(cri.RuntimeReady); !c.Status {
		t.Errorf("RuntimeReady = %v, want true", c)
	}
	if _, err := w.RunPod(w.ctx, w.Pod("default", "x")); err == nil {
		t.Error("RunPodSandbox() without a network = nil, want an error")
	}
}
