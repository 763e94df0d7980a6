package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"sallyport/sandbox/internal/ociruntime"
	"sallyport/sandbox/internal/proc"
)

// verifyWait is how long a started process may take to reach the state that its spec demands: the
// runtime installs seccomp last, right before it executes the program.
const verifyWait = 5 * time.Second

// expectation is what the kernel must enforce on a container's first process, taken from its spec.
type expectation struct {
	Cgroup          string
	Terminal        bool
	Resources       json.RawMessage
	bounding        uint64
	inheritable     uint64
	ambient         uint64
	noNewPrivileges bool
	seccomp         bool
	label           string // SELinux, or "" for none
	profile         string // AppArmor
	root            bool   // may be the node's root
	uid, gid        uint32 // in the pod's user namespace
}

// expect reads a judged spec. A spec without a process is an error.
func expect(data []byte) (expectation, error) {
	var s specs.Spec
	if err := json.Unmarshal(data, &s); err != nil {
		return expectation{}, fmt.Errorf("read spec: %w", err)
	}
	if s.Process == nil || s.Linux == nil || s.Root == nil || s.Root.Path != "rootfs" {
		return expectation{}, errors.New("read spec: no process, no linux part or another root than rootfs")
	}
	e := expectation{Cgroup: s.Linux.CgroupsPath, Terminal: s.Process.Terminal,
		noNewPrivileges: s.Process.NoNewPrivileges, label: s.Process.SelinuxLabel, profile: s.Process.ApparmorProfile}
	e.uid, e.gid = s.Process.User.UID, s.Process.User.GID
	e.seccomp = s.Linux.Seccomp != nil
	e.root = s.Process.User.UID == 0 && !slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace })
	if caps := s.Process.Capabilities; caps != nil {
		var err error
		for set, names := range map[*uint64][]string{&e.bounding: caps.Bounding, &e.inheritable: caps.Inheritable, &e.ambient: caps.Ambient} {
			if *set, err = capabilities(names); err != nil {
				return expectation{}, fmt.Errorf("read spec: %w", err)
			}
		}
	}
	if s.Linux.Resources != nil {
		var err error
		if e.Resources, err = json.Marshal(s.Linux.Resources); err != nil {
			return expectation{}, fmt.Errorf("read spec: %w", err)
		}
	}
	return e, nil
}

// verify looks at the live process before a start is called a success, whatever the runtime says
// (CVE-2025-52881: a runtime that loses the label). A process may be tighter than its spec, never
// looser. One that has ended already is beyond harm.
func (c *Container) verify(ctx context.Context) error {
	c.mu.Lock()
	id := c.procs.Container
	c.mu.Unlock()
	held, err := proc.Open(id)
	if err != nil {
		return nil
	}
	defer held.Close()
	deadline := time.Now().Add(verifyWait)
	for pause := 500 * time.Microsecond; ; pause = min(2*pause, 50*time.Millisecond) {
		st, err := proc.ReadStatus(id.Pid)
		if held.Exited() {
			return nil
		}
		if err == nil {
			err = c.looksRight(st)
		}
		if err == nil || time.Now().After(deadline) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c *Container) looksRight(st proc.Status) error {
	if c.runtime.Kind() == ociruntime.GVisor {
		return checkSentry(st)
	}
	return c.want.check(st)
}

// sentryCapabilities are what gVisor's kernel may hold, in a user namespace of its own: it opens files
// for the container and binds its ports (runsc/sandbox, directfs and host network).
var sentryCapabilities = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID",
	"CAP_NET_BIND_SERVICE", "CAP_NET_ADMIN", "CAP_SYS_PTRACE"}

// checkSentry is check for a container on gVisor: the process that the node sees is its kernel, which
// enforces the spec inside and is itself confined by a filter and few capabilities.
func checkSentry(st proc.Status) error {
	most, err := capabilities(sentryCapabilities)
	if err != nil {
		return err
	}
	for name, set := range map[string]uint64{"bounding": st.CapBounding, "effective": st.CapEffective, "permitted": st.CapPermitted,
		"inheritable": st.CapInheritable, "ambient": st.CapAmbient} {
		if set&^most != 0 {
			return fmt.Errorf("verify started gVisor: %s capabilities %#x, want within %#x", name, set, most)
		}
	}
	switch {
	case st.Seccomp != 2:
		return fmt.Errorf("verify started gVisor: seccomp mode %d, want 2", st.Seccomp)
	case !st.NoNewPrivileges:
		return errors.New("verify started gVisor: no_new_privs is off, want on")
	}
	return nil
}

// check lists what a live process must satisfy.
func (e expectation) check(st proc.Status) error {
	for _, v := range []struct {
		bad  bool
		what string
	}{
		{st.CapBounding&^e.bounding != 0, fmt.Sprintf("capability bounding set %#x, want within %#x", st.CapBounding, e.bounding)},
		{st.CapEffective&^e.bounding != 0, fmt.Sprintf("effective capabilities %#x, want within %#x", st.CapEffective, e.bounding)},
		{st.CapPermitted&^e.bounding != 0, fmt.Sprintf("permitted capabilities %#x, want within %#x", st.CapPermitted, e.bounding)},
		{st.CapInheritable&^e.inheritable != 0, fmt.Sprintf("inheritable capabilities %#x, want within %#x", st.CapInheritable, e.inheritable)},
		{st.CapAmbient&^e.ambient != 0, fmt.Sprintf("ambient capabilities %#x, want within %#x", st.CapAmbient, e.ambient)},
		{e.noNewPrivileges && !st.NoNewPrivileges, "no_new_privs is off, want on"},
		{e.seccomp && st.Seccomp != 2, fmt.Sprintf("seccomp mode %d, want 2", st.Seccomp)},
		{!e.root && st.UID == 0, "it runs as the node's root"},
		{e.label != "" && st.Label != e.label, fmt.Sprintf("label %q, want %q", st.Label, e.label)},
		{confined(e.profile) && !strings.HasPrefix(st.Label, e.profile+" ("), fmt.Sprintf("AppArmor profile %q, want %q", st.Label, e.profile)},
	} {
		if v.bad {
			return fmt.Errorf("verify started process: %s", v.what)
		}
	}
	return nil
}

func confined(profile string) bool { return profile != "" && profile != "unconfined" }

// capabilities is the bit set of CAP_ names; an unknown one is an error.
func capabilities(names []string) (set uint64, err error) {
	for _, n := range names {
		i := slices.Index(capNames, n)
		if i < 0 {
			return 0, fmt.Errorf("unknown capability %q", n)
		}
		set |= 1 << i
	}
	return set, nil
}

// capNames are the kernel's capabilities by number (capability.h).
var capNames = []string{
	unix.CAP_CHOWN: "CAP_CHOWN", unix.CAP_DAC_OVERRIDE: "CAP_DAC_OVERRIDE", unix.CAP_DAC_READ_SEARCH: "CAP_DAC_READ_SEARCH",
	unix.CAP_FOWNER: "CAP_FOWNER", unix.CAP_FSETID: "CAP_FSETID", unix.CAP_KILL: "CAP_KILL", unix.CAP_SETGID: "CAP_SETGID",
	unix.CAP_SETUID: "CAP_SETUID", unix.CAP_SETPCAP: "CAP_SETPCAP", unix.CAP_LINUX_IMMUTABLE: "CAP_LINUX_IMMUTABLE",
	unix.CAP_NET_BIND_SERVICE: "CAP_NET_BIND_SERVICE", unix.CAP_NET_BROADCAST: "CAP_NET_BROADCAST", unix.CAP_NET_ADMIN: "CAP_NET_ADMIN",
	unix.CAP_NET_RAW: "CAP_NET_RAW", unix.CAP_IPC_LOCK: "CAP_IPC_LOCK", unix.CAP_IPC_OWNER: "CAP_IPC_OWNER",
	unix.CAP_SYS_MODULE: "CAP_SYS_MODULE", unix.CAP_SYS_RAWIO: "CAP_SYS_RAWIO", unix.CAP_SYS_CHROOT: "CAP_SYS_CHROOT",
	unix.CAP_SYS_PTRACE: "CAP_SYS_PTRACE", unix.CAP_SYS_PACCT: "CAP_SYS_PACCT", unix.CAP_SYS_ADMIN: "CAP_SYS_ADMIN",
	unix.CAP_SYS_BOOT: "CAP_SYS_BOOT", unix.CAP_SYS_NICE: "CAP_SYS_NICE", unix.CAP_SYS_RESOURCE: "CAP_SYS_RESOURCE",
	unix.CAP_SYS_TIME: "CAP_SYS_TIME", unix.CAP_SYS_TTY_CONFIG: "CAP_SYS_TTY_CONFIG", unix.CAP_MKNOD: "CAP_MKNOD",
	unix.CAP_LEASE: "CAP_LEASE", unix.CAP_AUDIT_WRITE: "CAP_AUDIT_WRITE", unix.CAP_AUDIT_CONTROL: "CAP_AUDIT_CONTROL",
	unix.CAP_SETFCAP: "CAP_SETFCAP", unix.CAP_MAC_OVERRIDE: "CAP_MAC_OVERRIDE", unix.CAP_MAC_ADMIN: "CAP_MAC_ADMIN",
	unix.CAP_SYSLOG: "CAP_SYSLOG", unix.CAP_WAKE_ALARM: "CAP_WAKE_ALARM", unix.CAP_BLOCK_SUSPEND: "CAP_BLOCK_SUSPEND",
	unix.CAP_AUDIT_READ: "CAP_AUDIT_READ", unix.CAP_PERFMON: "CAP_PERFMON", unix.CAP_BPF: "CAP_BPF",
	unix.CAP_CHECKPOINT_RESTORE: "CAP_CHECKPOINT_RESTORE",
}
