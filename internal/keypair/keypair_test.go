package keypair

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/test/streamclient"
)

// renewed puts a new pair in place and lets the time pass in which the files are not looked at.
func (p *Pair) due() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = time.Time{}
}

func TestReload(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	first, second := streamclient.KeyPair(t), streamclient.KeyPair(t)
	put := func(path string, text []byte) {
		t.Helper()
		if err := os.WriteFile(path+".new", text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	put(cert, first.Cert)
	put(key, first.Key)
	var said bytes.Buffer
	p, err := Load(cert, key, slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	served := func() []byte {
		t.Helper()
		c, err := p.Config().GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.Certificate[0]
	}
	if !bytes.Equal(served(), first.DER) {
		t.Error("the first pair is not served")
	}
	put(cert, second.Cert) // the key is still the old one
	p.due()
	if !bytes.Equal(served(), first.DER) || !strings.Contains(said.String(), "last good one") {
		t.Errorf("half renewed: want the last good pair and a warning; log %q", said.String())
	}
	put(key, second.Key)
	if !bytes.Equal(served(), first.DER) {
		t.Error("the files are looked at more than once in a second")
	}
	p.due()
	if !bytes.Equal(served(), second.DER) {
		t.Error("the renewed pair is not served")
	}
	os.Remove(cert)
	p.due()
	if !bytes.Equal(served(), second.DER) {
		t.Error("without files the last good pair is not served")
	}
	if _, err := Load(cert, key, slog.Default()); err == nil || !strings.Contains(err.Error(), "load certificate") {
		t.Errorf("Load(no file) = %v, want an error", err)
	}
}
