package cri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/enforce"
	"sallyport/image"
	"sallyport/internal/cdi"
	"sallyport/internal/nri"
	"sallyport/internal/span"
	"sallyport/sandbox"
	"sallyport/sandbox/spec"
	"sallyport/sandbox/stats"
	"sallyport/sandbox/stream"
)

// maxMessageBytes bounds a request and a response (kubelet: maxMsgSize of its CRI client, 16 MiB).
const maxMessageBytes = 16 << 20

// drain is how long Serve waits for calls in flight when it ends.
const drain = 5 * time.Second

// Handler is a CRI runtime handler: what Status shows of it, and what its pods get.
type Handler struct {
	Name           string
	UserNamespaces bool
	Host           spec.Host        // the node as this handler's OCI runtime can use it
	Defaults       spec.Defaults    // the daemon's, with the handler's own seccomp profile
	Annotations    spec.Annotations // what pods may ask through annotations
}

// StreamEnd tells of a stream that ended.
type StreamEnd struct {
	Kind    string // exec, attach or portforward
	Failed  bool
	Took    time.Duration
	In, Out int64 // bytes to the container or pod, and from it
}

// Options are the parts of a Server; all are needed but Observe, Pulled, Streamed and Tracer.
type Options struct {
	Version       string // of the daemon, semver
	Gate          *enforce.Gate
	Images        *image.Store
	Pods          *sandbox.Pods
	NRI           *nri.Hub                                   // nil: no plugin is allowed
	CDI           *cdi.Registry                              // nil: there are no CDI devices
	Device        func(path string) (spec.HostDevice, error) // looks at a device node of the host
	NetworkStatus func(context.Context) error                // nil: pods can get a network
	Stats         *stats.Collector
	PodMetrics    []string // groups of metrics of pods and containers, or "all"
	Streams       *stream.Server
	InitHash      string // sha256 of sallyport-init, hexadecimal
	Handlers      []Handler
	Default       string // handler of pods that name none
	Creates       int    // pods and containers made at once; 0: by the CPUs
	CreateTimeout time.Duration
	PullTimeout   time.Duration
	Slow          time.Duration // calls that take longer are logged; 0: none
	SelfTest      func() string // what the last self-test saw admitted that must be denied; "" for nothing
	PolicyProblem func() string // what is wrong with the policy files now, one line; "" for nothing
	Observe       func(method, code string, took time.Duration)
	Pulled        func(outcome string, took time.Duration) // one pull ended
	Streamed      func(StreamEnd)
	Tracer        *span.Tracer // nil: calls are not traced
	Log           *slog.Logger
}

// Server answers CRI v1. It is safe for concurrent use.
type Server struct {
	v1.UnimplementedRuntimeServiceServer
	v1.UnimplementedImageServiceServer

	o       Options                      // constant
	pods    *flights[*sandbox.Pod]       // RunPodSandbox
	creates *flights[*sandbox.Container] // CreateContainer
	pulls   *flights[string]             // PullImage
	turns   *turns                       // to make a pod or a container
	users   sync.Map                     // container ID to *v1.ContainerUser; dropped when removed
	stops   sync.Map                     // container ID to *sync.Once: plugins were told of its end; dropped when removed
	opened  openedFiles                  // has its own lock
	metrics []metric                     // constant; those that are told of pods and containers
	closing chan struct{}                // closed when Serve ends

	shownContainers shown // has its own lock
	shownPods       shown // has its own lock
}

// New wires a server; Serve runs it.
func New(o Options) (*Server, error) {
	if o.Gate == nil || o.Images == nil || o.Pods == nil || o.Streams == nil || o.Stats == nil || o.Log == nil {
		return nil, errors.New("make CRI server: gate, images, pods, streams, stats or log is missing")
	}
	s := &Server{o: o, metrics: chosen(o.PodMetrics), closing: make(chan struct{})}
	s.opened = openedFiles{read: o.Stats.Processes, of: map[string]*opened{}}
	s.turns = newTurns(o.Creates, pressures)
	s.pulls = newFlights[string](o.PullTimeout, nil)
	s.pods = newFlights(o.CreateTimeout, s.undoPod)
	s.creates = newFlights(o.CreateTimeout, s.undoContainer)
	return s, nil
}

// Listen makes the Unix socket path with mode 0600. A socket that a dead daemon left is replaced; one
// that somebody answers on is not (the caller holds the lock on its root, so this is another's).
func Listen(path string) (net.Listener, error) {
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("listen on %s: another process serves it", path)
	}
	if st, err := os.Lstat(path); err == nil {
		if st.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("listen on %s: it exists and is no socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", path, err)
		}
	}
	l, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

// Serve answers calls on l until ctx ends, then lets those in flight finish for a few seconds. It
// closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.MaxSendMsgSize(maxMessageBytes),
		grpc.ChainUnaryInterceptor(s.observe, s.recover),
		grpc.ChainStreamInterceptor(s.observeStream, s.recoverStream),
	)
	v1.RegisterRuntimeServiceServer(srv, s)
	v1.RegisterImageServiceServer(srv, s)
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		close(s.closing) // events have no end of their own
		t := time.AfterFunc(drain, srv.Stop)
		srv.GracefulStop()
		t.Stop()
	})
	if err := srv.Serve(l); err != nil && stop() {
		return fmt.Errorf("serve CRI: %w", err)
	}
	<-stopped
	return nil
}
