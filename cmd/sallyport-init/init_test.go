package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport/test/inittest"
	"sallyport/test/roottest"
)

func TestPrepareRefuses(t *testing.T) {
	for _, tc := range []struct{ arg, because string }{
		{"nonsense", "unknown word"},
		{"", "unknown word"},
		{"sysctl=../kernel/core_pattern=x", "path is not plain"},
		{"sysctl=net/../kernel/core_pattern=x", "path is not plain"},
		{"sysctl=/net/ipv4=x", "path is not plain"},
		{"sysctl=./net=x", "path is not plain"},
		{"sysctl==x", "path is not plain"},
		{"sysctl=net/nonsense=x", "no such file"},
	} {
		var out strings.Builder
		code := pins([]string{tc.arg}, strings.NewReader(""), &out)
		if code != 1 || !strings.HasPrefix(out.String(), "error ") || !strings.Contains(out.String(), tc.because) {
			t.Errorf("pins(%q) = %d, %q, want an error with %q", tc.arg, code, out.String(), tc.because)
		}
		if strings.Count(out.String(), "\n") != 1 {
			t.Errorf("pins(%q) answers %q, want one line", tc.arg, out.String())
		}
	}
}

// The process waits inside until its input ends, which is when the daemon has pinned or died.
func TestPinsWaits(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var out strings.Builder
	done := make(chan int)
	go func() { done <- pins(nil, r, &out) }()
	select {
	case code := <-done:
		t.Fatalf("pins() = %d before its input ended", code)
	case <-time.After(20 * time.Millisecond):
	}
	w.Close()
	if code := <-done; code != 0 || out.String() != "ready\n" {
		t.Errorf("pins() = %d, %q, want 0 and ready", code, out.String())
	}
}

func TestUsage(t *testing.T) {
	program := inittest.Build(t)
	for _, args := range [][]string{nil, {"nonsense"}} {
		out, err := exec.Command(program, args...).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || !bytes.HasPrefix(out, []byte("usage: ")) {
			t.Errorf("sallyport-init %v = %v, %q, want exit status 2 and its usage", args, err, out)
		}
	}
}

// The program has no dynamic linker, so that it runs from an empty root.
func TestStatic(t *testing.T) {
	roottest.Need(t)
	root := t.TempDir()
	data, err := os.ReadFile(inittest.Build(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "init"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/init", "pins")
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	if out, err := cmd.Output(); err != nil || string(out) != "ready\n" {
		t.Errorf("in an empty root: %q, %v, want ready", out, err)
	}
}

// As the first process of a PID namespace it reaps the orphans of others, and ends on SIGTERM and SIGINT.
func TestPause(t *testing.T) {
	roottest.Need(t)
	program := inittest.Build(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			cmd := exec.Command(program, "pause")
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
			children := fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid)
			waitHandler(t, cmd.Process.Pid)
			// Each shell leaves a process behind that becomes a child of the first one, and then a zombie.
			for range 5 {
				orphan := exec.Command("nsenter", fmt.Sprintf("--pid=/proc/%d/ns/pid", cmd.Process.Pid), "sh", "-c", "sleep 0.02 & sleep 0.02 &")
				if out, err := orphan.CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
				left, err := os.ReadFile(children)
				if err != nil {
					t.Fatal(err)
				}
				if len(left) == 0 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("children = %s, want none", left)
				}
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("exit = %v, want 0", err)
				}
			case <-time.After(5 * time.Second):
				t.Fatal("it does not end")
			}
		})
	}
}

// waitHandler waits until process pid has handlers for SIGTERM and SIGCHLD: the kernel drops what a first
// process does not handle.
func waitHandler(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(status)) {
			var caught uint64
			if n, _ := fmt.Sscanf(line, "SigCgt: %x", &caught); n == 1 && caught&(1<<14) != 0 && caught&(1<<16) != 0 {
				time.Sleep(5 * time.Millisecond) // Go's runtime catches all signals before main asks for them
				return
			}
		}
	}
	t.Fatal("no signal handlers")
}

// BenchmarkStart is the time from exec to exit of a "pins" that has nothing to prepare.
func BenchmarkStart(b *testing.B) {
	program := inittest.Build(b)
	for b.Loop() {
		if err := exec.Command(program, "pins").Run(); err != nil {
			b.Fatal(err)
		}
	}
}
