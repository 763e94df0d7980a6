package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/sandbox/spec"
	"sallyport/test/roottest"
)

func usersPod() *Pod {
	ids := []spec.IDMapping{{Container: 0, Host: 300000, Length: 1000}, {Container: 1000, Host: 400000, Length: 10}}
	return &Pod{cfg: spec.PodConfig{Security: spec.PodSecurity{Namespaces: spec.NamespaceOptions{User: spec.UserNamespace{Mode: spec.NamespacePod, UIDs: ids, GIDs: ids}}}}}
}

// TestLetIn: a pod's root may walk through, nobody else; without a user namespace nothing changes.
func TestLetIn(t *testing.T) {
	roottest.Need(t)
	for name, tt := range map[string]struct {
		pod  *Pod
		mode os.FileMode
		gid  uint32
	}{"users": {usersPod(), 0o710, 300000}, "none": {&Pod{}, 0o700, 0}} {
		dir := filepath.Join(t.TempDir(), "d")
		must(t, os.Mkdir(dir, 0o700))
		must(t, tt.pod.letIn(dir))
		st, err := os.Stat(dir)
		must(t, err)
		if s := st.Sys().(*syscall.Stat_t); st.Mode().Perm() != tt.mode || s.Uid != 0 || s.Gid != tt.gid {
			t.Errorf("%s: %v of %d:%d, want %v of 0:%d", name, st.Mode(), s.Uid, s.Gid, tt.mode, tt.gid)
		}
	}
}

func TestOwner(t *testing.T) {
	for in, want := range map[uint32]int{0: 300000, 999: 300999, 1000: 400000, 1009: 400009, 1010: 65534, 1<<32 - 1: 65534} {
		if got, _ := usersPod().owner(in, 0); got != want {
			t.Errorf("owner(%d) = %d, want %d", in, got, want)
		}
	}
}

// TestOwnPipe: a pipe changes its owner, a file or device that stands in its place does not.
func TestOwnPipe(t *testing.T) {
	roottest.Need(t)
	dir := t.TempDir()
	must(t, unix.Mkfifo(dir+"/pipe", 0o600))
	must(t, os.WriteFile(dir+"/file", nil, 0o600))
	must(t, unix.Mknod(dir+"/device", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	for name, want := range map[string]uint32{"pipe": 300000, "file": 0, "device": 0} {
		must(t, ownPipe(filepath.Join(dir, name), 300000, 300000))
		var st unix.Stat_t
		must(t, unix.Stat(filepath.Join(dir, name), &st))
		if st.Uid != want {
			t.Errorf("owner of the %s = %d, want %d", name, st.Uid, want)
		}
	}
	must(t, ownPipe(dir+"/none", 1, 1))
}

type mapper struct{ err error }

func (m mapper) ProbeIDMap(path string) error {
	if _, err := os.Stat(path); err != nil {
		return err
	}
	return m.err
}

// TestProbeUserNamespaces: it is not said to work where a root filesystem cannot be mounted for one, or
// cannot be reached.
func TestProbeUserNamespaces(t *testing.T) {
	n := newNode(t)
	parent := filepath.Dir(n.opt.Root)
	if err := n.ProbeUserNamespaces(t.Context(), mapper{}); err == nil || !strings.Contains(err.Error(), parent+" is closed") {
		t.Errorf("ProbeUserNamespaces() beneath a closed directory = %v, want it named", err)
	}
	for dir := parent; dir != os.TempDir(); dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o711))
	}
	if err := n.ProbeUserNamespaces(t.Context(), mapper{}); err != nil {
		t.Errorf("ProbeUserNamespaces() = %v", err)
	}
	cause := errors.New("no ID maps")
	if err := n.ProbeUserNamespaces(t.Context(), mapper{cause}); !errors.Is(err, cause) {
		t.Errorf("ProbeUserNamespaces() = %v, want the store's reason", err)
	}
	if left, _ := filepath.Glob(n.opt.Root + "/probe-*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
