// Package policy decides: rules and facts (which include the time) in, a Decision out. It knows no
// clock, no disk and no network, so a decision replays to the same answer.
//
// A Layer is one compiled policy, of the node or of one namespace. Each layer verifies the evidence
// with its own keys and roots and sees only its own claims (closed worlds); layers meet only as
// Verdicts, in Decide, which can make the answer tighter and never looser.
package policy

import (
	"context"
	"encoding/json"
	"time"

	"sallyport/image/ref"
	"sallyport/policy/internal/claim"
)

// Verb is a kind of act that needs a decision.
type Verb string

// The verbs. Each has its Rego package, sallyport.<verb>, but for attach, which the package for exec
// judges: a rule that keeps people out of containers must not be passed by the other way in.
const (
	VerbPull        Verb = "pull"
	VerbPod         Verb = "pod"
	VerbRun         Verb = "run"
	VerbUpdate      Verb = "update"
	VerbExec        Verb = "exec"
	VerbAttach      Verb = "attach"
	VerbPortForward Verb = "portforward"
	VerbCheckpoint  Verb = "checkpoint"
)

// What the self-test has for its own (ADR 14): a namespace in which images of this repository can be
// pulled, by rules of its own, and nothing else can be done. The host's name cannot exist (RFC 2606).
const (
	ProbeNamespace  = "sallyport-selftest"
	ProbeRepository = "selftest.sallyport.invalid/probe"
)

// Claim is what a verifier proved about a manifest. Only policy/sigstore and policy/containers can
// make one.
type Claim = claim.Claim

// Image says which bytes are meant. Everything but Name is a digest that the image room computed.
type Image struct {
	Name     ref.Name   // as asked for, normalised; what signatures of a repository are compared with
	Top      ref.Digest // digest of the manifest or index that the name resolved to
	Instance ref.Digest // digest of this platform's manifest; equals Top for a plain manifest
	ID       ref.Digest // digest of the config; of an artifact, which may share its config, Instance
	OS, Arch string     // from the config
	Artifact string     // type of an OCI artifact, which can be a volume alone; "" for a container image
}

// Evidence is unverified bytes about an image, collected at pull and stored with it.
type Evidence struct {
	TopManifest      []byte    // the bytes that hash to Image.Top
	InstanceManifest []byte    // the bytes that hash to Image.Instance; may be the same slice
	Bundles          []Bundle  // Sigstore bundles and legacy cosign payloads
	Simple           []Simple  // simple signing (GPG) and cosign ".sig" signatures, for policy.json
	Complete         bool      // false: collecting stopped at a limit or an error; Missing says which
	Missing          string    // why it is not complete, for the denial text
	Fetched          time.Time // when it was collected
}

// Bundle is one Sigstore bundle (JSON, v0.1 to v0.3), said to be about Subject.
type Bundle struct {
	Subject      ref.Digest // the manifest it was found at: Top or Instance
	ArtifactType string     // of the referrer
	JSON         []byte
}

// Simple is one signature in the forms that containers-policy.json(5) reads: raw simple signing
// (Annotations nil), or a cosign ".sig" layer with its annotations.
type Simple struct {
	Subject     ref.Digest
	MediaType   string // "" for GPG
	Payload     []byte
	Annotations map[string]string
}

// Pod is what is known of a pod when it is judged.
type Pod struct {
	Namespace, Name, UID                         string
	Attempt                                      uint32
	Handler                                      string
	HostNetwork, HostPID, HostIPC, UserNamespace bool
	SharedPID                                    bool
	UIDs, GIDs                                   []IDMapping // of the user namespace; nil without one
	Privileged                                   bool        // may hold privileged containers
	Sysctls                                      map[string]string
	Labels, Annotations                          map[string]string
}

// IDMapping maps Length IDs from Container inside a user namespace to Host on the node.
type IDMapping struct {
	Container uint32 `json:"container"`
	Host      uint32 `json:"host"`
	Length    uint32 `json:"length"`
}

// Container is what is known of a container when it is judged; Spec in Act holds the rest.
type Container struct {
	Name        string
	ID          string
	Attempt     uint32
	Labels      map[string]string
	Annotations map[string]string
	Privileged  bool
	Weakenings  []string // what spec.Build granted of the requests to weaken, by knob
}

// Exec is a command to run in a container, or for an attach (Argv nil) the way to its first process.
type Exec struct {
	Argv  []string
	TTY   bool
	Probe bool // came as ExecSync
}

// Act is one thing that somebody wants to do. Fields that a verb does not use are nil.
type Act struct {
	Verb      Verb
	Now       time.Time // judged time
	Namespace string    // "" for a pull without a namespace
	Image     *Image
	Volume    string // mount destination where Image is a volume; "" for the container's own image
	Pod       *Pod
	Container *Container
	Exec      *Exec
	Ports     []uint16        // of a port-forward; none while the client has not named any
	Spec      json.RawMessage // final OCI runtime spec, environment values replaced by their HMAC
	Resources json.RawMessage // wanted resources of an update
}

// Mode says what a layer's own rules do when they find something. It never applies to a digest
// mismatch, missing evidence, an engine error or a timeout.
type Mode string

// The modes. The zero value is read as Enforce.
const (
	Enforce Mode = "enforce"
	Warn    Mode = "warn"
	Shadow  Mode = "shadow" // judged beside what is enforced; admits and denies nothing
)

// Hit is one rule's objection.
type Hit struct {
	Layer string `json:"layer"`          // "node" or "namespace <name>"
	Rule  string `json:"rule"`           // name that stands in the policy
	Msg   string `json:"msg"`            // what was wanted and what was found, one line
	Mode  string `json:"mode,omitempty"` // "shadow" where nothing depends on it
}

// Verifier turns evidence into the claims that one layer accepts as proved. It is called once per
// image and layer, may be called concurrently, and must not touch network or clock. Reasons say, one
// line each, why evidence proved nothing. Evidence about the index counts for the instance only
// because the caller checked that the index lists it.
type Verifier interface {
	Verify(ctx context.Context, img Image, ev Evidence, now time.Time) (claims []Claim, reasons []string, err error)
}

// ImageRule judges who signed an image. Implemented by requirements.yaml (this package) and by
// policy.json (policy/containers).
type ImageRule interface {
	// JudgeImage says whether the rule is about this image at all, and if so what objects. An error
	// is an engine fault and denies whatever the mode.
	JudgeImage(ctx context.Context, in ImageInput) (ImageFinding, error)
}

// Keyed is an ImageRule that verifies signatures itself, with these keys (sha256 of the PKIX DER, hex).
type Keyed interface {
	ImageRule
	KeyIDs() []string
}

// ImageInput is what an ImageRule sees.
type ImageInput struct {
	Image    Image
	Evidence Evidence
	Claims   []Claim
	Reasons  []string // why other evidence proved nothing
	Now      time.Time
}

// ImageFinding is what an ImageRule says.
type ImageFinding struct {
	Matched  bool      // the rule is about this image
	Rules    []string  // names of the rules that matched
	Hits     []Hit     // objections; empty and Matched means pass. Layer is filled in by the caller
	Warnings []Hit     // objections of rules in mode warn; they do not deny
	Shadow   []Hit     // objections of rules in mode shadow, which neither match nor deny
	Used     []Claim   // claims that made it pass
	Until    time.Time // the answer holds until then; zero: no limit
}

// ActRule judges an act (Rego). A hit denies or, in warn, is reported.
type ActRule interface {
	JudgeAct(ctx context.Context, act Act, claims []Claim) (deny, warn []Hit, err error)
}
