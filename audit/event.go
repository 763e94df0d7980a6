// Package audit is the append-only, hash-chained log of everything that the gate decided. Appending
// returns a Receipt once the record is on disk; the gate issues nothing without one, so what ran is
// on record, and a full disk starts nothing.
package audit

import "time"

// Event is what one record says. The log adds sequence, time (if zero) and chain. Strings are
// truncated to documented limits; nothing in it is secret (docs/audit.md).
type Event struct {
	Type       string            `json:"type"` // decision, policy, daemon, summary, stream, verify, rejudge, image, selftest
	Time       time.Time         `json:"time"`
	Verb       string            `json:"verb,omitempty"`    // policy.Verb of a decision
	Outcome    string            `json:"outcome,omitempty"` // allow, deny; loaded, refused; start, stop
	Namespace  string            `json:"namespace,omitempty"`
	Pod        string            `json:"pod,omitempty"`
	PodID      string            `json:"podID,omitempty"`
	Container  string            `json:"container,omitempty"`
	ID         string            `json:"id,omitempty"` // container ID
	Image      string            `json:"image,omitempty"`
	Top        string            `json:"top,omitempty"`
	Instance   string            `json:"instance,omitempty"`
	ImageID    string            `json:"imageID,omitempty"`
	Argv       []string          `json:"argv,omitempty"`
	Hits       []Hit             `json:"hits,omitempty"`
	Warnings   []Hit             `json:"warnings,omitempty"`
	Rules      []string          `json:"rules,omitempty"`      // rules that matched and passed
	Identities []string          `json:"identities,omitempty"` // of the claims that were used
	Policies   map[string]string `json:"policies,omitempty"`   // layer name to content hash
	Source     string            `json:"source,omitempty"`     // policy source, e.g. local-unsigned
	SpecHash   string            `json:"specHash,omitempty"`   // sha256 of the config.json that the runtime reads (stays on the node)
	InputHash  string            `json:"inputHash,omitempty"`  // sha256 of the redacted input
	Weakenings []string          `json:"weakenings,omitempty"` // requests to weaken that were granted or overridden, by knob
	Count      int               `json:"count,omitempty"`      // of coalesced records
	Detail     map[string]string `json:"detail,omitempty"`
}

// Hit is one rule's objection, as policy.Hit.
type Hit struct {
	Layer string `json:"layer"`
	Rule  string `json:"rule"`
	Msg   string `json:"msg"`
	Mode  string `json:"mode,omitempty"` // "shadow" where nothing depended on it
}

// Receipt is proof that a record is durable. Only Log.Append makes one; the zero value proves nothing.
type Receipt struct {
	seq  uint64
	head [32]byte
}

// Seq is the record's number, from 1 on; 0 for the zero Receipt.
func (r Receipt) Seq() uint64 { return r.seq }

// Head is the chain's hash after this record.
func (r Receipt) Head() [32]byte { return r.head }

// Valid reports whether r came from Append.
func (r Receipt) Valid() bool { return r.seq != 0 }
