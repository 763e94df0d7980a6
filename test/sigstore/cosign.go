package sigstore

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Services names the services that a signature takes.
type Services string

// The signing configurations.
const (
	Usual      Services = "usual"       // Fulcio with a certificate log, Rekor v2, a timestamp
	TwoLogs    Services = "two-logs"    // in both Rekors
	WithoutSCT Services = "without-sct" // by the Fulcio that asks no certificate log
	WithoutLog Services = "without-log" // in no transparency log
	ForeignLog Services = "foreign-log" // in a Rekor that the trusted root does not know
	Bare       Services = "bare"        // a bare signature, for keys
	Legacy     Services = "legacy"      // likewise, in the form of cosign before v3
)

// configure asks the servers for their certificates and writes the trusted root and the signing
// configurations with cosign's own commands.
func (s *Sigstore) configure(ctx context.Context) error {
	for name, url := range map[string]string{"fulcio": fulcioURL, "fulcio-without-sct": noSCTURL} {
		body, err := get(ctx, url+"/api/v2/trustBundle")
		if err != nil {
			return err
		}
		var doc struct {
			Chains []struct {
				Certificates []string `json:"certificates"`
			} `json:"chains"`
		}
		if err := json.Unmarshal(body, &doc); err != nil || len(doc.Chains) != 1 {
			return fmt.Errorf("read trust bundle of %s: %d chains: %v", name, len(doc.Chains), err)
		}
		if err := os.WriteFile(s.path(name+".pem"), []byte(strings.Join(doc.Chains[0].Certificates, "")), 0o644); err != nil {
			return err
		}
	}
	chain, err := get(ctx, tsaURL+"/api/v1/timestamp/certchain")
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.path("tsa.pem"), chain, 0o644); err != nil {
		return err
	}
	start := "start-time=" + time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	rekor := func(name, url string) string {
		return fmt.Sprintf("--rekor=url=%s,public-key=%s,%s,origin=%s.local", url, s.path(name+".pub"), start, name)
	}
	root := []string{"trusted-root", "create",
		"--fulcio=url=" + fulcioURL + ",certificate-chain=" + s.path("fulcio.pem") + "," + start,
		"--fulcio=url=" + noSCTURL + ",certificate-chain=" + s.path("fulcio-without-sct.pem") + "," + start,
		"--tsa=url=" + tsaURL + ",certificate-chain=" + s.path("tsa.pem"),
		"--ctfe=url=" + ctURL + ",public-key=" + s.path("ctfe.pub") + "," + start,
		rekor("rekor", rekorURL), rekor("rekor-second", secondURL)}
	if _, err := s.Cosign(ctx, append(root, "--out="+s.path("trusted_root.json"))...); err != nil {
		return err
	}
	// cosign looks at what it made; only the signer knows the foreign log.
	if _, err := s.Cosign(ctx, append(root, rekor("rekor-foreign", foreignURL), "--out="+s.path("signer_root.json"))...); err != nil {
		return err
	}
	service := func(kind, url string, version int, operator string) string {
		return fmt.Sprintf("--%s=url=%s,api-version=%d,%s,operator=%s", kind, url, version, start, operator)
	}
	ca, tsa := service("fulcio", fulcioURL, 1, "test"), []string{service("tsa", tsaURL+"/api/v1/timestamp", 1, "test"), "--tsa-config=ANY"}
	log := []string{service("rekor", rekorURL, 2, "test"), "--rekor-config=ANY"}
	for name, args := range map[Services][][]string{
		Usual:      {{ca}, log, tsa},
		TwoLogs:    {{ca, service("rekor", rekorURL, 2, "test"), service("rekor", secondURL, 2, "second"), "--rekor-config=ALL"}, tsa},
		WithoutSCT: {{service("fulcio", noSCTURL, 1, "test")}, log, tsa},
		WithoutLog: {{ca}, tsa},
		ForeignLog: {{ca, service("rekor", foreignURL, 2, "test"), "--rekor-config=ANY"}, tsa},
		Bare:       {},
	} {
		all := []string{"signing-config", "create", "--out=" + s.path(string(name)+".json")}
		if len(args) > 0 {
			all = append(all, service("oidc-provider", GitHub, 1, "test"))
		}
		for _, a := range args {
			all = append(all, a...)
		}
		if _, err := s.Cosign(ctx, all...); err != nil {
			return err
		}
	}
	return nil
}

// TrustedRoot is the trusted_root.json of everything but the foreign log.
func (s *Sigstore) TrustedRoot() ([]byte, error) { return os.ReadFile(s.path("trusted_root.json")) }

// Cosign runs cosign with arguments and returns what it printed.
func (s *Sigstore) Cosign(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "cosign"), args...)
	var out, diagnosis bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = s.dir, s.env(), &out, &diagnosis
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("cosign %s: %w: %s", strings.Join(args[:min(2, len(args))], " "), err, bytes.TrimSpace(diagnosis.Bytes()))
	}
	return out.Bytes(), nil
}

// Script runs a shell script in dir. "cosign sign" and "cosign attest" in it are the signer's, who is
// logged in as a workflow is.
func (s *Sigstore) Script(ctx context.Context, dir string, g Signer, script string) error {
	args, err := s.arguments(g)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "bash", append([]string{"-euc", "login=(\"$@\")\ncosign() { command cosign \"$1\" \"${login[@]}\" \"${@:2}\"; }\n" + script, "script"}, args...)...)
	cmd.Dir, cmd.Env = dir, append(s.env(), "PATH="+s.bin+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run script: %w: %s", err, out)
	}
	return nil
}

// Signer is who signs, and with which services.
type Signer struct {
	Issuer   string
	Workflow string // of an issuer of workflows: owner/repository/.github/workflows/name@ref
	Email    string // of Google
	OwnerID  string // repository_owner_id; "" is 123456
	Event    string // event_name; "" is push
	Key      string // name of a key that Key made, instead of all the above
	Services Services
}

// Subject is the certificate's subject.
func (g Signer) Subject() string {
	if g.Email != "" {
		return g.Email
	}
	return "https://github.com/" + g.Workflow
}

// token is the ID token that the issuer would give the signer.
func (s *Sigstore) token(g Signer) (string, error) {
	if g.Email != "" {
		return s.issuer.token(map[string]string{"iss": g.Issuer, "sub": g.Email, "email": g.Email})
	}
	path, ref, _ := strings.Cut(g.Workflow, "@")
	owner, rest, _ := strings.Cut(path, "/")
	repository, _, _ := strings.Cut(rest, "/")
	const commit = "0123456789abcdef0123456789abcdef01234567"
	return s.issuer.token(map[string]string{
		"iss": g.Issuer, "sub": "repo:" + owner + "/" + repository + ":ref:" + ref, "job_workflow_ref": g.Workflow, "job_workflow_sha": commit,
		"sha": commit, "event_name": or(g.Event, "push"), "repository": owner + "/" + repository, "workflow": "release", "ref": ref,
		"runner_environment": "github-hosted", "repository_id": "654321", "repository_owner": owner, "repository_owner_id": or(g.OwnerID, "123456"),
		"repository_visibility": "public", "workflow_ref": g.Workflow, "workflow_sha": commit, "run_id": "1", "run_attempt": "1",
	})
}

func or(text, byDefault string) string {
	if text == "" {
		return byDefault
	}
	return text
}

// arguments are those of sign and attest.
func (s *Sigstore) arguments(g Signer) ([]string, error) {
	out := []string{"--yes", "--allow-http-registry"}
	if g.Services == Legacy {
		out = append(out, "--new-bundle-format=false", "--use-signing-config=false", "--tlog-upload=false")
	} else {
		out = append(out, "--trusted-root", s.path("signer_root.json"), "--signing-config", s.path(or(string(g.Services), string(Usual))+".json"))
	}
	if g.Key != "" {
		return append(out, "--key", s.path(g.Key+".key")), nil
	}
	token, err := s.token(g)
	return append(out, "--identity-token", token), err
}

// Sign signs an image named by repository and digest, with further flags of cosign sign.
func (s *Sigstore) Sign(ctx context.Context, image string, g Signer, flags ...string) error {
	args, err := s.arguments(g)
	if err != nil {
		return err
	}
	_, err = s.Cosign(ctx, append(append(append([]string{"sign"}, args...), flags...), image)...)
	return err
}

// Attest attests a predicate about an image, with further flags of cosign attest.
func (s *Sigstore) Attest(ctx context.Context, image string, g Signer, p Predicate, flags ...string) error {
	args, err := s.arguments(g)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(s.dir, "predicate-")
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(p.JSON); err != nil {
		return err
	}
	args = append(append([]string{"attest", "--type", p.Type, "--predicate", f.Name()}, args...), flags...)
	_, err = s.Cosign(ctx, append(args, image)...)
	return err
}

// Predicate is what is attested: a type by cosign's short name or URI, and JSON.
type Predicate struct{ Type, JSON string }

// Key makes a key pair with cosign and returns the public key in PEM.
func (s *Sigstore) Key(ctx context.Context, name string) ([]byte, error) {
	if _, err := s.Cosign(ctx, "generate-key-pair", "--output-key-prefix="+s.path(name)); err != nil {
		return nil, err
	}
	return os.ReadFile(s.path(name + ".pub"))
}
