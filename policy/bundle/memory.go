package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"sallyport/internal/durable"
	"sallyport/internal/failpoint"
	"sallyport/policy/bundle/layout"
)

const (
	stateFile   = "policy-state.json"
	keptDir     = "policy-kept"
	nodeKept    = "_node.tar" // no namespace is called so
	stateSchema = "sallyport.policy-state/v1"
)

// errRemember is that what was accepted could not be made durable: then nothing new is installed.
var errRemember = errors.New("remember policy")

// mark is the highest revision of a policy that was ever accepted here.
type mark struct {
	Revision  uint64 `json:"revision"`
	Digest    string `json:"digest"` // of its manifest
	Tombstone bool   `json:"tombstone,omitempty"`
	// Revoked is when the newest list of revocations that was ever in force was issued (RFC 3339); ""
	// if there was none. Only the node's policy has one.
	Revoked string `json:"revoked,omitempty"`
}

// state is policy-state.json. It is believed: root on the node is out of scope, and nobody else may write
// it. What it leads to is verified again all the same.
type state struct {
	Schema string          `json:"schema"`
	Root   string          `json:"root"`  // root.json that was followed last, as text
	Marks  map[string]mark `json:"marks"` // by namespace, "" is the node
}

// memory is what outlives a restart. With dir "" it is empty and forgets.
type memory struct {
	dir   string
	state state
	dirty bool
}

func (m *memory) path() string { return filepath.Join(m.dir, stateFile) }

// load reads the state. A state that cannot be read is no fresh node: it is an error.
func (m *memory) load() error {
	m.state = state{Schema: stateSchema, Marks: map[string]mark{}}
	if m.dir == "" {
		return nil
	}
	if err := errors.Join(durable.Tidy(m.dir), durable.Tidy(filepath.Join(m.dir, keptDir))); err != nil {
		return fmt.Errorf("read policy state: %w", err)
	}
	text, err := os.ReadFile(m.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read policy state %s: %w", m.path(), cause(err))
	}
	var s state
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	err = dec.Decode(&s)
	if err == nil && (s.Schema != stateSchema || dec.More()) {
		err = fmt.Errorf("schema %.80q, want %q", s.Schema, stateSchema)
	}
	if err != nil {
		return fmt.Errorf("read policy state %s: %w; without it an older policy could come back: restore it", m.path(), err)
	}
	if s.Marks == nil {
		s.Marks = map[string]mark{}
	}
	m.state = s
	return nil
}

// remember keeps an accepted layout and raises its mark. The layout is on disk first: a mark without it
// would leave the namespace with nothing.
func (m *memory) remember(namespace string, k mark, f files) error {
	same := m.state.Marks[namespace] == k
	if m.dir != "" && !k.Tombstone {
		if _, err := os.Stat(m.keptPath(namespace)); !same || err != nil {
			text, err := layout.Tar(f)
			if err == nil {
				err = os.MkdirAll(filepath.Join(m.dir, keptDir), 0o700)
			}
			if err == nil {
				err = durable.WriteFile(m.keptPath(namespace), text, 0o600)
			}
			if err != nil {
				return fmt.Errorf("%w: %w", errRemember, err)
			}
		}
	}
	failpoint.Hit("policy-kept")
	if !same {
		m.state.Marks[namespace], m.dirty = k, true
	}
	return nil
}

// save makes the marks durable. It does nothing where nothing changed.
func (m *memory) save() error {
	if m.dir == "" || !m.dirty {
		return nil
	}
	text, err := json.MarshalIndent(m.state, "", " ")
	if err == nil {
		err = durable.WriteFile(m.path(), append(text, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errRemember, err)
	}
	failpoint.Hit("policy-marked")
	m.dirty = false
	return nil
}

// kept is the layout that was accepted last. It is verified like any other.
func (m *memory) kept(namespace string) (files, error) {
	if m.dir == "" {
		return nil, errors.New("none is kept")
	}
	f, err := os.Open(m.keptPath(namespace))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", m.keptPath(namespace), cause(err))
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 2*layout.MaxTotal))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", m.keptPath(namespace), cause(err))
	}
	return layout.Untar(text)
}

func (m *memory) keptPath(namespace string) string {
	name := namespace + ".tar"
	if namespace == "" {
		name = nodeKept
	}
	return filepath.Join(m.dir, keptDir, name)
}
