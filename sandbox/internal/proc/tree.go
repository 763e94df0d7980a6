package proc

import (
	"os"
	"strconv"
	"syscall"
)

const maxRounds = 20 // of one KillTree: a fork bomb is stopped by its pids limit, not by us

// KillTree kills every descendant of root and every member of a session that a descendant leads, but
// not root itself, which is left to reap and to end. It goes round until it finds nothing alive, since
// processes may fork meanwhile. A process that has left both its session and its parent is not found:
// inside a container it ends with the container.
func KillTree(root int) {
	sessions := map[int]bool{}
	for range maxRounds {
		alive := 0
		for _, s := range descendants(root, sessions) {
			if s.state == 'Z' || s.state == 'X' {
				continue
			}
			alive++
			kill(s)
		}
		if alive == 0 {
			return
		}
	}
}

// descendants scans /proc once. sessions remembers session leaders from earlier rounds, whose members
// stay findable after the leader has gone.
func descendants(root int, sessions map[int]bool) []stat {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	all := make(map[int]stat, len(names))
	for _, n := range names {
		pid, err := strconv.Atoi(n.Name())
		if err != nil {
			continue
		}
		if s, err := readStat(pid); err == nil {
			all[pid] = s
		}
	}
	own := all[os.Getpid()].session
	below := func(s stat) bool {
		for range 100 { // depth
			if s.ppid == root {
				return true
			}
			parent, ok := all[s.ppid]
			if !ok || s.ppid <= 1 {
				return false
			}
			s = parent
		}
		return false
	}
	var found []stat
	for pid, s := range all {
		if pid != root && below(s) {
			if s.session == pid {
				sessions[pid] = true
			}
			found = append(found, s)
		}
	}
	for pid, s := range all {
		if pid != root && sessions[s.session] && s.session != own && !below(s) {
			found = append(found, s)
		}
	}
	return found
}

func kill(s stat) {
	p, err := Open(ID{Pid: s.pid, Start: s.start})
	if err != nil {
		return
	}
	defer p.Close()
	p.Signal(syscall.SIGKILL)
}

// Orphans lists zombie children of this process: started by nobody here, left to us as subreaper.
func Orphans() []ID {
	self := os.Getpid()
	var out []ID
	tasks, _ := os.ReadDir("/proc/self/task")
	for _, t := range tasks {
		data, _ := os.ReadFile("/proc/self/task/" + t.Name() + "/children")
		for _, pid := range pids(data) {
			if s, err := readStat(pid); err == nil && s.state == 'Z' && s.ppid == self {
				out = append(out, ID{Pid: pid, Start: s.start})
			}
		}
	}
	return out
}

func pids(data []byte) (out []int) {
	n := 0
	for _, c := range data {
		switch {
		case c >= '0' && c <= '9':
			n = n*10 + int(c-'0')
		case n > 0:
			out, n = append(out, n), 0
		}
	}
	if n > 0 {
		out = append(out, n)
	}
	return out
}

// Kill sends SIGKILL to a pid that was just read from a cgroup, through a pidfd. A process that is gone
// is no error.
func Kill(pid int) {
	if s, err := readStat(pid); err == nil && pid > 1 {
		kill(s)
	}
}
