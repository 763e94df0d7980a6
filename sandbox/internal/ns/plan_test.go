package ns

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSysctl(t *testing.T) {
	for _, tc := range []struct {
		name, key, value string
		path             string // "" is refused
		because          string
	}{
		{"net, dotted", "net.ipv4.ip_forward", "1", "net/ipv4/ip_forward", ""},
		{"net, slashed", "net/ipv4/conf/eth0.1/forwarding", "1", "net/ipv4/conf/eth0.1/forwarding", ""},
		{"net, dotted with a slash", "net.ipv4.conf.eth0/1.forwarding", "1", "net/ipv4/conf/eth0.1/forwarding", ""},
		{"shared memory", "kernel.shm_rmid_forced", "1", "kernel/shm_rmid_forced", ""},
		{"semaphores", "kernel.sem", "250\t32000 100 128", "kernel/sem", ""},
		{"queues", "fs.mqueue.msg_max", "20", "fs/mqueue/msg_max", ""},

		{"node's panic", "kernel.panic", "1", "", "per namespace"},
		{"node's core pattern", "kernel.core_pattern", "x", "", "per namespace"},
		{"core pattern as a semaphore", "kernel.sem/../core_pattern", "x", "", "not a plain name"},
		{"core pattern as a semaphore, slashed", "kernel/sem/../core_pattern", "x", "", "not a plain name"},
		{"like semaphores", "kernel.sem_next_id", "1", "", "per namespace"},
		{"file system", "fs.file-max", "1", "", "per namespace"},
		{"climbs", "net/../kernel/core_pattern", "x", "", "not a plain name"},
		{"climbs through dots", "net.//.kernel", "x", "", "not a plain name"},
		{"empty part", "net..ipv4", "x", "", "not a plain name"},
		{"trailing separator", "net.ipv4.", "x", "", "not a plain name"},
		{"only net", "net", "1", "", "per namespace"},
		{"absolute", "/net/ipv4/ip_forward", "1", "", "not a plain name"},
		{"empty", "", "1", "", "not a plain name"},
		{"equals in the name", "net.ipv4.x=1", "1", "", "byte '=' is not allowed"},
		{"plus in the name, CVE-2022-0811", "kernel.shm_rmid_forced+kernel.core_pattern", "1", "", "byte '+' is not allowed"},
		{"newline in the name", "net.ipv4\n.x", "1", "", "is not allowed"},
		{"upper case", "net.IPV4", "1", "", "is not allowed"},
		{"NUL in the name", "net.ipv4.\x00x", "1", "", "is not allowed"},
		{"newline in the value", "net.ipv4.ip_forward", "1\nkernel.core_pattern=|x", "", "byte '\\n' is not allowed"},
		{"NUL in the value", "net.ipv4.ip_forward", "1\x00", "", "byte '\\x00' is not allowed"},
		{"long value", "net.ipv4.ip_forward", strings.Repeat("1", 4097), "", "longer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path, _, err := Sysctl(tc.key, tc.value)
			if tc.path != "" && (err != nil || path != tc.path) {
				t.Fatalf("Sysctl() = %q, %v, want %q", path, err, tc.path)
			}
			if tc.path == "" && (err == nil || !strings.Contains(err.Error(), tc.because)) {
				t.Fatalf("Sysctl() = %q, %v, want an error with %q", path, err, tc.because)
			}
		})
	}
}

// Each refusal has a twin in TestPlanAllows that differs in the one fact.
func TestPlanRefuses(t *testing.T) {
	ids := []Mapping{{0, 100000, 65536}}
	for _, tc := range []struct {
		name    string
		o       Options
		because string
	}{
		{"net sysctl on the node's network", Options{Dir: "/d", Sysctls: map[string]string{"net.ipv4.ip_forward": "1"}}, "node's namespace"},
		{"ipc sysctl on the node's IPC", Options{Dir: "/d", NetPath: "/n", HostIPC: true, Sysctls: map[string]string{"kernel.shmmax": "1"}}, "node's namespace"},
		{"hostname on the node's UTS", Options{Dir: "/d", HostUTS: true, Hostname: "a"}, "node's UTS"},
		{"long hostname", Options{Dir: "/d", Hostname: strings.Repeat("a", 65)}, "longer than 64"},
		{"newline in hostname", Options{Dir: "/d", Hostname: "a\nb"}, "not allowed"},
		{"relative pins", Options{Dir: "d"}, "absolute"},
		{"relative network pin", Options{Dir: "/d", NetPath: "n"}, "absolute"},
		{"node's root mapped", Options{Dir: "/d", UIDs: []Mapping{{0, 0, 1}}, GIDs: ids}, "node's ID 0"},
		{"node's root group mapped", Options{Dir: "/d", UIDs: ids, GIDs: []Mapping{{0, 0, 1}}}, "node's ID 0"},
		{"no root inside", Options{Dir: "/d", UIDs: []Mapping{{1, 100000, 1}}, GIDs: ids}, "not mapped"},
		{"no groups", Options{Dir: "/d", UIDs: ids}, "not mapped"},
		{"overflow", Options{Dir: "/d", UIDs: []Mapping{{0, 1<<32 - 1, 2}}, GIDs: ids}, "out of range"},
		{"empty line", Options{Dir: "/d", UIDs: []Mapping{{0, 5, 0}}, GIDs: ids}, "out of range"},
		{"too many lines", Options{Dir: "/d", UIDs: make([]Mapping, 341), GIDs: ids}, "takes 340"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := plan(tc.o); err == nil || !strings.Contains(err.Error(), tc.because) {
				t.Fatalf("plan() = %v, want an error with %q", err, tc.because)
			}
		})
	}
}

func TestPlanAllows(t *testing.T) {
	ids := []Mapping{{0, 100000, 65536}}
	all := uintptr(unix.CLONE_NEWIPC | unix.CLONE_NEWUTS)
	for _, tc := range []struct {
		name  string
		o     Options
		flags uintptr
	}{
		{"net sysctl", Options{Dir: "/d", NetPath: "/n", Sysctls: map[string]string{"net.ipv4.ip_forward": "1"}}, all | unix.CLONE_NEWNET},
		{"ipc sysctl", Options{Dir: "/d", Sysctls: map[string]string{"kernel.shmmax": "1"}}, all},
		{"hostname", Options{Dir: "/d", Hostname: strings.Repeat("a", 64)}, all},
		{"user namespace", Options{Dir: "/d", UIDs: ids, GIDs: ids}, all | unix.CLONE_NEWUSER},
		{"all the node's", Options{Dir: "/d", HostIPC: true, HostUTS: true}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			j, err := plan(tc.o)
			if err != nil || j.flags != tc.flags {
				t.Fatalf("plan() = %#x, %v, want %#x", j.flags, err, tc.flags)
			}
		})
	}
}

// FuzzSysctl: what passes is a plain path below a tree that the kernel keeps per namespace, and a value
// of one printable line. It lives here and not in package fuzz, which cannot import an internal room.
func FuzzSysctl(f *testing.F) {
	for _, seed := range [][2]string{
		{"net.ipv4.ip_forward", "1"}, {"kernel.shm_rmid_forced+kernel.core_pattern", "1"}, {"net/../kernel/panic", "1"},
		{"kernel.sem", "1\nkernel.core_pattern=x"}, {"net.ipv4.conf.eth0/1.forwarding", "0"}, {"net.//.x", ""}, {"", "\x00"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		path, owner, err := Sysctl(name, value)
		if err != nil {
			return
		}
		if owner != unix.CLONE_NEWNET && owner != unix.CLONE_NEWIPC {
			t.Fatalf("owner = %#x", owner)
		}
		if filepath.Clean("/"+path) != "/"+path || strings.ContainsAny(path, "\x00\n=+ ") {
			t.Fatalf("path = %q", path)
		}
		if !strings.HasPrefix(path, "net/") && !strings.HasPrefix(path, "fs/mqueue/") && !strings.HasPrefix(path, "kernel/") {
			t.Fatalf("path = %q", path)
		}
		if strings.ContainsAny(value, "\x00\n\r") {
			t.Fatalf("value = %q", value)
		}
	})
}
