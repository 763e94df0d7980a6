package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
)

// keyFile writes a private key and returns its path and the public key as PEM.
func keyFile(t *testing.T, kind string) (path, public string) {
	t.Helper()
	var priv, pub any
	switch kind {
	case "ed25519":
		p, k, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		priv, pub = k, p
	case "rsa":
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		priv, pub = k, k.Public()
	default:
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		priv, pub = k, k.Public()
	}
	der, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	block := &pem.Block{Type: "PRIVATE KEY", Bytes: der}
	switch kind {
	case "cosign":
		block.Type = "ENCRYPTED SIGSTORE PRIVATE KEY"
		if block.Bytes, err = encrypted.Encrypt(der, []byte("secret")); err != nil {
			t.Fatal(err)
		}
	case "ec":
		block.Type = "EC PRIVATE KEY"
		if block.Bytes, err = x509.MarshalECPrivateKey(priv.(*ecdsa.PrivateKey)); err != nil {
			t.Fatal(err)
		}
	}
	path = filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	der, err = x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return path, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// From nothing to a signed policy directory, as docs/policy.md tells it, with every kind of key.
func TestSignPolicy(t *testing.T) {
	t.Setenv(passwordEnv, "secret")
	sally := func(want int, args ...string) string {
		t.Helper()
		var stdout, stderr bytes.Buffer
		if got := run(append([]string{"policy"}, args...), &stdout, &stderr); got != want {
			t.Fatalf("sallyport policy %s = %d, want %d: %s", strings.Join(args, " "), got, want, &stderr)
		}
		return stdout.String() + stderr.String()
	}
	for _, kind := range []string{"pkcs8", "ec", "cosign", "ed25519", "rsa"} {
		t.Run(kind, func(t *testing.T) {
			key, public := keyFile(t, kind)
			other, _ := keyFile(t, "pkcs8")
			work, dir := t.TempDir(), t.TempDir()
			write := func(path, text string) {
				os.MkdirAll(filepath.Dir(path), 0o755)
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			role := map[string]any{"signers": []string{"us"}, "threshold": 1}
			root, err := json.Marshal(map[string]any{"schema": "sallyport.policy-root/v1", "version": 1,
				"expires": time.Now().AddDate(1, 0, 0).UTC().Format(time.RFC3339),
				"keys":    map[string]any{"us": map[string]string{"publicKey": public}}, "root": role, "node": role,
				"namespaces": []any{map[string]any{"pattern": "pay", "signers": []string{"us"}, "threshold": 1}}})
			if err != nil {
				t.Fatal(err)
			}
			write(dir+"/root.json", string(root))
			write(work+"/bundle.yaml", "name: ours\nrevision: 3\n")
			write(work+"/policy.json", `{"default": [{"type": "reject"}], "transports": {"docker": {"registry.example": [{"type": "insecureAcceptAnything"}]}}}`)
			write(dir+"/namespaces/.keep", "")

			if out := sally(0, "build", work, dir+"/node"); !strings.HasPrefix(out, "sha256:") || strings.Count(out, "\n") != 1 {
				t.Errorf("build prints %q, want the digest", out)
			}
			sally(0, "build", work, dir+"/namespaces/pay", "--namespace", "pay")
			if out := sally(1, "verify", dir); !strings.Contains(out, "root.json") || !strings.Contains(out, "signed by nobody") {
				t.Errorf("verify an unsigned root says %q", out)
			}
			sally(0, "sign", "--key", key, dir+"/root.json")
			if out := sally(1, "verify", dir); !strings.Contains(out, "/node: ") || !strings.Contains(out, "signed by nobody, want 1 of us") {
				t.Errorf("verify an unsigned policy says %q", out)
			}
			sally(0, "sign", "--key", other, dir+"/node")
			sally(1, "verify", dir)
			sally(0, "sign", "--key", key, dir+"/node", dir+"/namespaces/pay")
			if out := sally(0, "verify", dir); !strings.Contains(out, "root: version 1, until ") || !strings.Contains(out, "namespace pay: ok, revision 3") {
				t.Errorf("verify says %q", out)
			}
			sally(0, "build", dir+"/stone", "--namespace", "pay", "--tombstone", "4")
			sally(0, "sign", "--key", key, dir+"/stone")
			os.RemoveAll(dir + "/namespaces/pay")
			if err := os.Rename(dir+"/stone", dir+"/namespaces/pay"); err != nil {
				t.Fatal(err)
			}
			if out := sally(0, "verify", dir); strings.Contains(out, "namespace pay") {
				t.Errorf("verify after a tombstone says %q", out)
			}
		})
	}
}

func TestSignPolicyRefuses(t *testing.T) {
	key, _ := keyFile(t, "cosign")
	dir := t.TempDir()
	os.WriteFile(dir+"/bundle.yaml", []byte("name: ours\nrevision: 0\n"), 0o644)
	os.WriteFile(dir+"/policy.json", []byte(`{"default": [{"type": "reject"}]}`), 0o644)
	os.WriteFile(dir+"/cert.pem", []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), 0o644)
	for _, tt := range []struct {
		args, want string
		code       int
	}{
		{"build " + dir + " " + dir + "/out", "revision: 0", 1},
		{"build " + dir + "/none " + dir + "/out", "no such file", 2},
		{"build " + dir, "give DIR and OUT", 2},
		{"build " + dir + "/out --tombstone 3", "either node or namespaces", 1},
		{"sign --key " + key + " " + dir, "COSIGN_PASSWORD", 2}, // the wrong password: before anything is read
		{"sign --key " + dir + "/cert.pem " + dir, "want a PRIVATE KEY", 2},
		{"sign --key " + dir + "/none " + dir, "no such file", 2},
		{"sign " + dir, "key", 2},
		{"verify " + dir, "root.json", 1},
	} {
		var stdout, stderr bytes.Buffer
		if got := run(append([]string{"policy"}, strings.Fields(tt.args)...), &stdout, &stderr); got != tt.code || !strings.Contains(stderr.String(), tt.want) || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("sallyport policy %s = %d, %q, want %d and %q", tt.args, got, &stderr, tt.code, tt.want)
		}
		if _, err := os.Stat(dir + "/out"); err == nil {
			t.Fatalf("sallyport policy %s left its output", tt.args)
		}
	}
}
