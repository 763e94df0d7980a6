package security

import (
	"go/ast"
	"go/token"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/internal/admin"
	"sallyport/internal/inspect"
)

// What a way in may do. Anything else names the calls of the gate that admit it.
const (
	reads   = "reads"   // changes nothing
	ends    = "ends"    // stops, removes or tidies up, which needs no permission
	refuses = "refuses" // by name
)

// rpcs are all RPCs of CRI v1. One that is not here fails TestEveryRPC.
var rpcs = map[string]string{
	"Version": reads, "Status": reads, "RuntimeConfig": reads, "UpdateRuntimeConfig": reads, // the pod CIDR is not used
	"RunPodSandbox": "AdmitPod", "StopPodSandbox": ends, "RemovePodSandbox": ends, "PodSandboxStatus": reads, "ListPodSandbox": reads, "StreamPodSandboxes": reads,
	"UpdatePodSandboxResources": "AdmitUpdate",
	// NRI plugins may ask for changes of other containers beside an answer; those are updates.
	"CreateContainer": "AdmitRun AdmitUpdate", "StartContainer": "AdmitRun", "StopContainer": "AdmitUpdate", "RemoveContainer": ends,
	"ListContainers": reads, "StreamContainers": reads, "ContainerStatus": reads, "UpdateContainerResources": "AdmitUpdate",
	"ReopenContainerLog": ends, // the same file again, found beneath the pod's log directory as at first
	"ExecSync":           "AdmitExec", "Exec": "AdmitExec", "Attach": "AdmitAttach", "PortForward": "AdmitPortForward",
	"ContainerStats": reads, "ListContainerStats": reads, "StreamContainerStats": reads, "PodSandboxStats": reads, "ListPodSandboxStats": reads, "StreamPodSandboxStats": reads,
	"ListMetricDescriptors": reads, "ListPodSandboxMetrics": reads, "StreamPodSandboxMetrics": reads, "GetContainerEvents": reads,
	"CheckpointContainer": refuses, "CheckpointPod": refuses, "RestorePod": refuses,
	"PullImage": "AdmitPull", "ListImages": reads, "StreamImages": reads, "ImageStatus": reads, "RemoveImage": ends, "ImageFsInfo": reads,
}

// TestEveryRPC takes all RPCs from the descriptors of CRI and requires that each is listed, and that the
// code which serves it asks the gate exactly what the list says: a gated one its own verb, another none.
func TestEveryRPC(t *testing.T) {
	asked := reachable(t, "internal/cri", func(name string) bool { return strings.HasPrefix(name, "Admit") })
	served := map[string]bool{}
	for _, d := range []grpc.ServiceDesc{v1.RuntimeService_ServiceDesc, v1.ImageService_ServiceDesc} {
		for _, m := range d.Methods {
			served[m.MethodName] = true
		}
		for _, s := range d.Streams {
			served[s.StreamName] = true
		}
	}
	if len(served) < 40 {
		t.Fatalf("the descriptors have %d RPCs; the search is broken", len(served))
	}
	for name := range served {
		want, listed := rpcs[name]
		if !listed {
			t.Errorf("%s is not listed: say what it may do", name)
			continue
		}
		got, implemented := asked[name]
		switch {
		case !implemented:
			t.Errorf("%s is served by nobody; its generated answer names nothing", name)
		case !strings.HasPrefix(want, "Admit") && len(got) > 0:
			t.Errorf("%s %s and asks the gate for %v", name, want, got)
		case strings.HasPrefix(want, "Admit") && strings.Join(got, " ") != want:
			t.Errorf("%s asks the gate for %v, want %s", name, got, want)
		}
	}
	for name := range rpcs {
		if !served[name] {
			t.Errorf("%s is listed and is no RPC", name)
		}
	}
}

// TestReadsDoNotAct: what is listed as reading reaches no call by which a room acts.
func TestReadsDoNotAct(t *testing.T) {
	acts := []string{"Pull", "MountVolume", "StartAdmitted", "Redeem", "Stop", "Remove", "ReopenLog", "RedeemPull", "RedeemPod", "RedeemExec", "RedeemUpdate", "ExecAdmitted", "MarkStale"}
	of := reachable(t, "internal/cri", func(name string) bool { return slices.Contains(acts, name) })
	for name, effect := range rpcs {
		if effect == reads && len(of[name]) > 0 {
			t.Errorf("%s is listed as reading and calls %v", name, of[name])
		}
	}
	if len(of["PullImage"]) == 0 || len(of["StopContainer"]) == 0 {
		t.Errorf("PullImage reaches %v, StopContainer %v; the search is broken", of["PullImage"], of["StopContainer"])
	}
}

// reachable finds, for each function of a package, the called names that ask selects, by way of other
// functions of the package. It goes by names, so it finds too much rather than too little.
func reachable(t *testing.T, pkg string, ask func(string) bool) map[string][]string {
	t.Helper()
	uses := map[string]map[string]bool{}
	for _, f := range tree(t) {
		if f.pkg != pkg || f.test {
			continue
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			if uses[fn.Name.Name] == nil {
				uses[fn.Name.Name] = map[string]bool{}
			}
			ast.Inspect(fn.Body, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.SelectorExpr: // of what is not an RPC of another name
					uses[fn.Name.Name][n.Sel.Name] = true
				case *ast.Ident:
					uses[fn.Name.Name][n.Name] = true
				}
				return true
			})
		}
	}
	out := map[string][]string{}
	for name := range uses {
		found, seen := map[string]bool{}, map[string]bool{}
		var walk func(string)
		walk = func(at string) {
			if seen[at] {
				return
			}
			seen[at] = true
			for used := range uses[at] {
				if ask(used) {
					found[used] = true
				}
				if _, ours := uses[used]; ours && rpcs[used] == "" { // an RPC does not call another
					walk(used)
				}
			}
		}
		walk(name)
		out[name] = slices.Sorted(maps.Keys(found))
	}
	return out
}

// TestEveryOperatorCall: each call of the operator's door is listed with its effect.
func TestEveryOperatorCall(t *testing.T) {
	want := map[string]string{"ps": reads, "policy/status": reads, "verify": reads, "image/stored": reads, "image/load": "stores an image: AdmitPull",
		"selftest": "pulls what the self-test asks for at the CRI socket, and removes it: AdmitPull, AdmitPod"}
	if got := admin.Effects(); !maps.Equal(got, want) {
		t.Errorf("calls of the admin socket: %v, want %v", got, want)
	}
	freeze := "pauses a container; AdmitFreeze"
	resume := "resumes a container; AdmitFreeze"
	shown := map[string]string{"GET /info": reads, "GET /config": reads, "GET /containers/{id}": reads, "GET /metrics": reads,
		"GET /debug/goroutines": reads, "GET /debug/heap": reads, "GET /pause/{id}": freeze, "GET /unpause/{id}": resume}
	if got := inspect.Effects(); !maps.Equal(got, shown) {
		t.Errorf("endpoints of the inspect handler: %v, want %v", got, shown)
	}
	freezes := reachable(t, "internal/cri", func(name string) bool { return strings.HasPrefix(name, "Admit") })["Freeze"]
	if !slices.Equal(freezes, []string{"AdmitFreeze"}) {
		t.Errorf("what pauses and resumes asks the gate for %v, want AdmitFreeze", freezes)
	}
	// What internal/admin asks the gate, by function: load alone acts, and the others take opinions.
	of := reachable(t, "internal/admin", func(name string) bool { return strings.HasPrefix(name, "Admit") || strings.HasPrefix(name, "Redeem") })
	acting := map[string][]string{"load": {"AdmitPull"}}
	for name, found := range of {
		if !slices.Equal(found, acting[name]) {
			t.Errorf("internal/admin: %s asks the gate for %v, want %v", name, found, acting[name])
		}
	}
}

// TestEveryHTTPServer: the HTTP servers of the build and the paths that they serve. Streams have no paths:
// each URL is a closure that holds its one admission (ADR 4).
func TestEveryHTTPServer(t *testing.T) {
	servers := map[string]bool{"internal/admin": true, "internal/telemetry": true, "sandbox/stream": true}
	paths := map[string]string{"internal/admin POST /v1/": "the table of calls", "internal/telemetry GET /metrics": reads,
		"internal/admin /": "internal/inspect", "internal/inspect ": "its table of endpoints"}
	found := map[string]bool{}
	for _, f := range tree(t) {
		if f.test || strings.HasPrefix(f.pkg, "test/") {
			continue
		}
		f.selectors(func(name string, pos token.Pos) {
			switch name {
			case "net/http.Server", "net/http.ListenAndServe", "net/http.ListenAndServeTLS", "net/http.Serve":
				found[f.pkg] = true
				if !servers[f.pkg] {
					t.Errorf("%s: %s serves HTTP and is not listed", fset.Position(pos), f.pkg)
				}
			case "net/http.Handle", "net/http.HandleFunc", "net/http.DefaultServeMux":
				t.Errorf("%s: %s is open to every package", fset.Position(pos), name)
			}
		})
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 2 {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || sel.Sel.Name != "Handle" && sel.Sel.Name != "HandleFunc" {
				return true
			}
			if p := f.pkg + " " + firstLiteral(call.Args[0]); paths[p] == "" {
				t.Errorf("%s: serves %q, which is not listed", fset.Position(call.Pos()), p)
			}
			return true
		})
	}
	for pkg := range servers {
		if !found[pkg] {
			t.Errorf("%s is listed and serves no HTTP", pkg)
		}
	}
}

// firstLiteral is the text with which an expression begins.
func firstLiteral(e ast.Expr) (text string) {
	ast.Inspect(e, func(n ast.Node) bool {
		if l, ok := n.(*ast.BasicLit); ok && text == "" && l.Kind == token.STRING {
			text, _ = strconv.Unquote(l.Value)
		}
		return text == ""
	})
	return text
}

// sites are the functions that mount, enter namespaces or start programs, each with what admits it. A
// grant is taken by the function's callers as a parameter, which the compiler holds; what the daemon does
// for itself takes no input of a request.
var sites = map[string]string{
	"image.mountOverlay":                  "AdmitRun: Store.Mount takes the grant",
	"image.mountReadOnly":                 "AdmitRun: Store.MountVolume takes the grant",
	"image.mapOne":                        "AdmitRun: layers of a granted root filesystem, with the pod's judged ID mapping",
	"image.view":                          "its own: layers to read passwd and group from, read-only, noexec, in no container",
	"image.private":                       "its own: the store's directories",
	"sandbox.assemble":                    "AdmitRun: Pod.Create redeems the admission",
	"sandbox.makeFiles":                   "AdmitPod: the pod's /dev/shm, of the granted configuration",
	"sandbox.pinPID":                      "AdmitPod: the PID namespace of the granted first process",
	"sandbox.inNetwork":                   "AdmitPortForward: ports of the grant",
	"sandbox/stats.netDev":                "its own: reads counters in a pod's network",
	"sandbox/internal/hostmount.bind":     "AdmitRun: a source that was opened before the gate and judged by what it is",
	"sandbox/internal/hostmount.BindLog":  "AdmitRun: the log file of a container that is being made",
	"sandbox/internal/hostmount.Private":  "its own: the directory of runtime bundles",
	"sandbox/internal/monitor.Probe":      "its own: conmon's version, at start",
	"sandbox/internal/monitor.Create":     "AdmitRun, AdmitPod: conmon, for the granted spec of a container or a pod's first process",
	"sandbox/internal/ociruntime.run":     "AdmitRun, AdmitUpdate: the OCI runtime on a granted bundle, or its version and state",
	"sandbox/internal/ociruntime.execute": "AdmitExec: the granted process",
	"sandbox/internal/ns.start":           "AdmitPod: sallyport-init, by its descriptor",
	"sandbox/internal/ns.pin":             "AdmitPod: namespaces of the granted pod",
	"sandbox/internal/ns.share":           "its own: the directory of pins",
	"internal/nri.launch":                 "the configuration: a listed NRI plugin, which root alone can have written, at start",
	"sandbox/network.execute":             "AdmitPod: CNI plugins, for the network namespace of a granted pod",
	"policy/rego/confine.start":           "its own: the child in which namespaces' Rego runs, confined",
}

// TestEveryMountAndExec holds the mount and exec call sites of the build to the list.
func TestEveryMountAndExec(t *testing.T) {
	watched := []string{"golang.org/x/sys/unix.Mount", "golang.org/x/sys/unix.MoveMount", "golang.org/x/sys/unix.OpenTree", "golang.org/x/sys/unix.OpenTreeAttr",
		"golang.org/x/sys/unix.Fsopen", "golang.org/x/sys/unix.Fsmount", "golang.org/x/sys/unix.MountSetattr", "golang.org/x/sys/unix.PivotRoot", "golang.org/x/sys/unix.Setns",
		"golang.org/x/sys/unix.Unshare", "os/exec.Command*", "os.StartProcess", "syscall.Exec", "syscall.ForkExec", "syscall.Mount", "syscall.Unshare"}
	found := map[string]bool{}
	for _, f := range tree(t) {
		if f.test || strings.HasPrefix(f.pkg, "test/") {
			continue
		}
		f.selectors(func(name string, pos token.Pos) {
			if !slices.ContainsFunc(watched, func(w string) bool { return matches(w, name) }) {
				return
			}
			site := f.pkg + "." + f.function(pos)
			found[site] = true
			if sites[site] == "" {
				t.Errorf("%s: %s calls %s and is not listed: say what admits it", fset.Position(pos), site, name)
			}
		})
	}
	for site := range sites {
		if !found[site] {
			t.Errorf("%s is listed and mounts or starts nothing", site)
		}
	}
}

// function is the name of the function around a position.
func (f file) function(pos token.Pos) string {
	for _, d := range f.ast.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Pos() <= pos && pos < fn.End() {
			return fn.Name.Name
		}
	}
	return "-"
}
