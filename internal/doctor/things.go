package doctor

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// endWait is how long a killed process may take to be gone.
const endWait = 10 * time.Second

// things lists everything of ours on the node, in the order in which it can be removed: what holds
// something comes before what it holds.
func (n *node) things() (found []Finding, err error) {
	found = append(found, n.processes()...)
	groups, err := n.cgroups()
	if err != nil {
		return nil, err
	}
	found = append(found, groups...)
	found = append(found, named("runtime", "removed: state of an OCI runtime", filepath.Join(n.state("runtime"), "*", "*"))...)
	found = append(found, n.attachments()...) // before the namespace that the plugins want to see
	found = append(found, n.mounts()...)
	for _, dir := range []struct{ kind, advice, path string }{
		{"netns", "removed: a pinned network namespace", filepath.Join(n.NetNS, "*")},
		{"bundle", "removed: an OCI runtime bundle", n.state("containers", "*")},
		{"pod", "removed: a pod's directory", n.state("pods", "*")},
		{"exit", "removed: an exit code that nobody reads", n.state("exits", "*")},
		{"layer", "removed: a container's layer", filepath.Join(n.Root, "image", "containers", "*")},
	} {
		found = append(found, named(dir.kind, dir.advice, dir.path)...)
	}
	return found, nil
}

// named are the files of a pattern whose last part is an ID.
func named(kind, advice, pattern string) (found []Finding) {
	paths, _ := filepath.Glob(pattern)
	for _, path := range paths {
		if id := filepath.Base(path); isID(id) {
			found = append(found, Finding{Kind: kind, ID: id, What: path, Advice: advice, repair: true})
		}
	}
	return found
}

// attachments are the pods that hold an address, as sandbox/network keeps them: written before the first
// plugin runs and removed after the last.
func (n *node) attachments() (found []Finding) {
	paths, _ := filepath.Glob(filepath.Join(n.Root, "cni", "attachments", "*.json"))
	for _, path := range paths {
		if id := strings.TrimSuffix(filepath.Base(path), ".json"); isID(id) {
			found = append(found, Finding{Kind: "attachment", ID: id, What: path, Advice: "detached: the CNI plugins give the address back", repair: true})
		}
	}
	return found
}

// mounts are those below our directories and pins, innermost first.
func (n *node) mounts() (found []Finding) {
	netns, err := filepath.EvalSymlinks(n.NetNS) // /var/run is a link
	if err != nil {
		netns = n.NetNS
	}
	for _, dir := range []string{n.state("containers"), n.state("pods"), filepath.Join(n.Root, "image", "containers"), netns} {
		for _, at := range mountsBelow(dir) {
			rel, err := filepath.Rel(dir, at)
			if err != nil {
				continue
			}
			if id, _, _ := strings.Cut(rel, "/"); isID(id) {
				found = append(found, Finding{Kind: "mount", ID: id, What: at, Advice: "unmounted", repair: true})
			}
		}
	}
	return found
}

// mountsBelow are the mount points below dir, last mounted first.
func mountsBelow(dir string) (at []string) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			at = append(at, f[4]) // ours have no character that the kernel writes as an octal number
		}
	}
	slices.Reverse(at)
	return at
}

// cgroups are the directories sallyport-<ID> (sandbox/spec names them so) below the parents that pods have,
// in every hierarchy. Elsewhere they may be of another daemon, in a container of its own, say.
func (n *node) cgroups() (found []Finding, err error) {
	for _, parent := range n.Cgroups {
		roots, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup/*", parent))
		for _, root := range append(roots, filepath.Join("/sys/fs/cgroup", parent)) {
			err = errors.Join(err, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				if err != nil || !d.IsDir() {
					return nil // it went while we looked
				}
				if id, ok := strings.CutPrefix(d.Name(), "sallyport-"); ok && isID(id) {
					found = append(found, Finding{Kind: "cgroup", ID: id, What: path, Advice: "its processes killed, then removed", repair: true})
					return fs.SkipDir
				}
				return nil
			}))
		}
	}
	return found, err
}

// emptyCgroup kills what is in a cgroup and its children and removes them.
func emptyCgroup(dir string) error {
	var dirs []string
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	slices.Reverse(dirs) // children before parents
	for end := time.Now().Add(endWait); ; time.Sleep(20 * time.Millisecond) {
		var failed error
		for _, d := range dirs {
			procs, _ := os.ReadFile(filepath.Join(d, "cgroup.procs"))
			for _, pid := range strings.Fields(string(procs)) {
				if p, err := strconv.Atoi(pid); err == nil && p > 1 {
					unix.Kill(p, unix.SIGKILL)
				}
			}
			if err := unix.Rmdir(d); err != nil && !errors.Is(err, unix.ENOENT) {
				failed = err
			}
		}
		if failed == nil || time.Now().After(end) {
			return failed
		}
	}
}

// processes are the monitors and OCI runtimes that were started for our directories. A monitor of another
// state directory is noted: its container lives.
func (n *node) processes() (found []Finding) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		words := commandOf(pid)
		id, ours := containerOf(words), false
		if id == "" {
			continue
		}
		for _, w := range words {
			ours = ours || strings.HasPrefix(w, n.State+"/")
		}
		if !ours {
			if stateOf(words) != "" {
				n.live[id] = pid
			}
			continue
		}
		found = append(found, Finding{Kind: "process", ID: id, pid: pid, repair: true, Advice: "killed",
			What: fmt.Sprintf("%d (%s)", pid, filepath.Base(words[0]))})
	}
	return found
}

// containerOf is the container that a command line of conmon or of an OCI runtime is for; "" for others.
func containerOf(words []string) string {
	if len(words) < 2 {
		return ""
	}
	for i, w := range words {
		if filepath.Base(words[0]) == "conmon" && w == "--cid" && i+1 < len(words) && isID(words[i+1]) {
			return words[i+1]
		}
	}
	if last := words[len(words)-1]; filepath.Base(words[0]) != "conmon" && slices.Contains(words, "--root") && isID(last) {
		return last
	}
	return ""
}

// stateOf is the state directory of a monitor that a daemon like ours started; "" for others.
func stateOf(words []string) string {
	for i, w := range words {
		if w == "--exit-dir" && i+1 < len(words) {
			if dir, ok := strings.CutSuffix(words[i+1], "/sandbox/exits"); ok {
				return dir
			}
		}
	}
	return ""
}

// commandOf is a process's command line; nil if it has ended or is of the kernel.
func commandOf(pid int) []string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(data) == 0 {
		return nil
	}
	var words []string
	for w := range bytes.SplitSeq(bytes.TrimSuffix(data, []byte{0}), []byte{0}) {
		words = append(words, string(w))
	}
	return words
}

// kill ends a process, if it is still the one that was found.
func kill(f Finding) error {
	fd, err := unix.PidfdOpen(f.pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if containerOf(commandOf(f.pid)) != f.ID {
		return nil // ended, and the number may be another's by now
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for end := time.Now().Add(endWait); ; {
		n, err := unix.Poll(fds, int(time.Until(end).Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("it does not end in %s", endWait)
		default:
			return nil
		}
	}
}
