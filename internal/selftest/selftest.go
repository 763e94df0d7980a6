// Package selftest proves that the running daemon enforces: it goes to the daemon's own CRI socket as any
// client does, and asks for images that are signed, unsigned, tampered with and signed by a key that has
// ended, and for a pod, all in a namespace of its own (policy.ProbeNamespace). The images are part of the
// daemon, hold no program, and cannot become containers; no node has a key that could sign another
// (test/selftestgen). What was pulled is removed.
package selftest

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/audit"
	"sallyport/enforce"
	"sallyport/internal/admin/wire"
	"sallyport/policy"
)

//go:embed all:probes
var probes embed.FS

// Limit is how long a self-test may take.
const Limit = time.Minute

// ErrBusy is that one is under way.
var ErrBusy = errors.New("a self-test is under way; ask again")

// cases are what is asked, and the rule that must deny it; "" must be admitted.
var cases = []struct{ name, rule string }{
	{"signed", ""},
	{"unsigned", "selftest-signed"},
	{"tampered", "selftest-signed"},
	{"expired", "selftest-signed"},
	{"pod", "selftest-namespace"},
}

// Options are the parts of a Tester; all are needed.
type Options struct {
	Socket string // of the daemon, where it speaks CRI
	Dir    string // of Local in the image store for policy.ProbeRepository; exists during a self-test alone
	Gate   *enforce.Gate
	Log    *slog.Logger
}

// Tester asks. It may be used concurrently; a second self-test at once gets ErrBusy.
type Tester struct {
	o    Options                       // constant
	busy sync.Mutex                    // held during a self-test
	last atomic.Pointer[wire.SelfTest] // of those that came to an end; nil: none
}

// New wires a Tester and starts nothing.
func New(o Options) (*Tester, error) {
	if o.Socket == "" || o.Dir == "" || o.Gate == nil || o.Log == nil {
		return nil, errors.New("make self-test: socket, directory, gate or log is missing")
	}
	return &Tester{o: o}, nil
}

// Last is the outcome of the last self-test that was recorded; false: there was none since the start.
func (t *Tester) Last() (wire.SelfTest, bool) {
	if p := t.last.Load(); p != nil {
		return *p, true
	}
	return wire.SelfTest{}, false
}

// Trouble says on one line what the last self-test saw admitted that must be denied; "" for nothing.
func (t *Tester) Trouble() string {
	last, _ := t.Last()
	var open []string
	for _, p := range last.Probes {
		if p.Want == "deny" && p.Got == "admit" {
			open = append(open, p.Name)
		}
	}
	if len(open) == 0 {
		return ""
	}
	return fmt.Sprintf("the self-test at %s was admitted with what must be denied: %s", last.Time.UTC().Format(time.RFC3339), strings.Join(open, ", "))
}

// Ask probes the daemon and records the outcome; without a record there is no outcome.
func (t *Tester) Ask(ctx context.Context) (out wire.SelfTest, err error) {
	if !t.busy.TryLock() {
		return out, ErrBusy
	}
	defer t.busy.Unlock()
	ctx, cancel := context.WithTimeout(ctx, Limit)
	defer cancel()
	layouts, err := fs.Sub(probes, "probes")
	if err == nil {
		err = os.RemoveAll(t.o.Dir) // of one that was cut short
	}
	if err == nil {
		err = os.CopyFS(t.o.Dir, layouts)
	}
	defer os.RemoveAll(t.o.Dir)
	if err != nil {
		return out, fmt.Errorf("lay out the self-test's images: %w", err)
	}
	conn, err := grpc.NewClient("unix://"+t.o.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return out, fmt.Errorf("self-test: %w", err)
	}
	defer conn.Close()
	c := client{v1.NewRuntimeServiceClient(conn), v1.NewImageServiceClient(conn)}
	out = wire.SelfTest{Passed: true, Time: time.Now().UTC()}
	for _, k := range cases {
		p := judge(k.name, k.rule, c.ask(ctx, k.name))
		out.Passed = out.Passed && p.OK
		out.Probes = append(out.Probes, p)
	}
	if err := t.o.Gate.Record(ctx, event(out)); err != nil {
		return wire.SelfTest{}, fmt.Errorf("record self-test: %w", err)
	}
	t.last.Store(&out)
	if !out.Passed {
		t.o.Log.Error("self-test failed", "probes", fmt.Sprintf("%+v", out.Probes))
	}
	return out, nil
}

// event is the record of a self-test: each probe that did not get the answer it must get is a hit.
func event(out wire.SelfTest) audit.Event {
	ev := audit.Event{Type: "selftest", Outcome: "passed", Namespace: policy.ProbeNamespace, Detail: map[string]string{}}
	if !out.Passed {
		ev.Outcome = "failed"
	}
	for _, p := range out.Probes {
		ev.Detail[p.Name] = p.Got
		if !p.OK {
			ev.Hits = append(ev.Hits, audit.Hit{Layer: "selftest", Rule: p.Name, Msg: p.Want + " was wanted: " + p.Msg})
		}
	}
	return ev
}

// deniedBy finds the rule in a refusal (enforce.Denied).
var deniedBy = regexp.MustCompile(`denied by rule "([^"]+)"`)

// judge compares an answer with the one that must come: a refusal counts by its rule alone, and a fault is
// no refusal.
func judge(name, rule string, err error) wire.Probe {
	p := wire.Probe{Name: name, Want: "admit", Got: "admit", Rule: rule}
	if rule != "" {
		p.Want = "deny"
	}
	if err != nil {
		p.Got, p.Msg = "fault", status.Convert(err).Message()
		if m := deniedBy.FindStringSubmatch(p.Msg); m != nil {
			p.Got = "deny"
			p.OK = rule != "" && m[1] == rule
		}
		return p
	}
	p.OK = rule == ""
	if !p.OK {
		p.Msg = "it was admitted"
	}
	return p
}

// client speaks CRI.
type client struct {
	runtime v1.RuntimeServiceClient
	images  v1.ImageServiceClient
}

// ask makes one probe, and undoes what was admitted.
func (c client) ask(ctx context.Context, name string) error {
	pod := &v1.PodSandboxConfig{Metadata: &v1.PodSandboxMetadata{Namespace: policy.ProbeNamespace, Name: "selftest", Uid: "selftest"},
		Linux: &v1.LinuxPodSandboxConfig{}}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), Limit)
	defer cancel()
	if name == "pod" {
		made, err := c.runtime.RunPodSandbox(ctx, &v1.RunPodSandboxRequest{Config: pod})
		if err == nil {
			_, _ = c.runtime.RemovePodSandbox(undo, &v1.RemovePodSandboxRequest{PodSandboxId: made.GetPodSandboxId()}) // it must not exist, which the answer says
		}
		return err
	}
	at := policy.ProbeRepository + ":" + name
	_, err := c.images.PullImage(ctx, &v1.PullImageRequest{Image: &v1.ImageSpec{Image: at}, SandboxConfig: pod})
	if err != nil {
		return err
	}
	if _, err := c.images.RemoveImage(undo, &v1.RemoveImageRequest{Image: &v1.ImageSpec{Image: at}}); err != nil {
		return fmt.Errorf("remove the image that was admitted: %w", err)
	}
	return nil
}
