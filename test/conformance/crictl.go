package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"sallyport/test/node"
)

// The configurations that crictl is given, and the image they use.
const (
	verbImage = e2e + "busybox:1.29-2"
	podJSON   = `{"metadata": {"name": "verbs", "namespace": "conformance", "uid": "verbs-1", "attempt": 1},
 "hostname": "verbs", "log_directory": %q, "labels": {"suite": "verbs"}, "dns_config": {"servers": ["10.10.10.10"]},
 "linux": {"cgroup_parent": %q}}`
	containerJSON = `{"metadata": {"name": "box"}, "image": {"image": %q}, "log_path": "box.log",
 "command": ["sh", "-c", "trap 'echo bye; exit 0' TERM; echo hello; while true; do sleep 0.1; done"],
 "labels": {"suite": "verbs"}, "linux": {"resources": {"memory_limit_in_bytes": 67108864}}}`
)

var repoDigest = regexp.MustCompile(`\S+busybox@sha256:[0-9a-f]{64}`)

// script tries crictl's verbs one after the other.
type script struct {
	ctx         context.Context
	crictl      string
	endpoint    string
	ran, failed int
}

// verbs runs each of crictl's verbs for what the node serves, prints a line for each that fails and the
// figures, and returns how many failed.
func verbs(ctx context.Context, o options, n *node.Node) int {
	s := &script{ctx: ctx, crictl: o.crictl, endpoint: "unix://" + n.Socket}
	logs, pod, box := n.Path("verbs"), n.Path("pod.json"), n.Path("container.json")
	for path, text := range map[string]string{
		pod: fmt.Sprintf(podJSON, logs, node.CgroupParent(n.Scratch)), box: fmt.Sprintf(containerJSON, verbImage),
		filepath.Join(logs, ".keep"): "",
	} {
		_ = os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			fmt.Fprintln(os.Stderr, "conformance:", err)
			return 1
		}
	}
	s.images()
	s.containers(pod, box)
	s.short(pod, box)
	fmt.Printf("crictl: ran %d verbs, failed %d\n", s.ran, s.failed)
	return s.failed
}

func (s *script) images() {
	s.want("Version:  0.1.0", "version")
	s.want("PolicyEnforced", "info")
	s.want("CGROUPFS", "runtime-config")
	s.want("", "update-runtime-config", "--pod-cidr", "10.213.0.0/20")
	s.want("Image is up to date", "pull", verbImage)
	s.want("busybox", "images")
	s.want(verbImage, "images", "--digests", "--no-trunc", "-o", "json", verbImage)
	s.want(`"repoTags"`, "inspecti", verbImage)
	s.want("usedBytes", "imagefsinfo")
	digest := strings.Trim(repoDigest.FindString(s.want("", "inspecti", verbImage)), `"`)
	s.want("Deleted", "rmi", verbImage)
	s.want("Image is up to date", "pull", digest)
	s.want(`"repoTags": []`, "inspecti", digest)
	s.want("Image is up to date", "pull", verbImage)
	s.want(digest, "inspecti", verbImage)
}

func (s *script) containers(pod, box string) {
	podID := strings.TrimSpace(s.want("", "runp", pod))
	s.want("Ready", "pods", "--name", "verbs")
	s.want(podID, "pods", "-q", "--no-trunc", "--label", "suite=verbs", "--state", "Ready")
	s.want(`"SANDBOX_READY"`, "inspectp", podID)
	id := strings.TrimSpace(s.want("", "create", podID, box, pod))
	s.want("Created", "ps", "-a")
	s.want(id, "start", id)
	s.want("Running", "ps", "--pod", podID)
	s.want(`"CONTAINER_RUNNING"`, "inspect", id)
	s.until("hello", "logs", id)
	s.want("verbs", "exec", "--sync", id, "hostname")
	s.want("verbs", "exec", id, "hostname")
	s.want("verbs", "exec", "--transport", "websocket", id, "hostname")
	s.want("", "logs", "--reopen", id)
	s.fails("exec", "--sync", id, "false")
	s.want(id[:min(13, len(id))], "stats", "-s", "0", id)
	s.want("", "stats", "-o", "json")
	s.want(podID[:min(13, len(podID))], "statsp", "-s", "0", podID)
	s.want("container_memory_working_set_bytes", "metricdescs")
	s.want("container_network_receive_bytes_total", "metricsp")
	s.want(id, "update", "--memory", "100663296", id)
	s.want(id, "update", "--cpu-quota", "50000", "--cpu-period", "100000", id)
	limits := s.want("", "inspect", id)
	for _, want := range []string{`"memoryLimitInBytes": "100663296"`, `"cpuQuota": "50000"`} {
		if !strings.Contains(limits, want) {
			s.fail("want "+want+" after two updates", []string{"inspect"})
		}
	}
	s.want("verbs", "statsp")
	s.want("container_cpu_usage_seconds_total", "metricdescs")
	s.want("container_memory_usage_bytes", "metricsp")
	s.want(id, "stop", "--timeout", "5", id)
	s.want("Exited", "ps", "-a", "--state", "Exited")
	s.want(`"exitCode": 0`, "inspect", id)
	s.want("bye", "logs", "--tail", "1", id)
	s.want(id, "rm", id)
	s.want(podID, "stopp", podID)
	s.want("NotReady", "pods")
	s.want(podID, "rmp", podID)
}

// short tries what people type: the first characters of IDs, and force instead of one step at a time.
func (s *script) short(pod, box string) {
	podID := strings.TrimSpace(s.want("", "runp", pod))
	id := strings.TrimSpace(s.want("", "create", podID[:min(13, len(podID))], box, pod))
	if len(podID) < 64 || len(id) < 64 {
		return // said already
	}
	s.want("", "start", id[:13])
	s.want(id[:13], "ps", "--id", id[:13])
	s.want(id, "inspect", id[:13])
	s.want(podID, "inspectp", podID[:13])
	s.want("verbs", "exec", "--sync", id[:13], "hostname")
	s.want("", "update", "--cpu-quota", "50000", "--cpu-period", "100000", id[:13])
	s.want(id[:13], "stats", "-s", "0", "--id", id[:13])
	s.want(id[:13], "stop", "--timeout", "0", id[:13])
	s.want("", "rmp", "--force", podID[:13])
	s.want("", "run", box, pod)
	s.want("", "rm", "--all", "--force")
	s.want("", "rmp", "--all", "--force")
	imageID := strings.TrimPrefix(strings.TrimSpace(s.want("sha256:", "images", "-q", verbImage)), "sha256:")
	s.want(imageID, "inspecti", imageID[:min(13, len(imageID))])
	s.want("Deleted", "rmi", imageID[:min(13, len(imageID))])
	s.want("Image is up to date", "pull", verbImage)
	s.want("Deleted", "rmi", "--prune")
	if out := s.want("", "images", "-q", verbImage) + s.want("", "ps", "-a", "-q") + s.want("", "pods", "-q"); out != "" {
		s.fail(fmt.Sprintf("want nothing left, got %q", out), []string{"images, ps and pods"})
	}
}

// want runs a verb, which must succeed and print the text, and returns what it printed.
func (s *script) want(text string, args ...string) string {
	s.ran++
	out, err := s.run(args)
	if err != nil || !strings.Contains(out, text) {
		s.fail(fmt.Sprintf("want %q, got %q, %v", text, oneLine(out), err), args)
	}
	return out
}

// until is want that is tried again for ten seconds, for what a container does in its own time.
func (s *script) until(text string, args ...string) {
	for range 100 {
		if out, err := s.run(args); err == nil && strings.Contains(out, text) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.want(text, args...)
}

// fails runs a verb that must fail.
func (s *script) fails(args ...string) {
	s.ran++
	if out, err := s.run(args); err == nil {
		s.fail(fmt.Sprintf("want failure, got %q", oneLine(out)), args)
	}
}

func (s *script) fail(what string, args []string) {
	s.failed++
	fmt.Printf("FAIL crictl %s: %s\n", strings.Join(args, " "), what)
}

func (s *script) run(args []string) (string, error) {
	ctx, cancel := context.WithTimeout(s.ctx, time.Minute)
	defer cancel()
	args = append([]string{"--runtime-endpoint", s.endpoint, "--timeout", "30s"}, args...)
	var stderr strings.Builder
	cmd := exec.CommandContext(ctx, s.crictl, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, oneLine(stderr.String()))
	}
	return string(out), err
}
