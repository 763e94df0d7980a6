package admin

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/enforce"
	"sallyport/enforce/enforcetest"
	"sallyport/image"
	"sallyport/internal/admin/wire"
	"sallyport/internal/rejudge"
	"sallyport/internal/selftest"
	"sallyport/policy/baseline"
	"sallyport/sandbox"
	"sallyport/test/roottest"
)

// rooms are a gate, a store and pods of a test, with nothing in them.
func rooms(t *testing.T, gate *enforce.Gate) Options {
	t.Helper()
	roottest.Need(t)
	root := t.TempDir()
	images, err := image.Open(image.Options{Root: root, RunRoot: t.TempDir(), Gate: gate})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		images.Close()
		for _, mount := range []string{"containers", "storage/overlay"} { // the store's own, which outlive it
			if err := unix.Unmount(filepath.Join(root, mount), unix.MNT_DETACH); err != nil && err != unix.EINVAL {
				t.Errorf("unmount %s: %v", mount, err)
			}
		}
	})
	pods, err := sandbox.New(sandbox.Options{Root: t.TempDir(), State: t.TempDir(), Gate: gate, Images: images,
		Runtimes: map[string]string{"": "/bin/true"}, Conmon: "/bin/true", Init: "/bin/true"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pods.Close)
	judge, err := rejudge.New(rejudge.Options{Gate: gate, Pods: pods, Every: time.Hour, Log: slog.New(slog.DiscardHandler),
		Request: func(*sandbox.Container) (enforce.RunRequest, error) { return enforce.RunRequest{}, nil }})
	if err != nil {
		t.Fatal(err)
	}
	test, err := selftest.New(selftest.Options{Socket: filepath.Join(t.TempDir(), "cri.sock"), Dir: filepath.Join(t.TempDir(), "probes"), Gate: gate, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return Options{Gate: gate, Images: images, Pods: pods, Judge: judge, Test: test, Policy: func() wire.Policy { return wire.Policy{Source: "test"} }, Log: slog.New(slog.DiscardHandler)}
}

// serve runs a server on a socket and returns the socket's path.
func serve(t *testing.T, o Options) string {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "sallyport-admin-") // a socket's path is at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	os.Chmod(dir, 0o755)
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve() = %v", err)
		}
	})
	return path
}

func TestCallsAnswer(t *testing.T) {
	path := serve(t, rooms(t, enforcetest.Gate(t, baseline.Floor{})))
	c := wire.New(path)
	var ps wire.Ps
	if err := c.Do(t.Context(), wire.CallPs, wire.Empty{}, &ps); err != nil || ps.Containers == nil || len(ps.Containers) != 0 {
		t.Errorf("ps = %+v, %v, want an empty list", ps, err)
	}
	var p wire.Policy
	if err := c.Do(t.Context(), wire.CallPolicy, wire.Empty{}, &p); err != nil || p.Source != "test" {
		t.Errorf("policy/status = %+v, %v", p, err)
	}
}

// What is not a request of the protocol is refused by name; the twin is a request.
func TestRequestsRefused(t *testing.T) {
	path := serve(t, rooms(t, enforcetest.Gate(t, baseline.Floor{})))
	for _, tt := range []struct {
		name, method, path, body string
		status                   int
		want                     string
	}{
		{"twin", "POST", "/v1/ps", "{}", 200, "containers"},
		{"empty twin", "POST", "/v1/ps", "", 200, "containers"},
		{"unknown field", "POST", "/v1/ps", `{"all": true}`, 400, "unknown field"},
		{"more than one object", "POST", "/v1/ps", `{}{}`, 400, "not one JSON object"},
		{"a list", "POST", "/v1/ps", `[]`, 400, "not one JSON object"},
		{"spaces", "POST", "/v1/ps", "  ", 400, "not one JSON object"},
		{"no JSON", "POST", "/v1/ps", `{`, 400, "not one JSON object"},
		{"too long", "POST", "/v1/ps", `{"a":"` + strings.Repeat("x", wire.MaxRequest) + `"}`, 413, "too large"},
		{"read with GET", "GET", "/v1/ps", "", 405, ""},
		{"unknown call", "POST", "/v1/shell", "{}", 404, ""},
		{"no version", "POST", "/ps", "{}", 404, ""},
	} {
		status, body := raw(t, path, tt.method, tt.path, tt.body)
		if status != tt.status || !strings.Contains(body, tt.want) {
			t.Errorf("%s: %d %.200s, want %d with %q", tt.name, status, body, tt.status, tt.want)
		}
	}
}

func raw(t *testing.T, socket, method, path, body string) (int, string) {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", method, path, len(body), body)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// Another user is cut off before a byte is read, even where the socket's mode lets him connect; the
// twin differs in the user alone.
func TestOtherUsersAreCutOff(t *testing.T) {
	path := serve(t, rooms(t, enforcetest.Gate(t, baseline.Floor{})))
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, uid := range []int{os.Geteuid(), 65534} {
		n, err := askAs(path, uid)
		if served := n > 0 && err == nil; served != (uid == os.Geteuid()) {
			t.Errorf("user %d: %d bytes, %v", uid, n, err)
		}
	}
}

// askAs asks as a user and returns how many bytes came back.
func askAs(path string, uid int) (int, error) {
	type answer struct {
		n   int
		err error
	}
	out := make(chan answer)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its other user
		n, err := func() (int, error) {
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
				return 0, errno
			}
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return 0, err
			}
			defer unix.Close(fd)
			if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
				return 0, err
			}
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})
			if _, err := unix.SendmsgN(fd, []byte("POST /v1/ps HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"), nil, nil, unix.MSG_NOSIGNAL); err != nil {
				return 0, err
			}
			return unix.Read(fd, make([]byte, 100))
		}()
		out <- answer{n, err}
	}()
	a := <-out
	return a.n, a.err
}

// More calls at once than maxCalls are refused, and served again when there is room.
func TestCallsAreBounded(t *testing.T) {
	o := rooms(t, enforcetest.Gate(t, baseline.Floor{}))
	hold, entered := make(chan struct{}), make(chan struct{}, maxCalls+1)
	o.Policy = func() wire.Policy { entered <- struct{}{}; <-hold; return wire.Policy{} }
	path := serve(t, o)
	done := make(chan error, maxCalls)
	for range maxCalls {
		go func() { done <- wire.New(path).Do(context.Background(), wire.CallPolicy, wire.Empty{}, &wire.Policy{}) }()
	}
	for range maxCalls {
		select {
		case <-entered:
		case <-time.After(5 * time.Second):
			t.Fatal("the calls do not come in")
		}
	}
	err := wire.New(path).Do(t.Context(), wire.CallPs, wire.Empty{}, &wire.Ps{})
	if r, ok := err.(*wire.Refused); !ok || r.Status != http.StatusServiceUnavailable {
		t.Errorf("a call beyond the bound = %v, want 503", err)
	}
	close(hold)
	for range maxCalls {
		if err := <-done; err != nil {
			t.Errorf("a call within the bound = %v", err)
		}
	}
	if err := wire.New(path).Do(t.Context(), wire.CallPs, wire.Empty{}, &wire.Ps{}); err != nil {
		t.Errorf("a call afterwards = %v", err)
	}
}

// A call that panics answers so and takes nothing with it.
func TestCallPanics(t *testing.T) {
	o := rooms(t, enforcetest.Gate(t, baseline.Floor{}))
	o.Policy = func() wire.Policy { panic("boom") }
	path := serve(t, o)
	if status, body := raw(t, path, "POST", "/v1/policy/status", ""); status != 500 || !strings.Contains(body, "boom") {
		t.Errorf("a panic answered %d %s", status, body)
	}
	if status, _ := raw(t, path, "POST", "/v1/ps", ""); status != 200 {
		t.Errorf("a call after a panic answered %d", status)
	}
}
