package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"sallyport/internal/durable"
	"sallyport/policy/bundle"
	"sallyport/policy/bundle/layout"
	"sallyport/policy/trial"
)

// passwordEnv is where cosign looks for the password of a key, and so do we.
const passwordEnv = "COSIGN_PASSWORD"

func policyBuildCommand() *cobra.Command {
	var namespaces []string
	var tombstone uint64
	cmd := &cobra.Command{
		Use:   "build [DIR] OUT",
		Short: "make the OCI layout of a bundle directory, and print the digest to sign",
		Long: "DIR holds bundle.yaml. OUT is made. Without --namespace it is a node policy.\n" +
			"With --tombstone there is no DIR: the namespaces have no policy from that revision on.",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			out := args[len(args)-1]
			if (tombstone > 0) == (len(args) == 2) {
				return errors.New("build policy: give DIR and OUT, or --tombstone and OUT")
			}
			var files map[string][]byte
			var d fmt.Stringer
			var err error
			if tombstone > 0 {
				files, d, err = layout.Build(layout.Config{Namespaces: namespaces, Revision: tombstone, Tombstone: true}, nil)
			} else {
				files, d, err = bundle.Build(args[0], namespaces...)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if err != nil {
				return badAnswer{err}
			}
			if err := os.Mkdir(out, 0o755); err != nil {
				return fmt.Errorf("build policy: %w", err)
			}
			if err := writeFiles(under(out, files)); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), d)
			return err
		},
	}
	cmd.Flags().StringArrayVar(&namespaces, "namespace", nil, "for this namespace; may be given several times")
	cmd.Flags().Uint64Var(&tombstone, "tombstone", 0, "remove the namespaces' policy with this revision")
	return cmd
}

func policySignCommand() *cobra.Command {
	var key string
	cmd := &cobra.Command{
		Use:   "sign --key KEY LAYOUT|ROOT.JSON...",
		Short: "sign policy layouts or root.json as \"cosign sign --key\" does",
		Long: "KEY is a PEM file: PKCS #8, EC, or a key of cosign, whose password is in " + passwordEnv + ".\n" +
			"The signature of a layout is put beside it, that of a root.json into roots/ beside it.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			priv, err := privateKey(key)
			if err != nil {
				return err
			}
			for _, path := range args {
				if err := signPolicy(priv, path); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "private key")
	_ = cmd.MarkFlagRequired("key")
	return cmd
}

func signPolicy(priv crypto.Signer, path string) error {
	d, _, err := bundle.ToSign(path)
	if err != nil {
		return badAnswer{err}
	}
	b, id, err := signDigest(priv, d.Hex())
	if err != nil {
		return fmt.Errorf("sign %s: %w", path, err)
	}
	files, err := bundle.WithSignature(path, id[:16], b)
	if err != nil {
		return err
	}
	return writeFiles(files)
}

// signDigest makes the Sigstore bundle that "cosign sign --key" makes where there are no services: an
// in-toto statement about the digest, in a DSSE envelope. id is the sha256 of the public key, hex.
func signDigest(priv crypto.Signer, digest string) (b []byte, id string, err error) {
	der, err := x509.MarshalPKIXPublicKey(priv.Public())
	if err != nil {
		return nil, "", err
	}
	signer, err := signature.LoadDefaultSigner(priv)
	if err != nil {
		return nil, "", err
	}
	statement, err := json.Marshal(map[string]any{
		"_type":         "https://in-toto.io/Statement/v1",
		"subject":       []any{map[string]any{"digest": map[string]string{"sha256": digest}}},
		"predicateType": "https://sigstore.dev/cosign/sign/v1",
		"predicate":     struct{}{},
	})
	if err != nil {
		return nil, "", err
	}
	const payloadType = "application/vnd.in-toto+json"
	sig, err := signer.SignMessage(bytes.NewReader(dsse.PAE(payloadType, statement)))
	if err != nil {
		return nil, "", err
	}
	sum := sha256.Sum256(der)
	b, err = protojson.Marshal(&protobundle.Bundle{
		MediaType: layout.SignatureType,
		VerificationMaterial: &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_PublicKey{
			PublicKey: &protocommon.PublicKeyIdentifier{Hint: base64.StdEncoding.EncodeToString(sum[:])}}},
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			Payload: statement, PayloadType: payloadType, Signatures: []*protodsse.Signature{{Sig: sig}}}},
	})
	return b, hex.EncodeToString(sum[:]), err
}

// privateKey reads a private key from a PEM file.
func privateKey(path string) (crypto.Signer, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("read key %s: no PEM block", path)
	}
	der := block.Bytes
	var key any
	switch block.Type {
	case "ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY":
		if der, err = encrypted.Decrypt(der, []byte(os.Getenv(passwordEnv))); err != nil {
			return nil, fmt.Errorf("read key %s: %w; is its password in %s?", path, err, passwordEnv)
		}
		key, err = x509.ParsePKCS8PrivateKey(der)
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(der)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(der)
	default:
		return nil, fmt.Errorf("read key %s: PEM block is a %q, want a PRIVATE KEY", path, printable(block.Type))
	}
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w", path, err)
	}
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		return k, nil
	case ed25519.PrivateKey:
		return k, nil
	case *rsa.PrivateKey:
		return k, nil
	}
	return nil, fmt.Errorf("read key %s: a %T cannot sign", path, key)
}

func policyVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify [DIR]",
		Short: "verify and compile a signed policy directory as a fresh node would",
		Long:  "DIR holds root.json, roots/, node/ and namespaces/<name>/, as " + policyDir + " does with policy.source \"signed\".",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := policyDir
			if len(args) == 1 {
				dir = args[0]
			}
			return readPolicy(cmd, "verify policy", bundle.Options{Root: dir, Signed: &bundle.Signed{Now: time.Now()}, Try: trial.Own})
		},
	}
}

func under(dir string, files map[string][]byte) map[string][]byte {
	out := map[string][]byte{}
	for name, data := range files {
		out[filepath.Join(dir, filepath.FromSlash(name))] = data
	}
	return out
}

// writeFiles writes the blobs before the index that names them.
func writeFiles(files map[string][]byte) error {
	names := slices.Sorted(maps.Keys(files))
	slices.SortStableFunc(names, func(a, b string) int {
		return rank(a) - rank(b)
	})
	for _, name := range names {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := durable.WriteFile(name, files[name], 0o644); err != nil {
			return err
		}
	}
	return nil
}

func rank(name string) int {
	if filepath.Base(name) == "index.json" {
		return 1
	}
	return 0
}
