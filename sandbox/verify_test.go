package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/enforce"
	"sallyport/policy"
	"sallyport/sandbox/internal/proc"
	"sallyport/test/roottest"
)

func TestExpectation(t *testing.T) {
	spec := `{"root":{"path":"rootfs"},"process":{"cwd":"/","user":{"uid":1000},"noNewPrivileges":true,"selinuxLabel":"l",
	 "capabilities":{"bounding":["CAP_CHOWN","CAP_KILL"],"effective":["CAP_KILL"]}},"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO"},"cgroupsPath":"/x/y"}}`
	want, err := expect([]byte(spec))
	must(t, err)
	good := proc.Status{UID: 1000, CapBounding: 0x21, CapEffective: 0x20, NoNewPrivileges: true, Seccomp: 2, Label: "l"}
	if err := want.check(good); err != nil {
		t.Errorf("check() = %v, want nil", err)
	}
	tighter := good
	tighter.CapBounding, tighter.CapEffective = 0, 0
	if err := want.check(tighter); err != nil {
		t.Errorf("check() of a tighter process = %v, want nil", err)
	}
	for what, change := range map[string]func(*proc.Status){
		"bounding set":    func(s *proc.Status) { s.CapBounding |= 1 << 21 },
		"effective":       func(s *proc.Status) { s.CapEffective |= 1 << 21 },
		"permitted":       func(s *proc.Status) { s.CapPermitted |= 1 << 21 },
		"inheritable":     func(s *proc.Status) { s.CapInheritable = 1 },
		"ambient":         func(s *proc.Status) { s.CapAmbient = 1 },
		"no_new_privs":    func(s *proc.Status) { s.NoNewPrivileges = false },
		"seccomp mode 0":  func(s *proc.Status) { s.Seccomp = 0 },
		"the node's root": func(s *proc.Status) { s.UID = 0 },
		"label \"other\"": func(s *proc.Status) { s.Label = "other" },
	} {
		bad := good
		change(&bad)
		if err := want.check(bad); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("check() with another %s = %v", what, err)
		}
	}
	for _, bad := range []string{"", "{}", strings.Replace(spec, `"rootfs"`, `"/"`, 1), strings.Replace(spec, "CAP_KILL", "CAP_NEW", 1)} {
		if _, err := expect([]byte(bad)); err == nil {
			t.Errorf("expect(%.30s) = nil, want an error", bad)
		}
	}
}

// A runtime that gives a process less protection than judged is found out, and the process is killed.
// TestSentry: gVisor's kernel on the node is under a filter and holds what it needs, or it is killed.
func TestSentry(t *testing.T) {
	good := proc.Status{CapBounding: 0x8141f, CapEffective: 0x8141f, CapPermitted: 0x8141f, NoNewPrivileges: true, Seccomp: 2}
	if err := checkSentry(good); err != nil {
		t.Errorf("checkSentry() = %v, want nil", err)
	}
	for name, change := range map[string]func(*proc.Status){
		"no filter":         func(s *proc.Status) { s.Seccomp = 0 },
		"new privileges":    func(s *proc.Status) { s.NoNewPrivileges = false },
		"CAP_SYS_ADMIN":     func(s *proc.Status) { s.CapEffective |= 1 << 21 },
		"bounding all":      func(s *proc.Status) { s.CapBounding = 1<<41 - 1 },
		"ambient CAP_MKNOD": func(s *proc.Status) { s.CapAmbient = 1 << 27 },
	} {
		bad := good
		change(&bad)
		if err := checkSentry(bad); err == nil {
			t.Errorf("%s: checkSentry() = nil, want a refusal", name)
		}
	}
}

func TestVerifyKills(t *testing.T) {
	real := roottest.Binary(t, "runc")
	dir := t.TempDir()
	lax := filepath.Join(dir, "runc")
	must(t, os.WriteFile(lax, []byte(fmt.Sprintf("#!/bin/sh\nfor a; do case $a in create) sed -i s/noNewPrivileges/noNewPrivilegez/ config.json;; esac; done\nexec %s \"$@\"\n", real)), 0o755))
	n := newNode(t, func(o *Options) { o.Runtimes["lax"] = lax })
	for handler, good := range map[string]bool{"lax": false, "": true} {
		cfg := podConfig("a" + handler)
		cfg.Handler = handler
		p := n.pod(cfg)
		app := script("app", "sleep 1000")
		app.Security.NoNewPrivs = true
		c, err := n.create(p, app)
		must(t, err)
		err = c.Start(t.Context())
		switch {
		case good && err != nil:
			t.Errorf("Start() with an honest runtime = %v, want nil", err)
		case !good && (err == nil || !strings.Contains(err.Error(), "no_new_privs is off")):
			t.Errorf("Start() with a lax runtime = %v, want a mismatch", err)
		case !good && c.Status().State != Exited:
			t.Errorf("state = %s, want exited", c.Status().State)
		}
	}
}

// A pod is made only from an admission for its reservation.
func TestRunNeedsItsAdmission(t *testing.T) {
	n := newNode(t)
	ctx := t.Context()
	admit := func(id, name string) enforce.PodAdmission {
		cfg := podConfig(name)
		cfg.CgroupParent = n.cgroup
		sealed, err := json.Marshal(cfg)
		must(t, err)
		adm, err := n.gate.AdmitPod(ctx, enforce.PodRequest{Pod: policy.Pod{Namespace: "shop", Name: name, UID: cfg.UID}, PodID: id, Config: string(sealed)})
		must(t, err)
		return adm
	}
	r, err := n.Reserve(ctx, podConfig("a"))
	must(t, err)
	if _, err := n.Run(ctx, admit(r.ID(), "other")); !errors.Is(err, ErrMismatch) {
		t.Errorf("Run() with another pod's configuration = %v, want ErrMismatch", err)
	}
	if _, err := n.Run(ctx, admit(newID(), "a")); !errors.Is(err, ErrMismatch) {
		t.Errorf("Run() without a reservation = %v, want ErrMismatch", err)
	}
	r, err = n.Reserve(ctx, podConfig("a"))
	must(t, err)
	if _, err := n.Reserve(ctx, podConfig("a")); !errors.Is(err, ErrBusy) {
		t.Errorf("Reserve() of a reserved pod = %v, want ErrBusy", err)
	}
	if _, err := n.Run(ctx, admit(r.ID(), "a")); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}

// What reaches resolv.conf and hostname stays one word on one line (CVE-2022-4318).
func TestPodFiles(t *testing.T) {
	for _, bad := range []string{"10.0.0.1\nnameserver 6.6.6.6", "a b", "", "x\x00", strings.Repeat("a", 300), "a\rb", "a\tb"} {
		cfg := podConfig("a")
		cfg.DNS = dns(bad)
		if got, err := resolvConf(cfg.DNS); err == nil {
			t.Errorf("resolvConf(%q) = %q, want an error", bad, got)
		}
	}
	if got, err := resolvConf(dns("10.0.0.1")); err != nil || string(got) != "nameserver 10.0.0.1\n" {
		t.Errorf("resolvConf() = %q, %v", got, err)
	}
	p := &Pod{cfg: podConfig("a")}
	for name, ok := range map[string]bool{"web-0": true, "web\n127.0.0.1 x": false, "a b": false} {
		p.cfg.Hostname = name
		if _, err := p.hostname(); (err == nil) != ok {
			t.Errorf("hostname(%q) = %v, want accepted: %v", name, err, ok)
		}
	}
}
