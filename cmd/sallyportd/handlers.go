package main

import (
	"fmt"
	"maps"
	"os"
	"slices"

	"sallyport/internal/config"
	"sallyport/internal/cri"
	"sallyport/sandbox"
	"sallyport/sandbox/spec"
	"sallyport/seccomp"
)

// handlers are the runtime handlers with what each can do here, given what the node can with the default
// one's OCI runtime.
func (d *daemon) handlers(host spec.Host, facts map[string]sandbox.RuntimeFacts) (out []cri.Handler, err error) {
	for _, name := range slices.Sorted(maps.Keys(d.c.Runtime.Handlers)) {
		h, f := d.c.Runtime.Handlers[name], facts[name]
		own, err := handler(name, h)
		if err != nil {
			return nil, err
		}
		own.Defaults.CgroupParent, own.Defaults.PidsLimit, own.Defaults.AppArmorProfile = d.c.Runtime.Parent, d.c.Limits.Pids, d.c.Runtime.AppArmor
		own.UserNamespaces = f.IDMap && h.Type != "gvisor"
		own.Host = handlerHost(host, h, f)
		if host.SELinux && !own.Host.SELinux || host.AppArmor && !own.Host.AppArmor {
			d.log.Warn("the node labels containers and this runtime cannot: its containers run without a label", "handler", name)
		}
		out = append(out, own)
	}
	return out, nil
}

// handlerHost is what the node can with one OCI runtime.
func handlerHost(host spec.Host, h config.Handler, f sandbox.RuntimeFacts) spec.Host {
	host.Seccomp = f.Seccomp && kernelSeccomp()
	host.SELinux = host.SELinux && f.SELinux
	host.AppArmor = host.AppArmor && f.AppArmor
	host.RecursiveRO = f.RRO
	host.SpecVersion = f.Spec
	host.OwnKernel = h.Type == "gvisor"
	return host
}

// handler reads what the configuration says of one handler beside its OCI runtime.
func handler(name string, h config.Handler) (cri.Handler, error) {
	out := cri.Handler{Name: name, Annotations: spec.Annotations{Allowed: h.Allowed, Defaults: h.Defaults}}
	if err := out.Annotations.Check(); err != nil {
		return out, fmt.Errorf("runtime.handlers.%s: %w", name, err)
	}
	if h.Seccomp == "" {
		return out, nil
	}
	data, err := os.ReadFile(h.Seccomp)
	if err == nil {
		out.Defaults.Seccomp, err = seccomp.FromJSON(data)
	}
	if err != nil {
		return out, fmt.Errorf("runtime.handlers.%s.seccomp_profile: %w", name, err)
	}
	return out, nil
}
