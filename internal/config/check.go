package config

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
)

// Problem is one thing that is wrong: which field, what was found, how to fix it.
type Problem struct {
	Field string
	Found string
	Fix   string
}

// Error is the problem on one line.
func (p Problem) Error() string { return p.Field + ": " + p.Found + "; " + p.Fix }

// maxSocket is the longest path that fits a sockaddr_un (unix(7): 108 with the final NUL).
const maxSocket = 107

// maxHandler is the longest handler name: a RuntimeClass handler is a DNS label (RFC 1123).
const maxHandler = 63

var handlerName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// check looks at one field; found is "" if all is well.
type check struct {
	field string
	look  func(Config) (found, fix string)
}

var checks = []check{
	{"root", func(c Config) (string, string) { return absolute(c.Root) }},
	{"state", func(c Config) (string, string) { return absolute(c.State) }},
	{"state", func(c Config) (string, string) { return apart(c.State, c.Root) }},
	{"cri.socket", func(c Config) (string, string) { return socket(c.CRI.Socket) }},
	{"cri.slow", func(c Config) (string, string) {
		if c.CRI.Slow < 0 {
			return "negative", "use 0 to log none"
		}
		return "", ""
	}},
	{"admin.socket", func(c Config) (string, string) {
		if c.AdminSocket() == c.CRI.Socket {
			return fmt.Sprintf("%q is cri.socket", c.CRI.Socket), "use another path"
		}
		return socket(c.AdminSocket())
	}},
	{"log.format", func(c Config) (string, string) { return oneOf(c.Log.Format, "text", "json") }},
	{"log.level", func(c Config) (string, string) { return oneOf(c.Log.Level, "debug", "info", "warn", "error") }},
	{"policy.dir", func(c Config) (string, string) { return absolute(c.Policy.Dir) }},
	{"policy.source", func(c Config) (string, string) { return oneOf(c.Policy.Source, "local-unsigned", "signed") }},
	{"policy.rejudge", func(c Config) (string, string) {
		if c.Policy.Rejudge < time.Second {
			return c.Policy.Rejudge.String(), "write a duration of at least 1s, such as \"10m\""
		}
		return "", ""
	}},
	{"policy.repository", policyRepository},
	{"policy.poll", func(c Config) (string, string) {
		if c.Policy.Poll < 10*time.Second {
			return c.Policy.Poll.String(), "use at least \"10s\""
		}
		return "", ""
	}},
	{"runtime.handlers", handlers},
	{"runtime.default", func(c Config) (string, string) {
		if _, ok := c.Runtime.Handlers[c.Runtime.Default]; !ok {
			return fmt.Sprintf("%q is no handler", c.Runtime.Default), fmt.Sprintf("add [runtime.handlers.%s] or name another", c.Runtime.Default)
		}
		return "", ""
	}},
	{"runtime.conmon", func(c Config) (string, string) { return absoluteOrEmpty(c.Runtime.Conmon) }},
	{"runtime.init", func(c Config) (string, string) { return absoluteOrEmpty(c.Runtime.Init) }},
	{"runtime.cgroup_driver", func(c Config) (string, string) { return oneOf(c.Runtime.Cgroups, "cgroupfs") }},
	{"runtime.cgroup_parent", func(c Config) (string, string) { return absolute(c.Runtime.Parent) }},
	{"runtime.kubelet_dir", func(c Config) (string, string) { return absolute(c.Runtime.Kubelet) }},
	{"image.scrub_rate", func(c Config) (string, string) {
		if c.Image.ScrubRate < 0 {
			return "negative", "use 0 to hash nothing in the background"
		}
		return "", ""
	}},
	{"image.scrub_every", func(c Config) (string, string) { return atLeast(c.Image.ScrubEvery, time.Minute) }},
	{"image.refresh_evidence_every", func(c Config) (string, string) {
		if c.Image.RefreshEvery == 0 {
			return "", ""
		}
		return atLeast(c.Image.RefreshEvery, time.Minute)
	}},
	{"network.conf_dir", func(c Config) (string, string) { return absolute(c.Network.ConfDir) }},
	{"network.bin_dirs", func(c Config) (string, string) {
		if len(c.Network.BinDirs) == 0 {
			return "empty", "name a directory of CNI plugins, for example /opt/cni/bin"
		}
		for _, d := range c.Network.BinDirs {
			if found, fix := absolute(d); found != "" {
				return found, fix
			}
		}
		return "", ""
	}},
	{"streaming.address", func(c Config) (string, string) { return reachable(c.Streams.Address, c.Streams.Cert, "127.0.0.1:0") }},
	{"streaming.tls_cert", func(c Config) (string, string) { return keyPair(c.Streams.Cert, c.Streams.Key) }},
	{"streaming.tls_key", func(c Config) (string, string) { return absoluteOrEmpty(c.Streams.Key) }},
	{"streaming.idle_timeout", func(c Config) (string, string) { return positive(c.Streams.Idle, "4h") }},
	{"streaming.max_streams", func(c Config) (string, string) { return between(c.Streams.Most, 1, 1<<16) }},
	{"streaming.max_per_container", func(c Config) (string, string) { return between(c.Streams.MostOf, 1, c.Streams.Most) }},
	{"image.registries_conf", func(c Config) (string, string) { return absoluteOrEmpty(c.Image.RegistriesConf) }},
	{"image.registries_conf_dir", func(c Config) (string, string) { return absoluteOrEmpty(c.Image.RegistriesDir) }},
	{"image.certs_dir", func(c Config) (string, string) { return absoluteOrEmpty(c.Image.CertsDir) }},
	{"image.auth_file", func(c Config) (string, string) { return absoluteOrEmpty(c.Image.AuthFile) }},
	{"image.namespace_auth_dir", func(c Config) (string, string) { return absoluteOrEmpty(c.Image.NamespaceAuth) }},
	{"image.mirror_timeout", func(c Config) (string, string) { return positive(c.Image.MirrorTimeout, "15s") }},
	{"image.pull_progress_timeout", func(c Config) (string, string) { return positive(c.Image.PullProgress, "1m") }},
	{"image.max_unpacked", func(c Config) (string, string) {
		if c.Image.MaxUnpacked < 1<<20 {
			return fmt.Sprint(c.Image.MaxUnpacked), "at least 1048576 bytes, for example 34359738368"
		}
		return "", ""
	}},
	{"nri.plugins", plugins},
	{"nri.required", func(c Config) (string, string) {
		if len(c.NRI.Required) > 0 && len(c.NRI.Plugins) == 0 {
			return "plugins are required and none may register", "name them in nri.plugins, as index-name"
		}
		return "", ""
	}},
	{"nri.permit", func(c Config) (string, string) {
		for _, p := range c.NRI.Permit {
			if found, fix := oneOf(p, "hooks", "seccomp"); found != "" {
				return found, fix
			}
		}
		return "", ""
	}},
	{"nri.socket", func(c Config) (string, string) { return socket(c.NRI.Socket) }},
	{"nri.plugin_dir", func(c Config) (string, string) { return absoluteOrEmpty(c.NRI.PluginDir) }},
	{"nri.conf_dir", func(c Config) (string, string) { return absoluteOrEmpty(c.NRI.ConfDir) }},
	{"nri.request_timeout", func(c Config) (string, string) {
		if min(c.NRI.Register, c.NRI.Answer) <= 0 {
			return "a deadline of zero or less", "write durations such as \"2s\""
		}
		return "", ""
	}},
	{"cdi.spec_dirs", func(c Config) (string, string) {
		for _, d := range c.CDI.Dirs {
			if found, fix := absolute(d); found != "" {
				return found, fix
			}
		}
		return "", ""
	}},
	{"limits.creates", func(c Config) (string, string) {
		if c.Limits.Creates < 0 || c.Limits.Creates > 1000 { // each can hold a monitor, a runtime and CNI plugins
			return fmt.Sprint(c.Limits.Creates), "use 0 (by the CPUs) to 1000"
		}
		return "", ""
	}},
	{"limits.pids", func(c Config) (string, string) {
		if c.Limits.Pids < 0 || c.Limits.Pids > 1<<22 { // PID_MAX_LIMIT of a 64-bit kernel
			return fmt.Sprint(c.Limits.Pids), "use 0 (the default) to 4194304"
		}
		return "", ""
	}},
	{"limits.log_size", func(c Config) (string, string) {
		if c.Limits.LogSize != 0 && c.Limits.LogSize < 8192 { // conmon's own buffer
			return fmt.Sprint(c.Limits.LogSize), "use 0 (no limit) or at least 8192 bytes"
		}
		return "", ""
	}},
	{"timeout", func(c Config) (string, string) {
		if min(c.Timeout.Create, c.Timeout.Pull, c.Timeout.Network, c.Timeout.Runtime) <= 0 {
			return "a deadline of zero or less", "give each stage a duration such as \"2m\""
		}
		return "", ""
	}},
	{"metrics.address", func(c Config) (string, string) {
		if c.Metrics.Address == "" {
			return "", ""
		}
		return reachable(c.Metrics.Address, c.Metrics.Cert, "127.0.0.1:9440")
	}},
	{"metrics.tls_cert", func(c Config) (string, string) { return keyPair(c.Metrics.Cert, c.Metrics.Key) }},
	{"metrics.tls_key", func(c Config) (string, string) { return absoluteOrEmpty(c.Metrics.Key) }},
	{"tracing.endpoint", func(c Config) (string, string) {
		found, fix := reachable(c.Tracing.Endpoint, c.Tracing.CA, "127.0.0.1:4317")
		return found, strings.Replace(fix, "tls_cert and tls_key", "tls_ca", 1)
	}},
	{"tracing.sampling_rate_per_million", func(c Config) (string, string) { return between(c.Tracing.Rate, 0, 1e6) }},
	{"tracing.tls_ca", func(c Config) (string, string) { return absoluteOrEmpty(c.Tracing.CA) }},
	{"stats.collection_period", func(c Config) (string, string) {
		if p := c.Stats.Period; p != 0 && (p < time.Second || p > 10*time.Minute) {
			return p.String(), "use 0 (read when asked) or 1s to 10m"
		}
		return "", ""
	}},
	{"stats.included_pod_metrics", func(c Config) (string, string) {
		for _, g := range c.Stats.PodMetrics {
			if found, fix := oneOf(g, podMetrics...); found != "" {
				return found, fix
			}
		}
		return "", ""
	}},
}

// Check lists what is wrong with c in itself; it looks at nothing but c.
func Check(c Config) (problems []Problem) {
	for _, k := range checks {
		if found, fix := k.look(c); found != "" {
			problems = append(problems, Problem{k.field, found, fix})
		}
	}
	return problems
}

// Resolve returns c with every empty program path replaced by the one found, and what this machine
// lacks. Missing CNI plugins are no problem here: they only make the network not ready.
func Resolve(c Config) (Config, []Problem) {
	var problems []Problem
	program := func(field, path, name string) string {
		if path == "" {
			path = name
		}
		found, err := exec.LookPath(path)
		if err != nil {
			problems = append(problems, Problem{field, fmt.Sprintf("no program %s", path), "install it or set " + field})
			return path
		}
		return found
	}
	handlers := make(map[string]Handler, len(c.Runtime.Handlers))
	for name, h := range c.Runtime.Handlers {
		h.Path = program("runtime.handlers."+name+".path", h.Path, name)
		handlers[name] = h
	}
	c.Runtime.Handlers = handlers
	c.Runtime.Conmon = program("runtime.conmon", c.Runtime.Conmon, "conmon")
	c.Runtime.Init = program("runtime.init", c.InitPath(), "sallyport-init")
	slices.SortFunc(problems, func(a, b Problem) int { return strings.Compare(a.Field, b.Field) })
	return c, problems
}

// reachable: a streaming URL is the whole right to a command's streams, and figures tell of a node's weak
// hours; neither crosses a network in the clear.
func reachable(address, cert, example string) (found, fix string) {
	at, err := netip.ParseAddrPort(address)
	switch {
	case err != nil || at.Addr().IsUnspecified():
		return fmt.Sprintf("%q", address), "write an address and a port, for example " + example
	case !at.Addr().IsLoopback() && cert == "":
		return fmt.Sprintf("%q is not loopback and there is no certificate", address), "use " + example + ", or set tls_cert and tls_key"
	}
	return "", ""
}

func keyPair(cert, key string) (found, fix string) {
	if (cert == "") != (key == "") {
		return "a certificate without a key, or a key without a certificate", "set tls_cert and tls_key, or neither"
	}
	return absoluteOrEmpty(cert)
}

// podMetrics are the groups of metrics, by CRI-O's names.
var podMetrics = []string{"all", "cpu", "disk", "diskIO", "hugetlb", "memory", "misc", "network", "oom", "pressure", "process", "spec"}

func between(n, low, high int) (found, fix string) {
	if n < low || n > high {
		return fmt.Sprint(n), fmt.Sprintf("use %d to %d", low, high)
	}
	return "", ""
}

// policyRepository: what nobody signed is not taken from a registry, and a name without a host could mean
// any.
func policyRepository(c Config) (found, fix string) {
	name := c.Policy.Repository
	if name == "" {
		return "", ""
	}
	if c.Policy.Source != "signed" {
		return "set, and policy.source is " + c.Policy.Source, "use source signed: policy from a registry must be signed"
	}
	host, _, _ := strings.Cut(name, "/")
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil || host == name || !strings.ContainsAny(host, ".:") && host != "localhost" {
		return fmt.Sprintf("%q", name), "write host, repository and tag, for example registry.example/policy:current"
	}
	if _, pinned := named.(reference.Digested); pinned {
		return fmt.Sprintf("%q", name), "leave the digest out: it would never change"
	}
	return "", ""
}

func handlers(c Config) (found, fix string) {
	if len(c.Runtime.Handlers) == 0 {
		return "none", "add [runtime.handlers.runc]"
	}
	for name, h := range c.Runtime.Handlers {
		if len(name) > maxHandler || !handlerName.MatchString(name) {
			return fmt.Sprintf("handler name %.80q", name), "use lower-case letters, digits and dashes"
		}
		if found, fix := absoluteOrEmpty(h.Path); found != "" {
			return "handler " + name + ": path " + found, fix
		}
		if found, fix := absoluteOrEmpty(h.Seccomp); found != "" {
			return "handler " + name + ": seccomp_profile " + found, fix
		}
		if found, fix := oneOf(h.Type, "oci", "gvisor", ""); found != "" {
			return "handler " + name + ": type " + found, strings.TrimSuffix(fix, " or ")
		}
	}
	return "", ""
}

func absolute(path string) (found, fix string) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" || strings.ContainsAny(path, "\n\x00") {
		return fmt.Sprintf("%q", path), "write an absolute path without .. or a final slash"
	}
	return "", ""
}

func absoluteOrEmpty(path string) (found, fix string) {
	if path == "" {
		return "", ""
	}
	return absolute(path)
}

// apart refuses one directory inside the other: emptying the volatile one must not touch the other.
func apart(state, root string) (found, fix string) {
	sep := string(os.PathSeparator)
	if strings.HasPrefix(state+sep, root+sep) || strings.HasPrefix(root+sep, state+sep) {
		return fmt.Sprintf("%q and root %q lie in each other", state, root), "use separate directories"
	}
	return "", ""
}

func socket(path string) (found, fix string) {
	if len(path) > maxSocket {
		return fmt.Sprintf("%d bytes long", len(path)), fmt.Sprintf("use a path of at most %d bytes", maxSocket)
	}
	return absolute(path)
}

func oneOf(v string, known ...string) (found, fix string) {
	if slices.Contains(known, v) {
		return "", ""
	}
	return fmt.Sprintf("%q", v), "use " + strings.Join(known, " or ")
}

func atLeast(d, least time.Duration) (string, string) {
	if d < least {
		return d.String(), fmt.Sprintf("use %s or more", least)
	}
	return "", ""
}

// pluginPattern is an index of two digits and a name, either with * and ? for what is left open.
var pluginPattern = regexp.MustCompile(`^[0-9?*]{1,2}-[A-Za-z0-9_.+*?-]+$`)

func plugins(c Config) (found, fix string) {
	for _, p := range c.NRI.Plugins {
		if !pluginPattern.MatchString(p) {
			return fmt.Sprintf("%q", p), "write index-name, for example \"10-device-injector\""
		}
	}
	return "", ""
}

func positive(d time.Duration, example string) (string, string) {
	if d <= 0 {
		return "no time", fmt.Sprintf("write a duration such as %q", example)
	}
	return "", ""
}
