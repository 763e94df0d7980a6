// Package enforce is the gate: the one place where a policy.Decision becomes permission to pull, to
// run or to exec. Order is held by types: a Decision is recorded (audit.Receipt), only then an
// admission is minted, and an admission is redeemed once for a Grant, which carries the judged bytes
// and is the only thing that the image and sandbox rooms accept.
//
// The package knows neither registry nor CRI nor OCI runtime, and has no interfaces to be faked.
package enforce

import (
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"sallyport/audit"
	"sallyport/policy"
)

// Life is how long an admission may be redeemed.
const Life = 2 * time.Minute

// Why an admission was not redeemed.
var (
	ErrForged   = errors.New("admission was not issued by this gate")
	ErrRedeemed = errors.New("admission was used already")
	ErrExpired  = errors.New("admission expired: two minutes passed or the policy changed; ask the gate again")
)

// PullAdmission, PodAdmission, RunAdmission, UpdateAdmission, ExecAdmission, AttachAdmission and
// PortForwardAdmission are permission to do one thing once. The zero value is refused; copies share one use.
type (
	PullAdmission        struct{ permit *permit }
	PodAdmission         struct{ permit *permit }
	RunAdmission         struct{ permit *permit }
	UpdateAdmission      struct{ permit *permit }
	ExecAdmission        struct{ permit *permit }
	AttachAdmission      struct{ permit *permit }
	PortForwardAdmission struct{ permit *permit }
)

// permit is what all admissions share.
type permit struct {
	gate      *Gate       // constant
	effective string      // constant; policy of the namespace when it was judged
	expires   time.Time   // constant
	grant     Grant       // constant
	used      atomic.Bool // set by the one redemption
}

// Grant is a redeemed admission. It is immutable and carries what was judged: what was judged is what
// runs and what is remembered. The zero Grant is invalid.
type Grant struct{ g *grant }

type grant struct {
	verb      policy.Verb
	namespace string
	subject   string
	image     policy.Image
	volumes   []VolumeImage
	spec      string
	config    string
	ports     []uint16
	receipt   audit.Receipt
	warnings  []policy.Hit
}

// Verb is what was granted; "" for the zero Grant. A consumer refuses any verb but its own.
func (g Grant) Verb() policy.Verb { return g.read().verb }

// Namespace is the pod's namespace, or "" for a pull without one.
func (g Grant) Namespace() string { return g.read().namespace }

// Subject is the ID of the one object that the grant is about: pod ID, container ID, or for a pull
// the instance digest.
func (g Grant) Subject() string { return g.read().subject }

// Image is the judged image (pull, run); the zero Image otherwise.
func (g Grant) Image() policy.Image { return g.read().image }

// Volumes are the judged images of the container's mounts (run), by mount.
func (g Grant) Volumes() []VolumeImage { return slices.Clone(g.read().volumes) }

// Spec is the final OCI runtime spec, byte for byte what the runtime must read (run), or the judged
// resources (update), or the judged process (exec).
func (g Grant) Spec() string { return g.read().spec }

// Config is the pod's or container's own configuration as it was judged, to be remembered.
func (g Grant) Config() string { return g.read().config }

// Ports is a copy of the ports of the pod that may be reached (portforward); none otherwise.
func (g Grant) Ports() []uint16 { return slices.Clone(g.read().ports) }

// Receipt names the audit record.
func (g Grant) Receipt() audit.Receipt { return g.read().receipt }

// Valid reports whether g came from a redeemed admission.
func (g Grant) Valid() bool { return g.g != nil }

func (g Grant) read() *grant {
	if g.g == nil {
		return &grant{}
	}
	return g.g
}
