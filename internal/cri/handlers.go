package cri

import (
	"cmp"
	"fmt"
	"slices"

	"sallyport/sandbox/spec"
)

// handler finds a runtime handler; "" is the default one. An unknown one is the zero Handler, whose Host
// grants nothing: sandbox refuses the name before anything is made.
func (s *Server) handler(name string) Handler {
	name = cmp.Or(name, s.o.Default)
	i := slices.IndexFunc(s.o.Handlers, func(h Handler) bool { return h.Name == name })
	if i < 0 {
		return Handler{}
	}
	return s.o.Handlers[i]
}

// shares refuses a pod that shares processes or has a user namespace where each container has a kernel of
// its own: the pod would start and its containers would not.
func (h Handler) shares(cfg spec.PodConfig) error {
	if pid := cfg.Security.Namespaces.PID; h.Host.OwnKernel && pid != "" && pid != spec.NamespaceContainer {
		return fmt.Errorf("%w: processes are to be shared (%s), and runtime handler %q gives each container a kernel of its own", errInvalid, pid, h.Name)
	}
	return nil
}

// handlerInfo is what Status tells of the handlers beyond CRI's own features.
func (s *Server) handlerInfo() map[string]any {
	out := map[string]any{}
	for _, h := range s.o.Handlers {
		out[h.Name] = map[string]any{
			"seccomp": h.Host.Seccomp, "ownSeccompProfile": !h.Defaults.Seccomp.IsZero(), "seLinux": h.Host.SELinux, "appArmor": h.Host.AppArmor,
			"ownKernel": h.Host.OwnKernel, "allowedAnnotations": h.Annotations.Allowed,
		}
	}
	return out
}
