package hostmount

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/test/roottest"
)

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	os.Symlink(dir, filepath.Join(dir, "link"))
	os.Symlink(filepath.Join(dir, "nowhere"), filepath.Join(dir, "dangling"))
	os.WriteFile(filepath.Join(dir, "file"), nil, 0o600)
	for in, want := range map[string]string{
		dir: dir, dir + "/link": dir, dir + "/link/link/file": dir + "/file", dir + "/./x/../file": dir + "/file",
		dir + "/link/new/deeper": dir + "/new/deeper",
	} {
		s, err := Open(in)
		if err != nil || s.Path() != want {
			t.Errorf("Open(%s) = %v, %v, want %s", in, s, err, want)
		}
		s.Close()
	}
	for _, bad := range []string{"", "relative", dir + "/dangling", dir + "/file/below", "/proc/self/root/etc", "/proc/self/fd/0", "/x\x00y", "/" + strings.Repeat("a", 5000)} {
		if s, err := Open(bad); err == nil {
			t.Errorf("Open(%.40q) = %s, want an error", bad, s.Path())
		}
	}
}

// A link that appears where a missing source is to be made is not followed.
func TestBindMakesNoDetour(t *testing.T) {
	roottest.Need(t)
	dir, outside := t.TempDir(), t.TempDir()
	s, err := Open(filepath.Join(dir, "new", "deeper"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	os.Symlink(outside, filepath.Join(dir, "new"))
	target := filepath.Join(t.TempDir(), "0")
	if err := s.Bind(target); err == nil {
		Unmount(target)
		t.Error("Bind() through a link = nil, want an error")
	}
	if _, err := os.Lstat(filepath.Join(outside, "deeper")); err == nil {
		t.Error("Bind() made a directory behind the link")
	}
	os.Remove(filepath.Join(dir, "new"))
	if err := s.Bind(target); err != nil {
		t.Errorf("Bind() = %v, want nil", err)
	}
	if err := Unmount(target); err != nil {
		t.Error(err)
	}
}

// Removing a mount point never removes what is mounted there.
func TestUnmountSpares(t *testing.T) {
	roottest.Need(t)
	dir := t.TempDir()
	full := filepath.Join(dir, "full")
	os.Mkdir(full, 0o700)
	os.WriteFile(filepath.Join(full, "canary"), nil, 0o600)
	if err := Unmount(full); err == nil {
		t.Error("Unmount() of a directory that is not empty = nil, want an error")
	}
	if _, err := os.Stat(filepath.Join(full, "canary")); err != nil {
		t.Error("Unmount() removed a file")
	}
	target := filepath.Join(dir, "0")
	s, err := Open(full)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Bind(target); err != nil {
		t.Fatal(err)
	}
	if err := None(dir); err == nil {
		t.Error("None() = nil with a mount beneath, want an error")
	}
	if err := Unmount(target); err != nil {
		t.Error(err)
	}
	if err := None(dir); err != nil {
		t.Errorf("None() = %v, want nil", err)
	}
	if _, err := os.Stat(filepath.Join(full, "canary")); err != nil {
		t.Error("Unmount() removed the source's file")
	}
	if err := Unmount(target); err != nil {
		t.Errorf("second Unmount() = %v, want nil", err)
	}
}

func TestPrivate(t *testing.T) {
	roottest.Need(t)
	dir := filepath.Join(t.TempDir(), "run")
	os.Mkdir(dir, 0o700)
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	for range 2 {
		if err := Private(dir); err != nil {
			t.Fatal(err)
		}
	}
	data, _ := os.ReadFile("/proc/self/mountinfo")
	count := 0
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); f[4] == dir {
			count++
			if strings.Contains(line, "shared:") {
				t.Errorf("it is shared: %s", line)
			}
		}
	}
	if count != 1 {
		t.Errorf("mounted %d times, want once", count)
	}
}

func TestLogFile(t *testing.T) {
	dir := t.TempDir()
	os.Symlink("/etc", filepath.Join(dir, "link"))
	os.Symlink("/etc/passwd", filepath.Join(dir, "leaf"))
	os.Symlink("/etc/passwd", filepath.Join(dir, "rotated.tmp")) // what conmon would write through
	for _, bad := range []string{"", "..", "../x", "a/../../x", "/x", "link/x", "leaf", "rotated", ".", "a\nb", "a\x00b"} {
		if got, err := LogFile(dir, bad); err == nil {
			t.Errorf("LogFile(%q) = %q, want an error", bad, got)
		}
	}
	for _, bad := range []string{"", "relative", dir + "/..", dir + "/../x", "/proc/self/root" + dir, dir + "\n"} {
		if got, err := LogFile(bad, "x"); err == nil {
			t.Errorf("LogFile(dir %q) = %q, want an error", bad, got)
		}
	}
	if got, err := LogFile(dir+"/new", "a/b/0.log"); err != nil || got != dir+"/new/a/b/0.log" {
		t.Errorf("LogFile() = %q, %v", got, err)
	}
}

// TestOpenIn: no link leads out of the tree, and none of the kernel's own is followed.
func TestOpenIn(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	for _, dir := range []string{"etc", "deep/er"} {
		must(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("inside"), 0o644))
	must(t, os.WriteFile(filepath.Join(outside, "secret"), nil, 0o644))
	for link, to := range map[string]string{"abs": "/etc", "up": "../../../../etc/passwd", "out": outside, "self": "/proc/self/root"} {
		must(t, os.Symlink(to, filepath.Join(root, link)))
	}
	for in, want := range map[string]string{"/": "", "etc/passwd": "/etc/passwd", "/abs/passwd": "/etc/passwd", "up": "/etc/passwd", "../../etc": "/etc", "deep/../../etc": "/etc"} {
		s, err := OpenIn(root, in)
		if err != nil || s.Path() != filepath.Clean(root+want) {
			t.Errorf("OpenIn(%s) = %v, %v, want %s beneath the root", in, s, err, want)
		}
		s.Close()
	}
	for _, bad := range []string{"none", "out/secret", "self", "out"} {
		if s, err := OpenIn(root, bad); err == nil {
			t.Errorf("OpenIn(%s) = %s, want an error", bad, s.Path())
		}
	}
	must(t, os.Symlink(root, filepath.Join(outside, "tree")))
	if s, err := OpenIn(filepath.Join(outside, "tree"), "etc"); err == nil {
		t.Errorf("OpenIn() of a tree that is a link = %s, want an error", s.Path())
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestBindLog: through the mount a log is written where it belongs, and no link is followed that is put
// there afterwards (CVE-2025-0750).
func TestBindLog(t *testing.T) {
	roottest.Need(t)
	dir := t.TempDir()
	target, canary := filepath.Join(dir, "mount"), filepath.Join(dir, "canary")
	if err := os.WriteFile(canary, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := BindLog(filepath.Join(dir, "logs"), "a/0.log", target)
	if err != nil || path != filepath.Join(dir, "logs/a/0.log") {
		t.Fatalf("BindLog() = %q, %v", path, err)
	}
	defer Unmount(target)
	if err := os.WriteFile(filepath.Join(target, "0.log"), []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "x" {
		t.Errorf("log = %q, %v, want x", data, err)
	}
	if err := os.Symlink(canary, filepath.Join(dir, "logs/a/1.log")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(target, "1.log"), []byte("x"), 0o600); !errors.Is(err, unix.ELOOP) {
		t.Errorf("write through a link = %v, want ELOOP", err)
	}
	if data, err := os.ReadFile(canary); err != nil || len(data) > 0 {
		t.Errorf("canary = %q, %v", data, err)
	}
}
