package seccomp

import (
	_ "embed"
	"fmt"
	"runtime"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// syscallsText lists every syscall name of Linux on any architecture, one a line, with the letters of
// the architectures that we build for and that have it: x for amd64, a for arm64, - for neither.
// Source: golang.org/x/sys/unix, zsysnum_linux_*.go.
//
//go:embed syscalls.txt
var syscallsText string

// known maps a syscall's name to whether this architecture has it.
var known = sync.OnceValue(func() map[string]bool {
	letter := map[string]string{"amd64": "x", "arm64": "a"}[runtime.GOARCH]
	m := make(map[string]bool, 512)
	for line := range strings.Lines(syscallsText) {
		name, arches, ok := strings.Cut(strings.TrimSpace(line), " ")
		if ok {
			m[name] = letter != "" && strings.Contains(arches, letter)
		}
	}
	return m
})

// Known reports whether name is a syscall of Linux on any architecture. libseccomp and the OCI runtimes
// silently ignore names that they do not know, so a misspelt one must be refused when it is read.
func Known(name string) bool { _, ok := known()[name]; return ok }

// Native reports whether name is a syscall of the architecture that this program was built for.
func Native(name string) bool { return known()[name] }

func nativeArch() (specs.Arch, error) {
	switch runtime.GOARCH {
	case "amd64":
		return specs.ArchX86_64, nil
	case "arm64":
		return specs.ArchAARCH64, nil
	}
	return "", fmt.Errorf("resolve seccomp profile: no syscall table for %s", runtime.GOARCH)
}

// intArgs lists, by syscall, the indices of arguments that are int or unsigned int: the kernel reads
// their low 32 bits only. Source: the SYSCALL_DEFINE of each. clone's flags are unsigned long, of which
// kernel_clone reads the low 32 bits.
var intArgs = map[string][]uint{
	"accept4": {0, 3}, "clone": {0}, "close": {0}, "dup2": {0, 1}, "dup3": {0, 1, 2},
	"epoll_create1": {0}, "eventfd2": {0, 1}, "fcntl": {0, 1}, "fsopen": {1}, "getsockopt": {0, 1, 2},
	"inotify_init1": {0}, "ioctl": {0, 1}, "kill": {0, 1}, "madvise": {2}, "memfd_create": {1}, "mq_open": {1},
	"open": {1, 2}, "openat": {0, 2, 3}, "personality": {0}, "pidfd_open": {0, 1}, "pipe2": {1}, "prctl": {0},
	"ptrace": {1}, "quotactl": {0}, "renameat2": {4}, "seccomp": {0, 1}, "setns": {0, 1}, "setsockopt": {0, 1, 2},
	"shutdown": {0, 1}, "signalfd4": {0, 3}, "socket": {0, 1, 2}, "socketpair": {0, 1, 2}, "tgkill": {0, 1, 2},
	"timerfd_create": {0, 1}, "unshare": {0}, "userfaultfd": {0},
}

func isInt(syscall string, index uint) bool {
	for _, i := range intArgs[syscall] {
		if i == index {
			return true
		}
	}
	return false
}

func errnoName(n uint) string {
	if name := unix.ErrnoName(unix.Errno(n)); name != "" {
		return name
	}
	return fmt.Sprintf("errno %d", n)
}
