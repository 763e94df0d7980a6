package monitor

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// fakeConmon listens as conmon does; each connection goes to serve.
func fakeConmon(t *testing.T, serve func(*net.UnixConn)) Target {
	t.Helper()
	dir := t.TempDir()
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(dir, "attach"), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return Target{Bundle: dir, Stdin: StdinOpen}
}

type stuck struct{ release chan struct{} }

func (s stuck) Write(p []byte) (int, error) { <-s.release; return len(p), nil }

// A client that takes nothing is given up; what the others get, and conmon, go on.
func TestSlowClient(t *testing.T) {
	const total = 4 * queue
	sent := make(chan bool)
	to := fakeConmon(t, func(c *net.UnixConn) {
		time.Sleep(100 * time.Millisecond) // until both are there
		packet := bytes.Repeat([]byte{packetStdout}, 1024)
		for range total {
			if _, err := c.Write(packet); err != nil {
				t.Error(err)
			}
		}
		close(sent)
		c.Close()
	})
	m := New("/bin/conmon", 0)
	var wg sync.WaitGroup
	release := make(chan struct{})
	free := sync.OnceFunc(func() { close(release) })
	wg.Go(func() {
		if err := m.Attach(t.Context(), to, Streams{Stdout: stuck{release}}); !errors.Is(err, ErrSlow) {
			t.Errorf("Attach() of a stuck client = %v, want ErrSlow", err)
		}
	})
	var got bytes.Buffer
	wg.Go(func() {
		if err := m.Attach(t.Context(), to, Streams{Stdout: &got}); err != nil {
			t.Errorf("Attach() = %v, want nil", err)
		}
	})
	select {
	case <-sent:
	case <-time.After(20 * time.Second):
		t.Error("conmon is held up")
		free()
	}
	wg.Wait()
	free()
	if got.Len() != total*1023 {
		t.Errorf("the other client got %d bytes, want %d", got.Len(), total*1023)
	}
}

// All clients share one connection; it stays while a StdinOnce container's input is still to come.
func TestOneConnection(t *testing.T) {
	var mu sync.Mutex
	conns, closed := 0, make(chan bool, 10)
	serve := func(c *net.UnixConn) {
		mu.Lock()
		conns++
		mu.Unlock()
		io.Copy(io.Discard, c) // until input ends
		closed <- true
		c.Close()
	}
	for mode, stays := range map[StdinMode]bool{StdinOnce: true, StdinOpen: false, NoStdin: false} {
		to := fakeConmon(t, serve)
		to.Stdin = mode
		mu.Lock()
		conns = 0
		mu.Unlock()
		m := New("/bin/conmon", 0)
		ctx, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { m.Attach(ctx, to, Streams{Stdout: io.Discard}) })
		}
		time.Sleep(50 * time.Millisecond)
		leave()
		wg.Wait()
		select {
		case <-closed:
			if stays {
				t.Errorf("mode %d: input ended when clients without any left", mode)
			}
		case <-time.After(300 * time.Millisecond):
			if !stays {
				t.Errorf("mode %d: the connection stays after all have left", mode)
			}
		}
		mu.Lock()
		if conns != 1 {
			t.Errorf("mode %d: %d connections, want 1", mode, conns)
		}
		mu.Unlock()
		if stays { // the first client with input ends it
			if err := m.Attach(t.Context(), to, Streams{Stdin: bytes.NewReader([]byte("x"))}); err != nil {
				t.Errorf("Attach() = %v", err)
			}
			select {
			case <-closed:
			case <-time.After(5 * time.Second):
				t.Error("input does not end with the client's")
			}
		}
	}
}

func TestPacket(t *testing.T) {
	var out, errs bytes.Buffer
	s := Streams{Stdout: &out, Stderr: &errs}
	for text, want := range map[string]io.Writer{"\x02x": &out, "\x03x": &errs, "\x01x": nil, "\x02": nil, "": nil, "x": nil} {
		if to, _ := Packet([]byte(text), s); to != want {
			t.Errorf("Packet(%q) goes to %v, want %v", text, to, want)
		}
	}
	if to, _ := Packet([]byte("\x03x"), Streams{Stdout: &out}); to != nil {
		t.Error("Packet() goes where nothing was asked for")
	}
}
