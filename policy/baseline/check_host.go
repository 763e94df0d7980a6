package baseline

import (
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hooks are host code: each must be a program that the floor names by path and digest, and the file
// that was opened beneath that path must have this digest. One that runs inside the container
// (startContainer) names a file of the image, of which a digest on the node says nothing; LD_ variables
// would have a program that is admitted load code that is not.
func hooks(v *view) (out []string) {
	h := v.spec.Hooks
	if h == nil {
		return nil
	}
	if v.PodInit {
		return []string{"hooks are set for a pod's first process"}
	}
	out = found(len(h.StartContainer) > 0, "a startContainer hook is set; it runs a file of the image with the runtime's rights")
	for _, list := range [][]specs.Hook{h.Prestart, h.CreateRuntime, h.CreateContainer, h.Poststart, h.Poststop} { //nolint:staticcheck // prestart is deprecated and still run
		for _, k := range list {
			out = append(out, v.hook(k)...)
		}
	}
	return out
}

func (v *view) hook(k specs.Hook) (out []string) {
	if !clean(k.Path) {
		return []string{fmt.Sprintf("the hook %.80q is no clean absolute path", k.Path)}
	}
	opened, named := "", false
	for _, f := range v.Hooks {
		if f.Path == k.Path {
			opened = f.Digest
		}
	}
	for _, r := range v.floor.Hooks {
		named = named || r.Path == k.Path
	}
	switch {
	case !named:
		out = append(out, fmt.Sprintf("the hook %.80q runs on the host and no rule of the floor (hooks) names it", k.Path))
	case opened == "" || !contains(v.floor.Hooks, Hook{k.Path, opened}):
		out = append(out, fmt.Sprintf("the hook %.80q has the digest %q, which no rule of the floor names for it", k.Path, opened))
	}
	for _, e := range k.Env {
		out = append(out, found(strings.HasPrefix(e, "LD_") || strings.ContainsRune(e, 0), "the hook %.80q has the variable %.40q", k.Path, name(e))...)
	}
	for _, a := range k.Args {
		out = append(out, found(strings.ContainsRune(a, 0), "an argument of the hook %.80q holds a zero byte", k.Path)...)
	}
	return out
}

func name(variable string) string {
	n, _, _ := strings.Cut(variable, "=")
	return n
}

// cdi: what a vendor's file says of a device reaches the spec as mounts, device nodes and hooks, which
// are judged as such; the device itself must be one that the floor names.
func cdi(v *view) (out []string) {
	for _, n := range v.CDI {
		out = append(out, found(!v.floor.AdmitsCDI(n), "the CDI device %.120q; hardening.yaml does not name it (cdi)", n)...)
	}
	return out
}
