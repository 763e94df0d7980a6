package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Options say what node to run.
type Options struct {
	Scratch  string            // from Isolate
	Bin      string            // folder with sallyportd and sallyport-init
	Deps     string            // folder with bin/runc and cni/bin
	Policy   map[string]string // file name below the policy directory to its content
	Config   string            // further TOML, as a drop-in
	Insecure []string          // registries that speak plain HTTP, host:port
	Masq     bool              // CNI as a cluster has it: masquerading and host ports, through iptables
	Log      *os.File          // the daemon's log; nil: a file in Scratch
}

// Node is a running daemon with clients. Use from one goroutine, but for the clients.
type Node struct {
	Options
	Socket  string
	Runtime cri.RuntimeServiceClient
	Images  cri.ImageServiceClient
	Bridge  string
	Daemon  *exec.Cmd
	conn    *grpc.ClientConn
}

// New writes configuration, policy and CNI files and starts the daemon.
func New(ctx context.Context, o Options) (*Node, error) {
	n := &Node{Options: o, Socket: filepath.Join("/run", filepath.Base(o.Scratch)+".sock"), Bridge: "spt0"}
	files := map[string]string{
		"sallyport.toml":               n.config(),
		"cni/net.d/10-bridge.conflist": n.cni(),
		"registries.conf":              n.registries(),
	}
	if o.Config != "" {
		files["sallyport.toml.d/50-test.toml"] = o.Config
	}
	for name, text := range files {
		if err := n.write(name, text); err != nil {
			return nil, err
		}
	}
	if err := n.SetPolicy(o.Policy); err != nil {
		return nil, err
	}
	if err := n.StartDaemon(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

// Path is a path in the scratch directory.
func (n *Node) Path(name string) string { return filepath.Join(n.Scratch, name) }

func (n *Node) write(name, text string) error {
	path := n.Path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// SetPolicy replaces the policy files. A running daemon reads them at Reload.
func (n *Node) SetPolicy(files map[string]string) error {
	if err := os.RemoveAll(n.Path("policy")); err != nil {
		return err
	}
	for name, text := range files {
		if err := n.write(filepath.Join("policy", name), text); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) config() string {
	return fmt.Sprintf(`root = %q
state = %q
[cri]
socket = %q
[policy]
dir = %q
[runtime]
init = %q
cgroup_parent = %q
[runtime.handlers.runc]
path = %q
[network]
conf_dir = %q
bin_dirs = [%q]
[image]
registries_conf = %q
registries_conf_dir = ""
certs_dir = ""
auth_file = %q
`, n.Path("root"), "/run/"+filepath.Base(n.Scratch), n.Socket, n.Path("policy"),
		filepath.Join(n.Bin, "sallyport-init"), CgroupParent(n.Scratch), filepath.Join(n.Deps, "bin", "runc"),
		n.Path("cni/net.d"), filepath.Join(n.Deps, "cni", "bin"), n.Path("registries.conf"), n.Path("auth.json"))
}

func (n *Node) registries() string {
	text := "unqualified-search-registries = []\n"
	for _, host := range n.Insecure {
		text += fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", host)
	}
	return text
}

func (n *Node) cni() string {
	extra := ""
	if n.Masq {
		extra = `, {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}`
	}
	return fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "sallyport-test", "plugins": [
  {"type": "bridge", "bridge": %q, "isGateway": true, "hairpinMode": true, "ipMasq": %t,
   "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.213.0.0/20"}]], "routes": [{"dst": "0.0.0.0/0"}]}}%s]}
`, n.Bridge, n.Masq, n.Path("cni/leases"), extra)
}

// Patience is how long a test waits for what takes d at most here: SALLYPORT_TEST_SLOW times as long, which
// the test VM sets, since an emulated machine is ten to twenty times slower.
func Patience(d time.Duration) time.Duration {
	if n, err := strconv.Atoi(os.Getenv("SALLYPORT_TEST_SLOW")); err == nil && n > 1 && n <= 100 {
		return d * time.Duration(n)
	}
	return d
}

// StartDaemon starts the daemon and waits until it answers.
func (n *Node) StartDaemon(ctx context.Context) error {
	if n.Log == nil {
		f, err := os.OpenFile(n.Path("daemon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		n.Log = f
	}
	n.Daemon = exec.Command(filepath.Join(n.Bin, "sallyportd"), "--config", n.Path("sallyport.toml"))
	n.Daemon.Stdout, n.Daemon.Stderr = n.Log, n.Log
	if err := n.Daemon.Start(); err != nil {
		return err
	}
	return n.dial(ctx)
}

// dial connects once the daemon listens: gRPC would wait a second after a refused connection. It tries
// again until the daemon answers, since one that is on its way out may have taken the connection.
func (n *Node) dial(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, Patience(20*time.Second))
	defer cancel()
	for {
		err := n.connect(ctx)
		if err == nil {
			return nil
		}
		var st syscall.WaitStatus
		if pid, _ := syscall.Wait4(n.Daemon.Process.Pid, &st, syscall.WNOHANG, nil); pid == n.Daemon.Process.Pid {
			return fmt.Errorf("the daemon ended with status %d; its log ends:\n%s", st.ExitStatus(), n.LogTail(20))
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the daemon does not answer: %w; its log ends:\n%s", err, n.LogTail(20))
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (n *Node) connect(ctx context.Context) error {
	c, err := net.Dial("unix", n.Socket)
	if err != nil {
		return err
	}
	c.Close()
	conn, err := grpc.NewClient("unix://"+n.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 5 * time.Second, Backoff: backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1.2, MaxDelay: 50 * time.Millisecond}}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		return err
	}
	n.conn, n.Runtime, n.Images = conn, cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
	if _, err := n.Runtime.Version(ctx, &cri.VersionRequest{}); err != nil {
		conn.Close()
		return err
	}
	return nil
}

// Reload makes the daemon read its policy again and waits until the node policy in force is another
// one, or a second has passed.
func (n *Node) Reload() error {
	if err := n.Daemon.Process.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	time.Sleep(time.Second)
	return nil
}

// StopDaemon ends the daemon with SIGTERM and leaves the containers running.
func (n *Node) StopDaemon() error {
	n.conn.Close()
	if err := n.Daemon.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- n.Daemon.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(10 * time.Second):
		n.Daemon.Process.Kill()
		return errors.New("the daemon did not end within 10 s of SIGTERM")
	}
}

// LogTail is the end of the daemon's log.
func (n *Node) LogTail(lines int) string {
	b, err := os.ReadFile(n.Log.Name())
	if err != nil {
		return err.Error()
	}
	all := strings.Split(string(bytes.TrimSpace(b)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
