package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"sallyport/audit"
	"sallyport/enforce"
	"sallyport/image"
	"sallyport/internal/admin"
	"sallyport/internal/cdi"
	"sallyport/internal/config"
	"sallyport/internal/cri"
	"sallyport/internal/durable"
	"sallyport/internal/nri"
	"sallyport/internal/rejudge"
	"sallyport/internal/selftest"
	"sallyport/internal/telemetry"
	"sallyport/policy"
	"sallyport/policy/rego/confine"
	"sallyport/sandbox"
	"sallyport/sandbox/network"
	"sallyport/sandbox/spec"
	"sallyport/sandbox/stats"
	"sallyport/sandbox/stream"
)

// daemon is the rooms of one run, in the order in which they are opened.
type daemon struct {
	c       config.Config
	log     *slog.Logger
	audit   *audit.Log
	gate    *enforce.Gate
	policy  *policySource
	rules   *confine.Child // runs the Rego of namespaces
	images  *image.Store
	cni     *network.CNI
	pods    *sandbox.Pods
	streams *stream.Server
	figures *telemetry.Metrics
	tracing *telemetry.Tracing // nil: off
	nri     *nri.Hub           // nil: no plugin is allowed
	cdi     *cdi.Registry
	admin   *admin.Server
	judge   *rejudge.Judge
	test    *selftest.Tester

	networkMu sync.Mutex // guards the rest; held over a question to the network plugins
	networkOK bool
	networkAt time.Time
}

// serve runs the daemon until ctx ends. What it opened is closed in the end; containers go on running.
func serve(ctx context.Context, c config.Config) (err error) {
	if err := settle(); err != nil {
		return err
	}
	if err := makeDirs(c.Root, c.State, c.ImageRun(), scratchDir(c)); err != nil {
		return err
	}
	c.Root, c.State = realPath(c.Root), realPath(c.State)
	for _, dir := range []string{c.Root, c.State} {
		lock, err := lockDir(dir)
		if err != nil {
			return err
		}
		defer lock.Close()
	}
	d := &daemon{c: c, log: newLog(c.Log)}
	slog.SetDefault(d.log)
	if err := d.openGate(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.audit.Close()) }()
	defer d.rules.Close()
	if err := d.openTracing(); err != nil {
		return d.refused(ctx, err)
	}
	if err := d.openStores(); err != nil {
		return d.refused(ctx, err)
	}
	defer func() { err = errors.Join(err, d.images.Close()) }()
	server, err := d.openPods(ctx)
	if err == nil {
		d.admin, err = d.openAdmin(server)
	}
	if err != nil {
		return d.refused(ctx, err)
	}
	err = d.run(ctx, server)
	d.pods.Close()
	return errors.Join(err, d.record(context.WithoutCancel(ctx), "stop", nil))
}

func scratchDir(c config.Config) string { return filepath.Join(c.State, "scratch") }

// openGate opens the audit log, makes the gate and installs the policy. A broken policy does not keep
// the daemon from starting: it denies, and says so in Status.
func (d *daemon) openGate(ctx context.Context) error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	node, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("find the node's name: %w", err)
	}
	if d.audit, err = audit.Open(audit.Options{Dir: d.c.AuditDir(), Node: node, BootID: boot}); err != nil {
		return err
	}
	key, err := envKey(filepath.Join(d.c.Root, "env.key"))
	if err == nil {
		d.gate, err = enforce.New(enforce.Options{Log: d.audit, Source: d.c.Policy.Source, EnvKey: key, ControlPaths: bothNames(d.c.ControlPaths()),
			KubeletDir: realPath(d.c.Runtime.Kubelet)}) // mounts are judged by the names that the kernel has for them
	}
	if err == nil {
		d.figures = telemetry.New(d.scrape)
		d.rules = confine.New(confine.Options{Program: "/proc/self/exe", Log: d.log})
		d.policy = &policySource{dir: d.c.Policy.Dir, state: d.c.PolicyState(), node: node, latest: d.audit.Latest, scratch: scratchDir(d.c), gate: d.gate, log: d.log, stage: d.c.PolicyStage(), confine: d.rules.Compile, later: d.rules.Later}
		if d.policy.registry, err = brought(d.c, d.log); err != nil {
			return errors.Join(err, d.audit.Close())
		}
		err = d.record(ctx, "start", nil)
	}
	if err == nil {
		err = d.policy.reload(ctx)
	}
	if err != nil {
		return errors.Join(err, d.audit.Close())
	}
	return nil
}

func (d *daemon) openStores() (err error) {
	probes := filepath.Join(scratchDir(d.c), "selftest")
	if d.test, err = selftest.New(selftest.Options{Socket: d.c.CRI.Socket, Dir: probes, Gate: d.gate, Log: d.log}); err != nil {
		return err
	}
	d.images, err = image.Open(image.Options{Root: d.c.ImageRoot(), RunRoot: d.c.ImageRun(), Gate: d.gate, Local: map[string]string{policy.ProbeRepository: probes},
		RegistriesConf:    d.c.Image.RegistriesConf,
		RegistriesConfDir: d.c.Image.RegistriesDir, CertsDir: d.c.Image.CertsDir, AuthFile: d.c.Image.AuthFile, NamespaceAuthDir: d.c.Image.NamespaceAuth, Pinned: d.c.Image.Pinned,
		MaxUnpacked: d.c.Image.MaxUnpacked, MirrorTimeout: d.c.Image.MirrorTimeout, StallTimeout: d.c.Image.PullProgress,
		ScrubRate: d.c.Image.ScrubRate, ScrubEvery: d.c.Image.ScrubEvery, RefreshEvery: d.c.Image.RefreshEvery, Log: d.log})
	if err != nil {
		return err
	}
	for _, p := range d.images.Problems() {
		d.log.Warn("image store", "problem", p)
	}
	boot, err := bootID()
	if err == nil {
		d.cni, err = network.New(network.Options{ConfDir: d.c.Network.ConfDir, BinDirs: d.c.Network.BinDirs, CacheDir: d.c.CNICache(),
			BootID: boot, Timeout: d.c.Timeout.Network})
	}
	if err != nil {
		return errors.Join(err, d.images.Close())
	}
	return nil
}

// openPods proves the runtimes, takes over what runs, and wires the server.
func (d *daemon) openPods(ctx context.Context) (*cri.Server, error) {
	runtimes := map[string]string{"": d.c.Runtime.Handlers[d.c.Runtime.Default].Path}
	for name, h := range d.c.Runtime.Handlers {
		runtimes[name] = h.Path
	}
	var err error
	var gvisor []string
	for _, h := range d.c.Runtime.Handlers {
		if h.Type == "gvisor" {
			gvisor = append(gvisor, h.Path)
		}
	}
	d.pods, err = sandbox.New(sandbox.Options{Root: filepath.Join(d.c.State, "sandbox"), State: d.c.Root, Gate: d.gate, Images: d.images, Network: d.cni,
		Runtimes: runtimes, GVisor: gvisor, Conmon: d.c.Runtime.Conmon, Init: d.c.Runtime.Init, LogMax: d.c.Limits.LogSize, Deadline: d.c.Timeout.Runtime, Log: d.log})
	if err != nil {
		return nil, err
	}
	facts, err := d.probe(ctx)
	if err != nil {
		return nil, err
	}
	host, err := hostFacts(facts[""])
	if err != nil {
		return nil, err
	}
	if host.AppArmor, err = appArmor(d.c.Runtime.AppArmor, facts[""].AppArmor); err != nil {
		return nil, err
	}
	if !host.Seccomp {
		return nil, errors.New("look at host: the kernel or the OCI runtime cannot filter system calls (seccomp); nothing could be hardened")
	}
	d.tellLimits(host)
	initHash, err := hashFile(d.c.Runtime.Init)
	if err != nil {
		return nil, err
	}
	reader, err := stats.Open()
	if err != nil {
		return nil, err
	}
	if err := d.pods.Restore(ctx); err != nil {
		return nil, fmt.Errorf("restore pods: %w", err)
	}
	d.proveUserNamespaces(ctx, facts)
	handlers, err := d.handlers(host, facts)
	if err != nil {
		return nil, err
	}
	st := d.c.Streams
	d.streams = stream.New(stream.Options{Address: st.Address, Certificate: st.Cert, Key: st.Key, Idle: st.Idle, Most: st.Most, MostOf: st.MostOf, Log: d.log})
	if d.nri, err = d.plugins(); err != nil {
		return nil, err
	}
	if d.cdi, err = d.devices(); err != nil {
		return nil, err
	}
	return cri.New(cri.Options{
		Version: version, NRI: d.nri, CDI: d.cdi, Gate: d.gate, Images: d.images, Pods: d.pods, Device: statDevice, Stats: stats.NewCollector(reader, d.c.Stats.Period), PodMetrics: d.c.Stats.PodMetrics, Streams: d.streams, InitHash: initHash,
		Handlers:      handlers,
		Default:       d.c.Runtime.Default,
		NetworkStatus: d.cni.Status, PolicyProblem: d.trouble, SelfTest: d.test.Trouble,
		Creates: d.c.Limits.Creates, CreateTimeout: d.c.Timeout.Create, PullTimeout: d.c.Timeout.Pull, Slow: d.c.CRI.Slow,
		Observe: d.figures.Observe, Pulled: d.figures.Pulled, Streamed: d.streamed, Tracer: d.tracer(), Log: d.log,
	})
}

// probe asks the runtimes who they are. An exploitable one is refused unless the configuration names
// the risk.
func (d *daemon) probe(ctx context.Context) (map[string]sandbox.RuntimeFacts, error) {
	facts, err := d.pods.Probe(ctx)
	if err == nil || !errors.Is(err, sandbox.ErrUnsafeRuntime) {
		return facts, err
	}
	for name, h := range d.c.Runtime.Handlers {
		if ferr := facts[name].Safe(); ferr != nil && !h.AllowUnsafe {
			return nil, fmt.Errorf("%s; install a newer one, or name the risk with runtime.handlers.%s.allow_unsafe_version", firstLine(err), name)
		}
	}
	d.log.Warn("an unsafe OCI runtime is used, as the configuration allows", "err", err)
	return facts, nil
}

// firstLine: the default handler and its own name are one runtime, which fails twice in the same words.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// tellLimits says once what this node cannot grant, so that nobody wonders later.
func (d *daemon) tellLimits(h spec.Host) {
	if h.OOMScoreAdjMin > -1000 {
		d.log.Warn("the daemon lacks CAP_SYS_RESOURCE: oom_score_adj and hard limits of containers are clamped to its own",
			"oom_score_adj", h.OOMScoreAdjMin)
	}
	if !h.AppArmor && fileSays("/sys/module/apparmor/parameters/enabled", "Y") {
		d.log.Warn("the kernel has AppArmor and runtime.apparmor_profile is empty: containers run without a profile")
	}
	d.log.Info("host", "cgroup", h.CgroupVersion, "controllers", strings.Join(h.Controllers, ","), "selinux", h.SELinux, "apparmor", h.AppArmor)
}

// run serves until ctx ends.
func (d *daemon) run(ctx context.Context, server *cri.Server) error {
	l, err := cri.Listen(d.c.CRI.Socket)
	if err != nil {
		return d.refused(ctx, err)
	}
	sl, err := d.streams.Listen()
	if err != nil {
		l.Close()
		return d.refused(ctx, err)
	}
	al, err := cri.Listen(d.c.AdminSocket())
	if err != nil {
		return d.refused(ctx, errors.Join(err, l.Close(), sl.Close()))
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.gate.Run(ctx) })
	g.Go(func() error { return d.cni.Run(ctx) })
	g.Go(func() error { return d.pods.Tend(ctx) })
	g.Go(func() error { return d.images.Run(ctx) })
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error { return d.runPlugins(ctx, server) })
	g.Go(func() error { return d.reloadOnHangup(ctx) })
	g.Go(func() error { return d.policy.Run(ctx) })
	g.Go(func() error { return d.countOOM(ctx) })
	if d.tracing != nil {
		g.Go(func() error { return d.tracing.Run(ctx) })
	}
	g.Go(func() error {
		m := d.c.Metrics
		return d.figures.Serve(ctx, telemetry.Listener{Address: m.Address, Cert: m.Cert, Key: m.Key, Log: d.log})
	})
	g.Go(func() error { return d.streams.Serve(ctx, sl) })
	g.Go(func() error { return d.judge.Run(ctx) })
	g.Go(func() error { return d.admin.Serve(ctx, al) })
	g.Go(func() error { return server.Serve(ctx, l) })
	d.log.Info("serving CRI v1", "socket", d.c.CRI.Socket, "version", version)
	notify("READY=1")
	err = g.Wait()
	notify("STOPPING=1")
	if errors.Is(err, context.Canceled) { // the signal, as a room tells it
		return nil
	}
	return err
}

// reloadOnHangup reads the policy again on SIGHUP. Only policy and trusted roots reload.
func (d *daemon) reloadOnHangup(ctx context.Context) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			if err := d.policy.reload(ctx); err != nil {
				d.log.Error("reload policy", "err", err)
			}
		}
	}
}

// refused records why the daemon did not start.
func (d *daemon) refused(ctx context.Context, err error) error {
	return errors.Join(err, d.record(context.WithoutCancel(ctx), "refused", map[string]string{"error": err.Error()}))
}

func (d *daemon) record(ctx context.Context, outcome string, detail map[string]string) error {
	all := map[string]string{"version": version, "pid": fmt.Sprint(os.Getpid())}
	for k, v := range detail {
		all[k] = v
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return d.gate.Record(ctx, audit.Event{Type: "daemon", Outcome: outcome, Source: d.c.Policy.Source, Detail: all})
}

// envKey is the key under which environment values are hashed in records; made once, it never leaves
// the node.
func envKey(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key = make([]byte, sha256.Size)
		rand.Read(key)
		return key, durable.WriteFile(path, key, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("read environment key: %w", err)
	}
	return key, nil
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot ID: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func hashFile(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("hash sallyport-init: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// existing is path if there is a file, and "" if not: the library would fail on a file that need not exist.
func existing(path string) string {
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}
