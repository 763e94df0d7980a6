package network

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// plain makes a CNI of an empty configuration directory, with plugins that exist and do nothing.
func plain(t *testing.T) (*CNI, string) {
	t.Helper()
	conf, bin := t.TempDir(), t.TempDir()
	for _, plugin := range []string{"one", "two"} {
		if err := os.WriteFile(filepath.Join(bin, plugin), []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c, err := New(Options{ConfDir: conf, BinDirs: []string{bin}, CacheDir: t.TempDir(), BootID: "b"})
	if err != nil {
		t.Fatal(err)
	}
	return c, conf
}

const (
	one = `{"cniVersion":"1.0.0","name":"one","plugins":[{"type":"one"}]}`
	two = `{"cniVersion":"1.0.0","name":"two","plugins":[{"type":"two"}]}`
)

func TestStatus(t *testing.T) {
	for _, tc := range []struct {
		name, file, text string
		because          string // "" is ready
	}{
		{"list", "1.conflist", one, ""},
		{"single plugin", "1.conf", `{"cniVersion":"1.0.0","name":"one","type":"one"}`, ""},
		{"broken", "1.conflist", `{"cniVersion":`, "1.conflist: "},
		{"no plugins", "1.conflist", `{"cniVersion":"1.0.0","name":"one","plugins":[]}`, "1.conflist: "},
		{"no type", "1.conf", `{"cniVersion":"1.0.0","name":"one"}`, "1.conf: "},
		{"no name", "1.conflist", `{"cniVersion":"1.0.0","plugins":[{"type":"one"}]}`, "1.conflist: "},
		{"plugin not there", "1.conflist", strings.ReplaceAll(one, `"type":"one"`, `"type":"three"`), `CNI plugin "three" is not in `},
		{"IPAM not there", "1.conflist", strings.ReplaceAll(one, `"type":"one"`, `"type":"one","ipam":{"type":"four"}`), `CNI plugin "four" is not in `},
		{"plugin outside", "1.conflist", strings.ReplaceAll(one, `"type":"one"`, `"type":"../one"`), `CNI plugin "../one" is not in `},
		{"nothing", "1.txt", one, "no configuration in "},
		{"huge", "1.conflist", one + strings.Repeat(" ", maxConf), "larger than"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, conf := plain(t)
			write(t, filepath.Join(conf, tc.file), tc.text)
			err := c.Status(t.Context())
			if tc.because == "" && err != nil {
				t.Fatalf("Status() = %v, want nil", err)
			}
			if tc.because != "" && (err == nil || !strings.Contains(err.Error(), tc.because) || strings.Contains(err.Error(), "\n")) {
				t.Fatalf("Status() = %v, want one line with %q", err, tc.because)
			}
		})
	}
}

// A plugin says itself that it is not ready, where the version has STATUS; the answer is kept a while.
func TestStatusVerb(t *testing.T) {
	s := &site{conf: t.TempDir(), cache: t.TempDir()}
	log := filepath.Join(t.TempDir(), "log")
	s.CNI = fake(t, s, `echo $CNI_COMMAND >>`+log+`; echo '{"cniVersion":"1.1.0","code":50,"msg":"no daemon"}'; exit 1`)
	for range 3 {
		if err := s.CNI.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "fake STATUS: no daemon (CNI code 50)") {
			t.Fatalf("Status() = %v, want the plugin's answer", err)
		}
	}
	if said, _ := os.ReadFile(log); string(said) != "STATUS\n" {
		t.Errorf("verbs = %q, want one STATUS", said)
	}
	write(t, filepath.Join(s.conf, "10-spt.conflist"), `{"cniVersion":"1.0.0","name":"fake","plugins":[{"type":"fake"}]}`)
	s.CNI.load()
	if err := s.CNI.Status(t.Context()); err != nil {
		t.Errorf("Status() of version 1.0.0 = %v, want nil", err)
	}
}

func TestLoad(t *testing.T) {
	c, conf := plain(t)
	name := func() string {
		l := c.load()
		if l.list == nil {
			return ""
		}
		return l.list.Name
	}
	at := func(file string) string { return filepath.Join(conf, file) }
	if got := name(); got != "" {
		t.Fatalf("network of an empty directory = %q", got)
	}
	write(t, at("20.conflist"), two)
	if got := name(); got != "two" {
		t.Errorf("network = %q, want two", got)
	}
	write(t, at("10.conflist"), one)
	if got := name(); got != "one" || c.Problem() != nil {
		t.Errorf("network = %q, problem %v, want the first by name", got, c.Problem())
	}
	write(t, at("10.conflist"), one[:20]) // half written: not the next file's network
	if got := name(); got != "one" || c.Problem() == nil {
		t.Errorf("network = %q, problem %v, want the last good one and a problem", got, c.Problem())
	}
	os.Remove(at("10.conflist"))
	if got := name(); got != "two" || c.Problem() != nil {
		t.Errorf("network = %q, problem %v, want two", got, c.Problem())
	}
	os.Remove(at("20.conflist"))
	if got := name(); got != "" {
		t.Errorf("network = %q, want none", got)
	}
	if _, err := c.ready(); !errors.Is(err, ErrNoNetwork) {
		t.Errorf("ready() = %v, want %v", err, ErrNoNetwork)
	}
	os.RemoveAll(conf)
	if err := c.Status(t.Context()); !errors.Is(err, ErrNoNetwork) {
		t.Errorf("Status() without a directory = %v, want %v", err, ErrNoNetwork)
	}
}

// Changes are seen at once, also in a directory that appears late or is replaced.
func TestRun(t *testing.T) {
	c, conf := plain(t)
	os.RemoveAll(conf)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	await := func(want string) {
		t.Helper()
		for deadline := time.Now().Add(2*pollWait + time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			if l := c.conf.Load(); l != nil && (l.list == nil && want == "" || l.list != nil && l.list.Name == want) {
				return
			}
		}
		t.Fatalf("network is not %q", want)
	}
	await("")
	if err := os.Mkdir(conf, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(conf, "1.conflist"), one)
	await("one")
	begin := time.Now()
	write(t, filepath.Join(conf, "0.conflist"), two)
	await("two")
	if took := time.Since(begin); took > pollWait/2 {
		t.Errorf("a change took %v to be seen", took)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run() = %v, want %v", err, context.Canceled)
	}
}

// Without descriptors, and so without inotify, polling sees the change; what was loaded stays meanwhile.
func TestRunWithoutDescriptors(t *testing.T) {
	c, conf := plain(t)
	var said lockedBuffer
	c.o.Log = slog.New(slog.NewTextHandler(&said, nil))
	write(t, filepath.Join(conf, "1.conflist"), one)
	c.load()
	write(t, filepath.Join(conf, "0.conflist"), two)
	lowest, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0) // the lowest number that is free
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(lowest)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	restore := func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &old) }
	t.Cleanup(restore)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(lowest), Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	await := func(what string, ok func(*loaded) bool) {
		t.Helper()
		for deadline := time.Now().Add(pollWait + 2*time.Second); !ok(c.conf.Load()); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: never", what)
			}
		}
	}
	await("a problem, and the last good network", func(l *loaded) bool { return l.problem != nil && l.list != nil && l.list.Name == "one" })
	restore()
	await("the new network", func(l *loaded) bool { return l.list.Name == "two" && l.problem == nil })
	cancel()
	<-done
	if !strings.Contains(said.String(), "polling only") {
		t.Errorf("log = %q, want a warning", said.String())
	}
}

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func TestNew(t *testing.T) {
	good := Options{ConfDir: "/a", BinDirs: []string{"/b"}, CacheDir: "/c", BootID: "d"}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Options){
		"no configuration directory": func(o *Options) { o.ConfDir = "" },
		"relative cache":             func(o *Options) { o.CacheDir = "c" },
		"no plugins":                 func(o *Options) { o.BinDirs = nil },
		"no boot ID":                 func(o *Options) { o.BootID = "" },
	} {
		t.Run(name, func(t *testing.T) {
			o := good
			change(&o)
			if _, err := New(o); err == nil {
				t.Error("New() = nil error")
			}
		})
	}
}
