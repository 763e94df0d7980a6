package sandbox

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"sallyport/sandbox/internal/proc"
)

const cgroupRoot = "/sys/fs/cgroup"

// cgroupFile is a file of a container's cgroup: of the controller's own tree on v1 (and hybrid), of the
// only tree on v2. "" for a cgroup path that is not absolute.
func cgroupFile(controller, cgroup, v1, v2 string) string {
	if !filepath.IsAbs(cgroup) || filepath.Clean(cgroup) == "/" {
		return ""
	}
	if dir := filepath.Join(cgroupRoot, controller); isDir(dir) {
		return filepath.Join(dir, cgroup, v1)
	}
	return filepath.Join(cgroupRoot, cgroup, v2)
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// oomKilled reports whether the kernel has killed a process of the cgroup for lack of memory.
func oomKilled(cgroup string) bool {
	data, err := os.ReadFile(cgroupFile("memory", cgroup, "memory.oom_control", "memory.events"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			return n != "0"
		}
	}
	return false
}

// killCgroup kills what is left in a container's own cgroup: processes that share a PID namespace with
// others do not end with the first one.
func killCgroup(cgroup string) {
	path := cgroupFile("pids", cgroup, "cgroup.procs", "cgroup.procs")
	if path == "" {
		return
	}
	for range 20 { // processes may fork meanwhile; a fork bomb is stopped by its pids limit
		data, err := os.ReadFile(path)
		if err != nil || len(data) == 0 {
			return
		}
		for _, field := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(field); err == nil {
				proc.Kill(pid)
			}
		}
	}
}
