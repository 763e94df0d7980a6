package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/audit"
	"sallyport/test/node"
	"sallyport/test/streamclient"
)

type opener func(url string, a streamclient.Ask) (*streamclient.Client, error)

var protocols = map[string]opener{"SPDY": streamclient.SPDY, "WebSocket": streamclient.WebSocket, "WebSocket5": streamclient.WebSocketV5}

// execURL asks for a command.
func (w *world) execURL(id string, a streamclient.Ask, cmd ...string) (string, error) {
	r, err := w.Runtime.Exec(w.ctx, &cri.ExecRequest{ContainerId: id, Cmd: cmd, Stdin: a.Stdin, Stdout: a.Stdout, Stderr: a.Stderr, Tty: a.TTY})
	return r.GetUrl(), err
}

func (w *world) stream(t *testing.T, open opener, id string, a streamclient.Ask, cmd ...string) *streamclient.Client {
	t.Helper()
	url, err := w.execURL(id, a, cmd...)
	if err != nil {
		t.Fatal(err)
	}
	c, err := open(url, a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func drained(r io.Reader) <-chan string {
	out := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(r)
		out <- string(b)
	}()
	return out
}

func TestExecStreams(t *testing.T) {
	w := start(t, nil, "")
	_, id, _ := w.running(w.push("open/app", v1.Config{}), "exec", "/bin/sleep", "1000")
	for name, open := range protocols {
		t.Run(name, func(t *testing.T) {
			t.Run("output and code", func(t *testing.T) {
				a := streamclient.Ask{Stdout: true, Stderr: true}
				c := w.stream(t, open, id, a, "/bin/sh", "-c", "echo out; echo err >&2; exit 7")
				out, errs := drained(c.Stdout), drained(c.Stderr)
				if code, err := c.Wait(); err != nil || code != 7 {
					t.Errorf("Wait() = %d, %v, want 7", code, err)
				}
				if o, e := <-out, <-errs; o != "out\n" || e != "err\n" {
					t.Errorf("output = %q, %q, want out, err", o, e)
				}
			})
			t.Run("input", func(t *testing.T) {
				a := streamclient.Ask{Stdin: true, Stdout: true}
				c := w.stream(t, open, id, a, "/bin/sh", "-c", "read line; echo got $line")
				io.WriteString(c.Stdin, "hello\n")
				out := drained(c.Stdout)
				if code, err := c.Wait(); err != nil || code != 0 {
					t.Errorf("Wait() = %d, %v, want 0", code, err)
				}
				if o := <-out; o != "got hello\n" {
					t.Errorf("output = %q, want got hello", o)
				}
			})
			t.Run("terminal", func(t *testing.T) {
				a := streamclient.Ask{Stdin: true, Stdout: true, TTY: true}
				c := w.stream(t, open, id, a, "/bin/sh", "-c", "test -t 0 && test -t 1 && echo tty; while [ \"$(stty size)\" != '33 77' ]; do sleep 0.05; done; stty size; exit 3")
				if err := c.Resize(77, 33); err != nil {
					t.Fatal(err)
				}
				out := drained(c.Stdout)
				if code, err := c.Wait(); err != nil || code != 3 {
					t.Errorf("Wait() = %d, %v, want 3", code, err)
				}
				if o := <-out; o != "tty\r\n33 77\r\n" {
					t.Errorf("output = %q, want a terminal of 33 lines and 77 columns", o)
				}
			})
			t.Run("much", func(t *testing.T) {
				c := w.stream(t, open, id, streamclient.Ask{Stdout: true}, "/bin/sh", "-c", "head -c 20000000 /dev/zero")
				out := drained(c.Stdout)
				if code, err := c.Wait(); err != nil || code != 0 {
					t.Errorf("Wait() = %d, %v, want 0", code, err)
				}
				if o := <-out; len(o) != 20000000 {
					t.Errorf("output has %d bytes, want 20000000", len(o))
				}
			})
			t.Run("no such program", func(t *testing.T) {
				c := w.stream(t, open, id, streamclient.Ask{Stdout: true}, "/nonexistent")
				if code, err := c.Wait(); err == nil || !strings.Contains(err.Error(), "no such file") {
					t.Errorf("Wait() = %d, %v, want an error that says why", code, err)
				}
			})
			t.Run("client leaves", func(t *testing.T) {
				c := w.stream(t, open, id, streamclient.Ask{Stdout: true}, "/bin/sh", "-c", "echo begun; sleep 47"+fmt.Sprint(len(name)))
				c.Stdout.Read(make([]byte, 6))
				c.Close()
				wait(t, "the command to end", func() bool {
					r, err := w.Runtime.ExecSync(w.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/ps"}})
					return err == nil && !strings.Contains(string(r.Stdout), "sleep 47"+fmt.Sprint(len(name)))
				})
			})
		})
	}
	t.Run("input to its end", func(t *testing.T) {
		c := w.stream(t, streamclient.SPDY, id, streamclient.Ask{Stdin: true, Stdout: true}, "/bin/wc", "-c")
		out := drained(c.Stdout)
		c.Stdin.Write(bytes.Repeat([]byte("x"), 3000000))
		c.Stdin.Close()
		if code, err := c.Wait(); err != nil || code != 0 {
			t.Errorf("Wait() = %d, %v, want 0", code, err)
		}
		if o := <-out; o != "3000000\n" {
			t.Errorf("output = %q, want 3000000", o)
		}
	})
}

// What is refused, each with what differs from what TestExecStreams is given.
func TestExecStreamRefused(t *testing.T) {
	w := start(t, nil, "")
	podID, id, _ := w.running(w.push("open/app", v1.Config{}), "exec", "/bin/sleep", "1000")
	all := streamclient.Ask{Stdout: true}
	if _, err := w.execURL(id, all, "/bin/forbidden"); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), `denied by rule "no-forbidden"`) {
		t.Errorf("Exec(forbidden) = %v, want PermissionDenied by the rule", err)
	}
	for _, c := range []struct {
		name string
		ask  streamclient.Ask
		cmd  []string
	}{
		{"no streams", streamclient.Ask{}, []string{"/bin/true"}},
		{"terminal and stderr", streamclient.Ask{Stdout: true, Stderr: true, TTY: true}, []string{"/bin/true"}},
		{"no command", all, nil},
	} {
		if _, err := w.execURL(id, c.ask, c.cmd...); status.Code(err) != codes.InvalidArgument {
			t.Errorf("Exec(%s) = %v, want InvalidArgument", c.name, err)
		}
	}
	if _, err := w.execURL("none", all, "/bin/true"); status.Code(err) != codes.NotFound {
		t.Errorf("Exec(unknown) = %v, want NotFound", err)
	}
	url, err := w.execURL(id, all, "/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	if token := url[strings.LastIndex(url, "/")+1:]; len(token) != 64 || !strings.HasPrefix(url, "http://127.0.0.1:") {
		t.Errorf("URL = %q, want loopback and 256 bits", url)
	}
	c, err := streamclient.SPDY(url, all)
	if err != nil {
		t.Fatal(err)
	}
	c.Wait()
	if _, err := streamclient.SPDY(url, all); err == nil {
		t.Error("a URL worked twice")
	}
	other, _ := w.execURL(id, all, "/bin/true")
	if r, err := http.Get(strings.Replace(other, "/exec/", "/attach/", 1)); err != nil || r.StatusCode != http.StatusNotFound {
		t.Errorf("a URL of another kind = %v, %v, want not found", r, err)
	}
	if _, err := w.Runtime.PortForward(w.ctx, &cri.PortForwardRequest{PodSandboxId: podID, Port: []int32{0}}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("PortForward(0) = %v, want InvalidArgument", err)
	}
	if _, err := w.Runtime.StopContainer(w.ctx, &cri.StopContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.execURL(id, all, "/bin/true"); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("Exec(stopped) = %v, want FailedPrecondition", err)
	}
}

func TestAttach(t *testing.T) {
	w := start(t, nil, "")
	image := w.push("open/app", v1.Config{})
	attach := func(t *testing.T, open opener, c *cri.ContainerConfig, a streamclient.Ask) (*streamclient.Client, string) {
		t.Helper()
		podID, pod := w.pod("default", "attach-"+c.Metadata.Name)
		w.pulled(image, pod)
		id, err := w.Create(w.ctx, podID, pod, c)
		if err == nil {
			err = w.Start(w.ctx, id)
		}
		if err != nil {
			t.Fatal(err)
		}
		r, err := w.Runtime.Attach(w.ctx, &cri.AttachRequest{ContainerId: id, Stdin: a.Stdin, Stdout: a.Stdout, Stderr: a.Stderr, Tty: a.TTY})
		if err != nil {
			t.Fatal(err)
		}
		client, err := open(r.Url, a)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		return client, id
	}
	pod := w.Pod("default", "x")
	imageID := w.pulled(image, pod)
	for name, open := range protocols {
		t.Run(name, func(t *testing.T) {
			c := node.Container(strings.ToLower(name), image, imageID, "/bin/sh", "-c", "read a; echo out $a; echo err $a >&2; read b; exit 5")
			c.Stdin = true
			client, id := attach(t, open, c, streamclient.Ask{Stdin: true, Stdout: true, Stderr: true})
			out, errs := drained(client.Stdout), drained(client.Stderr)
			io.WriteString(client.Stdin, "one\n")
			io.WriteString(client.Stdin, "two\n")
			if code, err := client.Wait(); err != nil || code != 0 {
				t.Errorf("Wait() = %d, %v, want 0 when the container ends", code, err)
			}
			if o, e := <-out, <-errs; o != "out one\n" || e != "err one\n" {
				t.Errorf("output = %q, %q", o, e)
			}
			wait(t, "the end", func() bool { return w.state(id).State == cri.ContainerState_CONTAINER_EXITED })
			if code := w.state(id).ExitCode; code != 5 {
				t.Errorf("exit code = %d, want 5", code)
			}
		})
	}
	t.Run("terminal", func(t *testing.T) {
		c := node.Container("tty", image, imageID, "/bin/sh", "-c", "while [ \"$(stty size)\" != '33 77' ]; do sleep 0.05; done; stty size; sleep 0.2")
		c.Stdin, c.Tty = true, true
		client, _ := attach(t, streamclient.SPDY, c, streamclient.Ask{Stdin: true, Stdout: true, TTY: true})
		out := drained(client.Stdout)
		if err := client.Resize(77, 33); err != nil {
			t.Fatal(err)
		}
		client.Wait()
		if o := <-out; !strings.Contains(o, "33 77\r\n") {
			t.Errorf("output = %q, want 33 lines and 77 columns", o)
		}
	})
	t.Run("stdin once", func(t *testing.T) {
		c := node.Container("once", image, imageID, "/bin/sh", "-c", "wc -c; sleep 0.2")
		c.Stdin, c.StdinOnce = true, true
		client, id := attach(t, streamclient.SPDY, c, streamclient.Ask{Stdin: true, Stdout: true})
		out := drained(client.Stdout)
		client.Stdin.Write(bytes.Repeat([]byte("y"), 100000))
		client.Stdin.Close()
		if _, err := client.Wait(); err != nil {
			t.Errorf("Wait() = %v", err)
		}
		if o := <-out; o != "100000\n" {
			t.Errorf("output = %q, want 100000", o)
		}
		wait(t, "the end", func() bool { return w.state(id).State == cri.ContainerState_CONTAINER_EXITED })
	})
	t.Run("stdin stays open", func(t *testing.T) {
		c := node.Container("open", image, imageID, "/bin/cat")
		c.Stdin = true
		client, id := attach(t, streamclient.SPDY, c, streamclient.Ask{Stdin: true, Stdout: true})
		client.Stdin.Write([]byte("first\n"))
		io.ReadFull(client.Stdout, make([]byte, 6))
		client.Stdin.Close()
		if _, err := client.Wait(); err != nil {
			t.Errorf("Wait() = %v, want the client to be let go", err)
		}
		if st := w.state(id); st.State != cri.ContainerState_CONTAINER_RUNNING {
			t.Errorf("state = %v, want running", st.State)
		}
	})
}

func TestAttachDenied(t *testing.T) {
	w := start(t, map[string]string{"node/rego/exec.rego": "package sallyport.exec\n\ndeny contains {\"rule\": \"nobody-enters\", \"msg\": \"no way in\"} if input.pod.name == \"closed\"\n"}, "")
	image := w.push("open/app", v1.Config{})
	for name, want := range map[string]codes.Code{"open": codes.OK, "closed": codes.PermissionDenied} {
		_, id, _ := w.running(image, name, "/bin/sleep", "1000")
		_, err := w.Runtime.Attach(w.ctx, &cri.AttachRequest{ContainerId: id, Stdout: true})
		if status.Code(err) != want || err != nil && !strings.Contains(err.Error(), `denied by rule "nobody-enters"`) {
			t.Errorf("Attach(%s) = %v, want %v", name, err, want)
		}
	}
}

func TestPortForward(t *testing.T) {
	w := start(t, map[string]string{
		"node/bundle.yaml":           "name: node\nrevision: 1\nrego: [sallyport.exec, sallyport.portforward]\nnamespaces:\n  unlisted: allow\n",
		"node/rego/portforward.rego": "package sallyport.portforward\n\ndeny contains {\"rule\": \"no-admin-port\", \"msg\": \"port 9999 is for nobody\"} if 9999 in input.ports\n",
	}, "")
	podID, id, _ := w.running(w.push("open/app", v1.Config{}), "web", "/bin/sh", "-c", "mkdir /tmp/www; echo hello from the pod > /tmp/www/index.html; httpd -f -p 127.0.0.1:8080 -h /tmp/www")
	wait(t, "the server", func() bool {
		r, err := w.Runtime.ExecSync(w.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/wget", "-q", "-O", "-", "http://127.0.0.1:8080/index.html"}})
		return err == nil && r.ExitCode == 0
	})
	ask := func(ports ...int32) (string, error) {
		r, err := w.Runtime.PortForward(w.ctx, &cri.PortForwardRequest{PodSandboxId: podID, Port: ports})
		return r.GetUrl(), err
	}
	const request = "GET /index.html HTTP/1.0\r\n\r\n"
	t.Run("SPDY", func(t *testing.T) {
		url, err := ask()
		if err != nil {
			t.Fatal(err)
		}
		open, stop, err := streamclient.Forward(url)
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		for range 3 {
			data, _, err := open(8080)
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(data, request)
			if b, _ := io.ReadAll(data); !strings.Contains(string(b), "hello from the pod") {
				t.Errorf("answer = %q", b)
			}
			data.Close()
		}
		for port, want := range map[int]string{8081: "connection refused", 9999: `denied by rule "no-admin-port"`} {
			_, problem, err := open(port)
			if err != nil {
				t.Fatal(err)
			}
			if b, _ := io.ReadAll(problem); !strings.Contains(string(b), want) {
				t.Errorf("port %d: problem = %q, want %q", port, b, want)
			}
		}
	})
	t.Run("WebSocket", func(t *testing.T) {
		url, err := ask(8080)
		if err != nil {
			t.Fatal(err)
		}
		data, _, stop, err := streamclient.ForwardWebSocket(url)
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		io.WriteString(data, request)
		if b, _ := io.ReadAll(data); !strings.Contains(string(b), "hello from the pod") {
			t.Errorf("answer = %q", b)
		}
	})
	if _, err := ask(9999); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), `denied by rule "no-admin-port"`) {
		t.Errorf("PortForward(9999) = %v, want PermissionDenied by the rule", err)
	}
	if _, err := ask(8080); err != nil {
		t.Errorf("PortForward(8080) = %v, want nil", err)
	}
}

// Each stream leaves a record of its own when it ends.
func TestStreamRecords(t *testing.T) {
	w := start(t, nil, "")
	_, id, _ := w.running(w.push("open/app", v1.Config{}), "rec", "/bin/sleep", "1000")
	c := w.stream(t, streamclient.SPDY, id, streamclient.Ask{Stdout: true}, "/bin/sh", "-c", "echo 12345; exit 9")
	out := drained(c.Stdout)
	c.Wait()
	<-out
	wait(t, "the record", func() (found bool) {
		audit.Read(w.Path("root/audit"), func(r audit.Record) error {
			ev := r.Event
			found = found || ev.Type == "stream" && ev.Verb == "exec" && ev.ID == id && ev.Pod == "rec" && len(ev.Argv) == 3 &&
				ev.Detail["exitCode"] == "9" && ev.Detail["stdout"] == "6" && ev.Detail["duration"] != ""
			return nil
		})
		return found
	})
}
