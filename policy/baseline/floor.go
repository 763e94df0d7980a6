// Package baseline is the floor that every final OCI spec must stand on: a Floor, which says per knob
// how a request to weaken the hardening is answered, and a list of named checks that read the final
// spec. The spec's builder (sandbox/spec) and this judge are double-entry book-keeping: they share the
// Floor and nothing else.
package baseline

// Answer says what becomes of a request to weaken one knob. The zero value refuses. Answers are
// ordered: the smaller is the tighter.
type Answer uint8

// The answers.
const (
	Refuse   Answer = iota // the request is denied by name
	Override               // ours is used and recorded; the kubelet cannot say "unset", so this is the usual answer
	Allow                  // the request is granted and recorded as a weakening
)

// Level names a starting point, as the Pod Security Standards do. The zero value is Restricted.
type Level uint8

// The levels.
const (
	Restricted Level = iota
	Baseline
	Privileged
)

// Recheck says when the bytes of a stored image are hashed again before a container starts. The zero value
// is the tightest.
type Recheck uint8

// When.
const (
	EveryStart Recheck = iota
	FirstUse           // once since the machine started
)

// Floor is the hardening that one namespace gets. The zero value is the tightest floor. Lists name
// what is admitted; nil admits nothing beyond the default. Floors are values: do not change the lists
// of one that was handed out.
type Floor struct {
	Level           Level
	Seccomp         Answer   // request: Unconfined or a localhost profile
	NoNewPrivileges Answer   // request: no_new_privs = false
	Privileged      Answer   // request: privileged container
	HostNetwork     Answer   // request: the node's network namespace
	HostPID         Answer   // likewise
	HostIPC         Answer   // likewise
	HostUsers       Answer   // request: no user namespace (user namespace mode NODE)
	RootUser        Answer   // request: uid 0 without a user namespace; Override is read as Refuse
	Devices         Answer   // request: host devices
	UnmaskedPaths   Answer   // request: fewer masked or read-only paths (procMount Unmasked)
	AppArmor        Answer   // request: unconfined or a localhost profile
	SELinux         Answer   // request: a label of one's own
	BidirMounts     Answer   // request: mount propagation to the host
	LayerBytes      Recheck  // no request: what the node does of itself
	Capabilities    []string // capabilities that may be added beyond the default set, CAP_X; "ALL" for any
	HostPaths       []string // path prefixes that may be mounted from the host, "/" for any; one that meets a control path only as =/path, exactly, and at Privileged Allow
	Sysctls         []string // sysctls that may be set; a trailing * is a prefix
	CDI             []string // CDI devices that may be given, vendor/class=name; a trailing * is a prefix. Their device nodes come with them
	Hooks           []Hook   // programs that may run on the node as OCI hooks
}

// Hook is a program of the node by its path and its bytes.
type Hook struct {
	Path   string // clean and absolute
	Digest string // sha256:<hexadecimal> of the file
}

// EveryStart reports whether stored bytes are hashed before every start.
func (f Floor) EveryStart() bool { return f.LayerBytes == EveryStart }
