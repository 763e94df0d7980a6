package ns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/test/inittest"
	"sallyport/test/roottest"
)

// place gives a test a directory for pins and a directory of network namespaces of its own, and takes
// every mount below away again.
func place(tb testing.TB) (dir, netDir string) {
	tb.Helper()
	roottest.Need(tb)
	dir, netDir = tb.TempDir(), filepath.Join(tb.TempDir(), "netns")
	tb.Cleanup(func() {
		pins, _ := filepath.Glob(filepath.Join(dir, "*"))
		nets, _ := filepath.Glob(filepath.Join(netDir, "*"))
		for _, p := range append(pins, nets...) {
			unix.Unmount(p, unix.MNT_DETACH)
		}
		unix.Unmount(netDir, unix.MNT_DETACH)
	})
	return dir, netDir
}

// inside runs a shell command in the namespaces of s and returns its output.
func inside(tb testing.TB, s Set, script string) string {
	tb.Helper()
	args := []string{}
	for flag, path := range map[string]string{"--net=": s.Net, "--ipc=": s.IPC, "--uts=": s.UTS, "--user=": s.User} {
		if path != "" {
			args = append(args, flag+path)
		}
	}
	out, err := exec.Command("nsenter", append(args, "sh", "-c", script)...).CombinedOutput()
	if err != nil {
		tb.Fatalf("nsenter %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func inode(tb testing.TB, path string) uint64 {
	tb.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		tb.Fatal(err)
	}
	return st.Ino
}

func TestMake(t *testing.T) {
	dir, netDir := place(t)
	o := Options{
		InitPath: inittest.Build(t), NetPath: filepath.Join(netDir, "pod1"), Dir: dir, Hostname: "pod-1.example",
		Sysctls: map[string]string{"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "20"},
	}
	s, err := Make(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for kind, path := range map[string]string{"net": s.Net, "ipc": s.IPC, "uts": s.UTS} {
		if inode(t, path) == inode(t, "/proc/self/ns/"+kind) {
			t.Errorf("%s namespace is the node's", kind)
		}
	}
	if s.User != "" {
		t.Errorf("User = %q, want none", s.User)
	}
	script := "hostname; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max; ip -o -4 addr show lo | awk '{print $4}'"
	if got, want := inside(t, s, script), "pod-1.example\n1\n1\n20\n127.0.0.1/8"; got != want {
		t.Errorf("inside = %q, want %q", got, want)
	}
	if found, err := Open(dir, o.NetPath); err != nil || found != s {
		t.Errorf("Open() = %v, %v, want %v", found, err, s)
	}
	for range 2 { // the second time there is nothing left, and no error
		if err := Remove(dir, o.NetPath); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{s.Net, s.IPC, s.UTS} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
	if mounts, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(mounts), "pod1") {
		t.Error("a mount is left")
	}
}

func TestMakeUser(t *testing.T) {
	dir, netDir := place(t)
	o := Options{
		InitPath: inittest.Build(t), NetPath: filepath.Join(netDir, "pod2"), Dir: dir, Hostname: "u",
		Sysctls: map[string]string{"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"},
		UIDs:    []Mapping{{0, 200000, 65536}}, GIDs: []Mapping{{0, 300000, 65536}},
	}
	s, err := Make(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	script := "cat /proc/self/uid_map /proc/self/gid_map; hostname; cat /proc/sys/net/ipv4/ip_forward"
	got := strings.Join(strings.Fields(inside(t, s, script)), " ")
	if want := "0 200000 65536 0 300000 65536 u 1"; got != want {
		t.Errorf("inside = %q, want %q", got, want)
	}
	// The pod's user namespace owns its network namespace, or root in the pod could not use it.
	f, err := os.Open(s.Net)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	owner, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(owner)
	if inode(t, fmt.Sprintf("/proc/self/fd/%d", owner)) != inode(t, s.User) {
		t.Error("the network namespace is not owned by the pod's user namespace")
	}
	if err := Remove(dir, o.NetPath); err != nil {
		t.Fatal(err)
	}
}

func TestMakeHost(t *testing.T) {
	dir, _ := place(t)
	s, err := Make(t.Context(), Options{InitPath: "/nonexistent", Dir: dir, HostIPC: true, HostUTS: true})
	if err != nil || s != (Set{}) {
		t.Fatalf("Make() = %v, %v, want the empty set", s, err)
	}
	s, err = Make(t.Context(), Options{InitPath: inittest.Build(t), Dir: dir, HostUTS: true})
	if want := (Set{IPC: filepath.Join(dir, "ipc")}); err != nil || s != want {
		t.Fatalf("Make() = %v, %v, want %v", s, err, want)
	}
}

// A failure leaves nothing, and what was there before is not touched.
func TestMakeFails(t *testing.T) {
	dir, netDir := place(t)
	real := inittest.Build(t)
	hold := func(path string) func(t *testing.T) {
		return func(t *testing.T) {
			if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	netPath := filepath.Join(netDir, "pod3")
	for _, tc := range []struct {
		name    string
		init    string
		sysctls map[string]string
		before  func(t *testing.T)
		timeout time.Duration
		because string
		left    string
	}{
		{name: "no program", init: "/nonexistent", because: "open sallyport-init"},
		{name: "sysctl that is not there", init: real, sysctls: map[string]string{"net.nonsense": "1"}, because: "net/nonsense"},
		{name: "sysctl with a bad value", init: real, sysctls: map[string]string{"net.ipv4.ip_forward": "x"}, because: "invalid argument"},
		{name: "program that is too slow", init: real, timeout: time.Nanosecond, because: "deadline exceeded"},
		{name: "program that says nothing", init: "/bin/false", because: `answered ""`},
		{name: "program that says something else, for ever", init: "/usr/bin/yes", because: `answered "pins lo"`},
		{name: "pin exists", init: real, before: hold(filepath.Join(dir, "uts")), because: "file exists", left: filepath.Join(dir, "uts")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.before != nil {
				tc.before(t)
			}
			if tc.timeout == 0 {
				tc.timeout = 5 * time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), tc.timeout)
			defer cancel()
			_, err := Make(ctx, Options{InitPath: tc.init, NetPath: netPath, Dir: dir, Sysctls: tc.sysctls})
			if err == nil || !strings.Contains(err.Error(), tc.because) {
				t.Fatalf("Make() = %v, want an error with %q", err, tc.because)
			}
			pins, _ := filepath.Glob(filepath.Join(dir, "*"))
			nets, _ := filepath.Glob(filepath.Join(netDir, "*"))
			if got := strings.Join(append(pins, nets...), " "); got != tc.left {
				t.Errorf("left = %q, want %q", got, tc.left)
			}
		})
	}
	if left, _ := os.ReadFile(filepath.Join(dir, "uts")); string(left) != "mine" {
		t.Errorf("someone else's file = %q, want it untouched", left)
	}
}

// After a reboot the files may be there without their mounts.
func TestOpenStale(t *testing.T) {
	dir, netDir := place(t)
	if err := os.MkdirAll(netDir, 0o755); err != nil {
		t.Fatal(err)
	}
	netPath := filepath.Join(netDir, "pod4")
	if _, err := Open(dir, netPath); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open() without a pin = %v, want not exist", err)
	}
	if err := os.WriteFile(netPath, nil, 0o400); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, netPath); err == nil || !strings.Contains(err.Error(), "no namespace is pinned") {
		t.Errorf("Open() of a plain file = %v, want a refusal", err)
	}
	if err := Remove(dir, netPath); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(dir, ""); err != nil || s != (Set{}) {
		t.Errorf("Open() = %v, %v, want the empty set", s, err)
	}
}

// A pin reaches mount namespaces that were copied earlier, and so does its removal.
func TestShared(t *testing.T) {
	dir, netDir := place(t)
	if err := share(netDir); err != nil {
		t.Fatal(err)
	}
	other := exec.Command("unshare", "-m", "--propagation=slave", "sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Process.Kill(); other.Wait() })
	view := fmt.Sprintf("/proc/%d/root%s/pod5", other.Process.Pid, netDir)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		mine, _ := os.Readlink("/proc/self/ns/mnt")
		if theirs, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", other.Process.Pid)); theirs != "" && theirs != mine {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no second mount namespace")
		}
	}
	time.Sleep(20 * time.Millisecond) // unshare(1) sets the propagation after the unshare
	s, err := Make(t.Context(), Options{InitPath: inittest.Build(t), NetPath: filepath.Join(netDir, "pod5"), Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if inode(t, view) != inode(t, s.Net) {
		t.Error("the pin is not seen in the other mount namespace")
	}
	if err := Remove(dir, s.Net); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(view); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the pin is still seen: %v", err)
	}
}

// Descriptors, children and threads are back where they were.
func TestMakeLeaksNothing(t *testing.T) {
	dir, netDir := place(t)
	program := inittest.Build(t)
	count := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	round := func(id int) {
		d := filepath.Join(dir, fmt.Sprint(id))
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
		s, err := Make(t.Context(), Options{InitPath: program, NetPath: filepath.Join(netDir, fmt.Sprint(id)), Dir: d})
		if err != nil {
			t.Fatal(err)
		}
		if err := Remove(d, s.Net); err != nil {
			t.Fatal(err)
		}
	}
	round(0)
	before, goroutines := count(), runtime.NumGoroutine()
	for i := range 20 {
		round(i + 1)
	}
	if after := count(); after != before {
		t.Errorf("descriptors = %d, want %d", after, before)
	}
	if after := runtime.NumGoroutine(); after > goroutines {
		t.Errorf("goroutines = %d, want %d", after, goroutines)
	}
	if children, _ := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid())); len(children) > 0 {
		t.Errorf("children = %s, want none", children)
	}
}

func BenchmarkMake(b *testing.B) {
	ids := []Mapping{{0, 200000, 65536}}
	for _, tc := range []struct {
		name string
		ids  []Mapping
	}{{"plain", nil}, {"user", ids}} {
		b.Run(tc.name, func(b *testing.B) {
			dir, netDir := place(b)
			program := inittest.Build(b)
			o := Options{InitPath: program, NetPath: filepath.Join(netDir, "b"), Dir: dir, Hostname: "b", UIDs: tc.ids, GIDs: tc.ids}
			for b.Loop() {
				if _, err := Make(b.Context(), o); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := Remove(dir, o.NetPath); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
