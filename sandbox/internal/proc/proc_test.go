package proc

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestOpen(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	id, err := Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Open(id)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	// The same pid with another start time is another process.
	if _, err := Open(ID{Pid: id.Pid, Start: id.Start + 1}); !errors.Is(err, ErrGone) {
		t.Errorf("Open() of a recycled pid = %v, want ErrGone", err)
	}
	for _, pid := range []int{0, 1, -1} {
		if _, err := Open(ID{Pid: pid}); !errors.Is(err, ErrGone) {
			t.Errorf("Open(%d) = %v, want ErrGone", pid, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := p.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) || p.Exited() {
		t.Errorf("Wait() = %v, want DeadlineExceeded", err)
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err != nil || !p.Exited() {
		t.Errorf("Wait() = %v, want nil", err)
	}
	if code, err := Collect(id.Pid); err != nil || code != 137 {
		t.Errorf("Collect() = %d, %v, want 137", code, err)
	}
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, ErrGone) {
		t.Errorf("Signal() = %v, want ErrGone", err)
	}
	if _, err := Open(id); !errors.Is(err, ErrGone) {
		t.Errorf("Open() = %v, want ErrGone", err)
	}
}

func TestKillTree(t *testing.T) {
	cmd := exec.Command("sh", "-c", `setsid sh -c 'sleep 4714 & sleep 4714' & (sleep 4714 &) ; sleep 4714`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	KillTree(os.Getpid()) // everything below this process
	cmd.Wait()
	out, _ := exec.Command("sh", "-c", "grep -l 'sleep.4714' /proc/[0-9]*/cmdline 2>/dev/null").Output()
	for _, f := range strings.Fields(string(out)) {
		if data, _ := os.ReadFile(f); strings.HasPrefix(string(data), "sleep\x004714") {
			t.Errorf("%s lives on", f)
		}
	}
}

func TestParseStat(t *testing.T) {
	rest := " S 2 3 4 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 777 0 0\n"
	for _, comm := range []string{"(sh)", "(a) S 1 1 1)", "() )", "(\n)"} {
		if s, err := parseStat(9, []byte("9 "+comm+rest)); err != nil || s.start != 777 || s.ppid != 2 || s.session != 4 {
			t.Errorf("parseStat(%q) = %+v, %v", comm, s, err)
		}
	}
	for _, bad := range []string{"", "9", "9 (x)", "9 (x) S", "9 (x" + rest} {
		if s, err := parseStat(9, []byte(bad)); err == nil {
			t.Errorf("parseStat(%q) = %+v, want an error", bad, s)
		}
	}
}

func TestParseStatus(t *testing.T) {
	good := "Name:\tx\nUid:\t5\t6\t7\t8\nCapInh:\t0\nCapPrm:\t1\nCapEff:\t2\nCapBnd:\t1ff\nCapAmb:\t4\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n"
	s, err := parseStatus(good)
	if err != nil || s.UID != 6 || s.CapBounding != 0x1ff || !s.NoNewPrivileges || s.Seccomp != 2 || s.CapAmbient != 4 {
		t.Errorf("parseStatus() = %+v, %v", s, err)
	}
	for _, field := range []string{"Uid:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:", "Seccomp:"} {
		if _, err := parseStatus(strings.Replace(good, field, "X"+field, 1)); err == nil {
			t.Errorf("parseStatus() without %s = nil, want an error", field)
		}
	}
}
