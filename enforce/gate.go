package enforce

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/audit"
	"sallyport/internal/span"
	"sallyport/policy"
	"sallyport/policy/baseline"
)

// judgeLimit bounds one judgement; past it the act is denied.
const judgeLimit = 10 * time.Second

// clockStep is how far the system clock may fall behind judged time before everything that depends on
// an expiry is denied (architecture.md, Time).
const clockStep = 5 * time.Minute

// reopenPause is how long a failed log rests before it is tried again.
const reopenPause = 2 * time.Second

// ErrAudit wraps every failure to record: nothing was admitted. It is a fault of the node, not a
// verdict.
var ErrAudit = errors.New("audit log")

// Policies is what the gate judges by: the node's layer and a layer for each namespace that has one.
// For returns nil, nil for a namespace that the node policy alone judges, and a Hit for one that must
// not run anything. It must answer the same for the life of the value, and be fast and concurrent.
type Policies struct {
	Node *policy.Layer
	For  func(namespace string) (*policy.Layer, *policy.Hit)
	// Shadow are layers on trial for a namespace, called "shadow <name>" after the layer that each would
	// replace. They are judged after the decision and change nothing. nil: none.
	Shadow func(namespace string) []*policy.Layer
	Probe  *policy.Layer // judges pulls in policy.ProbeNamespace in the node layer's place; nil denies them
	// Overrides are break-glass documents in force on this node (docs/policy.md).
	Overrides []policy.Override
}

// Options are the parts of a Gate.
type Options struct {
	Log          *audit.Log
	Source       string   // where policy comes from, for every record: "local-unsigned"
	EnvKey       []byte   // per-node key under which environment values are hashed; at least 32 bytes
	ControlPaths []string // of this node, never mountable
	KubeletDir   string   // "" is /var/lib/kubelet
}

// Gate judges, records and issues. It is safe for concurrent use; judging holds no lock.
type Gate struct {
	log     *audit.Log // constant
	source  string     // constant
	envKey  []byte     // constant
	control []string   // constant
	kubelet string     // constant

	policies  atomic.Pointer[Policies]
	cache     *verdictCache
	denials   *tally // identical denials within five minutes
	probes    *tally // repeated exec probes
	counts    counters
	denied    counters // denials by rule
	shadows   counters // differences between what is enforced and what is on trial
	auditErr  atomic.Pointer[error]
	reopened  atomic.Int64  // when a failed log was last tried again, Unix nanoseconds
	installMu sync.Mutex    // serialises Install
	installed atomic.Uint64 // counts Install
}

// New wires a gate. It has no policy yet and denies everything until Install. It starts nothing; Run
// writes the periodic summaries.
func New(o Options) (*Gate, error) {
	if o.Log == nil {
		return nil, errors.New("make gate: no audit log")
	}
	if len(o.EnvKey) < sha256.Size {
		return nil, fmt.Errorf("make gate: environment key has %d bytes, want at least %d", len(o.EnvKey), sha256.Size)
	}
	g := &Gate{log: o.Log, source: o.Source, envKey: o.EnvKey, control: o.ControlPaths, kubelet: o.KubeletDir,
		cache: newVerdictCache(4096), denials: newTally(), probes: newTally()}
	g.policies.Store(&Policies{})
	return g, nil
}

// Install swaps the policies whole and records it. Admissions of a namespace whose effective policy
// changed can no longer be redeemed. If recording fails nothing is swapped.
func (g *Gate) Install(ctx context.Context, p Policies) error {
	g.installMu.Lock()
	defer g.installMu.Unlock()
	ev := audit.Event{Type: "policy", Outcome: "loaded", Source: g.source, Policies: map[string]string{}}
	if p.Node != nil {
		ev.Policies[p.Node.Name] = p.Node.Hash
	} else {
		ev.Outcome = "refused"
		ev.Hits = []audit.Hit{{Layer: "node", Rule: "no-policy", Msg: "no node policy is installed; everything is denied"}}
	}
	if _, err := g.append(ctx, ev, nil); err != nil {
		return err
	}
	g.policies.Store(&p)
	g.installed.Add(1)
	g.cache.clear()
	g.denials.clear()
	return nil
}

// layers are the ones that judge acts in namespace; "" means the node's alone.
type layers struct {
	namespace string
	node, ns  *policy.Layer
	refused   *policy.Hit
	effective string // names the policy that judged, for epochs
}

func (g *Gate) layersFor(namespace string) layers {
	p := g.policies.Load()
	l := layers{namespace: namespace, node: p.Node}
	if namespace == policy.ProbeNamespace && p.Node != nil {
		l.node = p.Probe // nil denies
	} else if p.For != nil && (namespace != "" || p.Node == nil) { // without a node policy For says why there is none
		l.ns, l.refused = p.For(namespace)
	}
	h := sha256.New()
	for _, part := range []*policy.Layer{l.node, l.ns} {
		if part != nil {
			fmt.Fprintf(h, "%q %q\n", part.Name, part.Hash)
		}
	}
	if l.refused != nil {
		fmt.Fprintf(h, "refused %q\n", l.refused.Msg)
	}
	nameOverrides(h, p.Overrides, namespace)
	l.effective = hex.EncodeToString(h.Sum(nil))
	return l
}

func (l layers) list() []*policy.Layer {
	if l.ns == nil {
		return []*policy.Layer{l.node}
	}
	return []*policy.Layer{l.node, l.ns}
}

func (l layers) floor() baseline.Floor {
	switch {
	case l.node == nil || l.refused != nil:
		return baseline.Floor{}
	case l.ns == nil:
		return l.node.FloorFor(l.namespace)
	default:
		return baseline.Meet(l.node.FloorFor(l.namespace), l.ns.Floor)
	}
}

func (l layers) hashes() map[string]string {
	m := map[string]string{}
	for _, part := range l.list() {
		if part != nil {
			m[part.Name] = part.Hash
		}
	}
	return m
}

// Floor is the hardening of namespace: the meet of the node's floor and its own. Without a policy it
// is the tightest one.
func (g *Gate) Floor(namespace string) baseline.Floor { return g.layersFor(namespace).floor() }

// Effective names the policy that judges namespace now: it changes when the node's or the namespace's
// policy does. A caller that holds an older one asks the gate again.
func (g *Gate) Effective(namespace string) string { return g.layersFor(namespace).effective }

// Generation grows with every Install.
func (g *Gate) Generation() uint64 { return g.installed.Load() }

// now is the judged time: the later of the system clock and the latest time ever persisted.
func (g *Gate) now() (now time.Time, stepped bool) {
	now = time.Now()
	if last := g.log.Latest(); last.After(now) {
		return last, last.Sub(now) > clockStep
	}
	return now, false
}

// AdmitPull judges one image for one namespace before anything is copied.
func (g *Gate) AdmitPull(ctx context.Context, r PullRequest) (PullAdmission, error) {
	ctx, sp := traced(ctx, policy.VerbPull)
	defer sp.End(nil)
	j := g.judgement(policy.VerbPull, r.Namespace)
	j.act.Image = &r.Image
	j.image(ctx, r.Evidence)
	p, err := j.conclude(ctx, &grant{subject: r.Image.Instance.String(), image: r.Image})
	return PullAdmission{p}, err
}

// AdmitPod judges the making of a pod's namespaces, cgroup and first process.
func (g *Gate) AdmitPod(ctx context.Context, r PodRequest) (PodAdmission, error) {
	ctx, sp := traced(ctx, policy.VerbPod)
	defer sp.End(nil)
	j := g.judgement(policy.VerbPod, r.Pod.Namespace)
	j.act.Pod, j.podID = &r.Pod, r.PodID
	j.require("pod-facts", r.Pod.Namespace, r.Pod.Name, r.Pod.UID, r.PodID, r.Config)
	j.refuse(r.Refusals)
	if r.Spec != "" {
		j.spec(r.Spec, baseline.Facts{ID: r.PodID, PodInit: true, Pod: podFacts(r.Pod), PodUID: r.Pod.UID, ControlPaths: g.control})
		j.detail["initHash"] = r.InitHash
		j.require("init-hash", r.InitHash)
	}
	j.violations(baseline.CheckPod(podFacts(r.Pod), j.layers.floor()))
	j.acts(ctx)
	p, err := j.conclude(ctx, &grant{subject: r.PodID, spec: r.Spec, config: r.Config})
	return PodAdmission{p}, err
}

// AdmitRun judges one container: its image from stored evidence, and its final OCI spec.
func (g *Gate) AdmitRun(ctx context.Context, r RunRequest) (RunAdmission, error) {
	ctx, sp := traced(ctx, policy.VerbRun)
	defer sp.End(nil)
	j := g.judgement(policy.VerbRun, r.Pod.Namespace)
	j.act.Image, j.act.Pod, j.act.Container, j.podID = &r.Image, &r.Pod, &r.Container, r.PodID
	j.require("run-facts", r.Pod.Namespace, r.PodID, r.Container.ID, r.Container.Name, r.Spec, r.Config)
	j.refuse(r.Refusals)
	if r.Image.Artifact != "" {
		j.add(policy.Refusal("gate", "artifact-root", fmt.Sprintf("it is an OCI artifact of type %.100q and no container image; mount it as an image volume", r.Image.Artifact)))
	}
	j.spec(r.Spec, g.runFacts(r))
	volumes, err := j.volumes(ctx, r)
	if err != nil {
		return RunAdmission{}, err
	}
	j.image(ctx, r.Evidence)
	p, err := j.conclude(ctx, &grant{subject: r.Container.ID, image: r.Image, volumes: volumes, spec: r.Spec, config: r.Config})
	return RunAdmission{p}, err
}

// AdmitUpdate judges a change to the resources of a live container.
func (g *Gate) AdmitUpdate(ctx context.Context, r UpdateRequest) (UpdateAdmission, error) {
	ctx, sp := traced(ctx, policy.VerbUpdate)
	defer sp.End(nil)
	j := g.judgement(policy.VerbUpdate, r.Pod.Namespace)
	j.act.Pod, j.act.Container, j.act.Resources = &r.Pod, &r.Container, r.Resources
	j.require("update-facts", r.Pod.Namespace, r.Container.ID, string(r.Resources))
	j.refuse(r.Refusals)
	j.violations(baseline.CheckUpdate(r.Resources))
	j.acts(ctx)
	p, err := j.conclude(ctx, &grant{subject: r.Container.ID, spec: string(r.Resources)})
	return UpdateAdmission{p}, err
}

// AdmitExec judges a command in a live container. The first use of (container, process, policy) by a
// probe is durable before it runs, repeats are counted and summarised; anything else leaves a record
// of its own.
func (g *Gate) AdmitExec(ctx context.Context, r ExecRequest) (ExecAdmission, error) {
	ctx, sp := traced(ctx, policy.VerbExec)
	defer sp.End(nil)
	j := g.judgement(policy.VerbExec, r.Pod.Namespace)
	j.act.Pod, j.act.Container, j.act.Exec, j.podID = &r.Pod, &r.Container, &r.Exec, r.PodID
	gr := &grant{subject: r.Container.ID, spec: r.Process}
	key := tallyKey(string(policy.VerbExec), r.Container.ID, r.Process, j.layers.effective)
	if r.Exec.Probe {
		if seen, ok := g.probes.again(key, time.Now()); ok && g.AuditError() == nil {
			return ExecAdmission{j.mint(gr, seen.receipt)}, nil
		}
	}
	j.require("exec-facts", r.Pod.Namespace, r.Container.ID, r.Process, r.Spec)
	if len(r.Exec.Argv) == 0 {
		j.add(policy.Refusal("gate", "exec-facts", "the command is empty; name a program"))
	}
	j.violations(baseline.CheckExec([]byte(r.Process), []byte(r.Spec)))
	j.acts(ctx)
	p, err := j.conclude(ctx, gr)
	if err == nil && r.Exec.Probe {
		g.probes.first(key, p.grant.g.receipt, j.event(), time.Now())
	}
	return ExecAdmission{p}, err
}

// RedeemPull, RedeemPod, Redeem, RedeemUpdate and RedeemExec take an admission's one use. They fail
// with ErrForged, ErrRedeemed or ErrExpired.
func (g *Gate) RedeemPull(a PullAdmission) (Grant, error) { return g.redeem(a.permit, policy.VerbPull) }

// RedeemPod redeems permission to make a pod.
func (g *Gate) RedeemPod(a PodAdmission) (Grant, error) { return g.redeem(a.permit, policy.VerbPod) }

// Redeem redeems permission to make or start one container.
func (g *Gate) Redeem(a RunAdmission) (Grant, error) { return g.redeem(a.permit, policy.VerbRun) }

// RedeemUpdate redeems permission to change a live container.
func (g *Gate) RedeemUpdate(a UpdateAdmission) (Grant, error) {
	return g.redeem(a.permit, policy.VerbUpdate)
}

// RedeemExec redeems permission to run a command.
func (g *Gate) RedeemExec(a ExecAdmission) (Grant, error) { return g.redeem(a.permit, policy.VerbExec) }

func (g *Gate) redeem(p *permit, verb policy.Verb) (Grant, error) {
	if p == nil || p.gate != g || p.grant.Verb() != verb || !p.grant.Receipt().Valid() {
		return Grant{}, ErrForged
	}
	if !p.used.CompareAndSwap(false, true) {
		return Grant{}, ErrRedeemed
	}
	if !time.Now().Before(p.expires) || g.Effective(p.grant.Namespace()) != p.effective {
		return Grant{}, ErrExpired
	}
	return p.grant, nil
}

// Record writes an event that is no decision: daemon start and stop, a refused policy, the end of a
// stream.
func (g *Gate) Record(ctx context.Context, ev audit.Event) error {
	_, err := g.append(ctx, ev, nil)
	return err
}

// append makes one record durable, with the redacted input that it was decided on (nil: none). A log
// that failed is tried again now and then.
func (g *Gate) append(ctx context.Context, ev audit.Event, input []byte) (audit.Receipt, error) {
	ctx, sp := span.Start(ctx, span.Audit)
	defer sp.End(nil)
	r, err := g.write(ctx, ev, input)
	if errors.Is(err, audit.ErrFailed) && g.mayReopen() && g.log.Reopen() == nil {
		r, err = g.write(ctx, ev, input)
	}
	if err != nil {
		err = fmt.Errorf("%w: %w; nothing was admitted", ErrAudit, err)
		if ctx.Err() == nil {
			g.auditErr.Store(&err)
		}
		return audit.Receipt{}, err
	}
	g.auditErr.Store(nil)
	return r, nil
}

func (g *Gate) write(ctx context.Context, ev audit.Event, input []byte) (r audit.Receipt, err error) {
	if input != nil {
		if ev.InputHash, err = g.log.PutInput(input); err != nil {
			return r, err
		}
	}
	return g.log.Append(ctx, ev)
}

// mayReopen says whether it is time to try a failed log again: at most once in reopenPause, so that a
// full disk is not hammered.
func (g *Gate) mayReopen() bool {
	now, last := time.Now().UnixNano(), g.reopened.Load()
	return now-last >= int64(reopenPause) && g.reopened.CompareAndSwap(last, now)
}

// AuditError is the last failure to record, nil once a record was written again.
func (g *Gate) AuditError() error {
	if p := g.auditErr.Load(); p != nil {
		return *p
	}
	return nil
}

// Run writes the summaries of repeated denials and probes until ctx ends, and a last one then.
func (g *Gate) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			g.summarise(context.WithoutCancel(ctx), time.Now().Add(tallyLife))
			return nil
		case now := <-tick.C:
			g.summarise(ctx, now)
		}
	}
}

func (g *Gate) summarise(ctx context.Context, now time.Time) {
	for _, t := range []*tally{g.denials, g.probes} {
		for _, ev := range t.expire(now) {
			_, _ = g.append(ctx, ev, nil) // a failure shows in AuditError and stops what comes next
		}
	}
}

// Forget drops what the gate remembers of a container's probes.
func (g *Gate) Forget(containerID string) { g.probes.forget(containerID) }

func hashOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
