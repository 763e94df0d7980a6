package config

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write docs/config.md and packaging/sallyport.toml")

func TestGeneratedFiles(t *testing.T) {
	for path, want := range map[string]string{"docs/config.md": Markdown(), "packaging/sallyport.toml": TOML()} {
		path := filepath.Join("..", "..", path)
		if *update {
			os.MkdirAll(filepath.Dir(path), 0o755)
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%s is stale; run \"go test ./internal/config -run Generated -update\"", path)
		}
	}
}

// The packaged file, with every value uncommented, must be the default and nothing else.
func TestTOMLRoundTrip(t *testing.T) {
	var lines []string
	for line := range strings.SplitSeq(TOML(), "\n") {
		if rest, ok := strings.CutPrefix(line, "# "); ok && strings.Contains(rest, " = ") && !strings.Contains(rest, ". ") {
			line = rest
		}
		lines = append(lines, line)
	}
	c := Config{}
	if err := Decode("packaged", []byte(strings.Join(lines, "\n")), &c); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(c, Default()) {
		t.Errorf("decoded = %+v, want %+v", c, Default())
	}
}

// What is shown as the configuration in force reads back as it.
func TestTextRoundTrip(t *testing.T) {
	want := Default()
	want.CRI.Slow, want.Policy.Dir, want.Inspect.Heap = time.Minute, "/a \"b\"", true
	got := Config{}
	if err := Decode("shown", []byte(want.Text()), &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("decoded = %+v, %v, want %+v", got, err, want)
	}
}

func TestEveryFieldHasDoc(t *testing.T) {
	var visit func(reflect.Type)
	visit = func(ty reflect.Type) {
		for i := range ty.NumField() {
			f := ty.Field(i)
			if f.Tag.Get("doc") == "" || f.Tag.Get("toml") == "" {
				t.Errorf("%s.%s lacks a doc or toml tag", ty, f.Name)
			}
			switch {
			case f.Type.Kind() == reflect.Struct:
				visit(f.Type)
			case f.Type.Kind() == reflect.Map && f.Type.Elem().Kind() == reflect.Struct:
				visit(f.Type.Elem())
			}
		}
	}
	visit(reflect.TypeFor[Config]())
}

func TestDefaultIsFine(t *testing.T) {
	if p := Check(Default()); len(p) > 0 {
		t.Errorf("Check(Default()) = %v, want none", p)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "sallyport.toml")
	c, err := Load(file)
	if err != nil || !reflect.DeepEqual(c, Default()) {
		t.Fatalf("Load(absent) = %+v, %v, want the default", c, err)
	}
	write(t, file, 0o644, "[log]\nlevel = \"debug\"\n[timeout]\npull = \"10m\"\n")
	write(t, filepath.Join(file+".d", "20-b.toml"), 0o644, "[log]\nformat = \"json\"\nlevel = \"warn\"\n")
	write(t, filepath.Join(file+".d", "10-a.toml"), 0o644, "[log]\nlevel = \"error\"\n[runtime.handlers.crun]\npath = \"/usr/bin/crun\"\n")
	write(t, filepath.Join(file+".d", "30.conf"), 0o644, "not = \"read\"\n")
	if c, err = Load(file); err != nil {
		t.Fatal(err)
	}
	if c.Log.Level != "warn" || c.Log.Format != "json" || c.Timeout.Pull != 10*time.Minute || len(c.Runtime.Handlers) != 2 {
		t.Errorf("Load() = %+v, want drop-ins in the order of their names over the file", c)
	}
}

func TestLoadRefuses(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"unknown key", "root = \"/x\"\n\n[log]\nlevle = \"info\"\n", `line 4: unknown key "log.levle"`},
		{"unknown table", "[logg]\nlevel = \"info\"\n", `line 1: unknown key "logg"`},
		{"unknown key in a handler", "[runtime.handlers.runc]\npath = \"/a\"\nkind = \"oci\"\n", `line 3: unknown key "runtime.handlers.runc.kind"`},
		{"dotted key", "log.levle = \"info\"\n", `line 1: unknown key "log.levle"`},
		{"syntax", "root = \"/x\"\nlog ==\n", "line 2"},
		{"wrong type", "[limits]\npids = \"many\"\n", "line 2"},
		{"bad duration", "[timeout]\npull = \"soon\"\n", "line 2"},
		{"twice", "root = \"/x\"\nroot = \"/y\"\n", "line 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "c.toml")
			write(t, file, 0o644, tt.text)
			_, err := Load(file)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "\n") {
				t.Errorf("Load() = %v, want one line with %q and the file", err, tt.want)
			}
		})
	}
}

func TestLoadRefusesFilesOfOthers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.toml")
	write(t, file, 0o646, "root = \"/x\"\n")
	if _, err := Load(file); err == nil || !strings.Contains(err.Error(), "others can write it") {
		t.Errorf("Load(mode 0646) = %v, want a refusal", err)
	}
	os.Chmod(file, 0o644)
	if _, err := Load(file); err != nil {
		t.Errorf("Load(mode 0644) = %v, want nil", err)
	}
	if os.Geteuid() == 0 {
		os.Chown(file, 1234, 0)
		if _, err := Load(file); err == nil || !strings.Contains(err.Error(), "uid 1234") {
			t.Errorf("Load(owner 1234) = %v, want a refusal", err)
		}
	}
	big := filepath.Join(t.TempDir(), "big.toml")
	write(t, big, 0o644, "")
	os.Truncate(big, maxFile+1)
	if _, err := Load(big); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("Load(big) = %v, want a refusal", err)
	}
	if _, err := Load(t.TempDir()); err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Errorf("Load(directory) = %v, want a refusal", err)
	}
}

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		field  string
		change func(*Config)
	}{
		{"root", func(c *Config) { c.Root = "var/lib" }},
		{"root", func(c *Config) { c.Root = "/" }},
		{"root", func(c *Config) { c.Root = "/var/../etc" }},
		{"state", func(c *Config) { c.State = "" }},
		{"state", func(c *Config) { c.State = c.Root + "/run" }},
		{"state", func(c *Config) { c.State, c.Root = "/a", "/a/b" }},
		{"cri.socket", func(c *Config) { c.CRI.Socket = "/" + strings.Repeat("s", 107) }},
		{"cri.socket", func(c *Config) { c.CRI.Socket = "unix:///run/s" }},
		{"cri.slow", func(c *Config) { c.CRI.Slow = -1 }},
		{"log.format", func(c *Config) { c.Log.Format = "xml" }},
		{"log.level", func(c *Config) { c.Log.Level = "" }},
		{"policy.dir", func(c *Config) { c.Policy.Dir = "" }},
		{"policy.source", func(c *Config) { c.Policy.Source = "none" }},
		{"policy.poll", func(c *Config) { c.Policy.Poll = time.Second }},
		{"policy.repository", func(c *Config) { c.Policy.Repository = "registry.example/policy:current" }}, // and not signed
		{"policy.repository", func(c *Config) { c.Policy.Source, c.Policy.Repository = "signed", "policy:current" }},
		{"policy.repository", func(c *Config) { c.Policy.Source, c.Policy.Repository = "signed", "registry.example/UP" }},
		{"runtime.handlers", func(c *Config) { c.Runtime.Handlers = nil }},
		{"runtime.handlers", func(c *Config) { c.Runtime.Handlers = map[string]Handler{"runc": {}, "../x": {}} }},
		{"runtime.handlers", func(c *Config) { c.Runtime.Handlers = map[string]Handler{"runc": {Path: "runc"}} }},
		{"runtime.handlers", func(c *Config) { c.Runtime.Handlers = map[string]Handler{"runc": {Type: "vm"}} }},
		{"runtime.handlers", func(c *Config) { c.Runtime.Handlers = map[string]Handler{"runc": {Seccomp: "profile.json"}} }},
		{"runtime.default", func(c *Config) { c.Runtime.Default = "kata" }},
		{"runtime.conmon", func(c *Config) { c.Runtime.Conmon = "conmon" }},
		{"runtime.init", func(c *Config) { c.Runtime.Init = "init" }},
		{"runtime.cgroup_driver", func(c *Config) { c.Runtime.Cgroups = "systemd" }},
		{"runtime.cgroup_parent", func(c *Config) { c.Runtime.Parent = "x" }},
		{"runtime.kubelet_dir", func(c *Config) { c.Runtime.Kubelet = "" }},
		{"network.conf_dir", func(c *Config) { c.Network.ConfDir = "" }},
		{"network.bin_dirs", func(c *Config) { c.Network.BinDirs = nil }},
		{"network.bin_dirs", func(c *Config) { c.Network.BinDirs = []string{"bin"} }},
		{"streaming.address", func(c *Config) { c.Streams.Address = "localhost:0" }},
		{"streaming.address", func(c *Config) { c.Streams.Address = "0.0.0.0:0" }},
		{"streaming.address", func(c *Config) { c.Streams.Address = "10.0.0.1:10250" }},
		{"streaming.tls_cert", func(c *Config) { c.Streams.Cert = "/etc/cert.pem" }},
		{"streaming.tls_key", func(c *Config) { c.Streams.Cert, c.Streams.Key = "/etc/cert.pem", "key.pem" }},
		{"streaming.idle_timeout", func(c *Config) { c.Streams.Idle = 0 }},
		{"streaming.max_streams", func(c *Config) { c.Streams.Most = 0 }},
		{"streaming.max_per_container", func(c *Config) { c.Streams.MostOf = 1001 }},
		{"image.registries_conf", func(c *Config) { c.Image.RegistriesConf = "x" }},
		{"image.auth_file", func(c *Config) { c.Image.AuthFile = "x" }},
		{"image.namespace_auth_dir", func(c *Config) { c.Image.NamespaceAuth = "x" }},
		{"image.mirror_timeout", func(c *Config) { c.Image.MirrorTimeout = 0 }},
		{"image.pull_progress_timeout", func(c *Config) { c.Image.PullProgress = 0 }},
		{"image.max_unpacked", func(c *Config) { c.Image.MaxUnpacked = 0 }},
		{"limits.creates", func(c *Config) { c.Limits.Creates = -1 }},
		{"limits.pids", func(c *Config) { c.Limits.Pids = -1 }},
		{"limits.log_size", func(c *Config) { c.Limits.LogSize = 1 }},
		{"timeout", func(c *Config) { c.Timeout.Pull = 0 }},
		{"metrics.address", func(c *Config) { c.Metrics.Address = "9440" }},
		{"metrics.address", func(c *Config) { c.Metrics.Address = "10.0.0.1:9440" }},
		{"metrics.tls_cert", func(c *Config) { c.Metrics.Key = "/etc/key.pem" }},
		{"metrics.tls_key", func(c *Config) { c.Metrics.Cert, c.Metrics.Key = "/etc/cert.pem", "key.pem" }},
		{"tracing.endpoint", func(c *Config) { c.Tracing.Endpoint = "10.0.0.1:4317" }},
		{"tracing.sampling_rate_per_million", func(c *Config) { c.Tracing.Rate = 1000001 }},
		{"tracing.tls_ca", func(c *Config) { c.Tracing.CA = "ca.pem" }},
		{"stats.collection_period", func(c *Config) { c.Stats.Period = time.Millisecond }},
		{"stats.included_pod_metrics", func(c *Config) { c.Stats.PodMetrics = []string{"cpus"} }},
	} {
		c := Default()
		tt.change(&c)
		problems := Check(c)
		if len(problems) == 0 || problems[0].Field != tt.field || problems[0].Found == "" || problems[0].Fix == "" {
			t.Errorf("Check() = %v, want a problem of %s", problems, tt.field)
		}
	}
}

func TestResolve(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"runc", "conmon", "init"} {
		write(t, filepath.Join(dir, name), 0o755, "#!/bin/sh\n")
	}
	t.Setenv("PATH", dir)
	c := Default()
	c.Runtime.Init = filepath.Join(dir, "init")
	got, problems := Resolve(c)
	if len(problems) > 0 || got.Runtime.Handlers["runc"].Path != filepath.Join(dir, "runc") || got.Runtime.Conmon != filepath.Join(dir, "conmon") {
		t.Errorf("Resolve() = %+v, %v", got.Runtime, problems)
	}
	if c.Runtime.Handlers["runc"].Path != "" {
		t.Error("Resolve() changed its argument")
	}
	os.Remove(filepath.Join(dir, "conmon"))
	os.Remove(filepath.Join(dir, "runc"))
	_, problems = Resolve(c)
	if len(problems) != 2 || problems[0].Field != "runtime.conmon" || problems[1].Field != "runtime.handlers.runc.path" {
		t.Errorf("Resolve() = %v, want conmon and runc named", problems)
	}
}

func write(t *testing.T, path string, mode os.FileMode, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	os.Chmod(path, mode)
}

// Whatever is ours is among what no container may mount, also where it was given another place.
func TestControlPaths(t *testing.T) {
	c := Default()
	c.Admin.Socket = "/srv/operator.sock"
	for _, want := range []string{c.Root, c.State, c.CRI.Socket, "/srv/operator.sock", c.Policy.Dir, "/etc/sallyport"} {
		if !slices.Contains(c.ControlPaths(), want) {
			t.Errorf("ControlPaths() = %q, want %s among them", c.ControlPaths(), want)
		}
	}
	if got := Default().AdminSocket(); got != "/run/sallyport/admin.sock" {
		t.Errorf("AdminSocket() = %s", got)
	}
}
