package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/test/node"
)

const inside, outside = 65536, 200000 // IDs of a pod's user namespace, and where they lie on the node

func idMap() []*cri.IDMapping {
	return []*cri.IDMapping{{ContainerId: 0, HostId: outside, Length: inside}}
}

func userNamespace() *cri.UserNamespace {
	return &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: idMap(), Gids: idMap()}
}

// withUsers makes a pod and a container of it that have a user namespace.
func (w *world) withUsers(name, image string, script string, change func(*cri.PodSandboxConfig, *cri.ContainerConfig)) (podID, id string, pod *cri.PodSandboxConfig, c *cri.ContainerConfig, err error) {
	w.t.Helper()
	pod = w.Pod("default", name)
	pod.Linux.SecurityContext.NamespaceOptions.UsernsOptions = userNamespace()
	c = node.Container("main", image, w.pulled(image, pod), "/bin/sh", "-c", script)
	c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = userNamespace()
	if change != nil {
		change(pod, c)
	}
	if podID, err = w.RunPod(w.ctx, pod); err != nil {
		return
	}
	if id, err = w.Create(w.ctx, podID, pod, c); err != nil {
		return
	}
	err = w.Start(w.ctx, id)
	return
}

func owner(t *testing.T, path string) [2]uint32 {
	t.Helper()
	st, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	s := st.Sys().(*syscall.Stat_t)
	return [2]uint32{s.Uid, s.Gid}
}

// volume is a directory on the node that root owns.
func (w *world) volume(name string) string {
	w.t.Helper()
	dir := w.Path(name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.WriteFile(filepath.Join(dir, "of-root"), []byte("data"), 0o644); err != nil {
		w.t.Fatal(err)
	}
	return dir
}

// TestUserNamespace: inside, the container is root of its image and volumes; outside, it is nobody, and
// its files belong to its own range. A volume without a map shows as nobody's and cannot be written.
func TestUserNamespace(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/users", v1.Config{})
	mapped, plain := w.volume("mapped"), w.volume("plain")
	_, id, pod, c, err := w.withUsers("users", image, `
		exec 2>&1; echo "map $(cat /proc/self/uid_map)"; id -u
		echo "bin $(busybox stat -c %u:%g /bin/busybox)"; echo "root $(busybox stat -c %u:%g /)"
		echo "hosts $(busybox stat -c %u /etc/resolv.conf)"; echo "shm $(busybox stat -c %u /dev/shm)"
		echo "mapped $(busybox stat -c %u:%g /mapped/of-root)"; echo "plain $(busybox stat -c %u:%g /plain/of-root)"
		touch /made /mapped/made && busybox chown 1000:1000 /made && echo made
		touch /plain/made || echo refused
		cat /etc/hostname > /dev/null && grep -q mqueue /proc/mounts && grep -q sysfs /proc/mounts && echo mounts
		echo x > /dev/stdout; hostname; sleep 1000`, func(_ *cri.PodSandboxConfig, c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{
			{ContainerPath: "/mapped", HostPath: mapped, UidMappings: idMap(), GidMappings: idMap()},
			{ContainerPath: "/plain", HostPath: plain},
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`map +0 +%d +%d
0
bin 0:0
root 0:0
hosts 0
shm 0
mapped 0:0
plain 65534:65534
made
.*plain/made: Permission denied
refused
mounts
x
users
`, outside, inside)
	var text string
	wait(t, "the log", func() bool {
		text, _ = w.ContainerLog(pod, c)
		return strings.Contains(text, "users\n")
	})
	if !regexp.MustCompile("^" + want + "$").MatchString(text) {
		t.Errorf("inside: %s\nwant %s", text, want)
	}
	pid := w.pid(id)
	if got := owner(t, fmt.Sprintf("/proc/%d", pid)); got != [2]uint32{outside, outside} {
		t.Errorf("the process runs as %v on the node, want %d", got, outside)
	}
	root := w.Path("root/image/containers/" + id)
	for path, want := range map[string][2]uint32{
		root + "/upper/made":         {outside + 1000, outside + 1000},
		root + "/upper":              {outside, outside},
		mapped + "/made":             {0, 0},
		mapped + "/of-root":          {0, 0},
		root + "/merged/bin/busybox": {outside, outside},
	} {
		if got := owner(t, path); got != want {
			t.Errorf("owner of %s on the node = %v, want %v", path, got, want)
		}
	}
	state := filepath.Join("/run", filepath.Base(scratch), "sandbox")
	for path, want := range map[string]os.FileMode{state: 0o711, state + "/containers": 0o711, state + "/containers/" + id: 0o710, state + "/keys": 0o700} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != want {
			t.Errorf("mode of %s = %v, %v, want %v", path, st.Mode(), err, want)
		}
	}
	if got := owner(t, state+"/containers/"+id); got != [2]uint32{0, outside} {
		t.Errorf("owner of the runtime bundle = %v, want root and the pod's own group", got)
	}
	layers, _ := filepath.Glob(w.Path("root/image/storage/overlay/*/diff/bin/busybox"))
	if len(layers) == 0 || owner(t, layers[0]) != [2]uint32{} {
		t.Errorf("owner of the layer's file = %v, want root, untouched", layers)
	}
	if left, _ := os.ReadDir(root + "/lower"); len(left) > 0 {
		t.Errorf("layers left mounted: %v", left)
	}
	out, err := w.Runtime.ExecSync(w.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/sh", "-c", "id -u; cat /made && touch /exec && busybox stat -c %u /exec"}, Timeout: 10})
	if err != nil || string(out.Stdout) != "0\n0\n" {
		t.Errorf("ExecSync() = %q, %v", out.GetStdout(), err)
	}
}

// TestUserNamespaceShapes: with a shared PID namespace, and on the node's network, where it gets the
// node's sysfs, read-only.
func TestUserNamespaceShapes(t *testing.T) {
	w := start(t, map[string]string{"node/hardening.yaml": "level: baseline\nhostNetwork: allow\n"}, "")
	image := w.push("open/users", v1.Config{})
	for name, tt := range map[string]struct {
		change func(*cri.PodSandboxConfig, *cri.ContainerConfig)
		script string
		want   string
	}{
		"shared PIDs": {func(p *cri.PodSandboxConfig, c *cri.ContainerConfig) {
			p.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
			c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
		}, "cat /proc/1/comm; id -u", "sallyport-init\n0\n"},
		"host network": {func(p *cri.PodSandboxConfig, c *cri.ContainerConfig) {
			p.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
			c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
		}, "id -u; test -e /sys/class/net/lo && echo sys; grep ' /sys ' /proc/mounts | busybox cut -d' ' -f3,4 | busybox cut -d, -f1; mkdir /sys/fs/cgroup/x || echo refused", "0\nsys\nsysfs ro\n"},
		"sysctl": {func(p *cri.PodSandboxConfig, c *cri.ContainerConfig) {
			p.Linux.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "1000", "kernel.shm_rmid_forced": "1"}
		}, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced", "1000\n1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			_, id, pod, c, err := w.withUsers(strings.ReplaceAll(strings.ToLower(name), " ", "-"), image, tt.script, tt.change)
			if err != nil {
				t.Fatal(err)
			}
			if st, err := w.Wait(w.ctx, id); err != nil || st.State != cri.ContainerState_CONTAINER_EXITED {
				t.Fatal(st, err)
			}
			if text, _ := w.ContainerLog(pod, c); !strings.HasPrefix(text, tt.want) {
				t.Errorf("inside: %s\nwant %s", text, tt.want)
			}
		})
	}
}

// TestUserNamespaceDenied: each with its twin in TestUserNamespace, which differs in that one fact.
func TestUserNamespaceDenied(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/users", v1.Config{})
	dir := w.volume("mapped")
	r, err := w.Runtime.Status(w.ctx, &cri.StatusRequest{})
	if err != nil || !r.RuntimeHandlers[0].Features.UserNamespaces || !r.Features.UserNamespacesHostNetwork {
		t.Fatalf("Status() = %v, %v, want user namespaces", r, err)
	}
	for name, tt := range map[string]struct {
		change func(*cri.PodSandboxConfig, *cri.ContainerConfig)
		code   codes.Code
		want   string
	}{
		"the node's root": {func(p *cri.PodSandboxConfig, _ *cri.ContainerConfig) {
			p.Linux.SecurityContext.NamespaceOptions.UsernsOptions.Uids[0].HostId = 0
		}, codes.PermissionDenied, `"P07 ID mappings"`},
		"no map": {func(p *cri.PodSandboxConfig, _ *cri.ContainerConfig) {
			p.Linux.SecurityContext.NamespaceOptions.UsernsOptions.Gids = nil
		}, codes.PermissionDenied, `"P07 ID mappings"`},
		"host network": {func(p *cri.PodSandboxConfig, _ *cri.ContainerConfig) {
			p.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
		}, codes.PermissionDenied, `"P01 host network"`},
		"volume mapped otherwise": {func(_ *cri.PodSandboxConfig, c *cri.ContainerConfig) {
			m := idMap()
			m[0].HostId++
			c.Mounts = []*cri.Mount{{ContainerPath: "/mapped", HostPath: dir, UidMappings: m, GidMappings: m}}
		}, codes.Unknown, "not those of the pod"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, _, _, err := w.withUsers("denied", image, "true", tt.change)
			if status.Code(err) != tt.code || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s and %s", err, tt.code, tt.want)
			}
		})
	}
}
