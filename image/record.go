package image

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"sallyport/image/ref"
	"sallyport/internal/durable"
	"sallyport/internal/failpoint"
)

// recordVersion is the format of record.json. Records of every released version must load.
const recordVersion = 1

// record is the verification record of one image under one name: facts, and the digest of the evidence
// beside it. It is no permission. It is immutable once in the index.
type record struct {
	Version  int        `json:"version"`
	Name     ref.Name   `json:"name"` // repository:tag, or repository@digest
	Top      ref.Digest `json:"top"`
	Instance ref.Digest `json:"instance"`
	ID       ref.Digest `json:"id"`
	OS       string     `json:"os"`
	Arch     string     `json:"arch"`
	Artifact string     `json:"artifact,omitempty"` // type of an OCI artifact, whose layers are files
	Layers   []layer    `json:"layers"`
	Config   Config     `json:"config"`
	Size     int64      `json:"size"`     // bytes unpacked, with manifest and config
	Inodes   uint64     `json:"inodes"`   // entries in the layers
	Evidence ref.Digest `json:"evidence"` // sha256 of evidence.json
	Pulled   time.Time  `json:"pulled"`
	Private  bool       `json:"private"` // pulled with a pod's credentials
	Proved   []string   `json:"proved"`  // namespaces that pulled it themselves; "" is a pull without one
}

// layer is one layer as it was downloaded and hashed.
type layer struct {
	Blob   ref.Digest `json:"blob"`   // as the registry serves it
	DiffID ref.Digest `json:"diffID"` // uncompressed
	Chain  ref.Digest `json:"chain"`  // ID in storage
	Size   int64      `json:"size"`   // bytes uncompressed
	Inodes uint64     `json:"inodes"`
	Tree   ref.Digest `json:"tree,omitzero"`   // treeDigest when it was unpacked; zero in records of 0.1 and of artifacts
	Origin string     `json:"origin"`          // registry host that first served it
	Title  string     `json:"title,omitempty"` // of an artifact's file: its path in the volume
}

// key names the record's directory under the image's: the name, hashed.
func (r *record) key() string { return ref.DigestOf([]byte(r.Name.String())).Hex() }

// envelope is record.json: what evidence does not prove (the name) is held by a MAC under the node key.
type envelope struct {
	MAC    string          `json:"mac"`
	Record json.RawMessage `json:"record"`
}

func (s *Store) mac(b []byte) []byte {
	m := hmac.New(sha256.New, s.key)
	m.Write([]byte("sallyport image record 1\n"))
	m.Write(b)
	return m.Sum(nil)
}

// save writes the evidence, then the record that names it, and returns when both are on disk.
func (s *Store) save(r *record, evidence []byte) error {
	dir := s.path("images", r.ID.Hex(), r.key())
	fresh := false
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		fresh = true
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	body, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	whole, err := json.Marshal(envelope{MAC: hex.EncodeToString(s.mac(body)), Record: body})
	if err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	// The file is named by its hash: a crash between the two writes leaves the old pair whole.
	if evidence != nil {
		if err := durable.WriteFile(filepath.Join(dir, evidenceName(r.Evidence)), evidence, 0o600); err != nil {
			return err
		}
	}
	failpoint.Hit("evidence-written")
	if err := durable.WriteFile(filepath.Join(dir, "record.json"), whole, 0o600); err != nil {
		return err
	}
	failpoint.Hit("image-recorded")
	if fresh {
		if err := durable.SyncDir(filepath.Dir(dir)); err != nil {
			return err
		}
		if err := durable.SyncDir(s.path("images")); err != nil {
			return err
		}
	}
	names, _ := os.ReadDir(dir)
	for _, n := range names { // older evidence
		if n.Name() != "record.json" && n.Name() != evidenceName(r.Evidence) {
			os.Remove(filepath.Join(dir, n.Name()))
		}
	}
	return nil
}

func evidenceName(d ref.Digest) string { return "evidence-" + d.Hex() + ".json" }

// forget removes a record durably: the record first, so that half a removal is no record.
func (s *Store) forget(r *record) error {
	dir := s.path("images", r.ID.Hex(), r.key())
	err := os.Remove(filepath.Join(dir, "record.json"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	failpoint.Hit("image-record-removed")
	if err == nil {
		if err = durable.SyncDir(dir); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err == nil {
		err = os.RemoveAll(dir)
	}
	os.Remove(filepath.Dir(dir)) // of the image, if this was its last record
	if err != nil {
		return fmt.Errorf("remove record: %w", err)
	}
	return nil
}

// readRecord reads and authenticates one record.
func (s *Store) readRecord(path string) (*record, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return s.parseRecord(b)
}

func (s *Store) parseRecord(b []byte) (*record, error) {
	var e envelope
	if err := json.Unmarshal(b, &e); err != nil {
		return nil, fmt.Errorf("read record: %w: %w", errTorn, err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, e.Record); err != nil {
		return nil, fmt.Errorf("read record: %w", err)
	}
	got, err := hex.DecodeString(e.MAC)
	if err != nil || !hmac.Equal(got, s.mac(compact.Bytes())) {
		return nil, errors.New("read record: it was not written by this node (MAC differs)")
	}
	var r record
	if err := json.Unmarshal(e.Record, &r); err != nil {
		return nil, fmt.Errorf("read record: %w", err)
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("read record: version %d, this daemon reads %d", r.Version, recordVersion)
	}
	if r.Name.IsZero() || r.Top.IsZero() || r.Instance.IsZero() || r.ID.IsZero() || r.Evidence.IsZero() {
		return nil, errors.New("read record: a name or digest is missing")
	}
	return &r, nil
}

// loadRecords fills the index. A record that does not verify is a problem, not a record.
func (s *Store) loadRecords() error {
	images, err := os.ReadDir(s.path("images"))
	if err != nil {
		return err
	}
	for _, im := range images {
		recs, err := os.ReadDir(s.path("images", im.Name()))
		if err != nil {
			return err
		}
		for _, d := range recs {
			path := s.path("images", im.Name(), d.Name(), "record.json")
			if err := durable.Tidy(filepath.Dir(path)); err != nil {
				return err
			}
			r, err := s.readRecord(path)
			if errors.Is(err, fs.ErrNotExist) {
				// A removal or a pull that was cut short; sweep then sees that no record is left.
				os.RemoveAll(filepath.Dir(path))
				os.Remove(s.path("images", im.Name()))
				continue
			}
			if err == nil && (r.ID.Hex() != im.Name() || r.key() != d.Name()) {
				err = errors.New("read record: it lies in another image's or name's place")
			}
			lost := errors.Is(err, errTorn)
			if err == nil && !s.holds(r) {
				err, lost = errors.New("read record: the image is not in storage; pull it again"), true
			}
			if err != nil {
				s.index.problem(path + ": " + err.Error())
				if lost && s.unclean { // one that is whole and not ours stays, to be looked at
					s.dropTorn(s.path("images", im.Name()), filepath.Dir(path))
				}
				continue
			}
			s.index.put(r)
		}
	}
	return nil
}

// loadKey reads the node key, or makes it.
func loadKey(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		b = make([]byte, 32)
		rand.Read(b)
		return b, durable.WriteFile(path, b, 0o600)
	}
	if err == nil && len(b) != 32 {
		err = fmt.Errorf("read %s: %d bytes, want 32; remove it and pull the images again", path, len(b))
	}
	return b, err
}
