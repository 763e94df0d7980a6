package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/enforce"
)

// ErrPort means that the port was not judged.
var ErrPort = errors.New("port was not admitted")

// dialWait is how long a connection inside a pod may take: both ends are on this node.
const dialWait = 10 * time.Second

// Forward reaches the admitted ports of a pod. It may be used concurrently.
type Forward struct {
	pod   *Pod     // constant
	ports []uint16 // constant
}

// PortForward redeems permission to reach ports of the pod.
func (p *Pod) PortForward(adm enforce.PortForwardAdmission) (*Forward, error) {
	grant, err := p.pods.opt.Gate.RedeemPortForward(adm)
	if err != nil {
		return nil, fmt.Errorf("port-forward to pod %s: %w", p.id, err)
	}
	if grant.Subject() != p.id {
		return nil, fmt.Errorf("port-forward to pod %s: %w", p.id, ErrMismatch)
	}
	if p.Status().State != Ready {
		return nil, fmt.Errorf("port-forward to pod %s: %w", p.id, ErrNotReady)
	}
	return &Forward{pod: p, ports: grant.Ports()}, nil
}

// Dial connects to an admitted port on the pod's own loopback, IPv4 and then IPv6. The caller closes the
// connection.
func (f *Forward) Dial(ctx context.Context, port uint16) (net.Conn, error) {
	if !slices.Contains(f.ports, port) {
		return nil, fmt.Errorf("port-forward to pod %s: %d: %w", f.pod.id, port, ErrPort)
	}
	if f.pod.Status().State != Ready {
		return nil, fmt.Errorf("port-forward to pod %s: %w", f.pod.id, ErrNotReady)
	}
	ctx, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	var conn net.Conn
	err := inNetwork(f.pod.NetNS(), func() (err error) {
		var errs []error
		for _, ip := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()} {
			var d net.Dialer
			if conn, err = d.DialContext(ctx, "tcp", netip.AddrPortFrom(ip, port).String()); err == nil {
				return nil
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return nil, fmt.Errorf("port-forward to pod %s: %w", f.pod.id, err)
	}
	return conn, nil
}

// inNetwork calls do on a thread in the network namespace pinned at path; "" is the daemon's own. do must
// make its sockets in the calling goroutine, which keep the namespace they were made in. A thread that
// cannot be brought back is ended with its goroutine.
func inNetwork(path string, do func() error) error {
	if path == "" {
		return do()
	}
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("enter network: %w", err)
	}
	defer ns.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter network: %w", err)
			return
		}
		defer own.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter network: %w", err)
			return
		}
		err = do()
		if unix.Setns(int(own.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
