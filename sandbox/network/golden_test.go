package network

import (
	"os"
	"strings"
	"testing"
)

// An attachment of every released version can be detached: all that a DEL needs is read from it.
func TestGoldenAttachmentLoads(t *testing.T) {
	s := &site{conf: t.TempDir(), cache: t.TempDir()}
	s.CNI = fake(t, s, "exit 0")
	text, err := os.ReadFile("testdata/v1-attachment.json")
	if err == nil {
		err = os.MkdirAll(s.CNI.dir(), 0o700)
	}
	id := strings.Repeat("a", 64)
	if err == nil {
		err = os.WriteFile(s.CNI.file(id), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.CNI.find(id)
	if err != nil || r.Network != "pods" || r.BootID != "boot-1" || len(r.Ports) != 1 || len(r.Args) != 5 {
		t.Fatalf("find() = %+v, %v, want the golden attachment", r, err)
	}
	if list, err := r.list(); err != nil || len(list.Plugins) != 1 || list.Plugins[0].Network.Type != "bridge" {
		t.Errorf("list() = %+v, %v, want its one plugin", list, err)
	}
}
