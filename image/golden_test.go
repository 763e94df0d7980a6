package image

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
)

// A verification record of every released version is read, under the node's own key.
func TestGoldenRecordLoads(t *testing.T) {
	s := &Store{key: []byte("0123456789abcdef0123456789abcdef")}
	body, err := os.ReadFile("testdata/v1-record.json")
	if err != nil {
		t.Fatal(err)
	}
	body, err = compact(body)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := json.Marshal(envelope{MAC: hex.EncodeToString(s.mac(body)), Record: body})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.parseRecord(whole)
	if err != nil || r.Name.String() != "registry.example/pay/app:v1" || len(r.Layers) != 1 || !r.Private || len(r.Proved) != 1 {
		t.Errorf("parseRecord() = %+v, %v, want the golden record", r, err)
	}
}

func compact(in []byte) ([]byte, error) {
	var v json.RawMessage
	if err := json.Unmarshal(in, &v); err != nil {
		return nil, err
	}
	return json.Marshal(v)
}
