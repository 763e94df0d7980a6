package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/audit"
	"sallyport/test/node"
	"sallyport/test/roottest"
	"sallyport/test/sigkit"
)

// saidSince is what the daemon wrote to its log after the first n bytes.
func saidSince(n int64) string {
	b, err := os.ReadFile(filepath.Join(scratch, "daemon.log"))
	if err != nil || int64(len(b)) < n {
		return ""
	}
	return string(b[n:])
}

func logSize() int64 {
	st, err := os.Stat(filepath.Join(scratch, "daemon.log"))
	if err != nil {
		return 0
	}
	return st.Size()
}

// A daemon that cannot do its work says which field of which file, or which program, on one line, and
// leaves no socket and no half-made state. The twin with nothing wrong starts on the same directories.
func TestBadConfiguration(t *testing.T) {
	roottest.Need(t)
	w := prepare(t)
	dir := t.TempDir()
	write := func(name string, mode os.FileMode, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		os.Chmod(path, mode)
		return path
	}
	noSeccomp := write("runc", 0o755, "#!/bin/sh\ncase \"$*\" in *--version) printf 'runc version 1.5.2\\nspec: 1.3.0\\n';; *features*) echo '{\"ociVersionMin\":\"1.0.0\",\"ociVersionMax\":\"1.3.0\",\"linux\":{\"namespaces\":[\"mount\"]}}';; esac\n")
	notConmon := write("conmon", 0o755, "#!/bin/sh\nexit 0\n")
	plain := write("plain", 0o644, "x")
	for _, tt := range []struct {
		name, config string
		want         []string // all on the one line
	}{
		{"unknown key", "[log]\nlevle = \"info\"\n", []string{"50-test.toml: line 2: unknown key \"log.levle\""}},
		{"unknown table", "[polcy]\ndir = \"/x\"\n", []string{"50-test.toml: line 1: unknown key \"polcy\""}},
		{"wrong type", "[limits]\npids = \"many\"\n", []string{"50-test.toml: toml: line 2", "limits.pids"}},
		{"syntax", "[limits\n", []string{"50-test.toml: line 2: expected"}},
		{"value out of range", "[limits]\npids = -1\n", []string{"limits.pids", "-1"}},
		{"relative path", "root = \"var\"\n", []string{"root", "\"var\""}},
		{"unknown policy source", "[policy]\nsource = \"none\"\n", []string{"policy.source", "\"none\"", "local-unsigned"}},
		{"no runtime", "[runtime.handlers.runc]\npath = \"/nowhere/runc\"\n", []string{"runtime.handlers.runc.path", "no program /nowhere/runc"}},
		{"runtime cannot run", "[runtime.handlers.runc]\npath = \"" + plain + "\"\n", []string{"runtime.handlers.runc.path", plain}},
		{"runtime without seccomp", "[runtime.handlers.runc]\npath = \"" + noSeccomp + "\"\n", []string{"seccomp"}},
		{"second handler is missing", "[runtime.handlers.crun]\npath = \"/nowhere/crun\"\n", []string{"runtime.handlers.crun.path", "no program /nowhere/crun"}},
		{"default handler unknown", "[runtime]\ndefault = \"kata\"\n", []string{"runtime.default", "\"kata\""}},
		{"no conmon", "[runtime]\nconmon = \"/nowhere/conmon\"\n", []string{"runtime.conmon", "no program /nowhere/conmon"}},
		{"conmon is another program", "[runtime]\nconmon = \"" + notConmon + "\"\n", []string{"conmon", notConmon}},
		{"no init", "[runtime]\ninit = \"/nowhere/init\"\n", []string{"runtime.init", "no program /nowhere/init"}},
		{"registries.conf is broken", "[image]\nregistries_conf = \"" + write("registries.conf", 0o644, "[[registry]]\nlocaton = \"x\"\n\x00") + "\"\n", []string{"registries.conf"}},
		{"socket path is a file", "[cri]\nsocket = \"" + plain + "\"\n", []string{plain, "is no socket"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := w.options(nil, tt.config)
			before := logSize()
			n, err := node.New(w.ctx, o)
			if err == nil {
				n.StopDaemon()
				t.Fatal("the daemon started")
			}
			var said []string
			for line := range strings.Lines(saidSince(before)) {
				if !strings.HasPrefix(line, "time=") {
					said = append(said, line)
				}
			}
			if len(said) != 1 || !strings.HasPrefix(said[0], "sallyportd: ") {
				t.Fatalf("it said %q, want one line", said)
			}
			for _, want := range tt.want {
				if !strings.Contains(said[0], want) {
					t.Errorf("it said %q, want %q in it", said[0], want)
				}
			}
			if len(said[0]) > 500 {
				t.Errorf("the line has %d bytes", len(said[0]))
			}
			for _, sock := range []string{"/run/" + filepath.Base(scratch) + ".sock"} {
				if _, err := os.Lstat(sock); err == nil {
					t.Errorf("%s was left", sock)
				}
			}
			os.RemoveAll(filepath.Join(scratch, "sallyport.toml.d"))
			o.Config = ""
			if n, err = node.New(w.ctx, o); err != nil {
				t.Fatalf("the twin on the same directories: %v", err)
			}
			if err := n.StopDaemon(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A policy that cannot be meant denies everything by name of file and line, and the twin admits.
func TestBadPolicy(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{})
	good := w.policy()
	key := good["node/requirements.yaml"]
	for _, tt := range []struct {
		name, file, text string
		want             string
	}{
		{"syntax", "node/requirements.yaml", "policies:\n- name: a\n  images: [\n", "requirements.yaml: line"},
		{"unknown field", "node/requirements.yaml", strings.Replace(key, "authorities:", "autorities:", 1), "requirements.yaml: line 5: unknown field \"autorities\""},
		{"broken key", "node/requirements.yaml", strings.Replace(key, "-----BEGIN", "-----BEGUN", 1), "requirements.yaml: policies[0].authorities[0].key"},
		{"missing key file", "node/requirements.yaml", "policies:\n- name: a\n  images: [{glob: \"**\"}]\n  authorities: [{key: {file: gone.pub}}]\n", "gone.pub"},
		{"key file outside", "node/requirements.yaml", "policies:\n- name: a\n  images: [{glob: \"**\"}]\n  authorities: [{key: {file: ../../../etc/passwd}}]\n", "../../../etc/passwd"},
		{"contradiction", "node/policy.json", fmt.Sprintf(`{"default": [{"type": "reject"}], "transports": {"docker": {"%s/signed": [{"type": "reject"}]}}}`, w.host), "contradict each other"},
		{"policy.json is no JSON", "node/policy.json", "{", "policy.json"},
		{"policy.json with an unknown type", "node/policy.json", `{"default": [{"type": "allow"}]}`, "policy.json"},
		{"Rego syntax", "node/rego/exec.rego", "package sallyport.exec\n\ndeny contains {\n", "exec.rego"},
		{"Rego misspelt field", "node/rego/exec.rego", "package sallyport.exec\n\ndeny contains {\"rule\": \"a\", \"msg\": \"b\"} if input.exec.argvv[0] == \"x\"\n", "exec.rego"},
		{"hardening", "node/hardening.yaml", "level: medium\n", "hardening.yaml"},
		{"unknown file", "node/requirement.yaml", "policies: []\n", "requirement.yaml"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, text := range []string{tt.text, good[tt.file]} {
				if err := w.StopDaemon(); err != nil {
					t.Fatal(err)
				}
				files := w.policyFrom(good)
				delete(files, tt.file)
				if text != "" {
					files[tt.file] = text
				}
				if err := w.SetPolicy(files); err != nil {
					t.Fatal(err)
				}
				if err := w.StartDaemon(w.ctx); err != nil {
					t.Fatal(err)
				}
				_, err := w.Pull(w.ctx, image, nil)
				if text != tt.text {
					if err != nil {
						t.Errorf("with the good file: pull = %v", err)
					}
					continue
				}
				if status.Code(err) != codes.Unknown || !strings.Contains(err.Error(), `rule "policy-broken"`) || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
					t.Errorf("pull = %v, want one line, by rule policy-broken, with %q", err, tt.want)
				}
				if c := w.condition("PolicyEnforced"); c.Status || !strings.Contains(c.Message, tt.want) || strings.Contains(c.Message, "\n") {
					t.Errorf("PolicyEnforced = %v, want it false with %q", c, tt.want)
				}
			}
		})
	}
}

func (w *world) policyFrom(m map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range m {
		out[k] = v
	}
	return out
}

// Without a plugin that the network needs, pods are refused by its name, and NetworkReady says it too.
func TestMissingPlugin(t *testing.T) {
	bin := t.TempDir()
	w := start(t, nil, "[network]\nbin_dirs = [\""+bin+"\"]\n")
	if c := w.condition(cri.NetworkReady); c.Status || !strings.Contains(c.Message, "bridge") || strings.Contains(c.Message, "\n") {
		t.Errorf("NetworkReady = %v, want it false and the plugin named", c)
	}
	was := w.traces()
	pod := w.Pod("default", "x")
	if _, err := w.RunPod(w.ctx, pod); err == nil || !strings.Contains(err.Error(), "bridge") || strings.Contains(err.Error(), "\n") {
		t.Errorf("RunPodSandbox() = %v, want one line that names bridge", err)
	}
	for _, plugin := range []string{"bridge", "host-local"} {
		if err := os.Symlink(roottest.Binary(t, plugin), filepath.Join(bin, plugin)); err != nil {
			t.Fatal(err)
		}
	}
	id, err := w.RunPod(w.ctx, pod)
	if err != nil {
		t.Fatalf("the retry with the plugins there: %v", err)
	}
	if err := w.RemovePod(w.ctx, id); err != nil {
		t.Error(err)
	}
	w.noTraces(was)
}

// A registry that wants a password, answers nonsense or never answers: each by name, and nothing stored.
func TestBadRegistry(t *testing.T) {
	roottest.Need(t)
	w := prepare(t)
	inner := w.registry.Config.Handler
	release := make(chan struct{})
	img, err := sigkit.Image(sigkit.ImageOptions{})
	if err != nil {
		t.Fatal(err)
	}
	good, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	const manifest = "application/vnd.oci.image.manifest.v1+json"
	serve := func(rw http.ResponseWriter, contentType, body string) {
		rw.Header().Set("Content-Type", contentType)
		fmt.Fprint(rw, body)
	}
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		isManifest := strings.Contains(r.URL.Path, "/manifests/v1")
		switch {
		case strings.Contains(r.URL.Path, "/hangs/"):
			select {
			case <-release:
			case <-r.Context().Done():
			}
		case strings.Contains(r.URL.Path, "/locked/"):
			if user, pass, _ := r.BasicAuth(); user != "ann" || pass != "right" {
				rw.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				http.Error(rw, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
				return
			}
			inner.ServeHTTP(rw, r)
		case isManifest && strings.Contains(r.URL.Path, "/huge/"):
			serve(rw, manifest, strings.Replace(string(good), "{", `{"annotations":{"a":"`+strings.Repeat("x", 8<<20)+`"},`, 1))
		case isManifest && strings.Contains(r.URL.Path, "/type/"):
			serve(rw, "application/vnd.docker.distribution.manifest.v1+json", `{"schemaVersion":1,"fsLayers":[]}`)
		case isManifest && strings.Contains(r.URL.Path, "/both/"):
			serve(rw, manifest, strings.Replace(string(good), "{", `{"manifests":[],`, 1))
		case isManifest && strings.Contains(r.URL.Path, "/broken/"):
			http.Error(rw, "\x1b[2Jout of\norder", http.StatusInternalServerError)
		default:
			inner.ServeHTTP(rw, r)
		}
	}))
	t.Cleanup(front.Close)
	t.Cleanup(func() { close(release) })
	w.host = sigkit.Host(front)
	n, err := node.New(w.ctx, w.options(nil, "[timeout]\npull = \"3s\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	w.Node = n
	t.Cleanup(func() { n.StopDaemon() })
	for _, name := range []string{"open/locked/app", "open/fine"} {
		if _, err := sigkit.Push(sigkit.Host(w.registry)+"/"+name+":v1", img); err != nil {
			t.Fatal(err)
		}
	}
	down := httptest.NewServer(nil)
	down.Close()
	for _, tt := range []struct {
		name, image, user, pass string
		code                    codes.Code
		want                    []string
	}{
		{"wrong password", w.host + "/open/locked/app:v1", "ann", "wrong", codes.Unknown, []string{"open/locked/app", "401"}},
		{"no password", w.host + "/open/locked/app:v1", "", "", codes.Unknown, []string{"open/locked/app", "401"}},
		{"down", sigkit.Host(down) + "/open/app:v1", "", "", codes.Unknown, []string{"RegistryUnavailable", sigkit.Host(down)}},
		{"hangs", w.host + "/open/hangs/app:v1", "", "", codes.Unknown, []string{"RegistryUnavailable", "open/hangs/app"}},
		{"broken", w.host + "/open/broken/app:v1", "", "", codes.Unknown, []string{"RegistryUnavailable", "500"}},
		{"too big", w.host + "/open/huge/app:v1", "", "", codes.Unknown, []string{"open/huge/app", "manifest", "too large"}},
		{"wrong media type", w.host + "/open/type/app:v1", "", "", codes.Unknown, []string{"open/type/app", "media type"}},
		{"both layers and manifests", w.host + "/open/both/app:v1", "", "", codes.Unknown, []string{"open/both/app", "manifests"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			begin := time.Now()
			_, err := w.Images.PullImage(w.ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: tt.image}, Auth: &cri.AuthConfig{Username: tt.user, Password: tt.pass}})
			if status.Code(err) != tt.code || time.Since(begin) > 20*time.Second {
				t.Errorf("PullImage() = %v after %s, want %s", err, time.Since(begin), tt.code)
			}
			msg := status.Convert(err).Message()
			for _, want := range tt.want {
				if !strings.Contains(msg, want) {
					t.Errorf("message %q lacks %q", msg, want)
				}
			}
			if strings.ContainsAny(msg, "\n\x1b") || tt.pass != "" && strings.Contains(msg, tt.pass) || len(msg) > 1024 {
				t.Errorf("message %q is no clean line, or tells the password", msg)
			}
			list, err := w.Images.ListImages(w.ctx, &cri.ListImagesRequest{})
			if err != nil || len(list.Images) != 0 {
				t.Errorf("ListImages() = %v, %v, want none", list, err)
			}
		})
	}
	for _, tt := range []struct{ image, user, pass string }{{w.host + "/open/locked/app:v1", "ann", "right"}, {w.host + "/open/fine:v1", "", ""}} {
		if _, err := w.Images.PullImage(w.ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: tt.image}, Auth: &cri.AuthConfig{Username: tt.user, Password: tt.pass}}); err != nil {
			t.Errorf("the twin %s: %v", tt.image, err)
		}
	}
}

// On a full disk a pull fails by name and leaves nothing, nothing is admitted, and what runs runs on;
// with room again everything works and the audit log verifies.
func TestFullDisk(t *testing.T) {
	roottest.Need(t)
	w := prepare(t)
	o := w.options(nil, "")
	root := filepath.Join(scratch, "root")
	if err := os.MkdirAll(root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("small", root, "tmpfs", 0, "mode=0700,size=40m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(root, unix.MNT_DETACH) })
	n, err := node.New(w.ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	w.Node = n
	t.Cleanup(func() { w.clear(); n.StopDaemon() })
	_, stays, pod := w.running(w.push("open/app", v1.Config{}), "stays", "/bin/sleep", "100000")
	was := w.traces()
	big, err := sigkit.Image(sigkit.ImageOptions{NoBusybox: true, Pad: 60 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sigkit.Push(w.host+"/open/big:v1", big); err != nil {
		t.Fatal(err)
	}
	if _, err = w.Pull(w.ctx, w.host+"/open/big:v1", nil); err == nil || !strings.Contains(err.Error(), "no space left on device") || strings.Contains(err.Error(), "\n") {
		t.Errorf("PullImage(big) = %v, want one line that says no space is left", err)
	}
	list, err := w.Images.ListImages(w.ctx, &cri.ListImagesRequest{})
	if err != nil || len(list.Images) != 1 {
		t.Errorf("ListImages() = %v, %v, want the one that was there", list, err)
	}
	var fs unix.Statfs_t
	unix.Statfs(root, &fs)
	if free := fs.Bavail * uint64(fs.Bsize); free < 20<<20 {
		t.Errorf("the failed pull left the disk with %d bytes free", free)
	}
	fill := filepath.Join(root, "fill")
	f, err := os.Create(fill)
	if err != nil {
		t.Fatal(err)
	}
	for b := make([]byte, 4096); err == nil; _, err = f.Write(b) {
	}
	f.Close()
	image := w.host + "/open/app:v1"
	for range 300 { // until the record's segment has no room either
		if _, err = w.RunPod(w.ctx, w.Pod("default", "full")); err != nil {
			break
		}
	}
	if err == nil || !strings.Contains(err.Error(), "no space left on device") || strings.Contains(err.Error(), "\n") {
		t.Errorf("RunPodSandbox(disk full) = %v, want one line that says no space is left", err)
	}
	if _, err := w.Create(w.ctx, w.podOf(stays), pod, node.Container("more", image, image, "/bin/true")); status.Code(err) != codes.Unavailable {
		t.Errorf("CreateContainer(disk full) = %v, want Unavailable", err)
	}
	_, err = w.Runtime.ExecSync(w.ctx, &cri.ExecSyncRequest{ContainerId: stays, Cmd: []string{"/bin/true"}, Timeout: 5})
	if c := status.Code(err); c != codes.Unavailable {
		t.Errorf("ExecSync(disk full) = %v, want Unavailable: no exit code and no DeadlineExceeded, which fail a probe", err)
	}
	if c := w.condition("PolicyEnforced"); c.Status {
		t.Errorf("PolicyEnforced = %v with an audit log that cannot be written", c)
	}
	if st := w.state(stays); st.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("what ran is %v", st)
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	wait(t, "the daemon to admit again", func() bool {
		id, err := w.RunPod(w.ctx, w.Pod("default", "again"))
		return err == nil && w.RemovePod(w.ctx, id) == nil
	})
	w.clearBut("stays")
	w.noTraces(was)
	if err := n.StopDaemon(); err != nil {
		t.Error(err)
	}
	if r, err := audit.Verify(w.Path("root/audit")); err != nil {
		t.Errorf("audit log: %v, %v", r, err)
	}
	if err := n.StartDaemon(w.ctx); err != nil {
		t.Fatal(err)
	}
}

// On a disk that came back read-only the daemon does not start, and says so on one line; what runs runs
// on, and is taken over when the disk can be written.
func TestReadOnlyDisk(t *testing.T) {
	w := start(t, nil, "")
	_, stays, _ := w.running(w.push("open/app", v1.Config{}), "stays", "/bin/sleep", "100000")
	before, was, pid := w.state(stays), w.traces(), w.pid(stays)
	if err := w.StopDaemon(); err != nil {
		t.Fatal(err)
	}
	root := w.Path("root")
	if err := unix.Mount(root, root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(root, unix.MNT_DETACH) })
	if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	log := logSize()
	if err := w.StartDaemon(w.ctx); err == nil {
		t.Fatal("the daemon started on a read-only disk")
	}
	if said := saidSince(log); strings.Count(said, "\n") != 1 || !strings.Contains(said, root) || !strings.Contains(said, "read-only file system") {
		t.Errorf("it said %q, want one line that names %s", said, root)
	}
	if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err != nil || strings.TrimSpace(string(comm)) != "sleep" {
		t.Errorf("what ran is %q, %v", comm, err)
	}
	if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := w.StartDaemon(w.ctx); err != nil {
		t.Fatal(err)
	}
	if after := w.state(stays); !proto.Equal(before, after) {
		t.Errorf("what ran before is now %v, was %v", after, before)
	}
	w.noTraces(was)
}

// podOf is the pod of a container.
func (w *world) podOf(id string) string {
	w.t.Helper()
	r, err := w.Runtime.ListContainers(w.ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{Id: id}})
	if err != nil || len(r.Containers) != 1 {
		w.t.Fatalf("ListContainers(%s) = %v, %v", id, r, err)
	}
	return r.Containers[0].PodSandboxId
}
