package sigkit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
)

// treeID stands in the origin of a Rekor v1 checkpoint ("host - id").
const treeID = 1193050959916656506

// transparencyLog is a Rekor v1 log in memory.
type transparencyLog struct {
	key    *ecdsa.PrivateKey // constant
	mu     sync.Mutex
	leaves [][32]byte // guarded by mu; leaf hashes of RFC 6962
}

func newTransparencyLog() (*transparencyLog, error) {
	key, err := newECDSA()
	return &transparencyLog{key: key}, err
}

// entry is the canonical body of a log entry, of one of two kinds.
type entry struct {
	kind string
	body []byte
}

type hashValue struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"value"`
}

func sha256Value(b []byte) hashValue { return hashValue{"sha256", fmt.Sprintf("%x", sha256.Sum256(b))} }

// dsseEntry is a "dsse" entry v0.0.1 in its canonical form (sorted keys). envelope is the envelope's
// JSON, verifier a PEM certificate or public key.
func dsseEntry(envelope, payload, sig, verifier []byte) (entry, error) {
	type signature struct {
		Signature string `json:"signature"`
		Verifier  []byte `json:"verifier"`
	}
	type spec struct {
		EnvelopeHash hashValue   `json:"envelopeHash"`
		PayloadHash  hashValue   `json:"payloadHash"`
		Signatures   []signature `json:"signatures"`
	}
	return newEntry("dsse", spec{
		EnvelopeHash: sha256Value(envelope), PayloadHash: sha256Value(payload),
		Signatures: []signature{{base64.StdEncoding.EncodeToString(sig), verifier}},
	})
}

// hashedEntry is a "hashedrekord" entry v0.0.1 of a signature over message.
func hashedEntry(message, sig, verifier []byte) (entry, error) {
	type content struct {
		Content []byte `json:"content"`
	}
	type signature struct {
		Content   []byte  `json:"content"`
		PublicKey content `json:"publicKey"`
	}
	type data struct {
		Hash hashValue `json:"hash"`
	}
	type spec struct {
		Data      data      `json:"data"`
		Signature signature `json:"signature"`
	}
	return newEntry("hashedrekord", spec{data{sha256Value(message)}, signature{sig, content{verifier}}})
}

func newEntry(kind string, spec any) (entry, error) {
	body, err := json.Marshal(struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Spec       any    `json:"spec"`
	}{"0.0.1", kind, spec})
	return entry{kind, body}, err
}

// add appends an entry and returns it with its signed entry timestamp, an inclusion proof in the tree
// as it now is, and a signed checkpoint of that tree.
func (l *transparencyLog) add(e entry, at time.Time) (*protorekor.TransparencyLogEntry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leaves = append(l.leaves, sha256.Sum256(append([]byte{0}, e.body...)))
	index, size := int64(len(l.leaves)-1), int64(len(l.leaves))
	promise, err := l.promise(e.body, index, at)
	if err != nil {
		return nil, err
	}
	root := rootHash(l.leaves)
	checkpoint, err := l.checkpoint(root, size)
	if err != nil {
		return nil, err
	}
	_, id := keyID(l.key.Public())
	return &protorekor.TransparencyLogEntry{
		LogIndex: index, LogId: &protocommon.LogId{KeyId: id},
		KindVersion: &protorekor.KindVersion{Kind: e.kind, Version: "0.0.1"}, IntegratedTime: at.Unix(),
		InclusionPromise: &protorekor.InclusionPromise{SignedEntryTimestamp: promise},
		InclusionProof: &protorekor.InclusionProof{
			LogIndex: index, TreeSize: size, RootHash: root[:], Hashes: proof(int(index), l.leaves),
			Checkpoint: &protorekor.Checkpoint{Envelope: checkpoint},
		},
		CanonicalizedBody: e.body,
	}, nil
}

// promise signs the entry with its index and time: a signed entry timestamp.
func (l *transparencyLog) promise(body []byte, index int64, at time.Time) ([]byte, error) {
	payload, err := json.Marshal(struct { // canonical: keys in order, no spaces
		Body           []byte `json:"body"`
		IntegratedTime int64  `json:"integratedTime"`
		LogID          string `json:"logID"`
		LogIndex       int64  `json:"logIndex"`
	}{body, at.Unix(), keyIDHex(l.key.Public()), index})
	if err != nil {
		return nil, err
	}
	return sign(l.key, payload)
}

// checkpoint is a signed note over the tree's size and root (c2sp.org/signed-note; Rekor v1 names the
// key by the first four bytes of the sha256 of its PKIX DER).
func (l *transparencyLog) checkpoint(root [32]byte, size int64) (string, error) {
	text := fmt.Sprintf("%s - %d\n%d\n%s\n", LogHost, treeID, size, base64.StdEncoding.EncodeToString(root[:]))
	sig, err := sign(l.key, []byte(text))
	if err != nil {
		return "", err
	}
	_, id := keyID(crypto.PublicKey(l.key.Public()))
	named := append(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(id)), sig...)
	return fmt.Sprintf("%s\n\u2014 %s %s\n", text, LogHost, base64.StdEncoding.EncodeToString(named)), nil
}

// rootHash and proof follow RFC 6962, 2.1 and 2.1.1, word for word.
func rootHash(leaves [][32]byte) [32]byte {
	if len(leaves) == 1 {
		return leaves[0]
	}
	k := split(len(leaves))
	return node(rootHash(leaves[:k]), rootHash(leaves[k:]))
}

func proof(m int, leaves [][32]byte) [][]byte {
	if len(leaves) == 1 {
		return nil
	}
	k := split(len(leaves))
	if m < k {
		other := rootHash(leaves[k:])
		return append(proof(m, leaves[:k]), other[:])
	}
	other := rootHash(leaves[:k])
	return append(proof(m-k, leaves[k:]), other[:])
}

// split is the largest power of two below n, which is at least 2.
func split(n int) int {
	k := 1
	for k*2 < n {
		k *= 2
	}
	return k
}

func node(left, right [32]byte) [32]byte {
	return sha256.Sum256(append(append([]byte{1}, left[:]...), right[:]...))
}
