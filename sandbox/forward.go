package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/enforce"
)

// ErrPort means that the port was not judged.
var ErrPort = errors.New("port was not admitted")

const (
	dialWait = 10 * time.Second // for a connection inside a pod: both ends are on this node
	silence  = time.Minute      // of the pod, after the client has ended its input
	halfOpen = time.Second      // for the client's last bytes, after the pod has closed
)

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

// Moved is how many bytes a connection carried.
type Moved struct{ In, Out int64 } // to the pod, from the pod

// Serve connects a client to an admitted port on the pod's own loopback, IPv4 or else IPv6, and copies
// both ways until the pod closes the connection or ctx ends. A client that has ended its input still gets
// the answer. client stays the caller's: a read or write of it that hangs is left behind.
func (f *Forward) Serve(ctx context.Context, port uint16, client io.ReadWriter) (Moved, error) {
	conn, err := f.dial(ctx, port)
	if err != nil {
		return Moved{}, fmt.Errorf("port-forward to pod %s: %w", f.pod.id, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var in, out counter
	sent := make(chan struct{})
	go func() {
		io.Copy(io.MultiWriter(conn, &in), struct{ io.Reader }{client})
		conn.CloseWrite()
		close(sent)
		for last := int64(-1); out.Load() != last; time.Sleep(silence) { // the pod may never close
			last = out.Load()
		}
		conn.Close()
	}()
	io.Copy(io.MultiWriter(client, &out), struct{ io.Reader }{conn})
	select {
	case <-sent:
	case <-ctx.Done():
	case <-time.After(halfOpen):
	}
	return Moved{In: in.Load(), Out: out.Load()}, nil
}

type counter struct{ atomic.Int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.Add(int64(len(p)))
	return len(p), nil
}

func (f *Forward) dial(ctx context.Context, port uint16) (conn *net.TCPConn, err error) {
	if !slices.Contains(f.ports, port) {
		return nil, fmt.Errorf("%d: %w", port, ErrPort)
	}
	if f.pod.Status().State != Ready {
		return nil, ErrNotReady
	}
	ctx, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	err = inNetwork(f.pod.NetNS(), func() error {
		var first error
		for _, ip := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()} {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", netip.AddrPortFrom(ip, port).String())
			if err == nil {
				conn = c.(*net.TCPConn)
				return nil
			}
			if first == nil {
				first = err
			}
		}
		return first
	})
	return conn, err
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
