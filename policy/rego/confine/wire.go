// Package confine runs the Rego of namespaces in one child process of its own, which has bounded memory,
// no network, no files and no privilege: what a tenant's rules do to the process that evaluates them
// costs that tenant its answer, and nobody else more than the wait for a new child. The node's own Rego
// stays in the daemon.
package confine

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"sallyport/policy"
)

// maxFrame bounds a message in bytes: the largest input (8 MiB) and the largest bundle's modules and data
// (20 MiB), in JSON.
const maxFrame = 48 << 20

// request asks the child. Modules are given when they are compiled; afterwards Key names them.
type request struct {
	ID       uint64            `json:"id"`
	Key      string            `json:"key"` // content hash of modules, data and packages
	Modules  map[string]string `json:"modules,omitempty"`
	Data     []byte            `json:"data,omitempty"`
	Packages []string          `json:"packages,omitempty"`
	Verb     policy.Verb       `json:"verb,omitempty"` // "": compile only
	Input    json.RawMessage   `json:"input,omitempty"`
	Now      int64             `json:"now,omitempty"` // judged time, Unix nanoseconds
}

// answer is what the child says. Missing asks for the modules.
type answer struct {
	ID      uint64        `json:"id"`
	Missing bool          `json:"missing,omitempty"`
	Err     string        `json:"err,omitempty"`
	Verbs   []policy.Verb `json:"verbs,omitempty"`
	Deny    []policy.Hit  `json:"deny,omitempty"`
	Warn    []policy.Hit  `json:"warn,omitempty"`
	Took    time.Duration `json:"took,omitempty"`
}

// writeFrame writes one message: its length, big endian, and JSON. Callers do so one at a time.
func writeFrame(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxFrame {
		return fmt.Errorf("message of %d bytes, want at most %d", len(b), maxFrame)
	}
	out := make([]byte, 4, 4+len(b))
	binary.BigEndian.PutUint32(out, uint32(len(b)))
	_, err = w.Write(append(out, b...))
	return err
}

func readFrame(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return fmt.Errorf("message of %d bytes, want at most %d", n, maxFrame)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}
