package fetch

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func put(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// watched runs d and returns the channel of its calls.
func watched(t testing.TB, d Dir) <-chan struct{} {
	t.Helper()
	calls := make(chan struct{}, 64)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx, func(context.Context) { calls <- struct{}{} }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run() = %v", err)
		}
	})
	return calls
}

func noticed(t testing.TB, calls <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-calls:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: not noticed", what)
	}
}

// Each kind of change is noticed long before the next comparison, also in directories that are new;
// several files that are written together are one change, and a file that is only read is none.
func TestDirNotices(t *testing.T) {
	root := filepath.Join(t.TempDir(), "policy")
	put(t, root+"/node/bundle.yaml", "a")
	calls := watched(t, Dir{Path: root, Poll: time.Hour, Log: slog.New(slog.DiscardHandler)})
	time.Sleep(200 * time.Millisecond)
	os.ReadFile(root + "/node/bundle.yaml")
	select {
	case <-calls:
		t.Error("a file that was read counts as changed")
	case <-time.After(2 * quiet):
	}
	for _, step := range []struct {
		what string
		do   func()
	}{
		{"content", func() { put(t, root+"/node/bundle.yaml", "ab"); put(t, root+"/node/policy.json", "{}") }},
		{"new directories", func() { put(t, root+"/namespaces/pay/bundle.yaml", "x") }},
		{"in a new directory", func() { put(t, root+"/namespaces/pay/requirements.yaml", "x") }},
		{"renamed over", func() {
			put(t, root+"/.tmp", "abc")
			os.Rename(root+"/.tmp", root+"/node/bundle.yaml")
		}},
		{"removed", func() { os.RemoveAll(root + "/namespaces/pay") }},
		{"mode", func() { os.Chmod(root+"/node/bundle.yaml", 0o666) }},
	} {
		step.do()
		noticed(t, calls, step.what)
	}
	time.Sleep(2 * quiet)
	for len(calls) > 0 { // removing a tree may be seen in two steps
		<-calls
	}
	put(t, root+"/node/x", "1")
	put(t, root+"/node/y", "1")
	noticed(t, calls, "two files")
	select {
	case <-calls:
		t.Error("two files written together are two changes")
	case <-time.After(3 * quiet):
	}
}

// A directory that is not there yet, or is moved away, is waited for by polling.
func TestDirAppears(t *testing.T) {
	root := filepath.Join(t.TempDir(), "policy")
	calls := watched(t, Dir{Path: root, Poll: 50 * time.Millisecond, Log: slog.New(slog.DiscardHandler)})
	time.Sleep(100 * time.Millisecond)
	put(t, root+"/node/bundle.yaml", "a")
	noticed(t, calls, "the directory")
	os.Rename(root, root+".old")
	noticed(t, calls, "its going")
}

// Where inotify has run out the tree is compared at its pace, and an operator is told once.
func TestDirWithoutInotify(t *testing.T) {
	var hold []int
	t.Cleanup(func() {
		for _, fd := range hold {
			unix.Close(fd)
		}
	})
	for len(hold) < 1<<16 {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
		if err != nil {
			break
		}
		hold = append(hold, fd)
	}
	root := t.TempDir()
	var log lockedBuffer
	calls := watched(t, Dir{Path: root, Poll: 50 * time.Millisecond, Log: slog.New(slog.NewTextHandler(&log, nil))})
	time.Sleep(200 * time.Millisecond)
	put(t, root+"/node/bundle.yaml", "a")
	noticed(t, calls, "a change")
	if n := strings.Count(log.String(), "is polled"); n != 1 {
		t.Errorf("the log says %d times that it polls, want once: %s", n, log.String())
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
