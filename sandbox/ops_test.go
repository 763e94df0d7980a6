package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"sallyport/sandbox/internal/proc"
	"sallyport/sandbox/spec"
)

func TestSharedPID(t *testing.T) {
	n := newNode(t)
	cfg := podConfig("a")
	cfg.Security.Namespaces.PID = spec.NamespacePod
	cfg.LogDirectory = t.TempDir()
	p := n.pod(cfg)
	c := script("app", "cat /proc/1/cmdline; sleep 100 & ps")
	c.Security.Namespaces.PID, c.LogPath = spec.NamespacePod, "0.log"
	ctr := n.run(p, c)
	waitExit(t, ctr)
	if got := logged(t, ctr); !strings.Contains(got, "sallyport-init") {
		t.Errorf("process 1 is not sallyport-init:\n%s", got)
	}
	// The sleep outlived its parent; removal must end it.
	must(t, ctr.Remove(t.Context()))
	target := n.run(p, script("main", "sleep 1000"))
	peek := script("debug", "ps | grep 'sleep 1000'; readlink /proc/1/exe; cat /proc/1/cmdline")
	peek.Security.Namespaces.PID, peek.Security.Namespaces.Target, peek.LogPath = spec.NamespaceTarget, target.ID(), "1.log"
	d := n.run(p, peek)
	waitExit(t, d)
	if got := logged(t, d); !strings.Contains(got, "sleep") {
		t.Errorf("a container that targets another does not see its processes:\n%s", got)
	}
}

func TestExec(t *testing.T) {
	n := newNode(t)
	c := n.run(n.pod(podConfig("a")), script("app", "sleep 1000"))
	t.Run("output and code", func(t *testing.T) {
		res, err := n.exec(c, 0, "sh", "-c", "echo out; echo err >&2; exit 7")
		if err != nil || res.Code != 7 || string(res.Stdout) != "out\n" || string(res.Stderr) != "err\n" {
			t.Errorf("ExecSync() = %q %q %d, %v, want out, err, 7", res.Stdout, res.Stderr, res.Code, err)
		}
	})
	t.Run("no such program", func(t *testing.T) {
		if res, err := n.exec(c, 0, "/nonexistent"); err == nil || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("ExecSync() = %+v, %v, want an error that says why", res, err)
		}
	})
	t.Run("killed by a signal", func(t *testing.T) {
		if res, err := n.exec(c, 0, "sh", "-c", "kill -9 $$"); err != nil || res.Code != 137 {
			t.Errorf("ExecSync() = %d, %v, want 137", res.Code, err)
		}
	})
	t.Run("flood", func(t *testing.T) {
		res, err := n.exec(c, 0, "sh", "-c", "head -c 50000000 /dev/zero; echo done >&2")
		if err != nil || len(res.Stdout) != MaxOutput || string(res.Stderr) != "done\n" {
			t.Errorf("ExecSync() = %d bytes, %q, %v, want %d bytes, done", len(res.Stdout), res.Stderr, err, MaxOutput)
		}
	})
	t.Run("timeout", func(t *testing.T) {
		begun := time.Now()
		res, err := n.exec(c, 300*time.Millisecond, "sh", "-c", "echo begun; sleep 4711 & sleep 4711")
		if !errors.Is(err, ErrTimeout) || string(res.Stdout) != "begun\n" {
			t.Errorf("ExecSync() = %q, %v, want begun, ErrTimeout", res.Stdout, err)
		}
		if took := time.Since(begun); took > 3*time.Second {
			t.Errorf("ExecSync() took %v, want little more than its timeout", took)
		}
		if res, err := n.exec(c, 0, "ps"); err != nil || strings.Contains(string(res.Stdout), "4711") {
			t.Errorf("the command's processes live on: %v\n%s", err, res.Stdout)
		}
	})
	t.Run("child holds the pipe", func(t *testing.T) {
		begun := time.Now()
		res, err := n.exec(c, 0, "sh", "-c", "echo here; sleep 4712 & exit 0")
		if err != nil || res.Code != 0 || string(res.Stdout) != "here\n" || time.Since(begun) > 10*time.Second {
			t.Errorf("ExecSync() = %+v, %v after %v", res, err, time.Since(begun))
		}
	})
	t.Run("not running", func(t *testing.T) {
		must(t, c.Stop(t.Context(), 0))
		data, err := c.Spec()
		must(t, err)
		if _, err := n.exec(c, 0, "true"); !errors.Is(err, ErrNotRunning) {
			t.Errorf("ExecSync() = %v, want ErrNotRunning (spec %d bytes)", err, len(data))
		}
	})
}

func TestStop(t *testing.T) {
	n := newNode(t)
	p := n.pod(podConfig("a"))
	deaf := `trap "" TERM; while :; do sleep 0.05; done`
	t.Run("by its signal", func(t *testing.T) {
		cfg := script("polite", `trap "exit 5" USR1; while :; do sleep 0.05; done`)
		cfg.StopSignal = "SIGUSR1"
		c := n.run(p, cfg)
		time.Sleep(300 * time.Millisecond) // a signal before the trap would end it otherwise
		must(t, c.Stop(t.Context(), 10*time.Second))
		if st := c.Status(); st.State != Exited || st.ExitCode != 5 {
			t.Errorf("Status() = %+v, want exit code 5", st)
		}
		must(t, c.Stop(t.Context(), time.Second))
	})
	t.Run("killed after the grace", func(t *testing.T) {
		c := n.run(p, script("deaf", deaf))
		time.Sleep(200 * time.Millisecond)
		begun := time.Now()
		must(t, c.Stop(t.Context(), 700*time.Millisecond))
		if st, took := c.Status(), time.Since(begun); st.ExitCode != 137 || took < 600*time.Millisecond || took > 3*time.Second {
			t.Errorf("Stop() took %v, exit code %d, want 0.7s, 137", took, st.ExitCode)
		}
	})
	t.Run("a second stop shortens and never lengthens", func(t *testing.T) {
		c := n.run(p, script("deaf2", deaf))
		time.Sleep(200 * time.Millisecond)
		begun := time.Now()
		first := make(chan error, 1)
		go func() { first <- c.Stop(context.Background(), 8*time.Second) }()
		time.Sleep(50 * time.Millisecond)
		must(t, c.Stop(t.Context(), 300*time.Millisecond))
		must(t, <-first)
		if took := time.Since(begun); took > 3*time.Second {
			t.Errorf("stop took %v, want the shorter grace", took)
		}
		c = n.run(p, script("deaf3", deaf))
		time.Sleep(200 * time.Millisecond)
		begun = time.Now()
		go func() { first <- c.Stop(context.Background(), 300*time.Millisecond) }()
		time.Sleep(50 * time.Millisecond)
		must(t, c.Stop(t.Context(), 8*time.Second))
		must(t, <-first)
		if took := time.Since(begun); took > 3*time.Second {
			t.Errorf("stop took %v, want the shorter grace", took)
		}
	})
	t.Run("goes on without its caller", func(t *testing.T) {
		c := n.run(p, script("deaf4", deaf))
		time.Sleep(200 * time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if err := c.Stop(ctx, 300*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Stop() = %v, want DeadlineExceeded", err)
		}
		waitExit(t, c)
	})
	t.Run("never started", func(t *testing.T) {
		c, err := n.create(p, script("fresh", "true"))
		must(t, err)
		must(t, c.Stop(t.Context(), 10*time.Second))
		if st := c.Status(); st.State != Exited || !st.Started.IsZero() {
			t.Errorf("Status() = %+v, want exited and never started", st)
		}
	})
	t.Run("a pod's containers in parallel", func(t *testing.T) {
		p := n.pod(podConfig("many"))
		for i := range 3 {
			n.run(p, script(fmt.Sprint("c", i), deaf))
		}
		must(t, p.Stop(t.Context()))
		must(t, p.Stop(t.Context()))
		if st := p.Status(); st.State != Stopped {
			t.Errorf("pod is %s, want stopped", st.State)
		}
		if _, err := p.Reserve(t.Context(), script("late", "true")); !errors.Is(err, ErrNotReady) {
			t.Errorf("Reserve() in a stopped pod = %v, want ErrNotReady", err)
		}
	})
}

// A runtime that hangs is ended by a stop, and the name is free afterwards.
func TestStopCancelsHungCreate(t *testing.T) {
	dir := t.TempDir()
	hung := filepath.Join(dir, "runc")
	must(t, os.WriteFile(hung, []byte("#!/bin/sh\nfor a; do case $a in create) exec sleep 4713;; esac; done\n"), 0o755))
	n := newNode(t, func(o *Options) { o.Runtimes["hung"] = hung })
	cfg := podConfig("a")
	cfg.Handler = "hung"
	p := n.pod(cfg)
	done := make(chan error, 1)
	go func() {
		_, err := n.create(p, script("app", "true"))
		done <- err
	}()
	var c *Container
	for c == nil {
		time.Sleep(10 * time.Millisecond)
		if list := p.Containers(); len(list) == 1 {
			c = list[0]
		}
	}
	time.Sleep(300 * time.Millisecond)
	begun := time.Now()
	must(t, c.Stop(t.Context(), time.Minute))
	if err := <-done; !errors.Is(err, ErrStopped) {
		t.Errorf("Create() = %v, want ErrStopped", err)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("Stop() took %v", took)
	}
	r, err := p.Reserve(t.Context(), script("app", "true"))
	if err != nil {
		t.Fatalf("Reserve() after a cancelled create = %v, want nil", err)
	}
	r.Cancel()
	if out := processes(t, "sleep 4713"); len(out) > 0 {
		t.Errorf("processes of the hung runtime live on: %v", out)
	}
}

func processes(t *testing.T, args string) (out []int) {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, n := range names {
		if data, err := os.ReadFile(n); err == nil && strings.TrimRight(strings.ReplaceAll(string(data), "\x00", " "), " ") == args {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(n)))
			out = append(out, pid)
		}
	}
	return out
}

// A deadline of ours ends a runtime that hangs.
func TestCreateDeadline(t *testing.T) {
	dir := t.TempDir()
	hung := filepath.Join(dir, "runc")
	must(t, os.WriteFile(hung, []byte("#!/bin/sh\nfor a; do case $a in create) exec sleep 4713;; esac; done\n"), 0o755))
	n := newNode(t, func(o *Options) { o.Runtimes["hung"], o.Deadline = hung, 500*time.Millisecond })
	cfg := podConfig("a")
	cfg.Handler = "hung"
	if _, err := n.create(n.pod(cfg), script("app", "true")); err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("Create() = %v, want an error of the deadline", err)
	}
}

func TestMonitorKilled(t *testing.T) {
	n := newNode(t)
	c := n.run(n.pod(podConfig("a")), script("app", "sleep 1000"))
	must(t, syscall.Kill(c.procs.Monitor.Pid, syscall.SIGKILL))
	if st := waitExit(t, c); st.ExitCode != 255 || st.Message == "" {
		t.Errorf("Status() = %+v, want exit code 255 and a message", st)
	}
	if _, err := proc.Of(c.procs.Container.Pid); !errors.Is(err, proc.ErrGone) {
		t.Errorf("container's process lives on without a monitor: %v", err)
	}
}

// A monitor that was stopped does not keep a container from being stopped.
func TestMonitorStopped(t *testing.T) {
	n := newNode(t)
	c := n.run(n.pod(podConfig("a")), script("app", "sleep 1000"))
	must(t, syscall.Kill(c.procs.Monitor.Pid, syscall.SIGSTOP))
	must(t, c.Stop(t.Context(), 0))
	if st := c.Status(); st.State != Exited {
		t.Errorf("Status() = %+v, want exited", st)
	}
}

func TestOOM(t *testing.T) {
	n := newNode(t)
	cfg := script("app", "head -c 200m /dev/zero | tail")
	cfg.Command = []string{"/bin/busybox", "sh", "-c", "x=a; while :; do x=$x$x; done"}
	cfg.Resources.Memory = 16 << 20
	c := n.run(n.pod(podConfig("a")), cfg)
	if st := waitExit(t, c); st.Reason != "OOMKilled" || st.ExitCode == 0 {
		t.Errorf("Status() = %+v, want OOMKilled", st)
	}
	twin := n.run(n.pod(podConfig("b")), script("app", "exit 137"))
	if st := waitExit(t, twin); st.Reason != "Error" {
		t.Errorf("Status() = %+v, want Error without an OOM", st)
	}
}

func TestUpdate(t *testing.T) {
	n := newNode(t)
	c := n.run(n.pod(podConfig("a")), script("app", "sleep 1000"))
	limit, shares := int64(48<<20), uint64(333)
	if err := n.update(c, specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}, CPU: &specs.LinuxCPU{Shares: &shares}}); err != nil {
		t.Fatal(err)
	}
	file := cgroupFile("cpu", c.CgroupPath(), "cpu.shares", "cpu.weight")
	data, err := os.ReadFile(file)
	weight := strings.TrimSpace(string(data)) // of v2: 1024 shares are 100
	if v2 := filepath.Base(file) == "cpu.weight"; err != nil || !v2 && weight != "333" || v2 && (len(weight) != 2 || weight[0] == '9') {
		t.Errorf("%s = %q, %v, want 333, or less than 90 of cgroup v2", file, data, err)
	}
	if got := string(c.Status().Resources); !strings.Contains(got, "333") {
		t.Errorf("Resources = %s, want what was applied", got)
	}
	shares = 444
	if err := n.update(c, specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}}); err != nil {
		t.Fatal(err)
	}
	var got specs.LinuxResources
	if err := json.Unmarshal(c.Status().Resources, &got); err != nil || got.Memory == nil || *got.Memory.Limit != limit || *got.CPU.Shares != 444 {
		t.Errorf("Resources after a second update of CPU alone = %s, %v, want both", c.Status().Resources, err)
	}
}

func TestReopenLog(t *testing.T) {
	n := newNode(t)
	cfg := podConfig("a")
	cfg.LogDirectory = t.TempDir()
	c := script("app", "echo one; while ! [ -e /tmp/go ]; do sleep 0.05; done; echo two")
	c.LogPath = "app/0.log"
	ctr := n.run(n.pod(cfg), c)
	for !strings.Contains(logged(t, ctr), "one") {
		time.Sleep(10 * time.Millisecond)
	}
	must(t, os.Rename(ctr.LogPath(), ctr.LogPath()+".1"))
	must(t, ctr.ReopenLog(t.Context()))
	touched, err := n.exec(ctr, 0, "touch", "/tmp/go")
	must(t, err)
	if touched.Code != 0 {
		t.Fatalf("touch in the container = %d, %q", touched.Code, touched.Stderr)
	}
	waitExit(t, ctr)
	if got := logged(t, ctr); got != "two\n" {
		t.Errorf("new log = %q, want two", got)
	}
	if err := ctr.ReopenLog(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("ReopenLog() of an exited container = %v, want ErrNotRunning", err)
	}
}

// A container that floods its log fills no disk: the log is begun anew at its limit. Its twin without a
// limit keeps all that was written.
func TestLogFlood(t *testing.T) {
	const limit, flood = 1 << 20, 8 << 20
	for _, most := range []int64{limit, 0} {
		n := newNode(t, func(o *Options) { o.LogMax = most })
		cfg := podConfig("a")
		cfg.LogDirectory = t.TempDir()
		c := script("app", fmt.Sprintf("yes 0123456789012345678901234567890123456789 | head -c %d", flood))
		c.LogPath = "app/0.log"
		ctr := n.run(n.pod(cfg), c)
		waitExit(t, ctr)
		st, err := os.Stat(ctr.LogPath())
		must(t, err)
		if most > 0 && st.Size() > 2*limit || most == 0 && st.Size() < flood {
			t.Errorf("limit %d: the log has %d bytes after %d were written", most, st.Size(), flood)
		}
	}
}

// Two hundred calls for one name make one container.
func TestOneContainer(t *testing.T) {
	n := newNode(t)
	p := n.pod(podConfig("a"))
	var made atomic.Int32
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			r, err := p.Reserve(t.Context(), script("app", "sleep 1000"))
			if errors.Is(err, ErrBusy) || errors.Is(err, ErrExists) {
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Cancel()
			adm, err := n.gate.AdmitRun(t.Context(), n.request(r))
			if err != nil {
				t.Error(err)
				return
			}
			c, err := p.Create(t.Context(), adm)
			if err != nil {
				t.Error(err)
				return
			}
			c.Publish()
			made.Add(1)
		})
	}
	wg.Wait()
	if made.Load() != 1 || len(n.Containers()) != 1 {
		t.Errorf("made %d containers, listed %d, want 1", made.Load(), len(n.Containers()))
	}
}

// What no client knows is not listed, and gives way to a retry.
func TestUnclaimed(t *testing.T) {
	n := newNode(t)
	_, adm, err := n.admitPod(podConfig("a"))
	must(t, err)
	p, err := n.Run(t.Context(), adm)
	must(t, err)
	if got := n.List(); len(got) != 0 {
		t.Errorf("List() = %d pods, want none before Publish", len(got))
	}
	again := n.pod(podConfig("a"))
	if again.ID() == p.ID() || len(n.List()) != 1 {
		t.Errorf("a retry after an unclaimed pod: ID %s, %d pods listed", again.ID(), len(n.List()))
	}
	if _, err := n.Reserve(t.Context(), podConfig("a")); !errors.Is(err, ErrExists) {
		t.Errorf("Reserve() of a claimed pod = %v, want ErrExists", err)
	}
	r, err := again.Reserve(t.Context(), script("app", "sleep 1000"))
	must(t, err)
	radm, err := n.gate.AdmitRun(t.Context(), n.request(r))
	must(t, err)
	c, err := again.Create(t.Context(), radm)
	must(t, err)
	if got := n.Containers(); len(got) != 0 {
		t.Errorf("Containers() = %d, want none before Publish", len(got))
	}
	next := script("app", "sleep 1000")
	next.Attempt = 1
	if d, err := n.create(again, next); err != nil || d.ID() == c.ID() {
		t.Errorf("create of the next attempt = %v, want nil", err)
	}
	if _, err := n.Container(c.ID()); !errors.Is(err, ErrNotFound) {
		t.Errorf("the unclaimed container is still there: %v", err)
	}
}

// Reading waits for nothing, also while an operation hangs.
func TestReadsDoNotWait(t *testing.T) {
	n := newNode(t)
	p := n.pod(podConfig("a"))
	c := n.run(p, script("app", "sleep 1000"))
	must(t, c.slot.take(t.Context()))
	must(t, p.slot.take(t.Context()))
	begun := time.Now()
	n.List()
	n.Containers()
	c.Status()
	p.Status()
	if took := time.Since(begun); took > 50*time.Millisecond {
		t.Errorf("reads took %v", took)
	}
	c.slot.give()
	p.slot.give()
}

func TestMounts(t *testing.T) {
	n := newNode(t)
	cfg := podConfig("a")
	cfg.LogDirectory = t.TempDir()
	p := n.pod(cfg)
	src := t.TempDir()
	must(t, os.WriteFile(filepath.Join(src, "file"), []byte("judged\n"), 0o644))
	other := t.TempDir()
	must(t, os.WriteFile(filepath.Join(other, "file"), []byte("swapped\n"), 0o644))
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(src, link))

	c := script("app", "cat /data/file; touch /new/here; touch /data/no 2>&1")
	c.LogPath = "0.log"
	made := filepath.Join(src, "not", "yet")
	c.Mounts = []spec.Mount{{Destination: "/data", Source: link, ReadOnly: true}, {Destination: "/new", Source: made}}
	r, err := p.Reserve(t.Context(), c)
	must(t, err)
	for _, m := range r.Mounts() {
		if m.Destination == "/data" && m.Source != src {
			t.Errorf("resolved source = %q, want %q", m.Source, src)
		}
	}
	if _, err := os.Lstat(made); err == nil {
		t.Errorf("a missing source was made before the gate had judged")
	}
	adm, err := n.gate.AdmitRun(t.Context(), n.request(r))
	must(t, err)
	// Between judging and mounting the link is turned.
	must(t, os.Remove(link))
	must(t, os.Symlink(other, link))
	ctr, err := p.Create(t.Context(), adm)
	must(t, err)
	ctr.Publish()
	must(t, ctr.Start(t.Context()))
	waitExit(t, ctr)
	got := logged(t, ctr)
	if !strings.HasPrefix(got, "judged\n") || !strings.Contains(got, "Read-only") {
		t.Errorf("inside: %q, want what was judged, read-only", got)
	}
	if _, err := os.Stat(filepath.Join(made, "here")); err != nil {
		t.Errorf("a missing source was not made: %v", err)
	}
	// Removing the container leaves the sources alone.
	must(t, ctr.Remove(t.Context()))
	if _, err := os.Stat(filepath.Join(src, "file")); err != nil {
		t.Errorf("source was harmed: %v", err)
	}
}

func TestPropagation(t *testing.T) {
	n := newNode(t)
	p := n.pod(podConfig("a"))
	src := t.TempDir()
	must(t, unix.Mount("none", src, "tmpfs", 0, ""))
	t.Cleanup(func() { unix.Unmount(src, unix.MNT_DETACH) })
	must(t, unix.Mount("", src, "", unix.MS_SHARED, ""))
	must(t, os.Mkdir(filepath.Join(src, "sub"), 0o755))
	slave, private := script("slave", "sleep 1000"), script("private", "sleep 1000")
	slave.Mounts = []spec.Mount{{Destination: "/data", Source: src, Propagation: spec.PropagationSlave}}
	private.Mounts = []spec.Mount{{Destination: "/data", Source: src}}
	c, d := n.run(p, slave), n.run(p, private)
	must(t, unix.Mount("none", filepath.Join(src, "sub"), "tmpfs", 0, ""))
	t.Cleanup(func() { unix.Unmount(filepath.Join(src, "sub"), unix.MNT_DETACH) })
	must(t, os.WriteFile(filepath.Join(src, "sub", "late"), nil, 0o644))
	if res, err := n.exec(c, 0, "ls", "/data/sub/late"); err != nil || res.Code != 0 {
		t.Errorf("a later mount is not seen with HostToContainer: %+v %v", res, err)
	}
	if res, err := n.exec(d, 0, "ls", "/data/sub/late"); err != nil || res.Code == 0 {
		t.Errorf("a later mount is seen without propagation: %+v %v", res, err)
	}
}

func TestLogPaths(t *testing.T) {
	n := newNode(t)
	dir := t.TempDir()
	cfg := podConfig("a")
	cfg.LogDirectory = filepath.Join(dir, "logs")
	p := n.pod(cfg)
	must(t, os.MkdirAll(filepath.Join(dir, "logs"), 0o755))
	must(t, os.Symlink(dir, filepath.Join(dir, "logs", "out")))
	must(t, os.WriteFile(filepath.Join(dir, "canary"), nil, 0o644))
	must(t, os.Symlink(filepath.Join(dir, "canary"), filepath.Join(dir, "logs", "leaf.log")))
	for i, bad := range []string{"../0.log", "a/../../0.log", "/etc/0.log", "out/0.log", "leaf.log", "a\n.log", "."} {
		c := script(fmt.Sprint("bad", i), "echo x")
		c.LogPath = bad
		if _, err := n.create(p, c); err == nil || !strings.Contains(err.Error(), "log") {
			t.Errorf("Create() with log path %q = %v, want an error about the log", bad, err)
		}
	}
	c := script("good", "echo x")
	c.LogPath = "a/0.log"
	ctr := n.run(p, c)
	waitExit(t, ctr)
	if got := logged(t, ctr); got != "x\n" {
		t.Errorf("log = %q, want x", got)
	}
	if data, _ := os.ReadFile(filepath.Join(dir, "canary")); len(data) > 0 {
		t.Errorf("a log was written through a link: %q", data)
	}
}
