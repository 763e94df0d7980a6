package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/enforce"
	"sallyport/policy"
	"sallyport/sandbox/spec"
	"sallyport/sandbox/stream"
	"sallyport/test/streamclient"
)

func (n *node) admitExec(c *Container, tty bool, args ...string) enforce.ExecAdmission {
	n.tb.Helper()
	data, err := c.Spec()
	must(n.tb, err)
	process, err := spec.BuildExec(spec.ExecInput{Spec: data, Args: args, Terminal: tty})
	must(n.tb, err)
	adm, err := n.gate.AdmitExec(n.tb.Context(), enforce.ExecRequest{Pod: policyPod(c.pod.cfg), PodID: c.pod.id,
		Container: policy.Container{Name: c.cfg.Name, ID: c.id}, Exec: policy.Exec{Argv: args, TTY: tty}, Process: string(process), Spec: string(data)})
	must(n.tb, err)
	return adm
}

func (n *node) admitAttach(c *Container) enforce.AttachAdmission {
	n.tb.Helper()
	adm, err := n.gate.AdmitAttach(context.Background(), enforce.AttachRequest{Pod: policyPod(c.pod.cfg), PodID: c.pod.id,
		Container: policy.Container{Name: c.cfg.Name, ID: c.id}})
	must(n.tb, err)
	return adm
}

func (n *node) admitPorts(p *Pod, ports ...uint16) enforce.PortForwardAdmission {
	n.tb.Helper()
	adm, err := n.gate.AdmitPortForward(n.tb.Context(), enforce.PortForwardRequest{Pod: policyPod(p.cfg), PodID: p.id, Ports: ports})
	must(n.tb, err)
	return adm
}

func TestStreamsNeedAdmission(t *testing.T) {
	n := newNode(t)
	p := n.pod(podConfig("a"))
	c, d := n.run(p, script("app", "sleep 1000")), n.run(p, script("other", "sleep 1000"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // an attach that is let in would stay
	defer cancel()
	if _, err := c.Exec(ctx, enforce.ExecAdmission{}, Streams{}); !errors.Is(err, enforce.ErrForged) {
		t.Errorf("Exec() = %v, want ErrForged", err)
	}
	if err := c.Attach(ctx, enforce.AttachAdmission{}, Streams{}); !errors.Is(err, enforce.ErrForged) {
		t.Errorf("Attach() = %v, want ErrForged", err)
	}
	if _, err := p.PortForward(enforce.PortForwardAdmission{}); !errors.Is(err, enforce.ErrForged) {
		t.Errorf("PortForward() = %v, want ErrForged", err)
	}
	// An admission of one kind is none of another, though Go converts between their types.
	if _, err := c.Exec(ctx, enforce.ExecAdmission(n.admitAttach(c)), Streams{}); !errors.Is(err, enforce.ErrForged) {
		t.Errorf("Exec() with an attach admission = %v, want ErrForged", err)
	}
	if err := c.Attach(ctx, enforce.AttachAdmission(n.admitExec(c, false, "true")), Streams{}); !errors.Is(err, enforce.ErrForged) {
		t.Errorf("Attach() with an exec admission = %v, want ErrForged", err)
	}
	if _, err := c.Exec(ctx, n.admitExec(d, false, "true"), Streams{}); !errors.Is(err, ErrMismatch) {
		t.Errorf("Exec() with another container's admission = %v, want ErrMismatch", err)
	}
	if err := c.Attach(ctx, n.admitAttach(d), Streams{}); !errors.Is(err, ErrMismatch) {
		t.Errorf("Attach() with another container's admission = %v, want ErrMismatch", err)
	}
	q := n.pod(podConfig("b"))
	if _, err := p.PortForward(n.admitPorts(q, 80)); !errors.Is(err, ErrMismatch) {
		t.Errorf("PortForward() with another pod's admission = %v, want ErrMismatch", err)
	}
	adm := n.admitExec(c, false, "sh", "-c", "exit 4")
	if code, err := c.Exec(ctx, adm, Streams{}); err != nil || code != 4 {
		t.Errorf("Exec() = %d, %v, want 4", code, err)
	}
	if _, err := c.Exec(ctx, adm, Streams{}); !errors.Is(err, enforce.ErrRedeemed) {
		t.Errorf("Exec() again = %v, want ErrRedeemed", err)
	}
	must(t, c.Stop(ctx, 0))
	if err := c.Attach(ctx, n.admitAttach(c), Streams{}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Attach() to a stopped container = %v, want ErrNotRunning", err)
	}
}

// A port that was not judged is not reached, though it is open.
func TestForwardReachesJudgedPorts(t *testing.T) {
	n := newNode(t)
	p := n.pod(podConfig("a"))
	c := script("srv", "nc -l -p 7001 -e cat & nc -l -p 7002 -e cat & sleep 1000")
	n.run(p, c)
	ours, err := os.Readlink("/proc/self/ns/net")
	must(t, err)
	f, err := p.PortForward(n.admitPorts(p, 7001))
	must(t, err)
	if _, err := f.Serve(t.Context(), 7002, new(bytes.Buffer)); !errors.Is(err, ErrPort) {
		t.Errorf("Serve(7002) = %v, want ErrPort", err)
	}
	none, err := p.PortForward(n.admitPorts(p))
	must(t, err)
	if _, err := none.Serve(t.Context(), 7001, new(bytes.Buffer)); !errors.Is(err, ErrPort) {
		t.Errorf("Serve() of a grant without ports = %v, want ErrPort", err)
	}
	near, far := net.Pipe()
	defer near.Close()
	served := make(chan error, 1)
	var moved Moved
	go func() {
		var err error
		for range 100 { // until nc listens
			if moved, err = f.Serve(t.Context(), 7001, far); err == nil || !strings.Contains(err.Error(), "refused") {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		far.Close()
		served <- err
	}()
	near.SetDeadline(time.Now().Add(10 * time.Second))
	_, err = near.Write([]byte("ping"))
	must(t, err)
	buf := make([]byte, 4)
	if _, err := io.ReadFull(near, buf); err != nil || string(buf) != "ping" {
		t.Errorf("answer = %q, %v, want ping", buf, err)
	}
	near.Close()
	if err := <-served; err != nil || moved != (Moved{In: 4, Out: 4}) {
		t.Errorf("Serve() = %+v, %v, want 4 bytes each way", moved, err)
	}
	// No thread stayed behind in the pod's network.
	tasks, _ := filepath.Glob("/proc/self/task/*/ns/net")
	for _, task := range tasks {
		if ns, err := os.Readlink(task); err == nil && ns != ours {
			t.Errorf("%s = %s, want %s", task, ns, ours)
		}
	}
	must(t, p.Stop(t.Context()))
	if _, err := f.Serve(t.Context(), 7001, new(bytes.Buffer)); !errors.Is(err, ErrNotReady) {
		t.Errorf("Serve() to a stopped pod = %v, want ErrNotReady", err)
	}
}

// A client that takes nothing does not hold up the container's end.
func TestExecStalledClient(t *testing.T) {
	n := newNode(t)
	p := n.pod(podConfig("a"))
	for _, tty := range []bool{false, true} {
		c := n.run(p, script(fmt.Sprintf("app-%t", tty), "sleep 1000"))
		adm := n.admitExec(c, tty, "sh", "-c", "head -c 1000000 /dev/zero; sleep 1000")
		stalled, client := io.Pipe()
		done := make(chan error, 1)
		go func() {
			_, err := c.Exec(t.Context(), adm, Streams{Stdout: client, Terminal: tty})
			done <- err
		}()
		stalled.Read(make([]byte, 1)) // it runs
		must(t, c.Stop(t.Context(), 0))
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Errorf("Exec() with terminal %t hangs on its client", tty)
		}
		stalled.Close()
	}
}

// CVE-2025-64329, CVE-2022-23471: clients that come and leave take nothing with them.
func TestStreamsDoNotLeak(t *testing.T) {
	n := newNode(t)
	cfg := script("app", "cat")
	cfg.Stdin, cfg.TTY = true, true
	c := n.run(n.pod(podConfig("a")), cfg)
	s := stream.New(stream.Options{Address: "127.0.0.1:0", Idle: time.Hour, Most: 10000, MostOf: 10000})
	l, err := s.Listen()
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	ask := streamclient.Ask{Stdin: true, Stdout: true, TTY: true}
	attach := func(open func(string, streamclient.Ask) (*streamclient.Client, error)) error {
		adm := n.admitAttach(c)
		url, err := s.Attach(c.ID(), stream.Terminal(ask), func(ctx context.Context, io stream.IO) error {
			return c.Attach(ctx, adm, Streams{Stdin: io.Stdin, Stdout: io.Stdout, Terminal: true, Resize: io.Resize})
		})
		if err != nil {
			return err
		}
		client, err := open(url, ask)
		if err != nil {
			return err
		}
		client.Resize(80, 24)
		fmt.Fprint(client.Stdin, "x")
		return client.Close()
	}
	rounds := 10000
	if testing.Short() {
		rounds = 200
	}
	runtime.GC()
	routines, files := runtime.NumGoroutine(), fds(t)
	jobs := make(chan int)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for i := range jobs {
				open := streamclient.SPDY
				if i%2 == 1 {
					open = streamclient.WebSocket
				}
				if err := attach(open); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range rounds {
		jobs <- i
	}
	close(jobs)
	wg.Wait()
	settled := func() bool { return runtime.NumGoroutine() <= routines+2 && fds(t) <= files+2 }
	for end := time.Now().Add(30 * time.Second); !settled() && time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond)
	}
	if !settled() {
		var b bytes.Buffer
		buf := make([]byte, 1<<20)
		b.Write(buf[:runtime.Stack(buf, true)])
		t.Errorf("after %d attaches: %d goroutines, were %d; %d descriptors, were %d\n%.6000s", rounds, runtime.NumGoroutine(), routines, fds(t), files, b.String())
	}
	t.Logf("goroutines %d -> %d, descriptors %d -> %d", routines, runtime.NumGoroutine(), files, fds(t))
	if st := c.Status(); st.State != Running {
		t.Errorf("status = %+v, want running", st)
	}
	stop()
	if err := <-served; err != nil {
		t.Errorf("Serve() = %v, want nil", err)
	}
}
