package confine

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"time"

	"sallyport/policy"
	"sallyport/policy/rego"
)

// The child's limits. The deadline of one evaluation is rego's; these only end what that one cannot.
const (
	Memory        = 512 << 20        // bytes of data, with the runtime's own
	startDeadline = 10 * time.Second // of a new child, from its start to its first word
	askDeadline   = 2 * time.Second  // of one evaluation with its wait for a processor
	buildDeadline = 5 * time.Second  // of one compilation
)

// errDied is that the child ended before it answered.
var errDied = errors.New("the process that runs the rules ended")

// Options are the parts of a Child.
type Options struct {
	Program string // that calls Init first in main; the daemon's own is /proc/self/exe
	Memory  int64  // bytes; 0 is Memory
	Log     *slog.Logger
}

// Child is the confined process: started at first use, and again after each death. It may be used
// concurrently.
type Child struct {
	program string       // constant
	memory  int64        // constant
	log     *slog.Logger // constant

	// alone is held for reading while a request is under way, and for writing by one that is tried again
	// after a death, so that the second death has one culprit.
	alone sync.RWMutex

	mu      sync.Mutex // guards the fields
	run     *running   // nil: none runs
	closed  bool
	tenants map[string]*tenant // by namespace
}

// New wires a Child and starts nothing.
func New(o Options) *Child {
	if o.Memory == 0 {
		o.Memory = Memory
	}
	return &Child{program: o.Program, memory: o.Memory, log: o.Log, tenants: map[string]*tenant{}}
}

// Close ends the process; what is asked later fails.
func (c *Child) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.run != nil {
		c.run.end()
	}
}

// Compile has the child compile the rules of a namespace, and returns them as a rule that asks it. They
// are compiled anew where the child has forgotten them. Errors name file and line.
func (c *Child) Compile(namespace string, o rego.Options) (policy.ActRule, error) {
	r := &rule{child: c, tenant: c.tenant(namespace), build: request{Modules: o.Modules, Data: o.Data, Packages: o.Packages}}
	text, err := json.Marshal(r.build)
	if err != nil {
		return nil, fmt.Errorf("compile rules: %w", err)
	}
	sum := sha256.Sum256(text)
	r.build.Key = hex.EncodeToString(sum[:])
	a, err := c.ask(context.Background(), r.tenant, r.build, buildDeadline)
	if err != nil {
		return nil, err
	}
	r.verbs = a.Verbs
	return r, nil
}

// Later is Compile put off until the rules are first asked: for rules that were compiled before, by an
// earlier run or by whoever built the bundle, of which a node may start with a thousand. Rules that do
// not compile deny, each time, with the reason.
func (c *Child) Later(namespace string, o rego.Options) (policy.ActRule, error) {
	return &later{child: c, namespace: namespace, o: o}, nil
}

// later is a rule that is compiled at first use.
type later struct {
	child     *Child       // constant
	namespace string       // constant
	o         rego.Options // constant

	mu   sync.Mutex     // guards rule; held over the compilation, which others of the namespace wait for
	rule policy.ActRule // nil: not compiled yet
}

// JudgeAct compiles the rules where nobody did yet, and asks them.
func (l *later) JudgeAct(ctx context.Context, act policy.Act, claims []policy.Claim) (deny, warn []policy.Hit, err error) {
	r, err := l.compiled()
	if err != nil {
		return nil, nil, err
	}
	return r.JudgeAct(ctx, act, claims)
}

func (l *later) compiled() (policy.ActRule, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rule == nil {
		r, err := l.child.Compile(l.namespace, l.o)
		if err != nil {
			return nil, err
		}
		l.rule = r
	}
	return l.rule, nil
}

// rule is the compiled Rego of one namespace. It is immutable.
type rule struct {
	child  *Child
	tenant *tenant
	build  request // with the modules
	verbs  []policy.Verb
}

// JudgeAct asks the child. That it died, or that the namespace used up its time, is an error, which
// denies by name.
func (r *rule) JudgeAct(ctx context.Context, act policy.Act, claims []policy.Claim) (deny, warn []policy.Hit, err error) {
	verb := rego.PackageFor(act.Verb)
	if verb == "" {
		return nil, nil, fmt.Errorf("judge: unknown verb %q", act.Verb)
	}
	if !slices.Contains(r.verbs, verb) {
		return nil, nil, nil
	}
	input, err := rego.Input(act, claims)
	if err != nil {
		return nil, nil, err
	}
	q := request{Key: r.build.Key, Verb: verb, Input: input, Now: act.Now.UnixNano()}
	a, err := r.child.ask(ctx, r.tenant, q, askDeadline)
	if err == nil && a.Missing {
		q.Modules, q.Data, q.Packages = r.build.Modules, r.build.Data, r.build.Packages
		a, err = r.child.ask(ctx, r.tenant, q, buildDeadline)
	}
	return a.Deny, a.Warn, err
}

// ask sends a request and waits. A request on which the child died is tried once more with the child to
// itself: only the one that kills it alone is to blame.
func (c *Child) ask(ctx context.Context, t *tenant, q request, limit time.Duration) (answer, error) {
	if err := t.enter(ctx); err != nil {
		return answer{}, err
	}
	var a answer
	var err error
	defer func() { t.leave(a.Took) }()
	c.alone.RLock()
	a, err = c.once(ctx, q, limit)
	c.alone.RUnlock()
	if died := errors.Is(err, errDied); died {
		c.alone.Lock()
		a, err = c.once(ctx, q, limit)
		c.alone.Unlock()
		if errors.Is(err, errDied) {
			t.blame()
		}
	}
	if errors.Is(err, errStuck) {
		t.blame()
	}
	if err != nil {
		return answer{}, err
	}
	if a.Err != "" {
		return answer{}, errors.New(a.Err)
	}
	return a, nil
}

// errStuck is that a request outlived its deadline and its child was ended for it.
var errStuck = errors.New("the rules did not end")

func (c *Child) once(ctx context.Context, q request, limit time.Duration) (answer, error) {
	r, err := c.process()
	if err != nil {
		return answer{}, err
	}
	id, got, err := r.send(q)
	if err != nil {
		return answer{}, err
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case a, ok := <-got:
		if !ok {
			return answer{}, errDied
		}
		return a, nil
	case <-ctx.Done(): // the child ends it by rego's own deadline
		r.forget(id)
		return answer{}, ctx.Err()
	case <-timer.C:
		r.end()
		return answer{}, fmt.Errorf("%w in %s, and its process was ended", errStuck, limit)
	}
}

// process is the child that runs, or a new one.
func (c *Child) process() (*running, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.New("start rules: the daemon ends")
	}
	if c.run != nil && !c.run.dead() {
		return c.run, nil
	}
	r, err := start(c.program, c.memory)
	if err != nil {
		return nil, fmt.Errorf("start rules: %w", err)
	}
	if c.run != nil {
		c.log.Warn("the process that runs the rules of namespaces ended and was started again", "state", c.run.state())
	}
	c.run = r
	return r, nil
}

// writeDeadline is how long the child may take to read one message. It reads while rules run, so only one
// that is stopped or starved does not; without an end all namespaces would wait for it.
const writeDeadline = 2 * time.Second

// running is one child process.
type running struct {
	cmd  *exec.Cmd
	in   *os.File
	gone chan struct{} // closed when it has ended

	write sync.Mutex // one message at a time

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan answer // guarded by mu; nil once it has ended
}

// start starts a child and waits for its first word, by which it is confined.
func start(program string, memory int64) (*running, error) {
	in, childOut, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer childOut.Close()
	childIn, out, err := os.Pipe()
	if err != nil {
		in.Close()
		return nil, err
	}
	defer childIn.Close()
	cmd := exec.Command(program)
	cmd.Args, cmd.Env, cmd.Dir = []string{name, strconv.FormatInt(memory, 10)}, []string{"GOMAXPROCS=2"}, "/"
	cmd.Stdin, cmd.Stdout = childIn, childOut
	if err := cmd.Start(); err != nil {
		in.Close()
		out.Close()
		return nil, err
	}
	r := &running{cmd: cmd, in: out, gone: make(chan struct{}), waiting: map[uint64]chan answer{}}
	words := bufio.NewReaderSize(in, 64<<10)
	_ = in.SetReadDeadline(time.Now().Add(startDeadline))
	var first answer
	if err := readFrame(words, &first); err != nil || first.Err != "" {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		in.Close()
		out.Close()
		return nil, fmt.Errorf("it was not confined: %w", errors.Join(err, errors.New(first.Err)))
	}
	_ = in.SetReadDeadline(time.Time{})
	go r.listen(in, words)
	return r, nil
}

// listen hands answers on until the child ends, and then ends what still waits.
func (r *running) listen(in io.Closer, words io.Reader) {
	for {
		var a answer
		if readFrame(words, &a) != nil {
			break
		}
		r.mu.Lock()
		ch := r.waiting[a.ID]
		delete(r.waiting, a.ID)
		r.mu.Unlock()
		if ch != nil {
			ch <- a
		}
	}
	in.Close()
	_ = r.cmd.Process.Kill() // what says nonsense is ended too
	r.in.Close()
	_ = r.cmd.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ch := range r.waiting {
		close(ch)
	}
	r.waiting = nil
	close(r.gone)
}

func (r *running) send(q request) (uint64, <-chan answer, error) {
	ch := make(chan answer, 1)
	r.mu.Lock()
	if r.waiting == nil {
		r.mu.Unlock()
		return 0, nil, errDied
	}
	r.next++
	q.ID = r.next
	r.waiting[q.ID] = ch
	r.mu.Unlock()
	r.write.Lock()
	defer r.write.Unlock()
	_ = r.in.SetWriteDeadline(time.Now().Add(writeDeadline))
	if err := writeFrame(r.in, q); err != nil {
		r.end() // half a message is in its way
		return 0, nil, errDied
	}
	return q.ID, ch, nil
}

// forget drops an answer that nobody waits for.
func (r *running) forget(id uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, id)
}

func (r *running) end() { _ = r.cmd.Process.Kill() }

func (r *running) dead() bool {
	select {
	case <-r.gone:
		return true
	default:
		return false
	}
}

func (r *running) state() string { return r.cmd.ProcessState.String() }
