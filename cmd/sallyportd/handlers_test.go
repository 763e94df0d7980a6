package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/internal/config"
	"sallyport/sandbox"
	"sallyport/sandbox/spec"
	"sallyport/seccomp"
)

// TestHandler: a handler whose seccomp profile or annotations cannot be meant keeps the daemon from
// starting, by name.
func TestHandler(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tt := range []struct {
		name string
		h    config.Handler
		want string
	}{
		{"plain", config.Handler{}, ""},
		{"own profile", config.Handler{Seccomp: file("good.json", string(seccomp.DefaultJSON()))}, ""},
		{"no profile", config.Handler{Seccomp: filepath.Join(dir, "absent.json")}, "runtime.handlers.x.seccomp_profile"},
		{"empty profile", config.Handler{Seccomp: file("empty.json", "{}")}, "runtime.handlers.x.seccomp_profile"},
		{"annotation", config.Handler{Allowed: []string{"devices.crio.io"}}, ""},
		{"never", config.Handler{Allowed: []string{"io.kubernetes.cri-o.userns-mode"}}, "runtime.handlers.x: annotation"},
		{"default", config.Handler{Defaults: map[string]string{"umask.crio.io": "0027"}}, ""},
		{"bad default", config.Handler{Defaults: map[string]string{"umask.crio.io": "x"}}, "runtime.handlers.x: annotation"},
	} {
		_, err := handler("x", tt.h)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: handler() = %v, want %q", tt.name, err, tt.want)
		}
	}
}

// TestHandlerHost: what one OCI runtime lacks, its handler's pods do not get.
func TestHandlerHost(t *testing.T) {
	node := spec.Host{Seccomp: true, SELinux: true, AppArmor: true, RecursiveRO: true}
	got := handlerHost(node, config.Handler{Type: "gvisor"}, sandbox.RuntimeFacts{Seccomp: true})
	if got.SELinux || got.AppArmor || got.RecursiveRO || !got.OwnKernel {
		t.Errorf("handlerHost(gvisor) = %+v, want none of the runtime's absent features", got)
	}
	got = handlerHost(node, config.Handler{}, sandbox.RuntimeFacts{Seccomp: true, SELinux: true, AppArmor: true, RRO: true})
	if !got.SELinux || !got.AppArmor || !got.RecursiveRO || got.OwnKernel {
		t.Errorf("handlerHost(runc) = %+v, want all", got)
	}
	if got = handlerHost(spec.Host{}, config.Handler{}, sandbox.RuntimeFacts{SELinux: true}); got.SELinux || got.Seccomp {
		t.Errorf("handlerHost() = %+v, want no more than the node has", got)
	}
}
