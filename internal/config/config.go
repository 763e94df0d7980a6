// Package config is the daemon's configuration: one struct, strictly decoded from TOML with drop-ins
// and checked by a list of checks. docs/config.md and packaging/sallyport.toml are generated from the
// struct's tags, and a test compares them, so text and code cannot part.
package config

import (
	"os"
	"path/filepath"
	"time"
)

// Path is the configuration file; DropIns is the directory whose *.toml files are read after it, in
// the order of their names. Neither need exist.
const (
	Path    = "/etc/sallyport/sallyport.toml"
	DropIns = "/etc/sallyport/sallyport.toml.d"
)

// Config is everything that an operator can set. It is a value: nothing changes it after Load. Only
// policy, trusted roots and registry settings are read again while the daemon runs.
type Config struct {
	Root    string  `toml:"root" doc:"Directory of what must survive a power cut: images, verification records, audit log."`
	State   string  `toml:"state" doc:"Directory of what is true only while the kernel runs: pods and containers. Use a tmpfs."`
	CRI     CRI     `toml:"cri" doc:"The door for the kubelet and crictl."`
	Admin   Admin   `toml:"admin" doc:"The door for the operator's command line, sallyport."`
	Inspect Inspect `toml:"inspect" doc:"What the operator's socket shows over HTTP besides, as CRI-O does (docs/observability.md)."`
	Log     Log     `toml:"log" doc:"The daemon's own log, on standard error. The audit log is not set here: it cannot be turned off."`
	Policy  Policy  `toml:"policy" doc:"Where permission comes from. Without a policy everything is denied."`
	Runtime Runtime `toml:"runtime" doc:"OCI runtimes, monitor and first process."`
	Network Network `toml:"network" doc:"Pod networks (CNI)."`
	Streams Streams `toml:"streaming" doc:"Exec, attach and port-forward. The kubelet and crictl connect to a URL that works once."`
	Image   Image   `toml:"image" doc:"Registries and the image store."`
	NRI     NRI     `toml:"nri" doc:"Plugins of the node that hear of pods and containers and may ask for changes (Node Resource Interface)."`
	CDI     CDI     `toml:"cdi" doc:"Devices by name (Container Device Interface). Which a container may have, the policy says (hardening.yaml, cdi)."`
	Limits  Limits  `toml:"limits" doc:"Bounds that hold for every container."`
	Timeout Timeout `toml:"timeout" doc:"Deadlines of each stage; a stage that has none could hang for ever."`
	Metrics Metrics `toml:"metrics" doc:"Prometheus figures over HTTP."`
	Tracing Tracing `toml:"tracing" doc:"OpenTelemetry traces of CRI calls, below the kubelet's own."`
	Stats   Stats   `toml:"stats" doc:"What pods and containers use, as the CRI tells it."`
}

// CRI is the gRPC server.
type CRI struct {
	Socket string        `toml:"socket" doc:"Unix socket, made with mode 0600."`
	Slow   time.Duration `toml:"slow" doc:"A call that takes longer is logged. 0 logs none."`
}

// Admin is the operator's door.
type Admin struct {
	Socket string `toml:"socket" doc:"Unix socket, made with mode 0600; only the daemon's own user is served. Empty: admin.sock in state."`
}

// Inspect is what the daemon shows of its own insides.
type Inspect struct {
	Goroutines bool `toml:"goroutines" doc:"Show what each goroutine does, under /debug/goroutines."`
	Heap       bool `toml:"heap" doc:"Give heap profiles, under /debug/heap."`
}

// Log is the daemon's own log.
type Log struct {
	Format string `toml:"format" doc:"text or json."`
	Level  string `toml:"level" doc:"debug, info, warn or error."`
}

// Policy says where policy comes from.
type Policy struct {
	Dir        string        `toml:"dir" doc:"Directory with node/ and namespaces/<namespace>/, and for source signed root.json and roots/."`
	Repository string        `toml:"repository" doc:"Repository and tag of a registry that policy is brought from, for example registry.example/policy:current. Only with source signed; dir then holds the first root.json and whatever the registry does not have. Empty: dir alone."`
	Poll       time.Duration `toml:"poll" doc:"How often the repository is asked for something new, give or take a tenth."`
	Rejudge    time.Duration `toml:"rejudge" doc:"How often running containers are judged again although nothing changed. When the policy or an override changes they are judged at once."`
	Source     string        `toml:"source" doc:"local-unsigned: files as they lie in dir. signed: OCI layouts in dir, signed by those whom dir/root.json delegates to; plain files are refused. It stands in Status and in every audit record."`
}

// Runtime names the programs that containers need.
type Runtime struct {
	Default  string             `toml:"default" doc:"Handler for pods that name none."`
	Handlers map[string]Handler `toml:"handlers" doc:"OCI runtimes by handler name (RuntimeClass)."`
	Conmon   string             `toml:"conmon" doc:"The monitor beside each container. Empty: looked for in PATH."`
	Init     string             `toml:"init" doc:"sallyport-init. Empty: /usr/libexec/sallyport/sallyport-init, or beside sallyportd."`
	Cgroups  string             `toml:"cgroup_driver" doc:"cgroupfs. The kubelet asks for it (RuntimeConfig)."`
	AppArmor string             `toml:"apparmor_profile" doc:"Name of the loaded AppArmor profile for containers that ask for none. Empty: AppArmor is not used, and a container that asks for a profile is refused."`
	Parent   string             `toml:"cgroup_parent" doc:"Cgroup of pods that name no parent."`
	Kubelet  string             `toml:"kubelet_dir" doc:"The kubelet's --root-dir. What it makes there for a pod, its volumes and its hosts file, may be mounted into that pod."`
}

// Handler is one OCI runtime.
type Handler struct {
	Path        string            `toml:"path" doc:"The runtime's binary. Empty: looked for in PATH by the handler's name."`
	Type        string            `toml:"type" doc:"oci: runc or crun. gvisor: runsc, which gives each container a kernel of its own. Empty: oci."`
	AllowUnsafe bool              `toml:"allow_unsafe_version" doc:"Use this runtime although its version is known to be exploitable. Names the risk; do not."`
	Seccomp     string            `toml:"seccomp_profile" doc:"JSON file of the default seccomp profile of this handler's containers. Empty: the built-in one."`
	Allowed     []string          `toml:"allowed_annotations" doc:"Annotations through which pods of this handler may ask for something (docs/handlers.md)."`
	Defaults    map[string]string `toml:"default_annotations" doc:"Annotations for pods of this handler that do not say it themselves."`
}

// Network is the CNI set-up.
type Network struct {
	ConfDir string   `toml:"conf_dir" doc:"Directory of CNI configurations; the first by name is used."`
	BinDirs []string `toml:"bin_dirs" doc:"Directories of CNI plugins."`
}

// Streams is the server of exec, attach and port-forward.
type Streams struct {
	Address string        `toml:"address" doc:"IP address and port to listen on; port 0 takes a free one. Beyond loopback only with a certificate."`
	Cert    string        `toml:"tls_cert" doc:"PEM file with certificate and chain, read again when it changes. Empty: no TLS."`
	Key     string        `toml:"tls_key" doc:"PEM file with the certificate's key."`
	Idle    time.Duration `toml:"idle_timeout" doc:"A connection on which nothing moves for so long is closed, and its command with it."`
	Most    int           `toml:"max_streams" doc:"Most streams of this node, open or waiting for their clients; one more is refused (stream-limit)."`
	MostOf  int           `toml:"max_per_container" doc:"Likewise of one container, and of the port-forwards of one pod."`
}

// Image is the image store's set-up.
type Image struct {
	RegistriesConf string        `toml:"registries_conf" doc:"containers-registries.conf(5): mirrors, blocked and insecure registries. It need not exist."`
	RegistriesDir  string        `toml:"registries_conf_dir" doc:"Drop-ins of it, *.conf in the order of their names. It need not exist."`
	CertsDir       string        `toml:"certs_dir" doc:"Certificates of registries, as containers-certs.d(5): <host:port>/ca.crt, client.cert and client.key. It need not exist."`
	AuthFile       string        `toml:"auth_file" doc:"containers-auth.json(5) for pulls that bring no credentials. It need not exist."`
	NamespaceAuth  string        `toml:"namespace_auth_dir" doc:"Directory of <namespace>.json, each a containers-auth.json(5) for pulls of that namespace that bring no credentials; asked before auth_file. What is pulled with one is private to the namespace, as with a pull secret. It need not exist."`
	MirrorTimeout  time.Duration `toml:"mirror_timeout" doc:"For one mirror to connect and give the manifest, before the next is asked."`
	PullProgress   time.Duration `toml:"pull_progress_timeout" doc:"How long the download of a layer may bring nothing before it is taken up again or given up."`
	MaxUnpacked    int64         `toml:"max_unpacked" doc:"Bytes that the layers of one image may unpack to together. A layer of more than 1 GiB must not be more than 200 times its download either."`
	ScrubRate      int64         `toml:"scrub_rate" doc:"Bytes a second of stored layers that are hashed in the background, to find what changed on disk. 0: none; a layer is then hashed at its first use after a boot alone."`
	ScrubEvery     time.Duration `toml:"scrub_every" doc:"From the end of one such pass over all layers to the next."`
	RefreshEvery   time.Duration `toml:"refresh_evidence_every" doc:"How often a registry is asked, with the node's credentials or none, for newer signatures and attestations of a stored image. They are added, and none is ever removed. 0: never."`
	Pinned         []string      `toml:"pinned" doc:"Image names that the kubelet must not collect."`
}

// NRI is the set-up of plugins.
type NRI struct {
	Plugins   []string      `toml:"plugins" doc:"Plugins that may register, as index-name; * and ? match. Empty: none, and there is no socket."`
	Required  []string      `toml:"required" doc:"Names of plugins, without index, without which no container is created."`
	Permit    []string      `toml:"permit" doc:"What the validator lets plugins change beyond the rest: hooks, seccomp. The gate judges the outcome all the same."`
	Socket    string        `toml:"socket" doc:"Unix socket for plugins, made with mode 0600."`
	PluginDir string        `toml:"plugin_dir" doc:"Directory of plugins to start. Empty: none are started."`
	ConfDir   string        `toml:"conf_dir" doc:"Directory of the plugins' own configuration, index-name.conf or name.conf."`
	Register  time.Duration `toml:"registration_timeout" doc:"For a plugin to say who it is, and again to take in the state of the node; containers that are created meanwhile wait for it."`
	Answer    time.Duration `toml:"request_timeout" doc:"For a plugin to answer one call. One that does not is disconnected."`
}

// CDI is the set-up of devices by name.
type CDI struct {
	Dirs []string `toml:"spec_dirs" doc:"Directories of CDI files; later ones win. Only files that root alone can write are used. Empty: no CDI devices."`
}

// Limits are bounds for every container.
type Limits struct {
	Creates int   `toml:"creates" doc:"Most pods and containers that are made at once; others wait their turn, and on a node that stalls for memory or its disk only a quarter goes. 0: four for each CPU, at least 8."`
	Pids    int64 `toml:"pids" doc:"Most processes of a container for which the pod sets no other limit. 0: 4096; nobody gets no limit."`
	LogSize int64 `toml:"log_size" doc:"Most bytes of one container log file before conmon stops it growing; the kubelet rotates long before. 0: no limit."`
}

// Timeout holds deadlines.
type Timeout struct {
	Create  time.Duration `toml:"create" doc:"Making a container, without the pull."`
	Pull    time.Duration `toml:"pull" doc:"One image pull, all layers."`
	Network time.Duration `toml:"network" doc:"One CNI ADD or DEL with all plugins."`
	Runtime time.Duration `toml:"runtime" doc:"One call of the OCI runtime."`
}

// Metrics is the Prometheus endpoint.
type Metrics struct {
	Address string `toml:"address" doc:"IP address and port to listen on, for example 127.0.0.1:9440. Beyond loopback only with a certificate. Empty: off."`
	Cert    string `toml:"tls_cert" doc:"PEM file with certificate and chain, read again when it changes. Empty: no TLS."`
	Key     string `toml:"tls_key" doc:"PEM file with the certificate's key."`
}

// Tracing is where traces go.
type Tracing struct {
	Enable   bool   `toml:"enable" doc:"Send traces. Calls never wait for the collector."`
	Endpoint string `toml:"endpoint" doc:"IP address and port of an OTLP collector (gRPC). Beyond loopback only with tls_ca."`
	Rate     int    `toml:"sampling_rate_per_million" doc:"Calls traced of a million that come without a trace. A call that comes with one is traced if its caller traces it."`
	CA       string `toml:"tls_ca" doc:"PEM file of who signs the collector's certificate. Empty: no TLS."`
}

// Stats is how figures of pods and containers are collected.
type Stats struct {
	Period     time.Duration `toml:"collection_period" doc:"Collect so often and answer every call from the last pass. 0: read when asked."`
	PodMetrics []string      `toml:"included_pod_metrics" doc:"Groups of metrics of pods and containers (ListPodSandboxMetrics): all, or some of cpu, disk, diskIO, hugetlb, memory, misc, network, oom, pressure, process, spec. Empty: none."`
}

// Default is the configuration of a machine without any file.
func Default() Config {
	return Config{
		Root:   "/var/lib/sallyport",
		State:  "/run/sallyport",
		CRI:    CRI{Socket: "/run/sallyport/sallyport.sock", Slow: 5 * time.Second},
		Log:    Log{Format: "text", Level: "info"},
		Policy: Policy{Dir: "/etc/sallyport/policy", Source: "local-unsigned", Poll: 5 * time.Minute, Rejudge: 10 * time.Minute},
		Runtime: Runtime{
			Default:  "runc",
			Handlers: map[string]Handler{"runc": {Type: "oci", Allowed: []string{}, Defaults: map[string]string{}}},
			Cgroups:  "cgroupfs",
			Parent:   "/sallyport",
			Kubelet:  "/var/lib/kubelet",
		},
		Network: Network{ConfDir: "/etc/cni/net.d", BinDirs: []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"}},
		Streams: Streams{Address: "127.0.0.1:0", Idle: 4 * time.Hour, Most: 1000, MostOf: 100},
		Image: Image{RegistriesConf: "/etc/containers/registries.conf", RegistriesDir: "/etc/containers/registries.conf.d", CertsDir: "/etc/containers/certs.d", AuthFile: "/etc/sallyport/auth.json", NamespaceAuth: "/etc/sallyport/auth",
			MirrorTimeout: 15 * time.Second, PullProgress: time.Minute, MaxUnpacked: 32 << 30, ScrubRate: 8 << 20, ScrubEvery: 24 * time.Hour,
			RefreshEvery: 6 * time.Hour, Pinned: []string{}},
		NRI: NRI{Plugins: []string{}, Required: []string{}, Permit: []string{}, Socket: "/var/run/nri/nri.sock", PluginDir: "/opt/nri/plugins",
			ConfDir: "/etc/nri/conf.d", Register: 5 * time.Second, Answer: 2 * time.Second},
		CDI:     CDI{Dirs: []string{"/etc/cdi", "/var/run/cdi"}},
		Limits:  Limits{Pids: 4096, LogSize: 1 << 30},
		Timeout: Timeout{Create: 4 * time.Minute, Pull: 30 * time.Minute, Network: 90 * time.Second, Runtime: 2 * time.Minute},
		Tracing: Tracing{Endpoint: "127.0.0.1:4317"},
		Stats:   Stats{PodMetrics: []string{"all"}},
	}
}

// AuditDir is where the audit log lies.
func (c Config) AuditDir() string { return filepath.Join(c.Root, "audit") }

// AdminSocket is where the operator's door listens.
func (c Config) AdminSocket() string {
	if c.Admin.Socket != "" {
		return c.Admin.Socket
	}
	return filepath.Join(c.State, "admin.sock")
}

// ImageRoot is where the image store lies.
func (c Config) ImageRoot() string { return filepath.Join(c.Root, "image") }

// ImageRun is the image store's volatile directory.
func (c Config) ImageRun() string { return filepath.Join(c.State, "image") }

// PolicyState is where the memory of signed policy lies: policy-state.json and policy-kept; "" where policy
// is unsigned and has none.
func (c Config) PolicyState() string {
	if c.Policy.Source != "signed" {
		return ""
	}
	return c.Root
}

// PolicyStage is where policy from a registry is laid out before it is verified; "" where none is brought.
func (c Config) PolicyStage() string {
	if c.Policy.Repository == "" {
		return ""
	}
	return filepath.Join(c.Root, "policy-stage")
}

// CNICache is libcni's cache, ours alone.
func (c Config) CNICache() string { return filepath.Join(c.Root, "cni") }

// ControlPaths are what no container may mount: our sockets, state, policy and store.
func (c Config) ControlPaths() []string {
	paths := []string{c.Root, c.State, c.CRI.Socket, c.AdminSocket(), c.Policy.Dir, filepath.Dir(Path)}
	for _, path := range []string{c.Image.AuthFile, c.Image.NamespaceAuth} {
		if path != "" {
			paths = append(paths, path)
		}
	}
	for _, key := range []string{c.Streams.Key, c.Metrics.Key} {
		if key != "" {
			paths = append(paths, key)
		}
	}
	if usual := Default().NRI.Socket; len(c.NRI.Plugins) > 0 && c.NRI.Socket != usual { // policy can except the usual place
		paths = append(paths, c.NRI.Socket)
	}
	return paths
}

// InitPath is the configured sallyport-init, or the first that exists of the packaged place and the
// daemon's own directory; "" if there is none.
func (c Config) InitPath() string {
	if c.Runtime.Init != "" {
		return c.Runtime.Init
	}
	places := []string{"/usr/libexec/sallyport/sallyport-init"}
	if self, err := os.Executable(); err == nil {
		places = append(places, filepath.Join(filepath.Dir(self), "sallyport-init"))
	}
	for _, p := range places {
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
			return p
		}
	}
	return ""
}
