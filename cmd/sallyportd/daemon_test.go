package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport/audit"
	"sallyport/enforce"
	"sallyport/internal/config"
)

func TestRun(t *testing.T) {
	good := filepath.Join(t.TempDir(), "c.toml")
	bin := t.TempDir()
	for _, name := range []string{"runc", "conmon", "init"} {
		os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"), 0o755)
	}
	os.WriteFile(good, []byte("[runtime]\nconmon = \""+bin+"/conmon\"\ninit = \""+bin+"/init\"\n[runtime.handlers.runc]\npath = \""+bin+"/runc\"\n"), 0o644)
	bad := filepath.Join(t.TempDir(), "bad.toml")
	os.WriteFile(bad, []byte("root = \"/x\"\nroott = \"/y\"\n"), 0o644)
	wrong := filepath.Join(t.TempDir(), "wrong.toml")
	os.WriteFile(wrong, []byte("[log]\nlevel = \"loud\"\n"), 0o644)
	for _, tt := range []struct {
		args   []string
		code   int
		out    string
		errOut string
	}{
		{[]string{"version"}, 0, "sallyportd ", ""},
		{[]string{"config"}, 0, config.TOML(), ""},
		{[]string{"config", "check", good}, 0, "configuration is fine", ""},
		{[]string{"--config", good, "config", "check"}, 0, "configuration is fine", ""},
		{[]string{"config", "check", bad}, 1, "", `line 2: unknown key "roott"`},
		{[]string{"config", "check", wrong}, 1, "", `log.level: "loud"; use debug or info`},
		{[]string{"config", "check", "/nowhere.toml"}, 1, "", "/nowhere.toml"},
		{[]string{"--config", bad}, 1, "", "unknown key"},
		{[]string{"frobnicate"}, 2, "", "unknown command"},
		{[]string{"config", "chekc"}, 2, "", "unknown command"},
		{[]string{"--nope"}, 2, "", "nope"},
	} {
		var out, errOut bytes.Buffer
		if code := run(tt.args, &out, &errOut); code != tt.code || !strings.Contains(out.String(), tt.out) || !strings.Contains(errOut.String(), tt.errOut) {
			t.Errorf("run(%q) = %d, %q, %q, want %d, %q, %q", tt.args, code, out.String(), errOut.String(), tt.code, tt.out, tt.errOut)
		}
	}
}

func TestScrubEnvironment(t *testing.T) {
	for _, name := range []string{"CONTAINERS_REGISTRIES_CONF", "STORAGE_DRIVER", "HOME", "TMPDIR", "XDG_RUNTIME_DIR"} {
		t.Setenv(name, "hostile")
	}
	t.Setenv("HTTPS_PROXY", "http://proxy")
	t.Setenv("PATH", "")
	before := os.Environ()
	defer func() {
		for _, kv := range before {
			k, v, _ := strings.Cut(kv, "=")
			os.Setenv(k, v)
		}
	}()
	scrubEnvironment()
	if got := os.Environ(); len(got) != 2 || os.Getenv("PATH") != defaultPath || os.Getenv("HTTPS_PROXY") != "http://proxy" {
		t.Errorf("environment = %q, want PATH and the proxy alone", got)
	}
}

func TestMakeDirs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "open")
	os.Mkdir(dir, 0o777)
	os.Chmod(dir, 0o777)
	if err := makeDirs(dir, filepath.Join(dir, "new")); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, filepath.Join(dir, "new")} {
		if st, err := os.Stat(d); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("mode of %s = %v, %v, want 0700", d, st.Mode(), err)
		}
	}
	target, link := t.TempDir(), filepath.Join(t.TempDir(), "link")
	os.Symlink(target, link)
	if err := makeDirs(link); err == nil {
		t.Error("makeDirs(symbolic link) = nil, want an error")
	}
}

func TestLockDir(t *testing.T) {
	dir := t.TempDir()
	first, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockDir(dir); err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "another sallyportd") {
		t.Errorf("second lockDir() = %v, want a refusal that names the directory", err)
	}
	first.Close()
	second, err := lockDir(dir)
	if err != nil {
		t.Fatalf("lockDir() after the first ended = %v", err)
	}
	second.Close()
}

// A daemon that was killed can leave its lock with a process that is about to become another program: it
// is waited for. Twin: a lock that a live process holds is refused at once (TestLockDir).
func TestLockOfTheDead(t *testing.T) {
	dir := t.TempDir()
	first, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	if _, err := first.WriteAt([]byte(fmt.Sprintf("%-7d\n", gone.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(200*time.Millisecond, func() { first.Close() })
	second, err := lockDir(dir)
	if err != nil {
		t.Fatalf("lockDir() = %v, want it once the copy is gone", err)
	}
	second.Close()
}

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	notify("READY=1")
	buf := make([]byte, 64)
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "READY=1" {
		t.Errorf("read %q, %v, want READY=1", buf[:n], err)
	}
	t.Setenv("NOTIFY_SOCKET", "/nowhere")
	notify("READY=1") // must not fail
}

func TestHostParts(t *testing.T) {
	const info = "30 24 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n32 24 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n33 24 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\nnonsense - cgroup "
	if got := v1Controllers(info); !slices.Equal(got, []string{"cpu", "cpuacct", "memory"}) {
		t.Errorf("v1Controllers() = %v", got)
	}
	dir := t.TempDir()
	for _, n := range []string{"hugepages-64kB", "hugepages-2048kB", "hugepages-1048576kB", "nonsense"} {
		os.Mkdir(filepath.Join(dir, n), 0o755)
	}
	if got := hugepages(dir); !slices.Equal(got, []string{"1GB", "2MB", "64KB"}) {
		t.Errorf("hugepages() = %v", got)
	}
	caps, err := capabilities()
	if err != nil || os.Geteuid() == 0 && !slices.Contains(caps, "CAP_KILL") {
		t.Errorf("capabilities() = %v, %v", caps, err)
	}
	null, err := statDevice("/dev/null")
	if err != nil || null.Type != "c" || null.Major != 1 || null.Minor != 3 {
		t.Errorf("statDevice(/dev/null) = %+v, %v", null, err)
	}
	if _, err := statDevice(dir); err == nil {
		t.Error("statDevice(directory) = nil, want an error")
	}
	for _, d := range devices("/dev") {
		if strings.HasPrefix(d.Path, "/dev/pts/") || d.Path == "/dev/console" {
			t.Errorf("devices() lists %s", d.Path)
		}
	}
}

func TestAppArmor(t *testing.T) {
	if on, err := appArmor("", true); on || err != nil {
		t.Errorf("appArmor(none) = %t, %v, want it unused", on, err)
	}
	if on, err := appArmor("no-such-profile", true); on || err == nil || !strings.Contains(err.Error(), "no-such-profile") {
		t.Errorf("appArmor(not loaded) = %t, %v, want an error that names it", on, err)
	}
}

// What is broken never replaces what is in force, and is recorded; from the start it denies by name.
func TestPolicySource(t *testing.T) {
	dir, logDir := t.TempDir(), t.TempDir()
	log, err := audit.Open(audit.Options{Dir: logDir, Node: "n", BootID: "b"})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	gate, err := enforce.New(enforce.Options{Log: log, Source: "local-unsigned", EnvKey: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	p := &policySource{dir: dir, scratch: t.TempDir(), gate: gate, log: slog.New(slog.DiscardHandler)}
	put := func(text string) {
		t.Helper()
		os.MkdirAll(filepath.Join(dir, "node"), 0o755)
		if err := os.WriteFile(filepath.Join(dir, "node", "policy.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "node", "bundle.yaml"), []byte("name: node\nrevision: 1\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := p.reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	rule := func() string {
		_, err := gate.AdmitPod(context.Background(), enforce.PodRequest{Pod: enforce.Pod{Namespace: "ns", Name: "p", UID: "u"}, PodID: "id", Config: "{}"})
		if d, ok := err.(*enforce.Denied); ok {
			return d.Hits[0].Rule
		}
		return ""
	}
	put("{")
	if got := rule(); got != "policy-broken" || p.trouble() == "" || gate.State().Installed {
		t.Errorf("broken from the start: rule %q, trouble %q, want policy-broken", got, p.trouble())
	}
	put(`{"default": [{"type": "insecureAcceptAnything"}]}`)
	if got := rule(); got == "policy-broken" || got == "no-policy" || p.trouble() != "" || !gate.State().Installed {
		t.Errorf("mended: rule %q, trouble %q, want it installed", got, p.trouble())
	}
	hash := gate.State().NodeHash
	put("{")
	if gate.State().NodeHash != hash || !strings.Contains(p.trouble(), "policy.json") {
		t.Errorf("broken later: hash %q, trouble %q, want the last good one and the file named", gate.State().NodeHash, p.trouble())
	}
	refused := 0
	audit.Read(logDir, func(r audit.Record) error {
		if r.Event.Type == "policy" && r.Event.Outcome == "refused" && len(r.Event.Hits) > 0 && r.Event.Hits[0].Rule == "policy-broken" {
			refused++
		}
		return nil
	})
	if refused < 2 {
		t.Errorf("%d records of refused policies, want one for each", refused)
	}
}

// A path behind a link is known by both its names, also where its end does not exist yet.
func TestBothNames(t *testing.T) {
	dir := t.TempDir()
	real, via := filepath.Join(dir, "real"), filepath.Join(dir, "via")
	if err := os.Mkdir(real, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, via); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path string
		want []string
	}{
		{real, []string{real}},
		{via, []string{via, real}},
		{via + "/later/sock", []string{via + "/later/sock", real + "/later/sock"}},
		{"/nowhere/at/all", []string{"/nowhere/at/all"}},
	} {
		if got := bothNames([]string{tt.path}); !slices.Equal(got, tt.want) {
			t.Errorf("bothNames(%s) = %q, want %q", tt.path, got, tt.want)
		}
	}
}
