// Package sigstore runs a whole sigstore on loopback, every part real: Fulcio, two Rekor v2 logs, a
// timestamp authority and cosign v3 as their projects release them (test/deps.sh sigstore builds them), and
// an OIDC issuer and a certificate log of a few lines. It signs and attests as a release workflow does.
// It binds fixed ports and names itself after well-known hosts, so it runs only inside the namespaces of
// test/node.
package sigstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/test/node"
)

// Where the servers listen.
const (
	fulcioURL  = "http://127.0.0.1:5555"
	noSCTURL   = "http://127.0.0.1:5565" // a Fulcio that asks no certificate log
	ctURL      = "http://127.0.0.1:6962/test"
	rekorURL   = "http://rekor.local:3003"         // verifiers expect the host as origin of its checkpoints
	secondURL  = "http://rekor-second.local:3013"  // a second Rekor
	foreignURL = "http://rekor-foreign.local:3023" // a Rekor that no trusted root knows
	tsaURL     = "http://127.0.0.1:3005"

	ready = 20 * time.Second // how long a server may take to answer
)

// Sigstore is a running sigstore. Signing may be concurrent.
type Sigstore struct {
	dir, bin string // constant
	issuer   *issuer
	servers  []*exec.Cmd
	cancel   context.CancelFunc
}

// server is a program with the URL at which it answers once it is up.
type server struct {
	name, url string
	args      []string
}

// Start starts everything. dir must be empty; bin holds the programs. Logs lie in dir. Stop it.
func Start(ctx context.Context, dir, bin string) (*Sigstore, error) {
	if !node.Inside() {
		return nil, errors.New("start sigstore: not inside the namespaces of test/node")
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &Sigstore{dir: dir, bin: bin, cancel: cancel}
	if err := s.start(ctx); err != nil {
		s.Stop()
		return nil, fmt.Errorf("start sigstore: %w", err)
	}
	return s, nil
}

func (s *Sigstore) start(ctx context.Context) (err error) {
	if err := s.hosts(); err != nil {
		return err
	}
	if s.issuer, err = newIssuer(); err != nil {
		return err
	}
	if err := s.issuer.serve(ctx, s.path("ca.pem")); err != nil {
		return err
	}
	key, err := writeKey(s.dir, "ctfe")
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", strings.TrimSuffix(strings.TrimPrefix(ctURL, "http://"), "/test"))
	if err != nil {
		return err
	}
	serve(ctx, l, ctLog{key})
	if err := s.fulcioConfig(); err != nil {
		return err
	}
	servers := []server{
		fulcio("fulcio", "5555", "--ct-log-url", ctURL, "--ct-log-public-key-path", s.path("ctfe.pub")),
		fulcio("fulcio-without-sct", "5565", "--ct-log-url", ""),
		{"timestamp-server", tsaURL + "/api/v1/timestamp/certchain", []string{"serve", "--host", "127.0.0.1", "--port", "3005", "--timestamp-signer", "memory", "--disable-ntp-monitoring"}},
	}
	for i, name := range []string{"rekor", "rekor-second", "rekor-foreign"} {
		if _, err := writeKey(s.dir, name); err != nil {
			return err
		}
		port := func(n int) string { return fmt.Sprint(n + 10*i) }
		servers = append(servers, server{name, "http://127.0.0.1:" + port(3003) + "/healthz", []string{"serve", "--storage-dir", s.path(name + ".d"), "--signer-filepath", s.path(name + ".key"),
			"--hostname", name + ".local", "--http-port", port(3003), "--grpc-port", port(3004), "--http-metrics-port", port(2114),
			"--checkpoint-interval", "100ms", "--batch-max-age", "20ms"}})
	}
	for _, srv := range servers {
		if err := s.run(srv); err != nil {
			return err
		}
	}
	for _, srv := range servers {
		if err := s.answers(ctx, srv); err != nil {
			return err
		}
	}
	return s.configure(ctx)
}

func (s *Sigstore) path(name string) string { return filepath.Join(s.dir, name) }

// hosts makes the issuers' names this machine's, for this mount namespace alone.
func (s *Sigstore) hosts() error {
	line := "127.0.0.1 localhost rekor.local rekor-second.local rekor-foreign.local"
	for _, u := range issuers {
		line += " " + strings.TrimPrefix(u, "https://")
	}
	if err := os.WriteFile(s.path("hosts"), []byte(line+"\n"), 0o644); err != nil {
		return err
	}
	if err := unix.Mount(s.path("hosts"), "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount hosts: %w", err)
	}
	return nil
}

func (s *Sigstore) fulcioConfig() error {
	all := map[string]any{}
	for u, kind := range map[string]string{GitHub: "github-workflow", Mallory: "github-workflow", Google: "email"} {
		all[u] = map[string]string{"IssuerURL": u, "ClientID": "sigstore", "Type": kind}
	}
	text, err := json.Marshal(map[string]any{"OIDCIssuers": all})
	if err != nil {
		return err
	}
	return os.WriteFile(s.path("fulcio.json"), text, 0o644)
}

func fulcio(name, port string, args ...string) server {
	return server{name, "http://127.0.0.1:" + port + "/api/v2/trustBundle", append([]string{"serve", "--ca", "ephemeralca", "--config-path", "fulcio.json",
		"--host", "127.0.0.1", "--port", port, "--grpc-host", "127.0.0.1", "--grpc-port", port[:3] + "4", "--metrics-port", "2" + port[1:],
		"--legacy-unix-domain-socket", name + ".sock"}, args...)}
}

// run starts a server; its output goes to <name>.log.
func (s *Sigstore) run(srv server) error {
	program := map[bool]string{true: "posix", false: strings.TrimSuffix(srv.name, "-without-sct")}[strings.HasPrefix(srv.name, "rekor")]
	out, err := os.Create(s.path(srv.name + ".log"))
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(filepath.Join(s.bin, program), srv.args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, out, out
	cmd.Env = s.env()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s (run \"test/deps.sh sigstore\"): %w", srv.name, err)
	}
	s.servers = append(s.servers, cmd)
	return nil
}

// env is without what might lead a program out of these namespaces, and with our CA.
func (s *Sigstore) env() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "SSL_CERT_FILE=" + s.path("ca.pem"), "COSIGN_PASSWORD=", "TUF_ROOT=" + s.path("tuf")}
}

// answers waits until a server does.
func (s *Sigstore) answers(ctx context.Context, srv server) error {
	ctx, cancel := context.WithTimeout(ctx, ready)
	defer cancel()
	for {
		if _, err := get(ctx, srv.url); err == nil {
			return nil
		} else if ctx.Err() != nil {
			log, _ := os.ReadFile(s.path(srv.name + ".log"))
			return fmt.Errorf("%s does not answer: %w; its log: %.2000s", srv.name, err, log)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Stop ends every server: what was signed must hold without them.
func (s *Sigstore) Stop() {
	s.cancel()
	for _, cmd := range s.servers {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	s.servers = nil
}

func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", url, resp.Status)
	}
	return io.ReadAll(resp.Body)
}
