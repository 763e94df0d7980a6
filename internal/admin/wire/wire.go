// Package wire is what the operator's door speaks: the names of its calls, their requests and answers,
// and a client. It is JSON over HTTP on a Unix socket: POST /v1/<call> with one JSON object, which has
// no unknown field; the answer is one JSON object, or Failure with a status of 400 and above. The
// package imports nothing of ours, so that the command line links no room of the daemon.
package wire

import "time"

// MaxRequest bounds a request's body in bytes. Files are named by path, never sent.
const MaxRequest = 1 << 20

// MaxAnswer bounds an answer in bytes: 10,000 containers take about 8 MiB.
const MaxAnswer = 64 << 20

// The calls. Each stands once in admin's table, which says what it may do.
const (
	CallPs     = "ps"
	CallPolicy = "policy/status"
	CallVerify = "verify"
	CallLoad   = "image/load"
	CallTest   = "selftest"
	CallStored = "image/stored"
)

// LoadLimit is how long an image load may take.
const LoadLimit = 30 * time.Minute

// Failure is the answer of a call that failed.
type Failure struct {
	Error string `json:"error"` // one line
}

// Empty is a request that asks nothing more.
type Empty struct{}

// Ps is the answer of ps: every container that an RPC has returned, by namespace, pod and name.
type Ps struct {
	Containers []Container `json:"containers"`
}

// Container is one container and by what it runs.
type Container struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Namespace string    `json:"namespace"`
	Pod       string    `json:"pod"`
	PodID     string    `json:"podID"`
	State     string    `json:"state"`
	Created   time.Time `json:"created"`
	Image     string    `json:"image"`    // as judged: the name with the digest that it meant
	Instance  string    `json:"instance"` // digest of the manifest that runs
	SpecHash  string    `json:"specHash"`
	Audit     uint64    `json:"audit"`     // record of its admission
	Effective string    `json:"effective"` // names the policy that judges its namespace now
	Findings  []Hit     `json:"findings"`  // what speaks against it by now; it was admitted and runs
	Override  string    `json:"override"`  // that covers the findings; "" for none
	Aged      bool      `json:"aged"`      // the findings come from time or a fault alone
	Due       time.Time `json:"due"`       // when it is stopped for them; zero: it is not
}

// Policy is the answer of policy/status.
type Policy struct {
	Source   string    `json:"source"` // local-unsigned or signed
	Dir      string    `json:"dir"`
	Loaded   time.Time `json:"loaded"` // when the policy in force was installed; zero: never
	Hash     string    `json:"hash"`   // over all layers; "" for none
	Layers   []Layer   `json:"layers"` // the node's first
	Problems []Problem `json:"problems"`
	// Overrides are the break-glass documents for this node.
	Overrides []Override `json:"overrides"`
}

// Override is a break-glass document that was verified.
type Override struct {
	Name      string    `json:"name"`
	ID        string    `json:"id"`
	Ticket    string    `json:"ticket"`
	Reason    string    `json:"reason"`
	Namespace string    `json:"namespace"`
	Digest    string    `json:"digest"`
	Verbs     []string  `json:"verbs"`
	Rules     []string  `json:"rules"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	Uses      int       `json:"uses"` // on this node; -1: the count cannot be read, and the override does not apply
	MaxUses   int       `json:"maxUses"`
}

// Layer is one policy in force.
type Layer struct {
	Name     string    `json:"name"` // node, or "namespace <name>"
	Revision uint64    `json:"revision"`
	Mode     string    `json:"mode"`
	Hash     string    `json:"hash"`
	NotAfter time.Time `json:"notAfter"` // zero: no end
	Kept     bool      `json:"kept"`     // what lies in the directory was refused: the last good one judges
	Shadow   bool      `json:"shadow"`   // on trial: it admits and denies nothing
}

// Problem is something wrong with the policy files.
type Problem struct {
	Layer string `json:"layer"`
	Rule  string `json:"rule"`
	Msg   string `json:"msg"`
	Kept  bool   `json:"kept"`
}

// Verify asks what the gate would say of an image.
type Verify struct {
	Image     string `json:"image"`     // full name, with tag or digest
	Namespace string `json:"namespace"` // of the pod that would run it; "" asks the node policy alone
	Stored    bool   `json:"stored"`    // judge what is stored, without the network, instead of what the registry has
}

// Verified is the answer of verify. Nothing was pulled and nothing is permitted by it.
type Verified struct {
	Allowed  bool      `json:"allowed"`
	Audit    uint64    `json:"audit"` // record of the question
	Image    string    `json:"image"`
	Top      string    `json:"top"`      // digest that the name means
	Instance string    `json:"instance"` // digest of this platform's manifest
	Evidence Evidence  `json:"evidence"`
	Layers   []Opinion `json:"layers"`
}

// Evidence counts what was found about an image.
type Evidence struct {
	Bundles  int       `json:"bundles"` // Sigstore bundles
	Simple   int       `json:"simple"`  // simple signing and cosign .sig
	Complete bool      `json:"complete"`
	Missing  string    `json:"missing"` // why it is not complete
	Fetched  time.Time `json:"fetched"`
}

// Opinion is one layer's part: the node's, the namespace's, or "gate".
type Opinion struct {
	Layer    string    `json:"layer"`
	Hash     string    `json:"hash"`
	Allowed  bool      `json:"allowed"`
	Rules    []string  `json:"rules"`    // that are about the image
	Hits     []Hit     `json:"hits"`     // what was wanted and not found
	Warnings []Hit     `json:"warnings"` //
	Used     []string  `json:"used"`     // by whom it passed
	Found    []string  `json:"found"`    // all that was proved
	Reasons  []string  `json:"reasons"`  // why other evidence proves nothing
	Until    time.Time `json:"until"`    // the answer holds until then; zero: no limit
}

// Hit is one rule's objection.
type Hit struct {
	Rule string `json:"rule"`
	Msg  string `json:"msg"`
}

// Load asks to pull an image from an OCI layout on the daemon's disk.
type Load struct {
	Layout    string `json:"layout"`    // absolute path of the directory
	Name      string `json:"name"`      // full name that the image is to have, with tag or digest
	Namespace string `json:"namespace"` // of the pods that want it; "" asks the node policy alone
}

// Loaded says what was admitted and stored.
type Loaded struct {
	ID       string   `json:"id"`
	Image    string   `json:"image"`
	Top      string   `json:"top"`
	Instance string   `json:"instance"`
	Evidence Evidence `json:"evidence"`
}

// SelfTest is the answer of selftest: what was asked at the daemon's own CRI socket, and what it said.
type SelfTest struct {
	Passed bool      `json:"passed"` // every probe got the answer that it must get
	Time   time.Time `json:"time"`
	Probes []Probe   `json:"probes"`
}

// Probe is one thing that was asked.
type Probe struct {
	Name string `json:"name"`
	Want string `json:"want"` // admit or deny
	Got  string `json:"got"`  // admit, deny or fault
	Rule string `json:"rule"` // that must deny it; "" where it must be admitted
	OK   bool   `json:"ok"`
	Msg  string `json:"msg"` // the daemon's words
}

// Stored asks which images are stored.
type Stored struct {
	ID string `json:"id"` // an image ID: asks for the names and the evidence of that one; "": for all IDs
}

// StoredImages is the answer of image/stored.
type StoredImages struct {
	IDs    []string      `json:"ids"`    // if none was asked for
	Images []StoredImage `json:"images"` // of the one that was: an entry for each name
}

// StoredImage is a stored image by one name, with its evidence as the registry sent it.
type StoredImage struct {
	Repository string   `json:"repository"` // with its host
	Name       string   `json:"name"`
	Instance   string   `json:"instance"`
	Bundles    []Bundle `json:"bundles"`
	Simple     int      `json:"simple"`   // simple signing and cosign .sig: their number
	Complete   bool     `json:"complete"` // false: some of it is not here
}

// Bundle is a Sigstore bundle that nobody verified.
type Bundle struct {
	ArtifactType string `json:"artifactType"`
	JSON         []byte `json:"json"`
}
