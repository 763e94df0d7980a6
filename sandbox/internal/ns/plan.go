package ns

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	maxHostname = 64   // __NEW_UTS_LEN
	maxSysctl   = 4096 // a page, which proc_dostring takes at most
	maxMappings = 340  // user_namespaces(7)
)

// job is what sallyport-init is asked to do: Options, checked.
type job struct {
	flags uintptr
	words []string // of "sallyport-init pins"
	set   Set      // where the pins go
	uids  []syscall.SysProcIDMap
	gids  []syscall.SysProcIDMap
}

// plan checks o and turns it into a job. It touches nothing.
func plan(o Options) (job, error) {
	var j job
	if o.NetPath != "" {
		j.flags |= unix.CLONE_NEWNET
		j.set.Net = o.NetPath
		j.words = append(j.words, "lo")
	}
	if !o.HostIPC {
		j.flags |= unix.CLONE_NEWIPC
		j.set.IPC = filepath.Join(o.Dir, "ipc")
	}
	if !o.HostUTS {
		j.flags |= unix.CLONE_NEWUTS
		j.set.UTS = filepath.Join(o.Dir, "uts")
	}
	if len(o.UIDs)+len(o.GIDs) > 0 {
		j.flags |= unix.CLONE_NEWUSER
		j.set.User = filepath.Join(o.Dir, "user")
	}
	for _, step := range []func(*job, Options) error{absolute, hostname, sysctls, mappings} {
		if err := step(&j, o); err != nil {
			return job{}, err
		}
	}
	return j, nil
}

func absolute(j *job, o Options) error {
	for _, k := range kinds {
		if p := *j.set.path(k); p != "" && !filepath.IsAbs(p) {
			return fmt.Errorf("pin %s namespace at %q: not an absolute path", k.file, p)
		}
	}
	return nil
}

func hostname(j *job, o Options) error {
	switch {
	case o.Hostname == "":
		return nil
	case o.HostUTS:
		return fmt.Errorf("set hostname %q: the pod uses the node's UTS namespace", o.Hostname)
	case len(o.Hostname) > maxHostname:
		return fmt.Errorf("set hostname %q: longer than %d bytes", o.Hostname, maxHostname)
	}
	for _, c := range []byte(o.Hostname) {
		if !isLower(c) && !isDigit(c) && c != '-' && c != '.' && (c < 'A' || c > 'Z') {
			return fmt.Errorf("set hostname %q: byte %q is not allowed", o.Hostname, c)
		}
	}
	j.words = append(j.words, "hostname="+o.Hostname)
	return nil
}

func sysctls(j *job, o Options) error {
	for _, name := range slices.Sorted(maps.Keys(o.Sysctls)) {
		value := o.Sysctls[name]
		path, owner, err := Sysctl(name, value)
		if err != nil {
			return err
		}
		if j.flags&owner == 0 { // CVE-2022-0532: it would be set on the node
			return fmt.Errorf("set sysctl %q: the pod uses the node's namespace for it", name)
		}
		j.words = append(j.words, "sysctl="+path+"="+value)
	}
	return nil
}

// Sysctl checks that a pod may have the sysctl name set to value, and returns its path below /proc/sys
// and the clone flag of the namespace that owns it. Only sysctls that the kernel keeps per namespace
// pass, and no byte that could end a value or a line (CVE-2022-0811). As in sysctl(8), the first
// separator of a name decides: "net.ipv4.conf.eth0/1.forwarding" and "net/ipv4/conf/eth0.1/forwarding"
// are one.
func Sysctl(name, value string) (path string, owner uintptr, err error) {
	path = name
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		path = strings.Map(func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}, name)
	}
	for part := range strings.SplitSeq(path, "/") {
		switch part {
		case "", ".", "..":
			return "", 0, fmt.Errorf("set sysctl %q: not a plain name", name)
		}
		for _, c := range []byte(part) {
			if !isLower(c) && !isDigit(c) && c != '-' && c != '_' && c != '.' {
				return "", 0, fmt.Errorf("set sysctl %q: byte %q is not allowed", name, c)
			}
		}
	}
	switch {
	case strings.HasPrefix(path, "net/"):
		owner = unix.CLONE_NEWNET
	case strings.HasPrefix(path, "fs/mqueue/"), path == "kernel/sem",
		strings.HasPrefix(path, "kernel/shm"), strings.HasPrefix(path, "kernel/msg"):
		owner = unix.CLONE_NEWIPC
	default:
		return "", 0, fmt.Errorf("set sysctl %q: the kernel does not keep it per namespace", name)
	}
	if len(value) > maxSysctl {
		return "", 0, fmt.Errorf("set sysctl %q: value longer than %d bytes", name, maxSysctl)
	}
	for _, c := range []byte(value) {
		if (c < ' ' && c != '\t') || c >= 0x7f {
			return "", 0, fmt.Errorf("set sysctl %q to %q: byte %q is not allowed", name, value, c)
		}
	}
	return path, owner, nil
}

func mappings(j *job, o Options) (err error) {
	if j.flags&unix.CLONE_NEWUSER == 0 {
		return nil
	}
	if j.uids, err = lines(o.UIDs); err != nil {
		return fmt.Errorf("map user IDs: %w", err)
	}
	if j.gids, err = lines(o.GIDs); err != nil {
		return fmt.Errorf("map group IDs: %w", err)
	}
	return nil
}

// lines checks the lines of one map. The node's root is never mapped: a user namespace that holds it
// isolates nothing. ID 0 inside must be there, since the pod is prepared and run as it.
func lines(ms []Mapping) ([]syscall.SysProcIDMap, error) {
	if len(ms) > maxMappings {
		return nil, fmt.Errorf("%d lines; the kernel takes %d", len(ms), maxMappings)
	}
	var out []syscall.SysProcIDMap
	root := false
	for _, m := range ms {
		const ids = 1<<32 - 1 // ID 2^32-1 means "no change" (setresuid(2))
		switch {
		case m.Outside == 0:
			return nil, errors.New("the node's ID 0 must not be mapped")
		case m.Size == 0 || uint64(m.Inside)+uint64(m.Size) > ids || uint64(m.Outside)+uint64(m.Size) > ids:
			return nil, fmt.Errorf("size %d is out of range", m.Size)
		}
		root = root || m.Inside == 0
		out = append(out, syscall.SysProcIDMap{ContainerID: int(m.Inside), HostID: int(m.Outside), Size: int(m.Size)})
	}
	if !root {
		return nil, errors.New("ID 0 of the pod is not mapped")
	}
	return out, nil
}

func isLower(c byte) bool { return 'a' <= c && c <= 'z' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }
