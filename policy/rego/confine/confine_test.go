package confine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/policy"
	"sallyport/policy/rego"
)

func TestMain(m *testing.M) {
	Init()
	if os.Getenv("CONFINE_PROBE") != "" {
		probe()
	}
	os.Exit(m.Run())
}

const exact = `package sallyport.run

deny contains {"rule": "no-privileged", "msg": "privileged"} if input.container.privileged
`

// bomb is a module that takes all memory: it doubles a string until it has gigabytes.
func bomb() string {
	var b strings.Builder
	b.WriteString("package sallyport.run\n\ndeny contains {\"rule\": \"bomb\", \"msg\": \"x\"} if {\n\ts0 := \"0123456789abcdef0123456789abcdef\"\n")
	for i := range 28 {
		fmt.Fprintf(&b, "\ts%d := concat(input.verb, [s%d, s%d])\n", i+1, i, i)
	}
	b.WriteString("\ts28 == input.verb\n}\n")
	return b.String()
}

// loop is a module that never ends.
func loop() string {
	var b strings.Builder
	b.WriteString("package sallyport.run\n\nd := [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n\ndeny contains {\"rule\": \"loop\", \"msg\": \"x\"} if {\n")
	for i := range 12 {
		fmt.Fprintf(&b, "\tsome i%d in d\n", i)
	}
	b.WriteString("\ti0 + i11 == 100\n}\n")
	return b.String()
}

func newChild(t testing.TB, memory int64) *Child {
	t.Helper()
	c := New(Options{Program: "/proc/self/exe", Memory: memory, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(c.Close)
	return c
}

func compile(t testing.TB, c *Child, namespace, module string) policy.ActRule {
	t.Helper()
	r, err := c.Compile(namespace, rego.Options{Modules: map[string]string{"rego/a.rego": module}, Packages: []string{"sallyport.run"}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func act(privileged bool) policy.Act {
	return policy.Act{Verb: policy.VerbRun, Now: time.Now(), Namespace: "pay", Container: &policy.Container{Name: "c", ID: "1", Privileged: privileged}}
}

// The child answers what the same rules answer in this process.
func TestConfinedAnswers(t *testing.T) {
	c := newChild(t, 0)
	here, err := rego.Compile(rego.Options{Modules: map[string]string{"rego/a.rego": exact}, Packages: []string{"sallyport.run"}})
	if err != nil {
		t.Fatal(err)
	}
	there := compile(t, c, "pay", exact)
	for _, privileged := range []bool{true, false} {
		want, _, err := here.JudgeAct(t.Context(), act(privileged), nil)
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := there.JudgeAct(t.Context(), act(privileged), nil)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) || (len(got) == 1) != privileged {
			t.Errorf("privileged %t: %v, %v, want %v", privileged, got, err, want)
		}
	}
	if deny, _, err := there.JudgeAct(t.Context(), policy.Act{Verb: policy.VerbPod, Now: time.Now()}, nil); deny != nil || err != nil {
		t.Errorf("a verb without a package: %v, %v", deny, err)
	}
	if _, _, err := there.JudgeAct(t.Context(), policy.Act{Verb: "fly", Now: time.Now()}, nil); err == nil {
		t.Error("an unknown verb was judged")
	}
	if _, err := c.Compile("pay", rego.Options{Modules: map[string]string{"rego/a.rego": "package sallyport.run\n\ndeny contains x if input.nothing"}, Packages: []string{"sallyport.run"}}); err == nil || !strings.Contains(err.Error(), "rego/a.rego:3") {
		t.Errorf("Compile(broken) = %v, want file and line", err)
	}
}

// A rule that takes all memory, and one that never ends, cost their namespace its answer; meanwhile each
// of another's is given, and the next.
func TestBombsHarmTheirOwn(t *testing.T) {
	c := newChild(t, 128<<20)
	good := compile(t, c, "shop", exact)
	ctx, cancel := context.WithCancel(t.Context())
	var others sync.WaitGroup
	slowest := time.Duration(0)
	answers := 0
	others.Go(func() {
		for ctx.Err() == nil {
			start := time.Now()
			deny, _, err := good.JudgeAct(t.Context(), act(true), nil)
			if err != nil || len(deny) != 1 {
				t.Errorf("another namespace: %v, %v", deny, err)
				return
			}
			answers++
			slowest = max(slowest, time.Since(start))
			time.Sleep(5 * time.Millisecond)
		}
	})
	endless := compile(t, c, "loop", loop())
	if _, _, err := endless.JudgeAct(t.Context(), act(false), nil); err == nil || !strings.Contains(err.Error(), "did not answer in") && !errors.Is(err, errDied) {
		t.Errorf("a rule that never ends: %v", err) // which of its bounds it meets first, time or memory, is the machine's matter
	}
	pay := compile(t, c, "pay", bomb())
	var last error
	for range deaths {
		_, _, last = pay.JudgeAct(t.Context(), act(false), nil)
		if last == nil {
			t.Fatal("a rule that takes all memory was answered")
		}
	}
	if _, _, err := pay.JudgeAct(t.Context(), act(false), nil); !errors.Is(last, errDied) || err == nil || !strings.Contains(err.Error(), "ended their process") {
		t.Errorf("a rule that takes all memory: %v, then %v; want the process's end, then a pause", last, err)
	}
	cancel()
	others.Wait()
	t.Logf("the bomb: %v; others: %d answers, the slowest after %v", last, answers, slowest)
	if answers < 10 || slowest > 3*time.Second {
		t.Errorf("others got %d answers, the slowest after %v", answers, slowest)
	}
	deny, _, err := good.JudgeAct(t.Context(), act(true), nil)
	if err != nil || len(deny) != 1 {
		t.Errorf("after the bombs: %v, %v", deny, err)
	}
}

// A child that is killed while it is asked is started again, and the question asked again: it was not
// the rules' doing.
func TestKilledChildIsReplaced(t *testing.T) {
	c := newChild(t, 0)
	r := compile(t, c, "pay", exact)
	first := c.run.cmd.Process.Pid
	var all sync.WaitGroup
	for i := range 4 {
		rule := compile(t, c, fmt.Sprintf("ns-%d", i), exact)
		all.Go(func() {
			for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); {
				if deny, _, err := rule.JudgeAct(t.Context(), act(true), nil); err != nil || len(deny) != 1 {
					t.Errorf("%v, %v", deny, err)
					return
				}
			}
		})
	}
	for range 3 {
		time.Sleep(400 * time.Millisecond)
		c.mu.Lock()
		c.run.end()
		c.mu.Unlock()
	}
	all.Wait()
	if deny, _, err := r.JudgeAct(t.Context(), act(true), nil); err != nil || len(deny) != 1 || c.run.cmd.Process.Pid == first {
		t.Errorf("after it was killed: %v, %v, child %d", deny, err, c.run.cmd.Process.Pid)
	}
	c.Close()
	<-c.run.gone
	if _, _, err := r.JudgeAct(t.Context(), act(true), nil); err == nil {
		t.Error("an answer after Close")
	}
}

// A child that reads no more, as one that is stopped, keeps nobody waiting for long: a message that does
// not go out ends it.
func TestStoppedChildIsReplaced(t *testing.T) {
	c := newChild(t, 0)
	r := compile(t, c, "pay", exact)
	stopped := c.run
	if err := stopped.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := c.once(t.Context(), request{Data: []byte(`"` + strings.Repeat("x", 1<<20) + `"`)}, time.Minute)
		ended <- err
	}()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("an answer by a process that is stopped")
		}
	case <-time.After(5 * writeDeadline):
		stopped.end()
		t.Fatal("the message goes out for ever")
	}
	select {
	case <-stopped.gone:
	case <-time.After(5 * time.Second):
		t.Fatal("the stopped process is still there")
	}
	if deny, _, err := r.JudgeAct(t.Context(), act(true), nil); err != nil || len(deny) != 1 {
		t.Errorf("after it was stopped: %v, %v", deny, err)
	}
}

// A namespace that ends the child again and again is not asked for a while; time is counted apart for
// each namespace, and comes back.
func TestTenantBudget(t *testing.T) {
	a, b := &tenant{namespace: "a", slots: make(chan struct{}, parallel)}, &tenant{namespace: "b", slots: make(chan struct{}, parallel)}
	now := time.Now()
	for range deaths {
		a.blame()
	}
	if err := a.spent(now); err == nil || !strings.Contains(err.Error(), "ended their process 3 times") {
		t.Errorf("after %d deaths: %v", deaths, err)
	}
	if err := errors.Join(b.spent(now), a.spent(now.Add(pause+time.Second))); err != nil {
		t.Errorf("another, and itself after the pause: %v", err)
	}
	b.used, b.at = burst+time.Second, now
	if err := b.spent(now); err == nil || !strings.Contains(err.Error(), "used up their time") {
		t.Errorf("time used up: %v", err)
	}
	if err := b.spent(now.Add(share * 2 * time.Second)); err != nil {
		t.Errorf("time that came back: %v", err)
	}
}

// probe is a child that tries what it must not, and says what it could.
func probe() {
	var could []string
	if err := enter(256 << 20); err != nil {
		fmt.Println(err)
		os.Exit(4)
	}
	if _, err := os.Open("/etc/passwd"); err == nil {
		could = append(could, "open")
	}
	if _, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); err == nil {
		could = append(could, "socket")
	}
	if _, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); err == nil {
		could = append(could, "unix")
	}
	if err := unix.Exec("/bin/true", []string{"true"}, nil); err == nil {
		could = append(could, "exec")
	}
	if pid, _, errno := unix.RawSyscall(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0); errno == 0 {
		if pid == 0 {
			unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
		}
		could = append(could, "fork")
	}
	if err := unix.Kill(os.Getppid(), 0); err == nil {
		could = append(could, "signal")
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_PTRACE, unix.PTRACE_TRACEME, 0, 0); errno == 0 {
		could = append(could, "ptrace")
	}
	if unix.Setuid(0) == nil {
		could = append(could, "root")
	}
	fmt.Printf("could %v\n", could)
	os.Exit(0)
}

// Rules that are put off are compiled when they are first asked; what does not compile denies by an error
// that names file and line, and starts nothing before.
func TestLaterCompilesAtFirstUse(t *testing.T) {
	c := newChild(t, 0)
	o := rego.Options{Modules: map[string]string{"rego/a.rego": exact}, Packages: []string{"sallyport.run"}}
	good, err := c.Later("pay", o)
	if err != nil {
		t.Fatal(err)
	}
	o.Modules = map[string]string{"rego/a.rego": "package sallyport.run\n\ndeny contains x if input.nothing"}
	bad, err := c.Later("shop", o)
	if err != nil || c.run != nil {
		t.Fatalf("Later() = %v, child started: %t", err, c.run != nil)
	}
	if _, _, err := bad.JudgeAct(t.Context(), act(true), nil); err == nil || !strings.Contains(err.Error(), "rego/a.rego:3") {
		t.Errorf("rules that do not compile: %v, want file and line", err)
	}
	if deny, _, err := good.JudgeAct(t.Context(), act(true), nil); err != nil || len(deny) != 1 {
		t.Errorf("rules that do: %v, %v", deny, err)
	}
}
