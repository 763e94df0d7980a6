package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pods numbers the pods of this process: nodes that follow one another share a log directory.
var pods atomic.Int64

// Pod is the configuration of a fresh pod as a kubelet would send it for a pod that asks nothing: it
// cannot say "unset", so it sends namespace modes POD and user namespace mode NODE.
func (n *Node) Pod(namespace, name string) *cri.PodSandboxConfig {
	uid := fmt.Sprintf("00000000-0000-4000-8000-%012d", pods.Add(1))
	logs := n.Path(filepath.Join("logs", namespace+"_"+name+"_"+uid))
	_ = os.MkdirAll(logs, 0o755)
	return &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Namespace: namespace, Name: name, Uid: uid},
		Hostname:     name,
		LogDirectory: logs,
		Labels:       map[string]string{"io.kubernetes.pod.namespace": namespace, "io.kubernetes.pod.name": name, "io.kubernetes.pod.uid": uid},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: CgroupParent(n.Scratch) + "/pod" + uid,
			SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_POD, Pid: cri.NamespaceMode_CONTAINER, Ipc: cri.NamespaceMode_POD, UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_NODE}},
				Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined},
			},
		},
	}
}

// Container is the configuration of a container that runs command, as a kubelet sends it for a
// container that asks nothing.
func Container(name, image, imageID string, command ...string) *cri.ContainerConfig {
	return &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name},
		Image:    &cri.ImageSpec{Image: imageID, UserSpecifiedImage: image},
		Command:  command,
		LogPath:  name + "/0.log",
		Labels:   map[string]string{"io.kubernetes.container.name": name},
		Linux: &cri.LinuxContainerConfig{
			Resources: &cri.LinuxContainerResources{CpuShares: 2, OomScoreAdj: 1000, HugepageLimits: []*cri.HugepageLimit{{PageSize: "2MB"}}},
			SecurityContext: &cri.LinuxContainerSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_POD, Pid: cri.NamespaceMode_CONTAINER, Ipc: cri.NamespaceMode_POD, UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_NODE}},
				RunAsUser:        nil,
				MaskedPaths:      []string{"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"},
				ReadonlyPaths:    []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
				Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined},
			},
		},
	}
}

// Pull pulls an image for a pod and returns the image ID.
func (n *Node) Pull(ctx context.Context, image string, pod *cri.PodSandboxConfig) (string, error) {
	r, err := n.Images.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: image}, SandboxConfig: pod})
	return r.GetImageRef(), err
}

// RunPod makes a pod.
func (n *Node) RunPod(ctx context.Context, pod *cri.PodSandboxConfig) (string, error) {
	r, err := n.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: pod})
	return r.GetPodSandboxId(), err
}

// Create makes a container; its log directory is made as the kubelet makes it.
func (n *Node) Create(ctx context.Context, podID string, pod *cri.PodSandboxConfig, c *cri.ContainerConfig) (string, error) {
	if c.LogPath != "" {
		_ = os.MkdirAll(filepath.Dir(filepath.Join(pod.LogDirectory, c.LogPath)), 0o755)
	}
	r, err := n.Runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: podID, Config: c, SandboxConfig: pod})
	return r.GetContainerId(), err
}

// Start starts a container.
func (n *Node) Start(ctx context.Context, id string) error {
	_, err := n.Runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id})
	return err
}

// Wait polls until the container has exited and returns its status.
func (n *Node) Wait(ctx context.Context, id string) (*cri.ContainerStatus, error) {
	for {
		r, err := n.Runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			return nil, err
		}
		if r.Status.State == cri.ContainerState_CONTAINER_EXITED {
			return r.Status, nil
		}
		select {
		case <-ctx.Done():
			return r.Status, fmt.Errorf("wait for container %s: %w", id, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// ContainerLog is what the container wrote, without the CRI log's prefixes.
func (n *Node) ContainerLog(pod *cri.PodSandboxConfig, c *cri.ContainerConfig) (string, error) {
	b, err := os.ReadFile(filepath.Join(pod.LogDirectory, c.LogPath))
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(line, " ", 4) // time stream tag text
		if len(parts) == 4 {
			out.WriteString(parts[3])
		}
	}
	return out.String(), nil
}

// RemovePod stops and removes a pod with all that is in it.
func (n *Node) RemovePod(ctx context.Context, id string) error {
	if _, err := n.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return err
	}
	_, err := n.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id})
	return err
}
