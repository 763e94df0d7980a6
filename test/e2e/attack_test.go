package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/audit"
	"sallyport/test/node"
)

// Our state, store and policy are ours under every name that the kernel has for them: through a link in
// a mount's path, and where the configured path itself goes through a link.
func TestControlPathsByOtherNames(t *testing.T) {
	real, via := filepath.Join(scratch, "real"), filepath.Join(scratch, "via")
	t.Cleanup(func() { os.RemoveAll(real); os.Remove(via) })
	if scratch != "" {
		os.MkdirAll(real, 0o755)
		os.Symlink(real, via)
	}
	w := start(t, nil, fmt.Sprintf("root = %q\n[image]\nauth_file = %q\n", via+"/root", via+"/auth.json"))
	podID, pod := w.pod("default", "names")
	image := w.push("open/app", v1.Config{})
	imageID := w.pulled(image, pod)
	data := w.Path("data")
	os.MkdirAll(data, 0o755)
	os.WriteFile(filepath.Join(real, "auth.json"), []byte("{}"), 0o600)
	for name, to := range map[string]string{"link": real + "/root", "policy": w.Path("policy"), "proc": "/proc/self/root" + real + "/root", "plain": data + "/there"} {
		os.Remove(filepath.Join(data, name))
		os.Symlink(to, filepath.Join(data, name))
	}
	os.MkdirAll(data+"/there", 0o755)
	for i, tt := range []struct {
		source string
		ok     bool
	}{
		{data, true},
		{data + "/there", true},
		{data + "/plain", true},
		{via + "/root", false},
		{real + "/root", false},
		{real + "/root/image", false},
		{real + "/root/audit", false},
		{real + "/auth.json", false},
		{real, false},
		{data + "/link", false},
		{data + "/link/audit", false},
		{data + "/policy", false},
		{data + "/policy/node", false},
		{data + "/../policy", false},
		{data + "/proc", false},
		{"/proc/1/root" + real + "/root", false},
		{"/proc/self/cwd", false},
		{"/run/" + filepath.Base(scratch), false},
		{"/var/run/" + filepath.Base(scratch) + ".sock", false},
		{"/", false},
		{"//", false},
		{"/.", false},
	} {
		c := node.Container(fmt.Sprintf("names-%d", i), image, imageID, "/bin/true")
		c.Mounts = []*cri.Mount{{ContainerPath: "/data", HostPath: tt.source, Readonly: true}}
		_, err := w.Create(w.ctx, podID, pod, c)
		if (err == nil) != tt.ok || err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("mount of %s = %v, want ok %t", tt.source, err, tt.ok)
		}
	}
}

// While a tenant swaps a directory of its volume for a link, nothing outside the floor is ever mounted.
func TestMountRace(t *testing.T) {
	w := start(t, nil, "")
	data := w.Path("data")
	os.RemoveAll(data)
	os.MkdirAll(data+"/spare", 0o755)
	os.WriteFile(data+"/spare/mine", []byte("mine"), 0o644)
	hidden := w.Path("hidden")
	os.MkdirAll(hidden, 0o755)
	os.WriteFile(hidden+"/secret", []byte(secret), 0o644)
	p := w.policy()
	p["node/hardening.yaml"] = "level: baseline\nhostPaths: [" + data + "]\n"
	if err := w.SetPolicy(p); err != nil {
		t.Fatal(err)
	}
	if err := w.Reload(); err != nil {
		t.Fatal(err)
	}
	podID, pod := w.pod("default", "race")
	image := w.push("open/app", v1.Config{})
	imageID := w.pulled(image, pod)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			os.Rename(data+"/spare", data+"/x")
			time.Sleep(time.Millisecond)
			os.Rename(data+"/x", data+"/spare")
			os.Symlink(hidden, data+"/x")
			time.Sleep(time.Millisecond)
			os.Remove(data + "/x")
		}
	}()
	mounted := 0
	for i := range 40 {
		c := node.Container(fmt.Sprintf("race-%d", i), image, imageID, "/bin/sh", "-c", "cat /data/*; echo over")
		c.Mounts = []*cri.Mount{{ContainerPath: "/data", HostPath: data + "/x"}}
		id, err := w.Create(w.ctx, podID, pod, c)
		if err != nil {
			continue
		}
		if err := w.Start(w.ctx, id); err == nil {
			w.Wait(w.ctx, id)
		}
		out, _ := w.ContainerLog(pod, c)
		if strings.Contains(out, secret) {
			t.Fatalf("round %d mounted what the floor does not admit", i)
		}
		if strings.Contains(out, "mine") {
			mounted++
		}
	}
	close(stop)
	<-done
	t.Logf("%d of 40 mounted the tenant's own directory", mounted)
}

// A container is refused for what its words try, each by one clean line; the plain twin runs. None of
// it stops the daemon, or is left.
func TestHostileContainers(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("signed/app", v1.Config{})
	other := w.push("open/evil", v1.Config{Labels: map[string]string{"evil": "1"}})
	w.running(other, "other", "/bin/sleep", "100000")
	_, foreign, _ := w.running(other, "foreign", "/bin/sleep", "100000")
	was := w.traces()
	podID, pod := w.pod("default", "hostile")
	imageID, otherID := w.pulled(image, pod), w.pulled(other, pod)
	fifo := w.Path("fifo")
	os.Remove(fifo)
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	many := func(n int, f func(i int)) {
		for i := range n {
			f(i)
		}
	}
	sec := func(c *cri.ContainerConfig) *cri.LinuxContainerSecurityContext { return c.Linux.SecurityContext }
	for _, tt := range []struct {
		name   string
		change func(*cri.ContainerConfig)
		ok     bool
	}{
		{"plain", func(*cri.ContainerConfig) {}, true},
		{"annotations that runtimes read", func(c *cri.ContainerConfig) {
			c.Annotations = map[string]string{"org.systemd.property.ExecStart": "'/bin/x'", "run.oci.hooks.stdout": "/etc/x", "io.kubernetes.cri-o.Unified": "memory.max=max",
				"cpu-quota.crio.io": "disable", "module.wasm.image/variant": "compat", "sallyport/namespace": "kube-system"}
		}, true},
		{"image of another, named as ours", func(c *cri.ContainerConfig) { c.Image = &cri.ImageSpec{Image: otherID, UserSpecifiedImage: image} }, false},
		{"image of another, by its digest under our name", func(c *cri.ContainerConfig) {
			c.Image = &cri.ImageSpec{Image: strings.Split(image, ":v1")[0] + "@" + otherID, UserSpecifiedImage: image}
		}, false},
		{"image name with a scheme", func(c *cri.ContainerConfig) { c.Image = &cri.ImageSpec{Image: "dir:/", UserSpecifiedImage: "dir:/"} }, false},
		{"image name that climbs", func(c *cri.ContainerConfig) { c.Image = &cri.ImageSpec{Image: w.host + "/signed/../open/evil:v1"} }, false},
		{"image name with a line break", func(c *cri.ContainerConfig) {
			c.Image = &cri.ImageSpec{Image: imageID, UserSpecifiedImage: image + "\n"}
		}, false},
		{"image by part of its ID", func(c *cri.ContainerConfig) { c.Image = &cri.ImageSpec{Image: "sha256:"} }, false},
		{"name of 5,000 bytes", func(c *cri.ContainerConfig) { c.Metadata.Name = strings.Repeat("n", 5000) }, false},
		{"name with a NUL", func(c *cri.ContainerConfig) { c.Metadata.Name = "a\x00b" }, false},
		{"log path that climbs", func(c *cri.ContainerConfig) { c.LogPath = "../../../escaped.log" }, false},
		{"absolute log path", func(c *cri.ContainerConfig) { c.LogPath = "/var/tmp/escaped.log" }, false},
		{"log path with a line break", func(c *cri.ContainerConfig) { c.LogPath = "a\nb.log" }, false},
		{"seccomp profile is a pipe", func(c *cri.ContainerConfig) {
			sec(c).Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: fifo}
		}, false},
		{"seccomp profile without end", func(c *cri.ContainerConfig) {
			sec(c).Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "/dev/zero"}
		}, false},
		{"uid beyond 32 bits", func(c *cri.ContainerConfig) { sec(c).RunAsUser = &cri.Int64Value{Value: 1 << 32} }, false},
		{"uid below zero", func(c *cri.ContainerConfig) { sec(c).RunAsUser = &cri.Int64Value{Value: -1} }, false},
		{"group beyond 32 bits", func(c *cri.ContainerConfig) { sec(c).SupplementalGroups = []int64{1 << 32} }, false},
		{"PID namespace of another pod", func(c *cri.ContainerConfig) {
			sec(c).NamespaceOptions.Pid, sec(c).NamespaceOptions.TargetId = cri.NamespaceMode_TARGET, foreign
		}, false},
		{"PIDs of the node", func(c *cri.ContainerConfig) { sec(c).NamespaceOptions.Pid = cri.NamespaceMode_NODE }, false},
		{"network of the node, which means the pod's", func(c *cri.ContainerConfig) { sec(c).NamespaceOptions.Network = cri.NamespaceMode_NODE }, true},
		{"IPC of the node, which means the pod's", func(c *cri.ContainerConfig) { sec(c).NamespaceOptions.Ipc = cri.NamespaceMode_NODE }, true},
		{"device", func(c *cri.ContainerConfig) {
			c.Devices = []*cri.Device{{HostPath: "/dev/kmsg", ContainerPath: "/dev/kmsg", Permissions: "rwm"}}
		}, false},
		{"ambient capability", func(c *cri.ContainerConfig) {
			sec(c).Capabilities = &cri.Capability{AddAmbientCapabilities: []string{"SYS_ADMIN"}}
		}, false},
		{"every capability", func(c *cri.ContainerConfig) { sec(c).Capabilities = &cri.Capability{AddCapabilities: []string{"ALL"}} }, false},
		{"mount over proc", func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{HostPath: w.Path("data"), ContainerPath: "/proc/sys"}}
		}, false},
		{"mount that climbs", func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{HostPath: w.Path("data"), ContainerPath: "/x/../../../proc"}}
		}, false},
		{"mount that spreads", func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{HostPath: w.Path("data"), ContainerPath: "/x", Propagation: cri.MountPropagation_PROPAGATION_BIDIRECTIONAL}}
		}, false},
		{"1,100 mounts", func(c *cri.ContainerConfig) {
			many(1100, func(i int) {
				c.Mounts = append(c.Mounts, &cri.Mount{HostPath: w.Path("data"), ContainerPath: fmt.Sprint("/m", i)})
			})
		}, false},
		{"environment of 8 MiB", func(c *cri.ContainerConfig) {
			many(64, func(i int) {
				c.Envs = append(c.Envs, &cri.KeyValue{Key: fmt.Sprint("K", i), Value: []byte(strings.Repeat("v", 128<<10))})
			})
		}, false},
		{"cgroup v2 key", func(c *cri.ContainerConfig) { c.Linux.Resources.Unified = map[string]string{"pids.max": "max"} }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := node.Container(strings.NewReplacer(" ", "-", ",", "").Replace(tt.name), image, imageID, "/bin/true")
			tt.change(c)
			begin := time.Now()
			id, err := w.Create(w.ctx, podID, pod, c)
			if err == nil {
				if err = w.Start(w.ctx, id); err == nil {
					_, err = w.Wait(w.ctx, id)
				}
			}
			if (err == nil) != tt.ok {
				t.Errorf("%v, want ok %t", err, tt.ok)
			}
			if msg := status.Convert(err).Message(); strings.ContainsAny(msg, "\n\x00\x1b") || len(msg) > 2048 {
				t.Errorf("the message %.3000q is no clean line", msg)
			}
			if took := time.Since(begin); took > 15*time.Second {
				t.Errorf("it took %s", took)
			}
			if status.Code(err) == codes.Internal {
				t.Errorf("%v: a fault in the daemon", err)
			}
		})
	}
	for _, path := range []string{"/var/tmp/escaped.log", filepath.Join(pod.LogDirectory, "../../../escaped.log")} {
		if _, err := os.Lstat(path); err == nil {
			os.Remove(path)
			t.Errorf("%s was made", path)
		}
	}
	if err := w.RemovePod(w.ctx, podID); err != nil {
		t.Error(err)
	}
	w.noTraces(was)
}

// A container that asks for the node's network or IPC in a pod that has its own gets the pod's.
func TestContainerStaysInItsPod(t *testing.T) {
	w := start(t, nil, "")
	podID, pod := w.pod("default", "stays-in")
	image := w.push("open/app", v1.Config{})
	c := node.Container("main", image, w.pulled(image, pod), "/bin/sleep", "100000")
	o := c.Linux.SecurityContext.NamespaceOptions
	o.Network, o.Ipc = cri.NamespaceMode_NODE, cri.NamespaceMode_NODE
	id, err := w.Create(w.ctx, podID, pod, c)
	if err == nil {
		err = w.Start(w.ctx, id)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"net", "ipc", "uts", "pid", "mnt"} {
		ours, err1 := os.Readlink("/proc/self/ns/" + kind)
		its, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", w.pid(id), kind))
		if err1 != nil || err2 != nil || ours == its {
			t.Errorf("%s namespace of the container = %q, %v, of the node %q, %v", kind, its, err2, ours, err1)
		}
	}
}

// The same for pods.
func TestHostilePods(t *testing.T) {
	w := start(t, nil, "")
	was := w.traces()
	labels := map[string]string{}
	for i := range 3000 {
		labels[fmt.Sprint("k", i)] = strings.Repeat("v", 3<<10)
	}
	for _, tt := range []struct {
		name   string
		change func(*cri.PodSandboxConfig)
		ok     bool
	}{
		{"plain", func(*cri.PodSandboxConfig) {}, true},
		{"namespace with a slash", func(c *cri.PodSandboxConfig) { c.Metadata.Namespace = "../node" }, false},
		{"namespace with a line break", func(c *cri.PodSandboxConfig) { c.Metadata.Namespace = "strict\n" }, false},
		{"namespace in capitals", func(c *cri.PodSandboxConfig) { c.Metadata.Namespace = "STRICT" }, false},
		{"listed namespace with a dot", func(c *cri.PodSandboxConfig) { c.Metadata.Namespace = "./strict" }, false},
		{"hostname with a line break", func(c *cri.PodSandboxConfig) { c.Hostname = "a\n127.0.0.1 registry" }, false},
		{"DNS option with a line break", func(c *cri.PodSandboxConfig) {
			c.DnsConfig = &cri.DNSConfig{Options: []string{"ndots:5\nnameserver 6.6.6.6"}}
		}, false},
		{"DNS", func(c *cri.PodSandboxConfig) {
			c.DnsConfig = &cri.DNSConfig{Servers: []string{"10.0.0.10"}, Options: []string{"ndots:5"}}
		}, true},
		{"sysctl", func(c *cri.PodSandboxConfig) {
			c.Linux.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "80"}
		}, true},
		{"sysctl value with a second one (CVE-2022-0811)", func(c *cri.PodSandboxConfig) {
			c.Linux.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "80+kernel.core_pattern=|/x"}
		}, false},
		{"sysctl that climbs", func(c *cri.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"net/../kernel/core_pattern": "x"} }, false},
		{"sysctl of the node's network (CVE-2022-0532)", func(c *cri.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
			c.Linux.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "80"}
		}, false},
		{"host PIDs", func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_NODE }, false},
		{"port out of range", func(c *cri.PodSandboxConfig) {
			c.PortMappings = []*cri.PortMapping{{HostPort: 70000, ContainerPort: 80}}
		}, false},
		{"host IP that is none", func(c *cri.PodSandboxConfig) {
			c.PortMappings = []*cri.PortMapping{{HostPort: 8080, ContainerPort: 80, HostIp: "1.2.3.4; reboot"}}
		}, false},
		{"labels of 9 MiB", func(c *cri.PodSandboxConfig) { c.Labels = labels }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := w.Pod("default", "p")
			tt.change(cfg)
			id, err := w.RunPod(w.ctx, cfg)
			if (err == nil) != tt.ok {
				t.Errorf("RunPodSandbox() = %v, want ok %t", err, tt.ok)
			}
			if msg := status.Convert(err).Message(); strings.ContainsAny(msg, "\n\x00\x1b") || len(msg) > 2048 || status.Code(err) == codes.Internal {
				t.Errorf("the message %.3000q is no clean line, or a fault", msg)
			}
			if err == nil {
				if err := w.RemovePod(w.ctx, id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	w.noTraces(was)
	if err := w.StopDaemon(); err != nil {
		t.Error(err)
	}
	if r, err := audit.Verify(w.Path("root/audit")); err != nil {
		t.Errorf("audit log: %v, %v", r, err)
	}
	if err := w.StartDaemon(w.ctx); err != nil {
		t.Fatal(err)
	}
}
