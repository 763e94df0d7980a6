package enforce

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"sallyport/audit"
	"sallyport/image/ref"
	"sallyport/internal/span"
	"sallyport/policy"
	"sallyport/policy/baseline"
)

// judgement collects the verdicts on one act. Nothing that it collects can make the answer looser.
type judgement struct {
	gate     *Gate
	layers   layers
	act      policy.Act
	podID    string
	specHash string
	detail   map[string]string
	stepped  bool
	judged   []policy.Verdict // one per layer at least; without any, the act is denied
	wanting  int              // how many of them deny for want of evidence
	decision policy.Decision
	evidence *Evidence    // of the image that was judged; nil without one
	shadow   []policy.Hit // what policies on trial would have said otherwise
}

func (g *Gate) judgement(verb policy.Verb, namespace string) *judgement {
	j := &judgement{gate: g, layers: g.layersFor(namespace), detail: map[string]string{}}
	j.act.Verb, j.act.Namespace = verb, namespace
	j.act.Now, j.stepped = g.now()
	if r := j.layers.refused; r != nil {
		j.add(policy.Refusal(r.Layer, r.Rule, r.Msg))
	}
	if namespace == policy.ProbeNamespace && verb != policy.VerbPull {
		j.add(policy.Refusal("gate", "selftest-namespace", fmt.Sprintf("namespace %q is the self-test's, which only pulls; use another", namespace)))
	}
	return j
}

func (j *judgement) add(v policy.Verdict) { j.judged = append(j.judged, v) }

// addWanting adds a verdict on evidence, which denies for want of it or not at all.
func (j *judgement) addWanting(v policy.Verdict) {
	if !v.Allowed() {
		j.wanting++
	}
	j.add(v)
}

// refetch reports whether every verdict that denies does so for want of evidence.
func (j *judgement) refetch() bool {
	denies := 0
	for _, v := range j.judged {
		if !v.Allowed() {
			denies++
		}
	}
	return denies > 0 && denies == j.wanting
}

// lacking reports whether a layer's verdict on an image denies because of what nobody has signed, or
// signed lately: not because no rule is about the image, or somebody revoked it.
func lacking(v policy.Verdict) bool {
	return !v.Allowed() && !v.Transient() && !slices.ContainsFunc(v.Hits(), func(h policy.Hit) bool { return h.Rule == "no-rule" || h.Rule == "revoked" })
}

// require refuses an act whose facts are incomplete: an empty field never widens anything.
func (j *judgement) require(rule string, facts ...string) {
	if slices.Contains(facts, "") {
		j.add(policy.Refusal("gate", rule, fmt.Sprintf("a required field of the %s request is empty; a pod needs namespace, name and UID", j.act.Verb)))
	}
}

func (j *judgement) refuse(hits []policy.Hit) {
	for _, h := range hits {
		j.add(policy.Refusal("floor", h.Rule, h.Msg))
	}
}

func (j *judgement) violations(found []baseline.Violation) {
	for _, v := range found {
		j.add(policy.Refusal("floor", v.ID+" "+v.Name, v.Msg))
	}
}

// spec checks the final OCI spec against the floor and shows it, redacted, to Rego.
func (j *judgement) spec(spec string, facts baseline.Facts) {
	j.specHash = ref.DigestOf([]byte(spec)).Hex()
	j.violations(baseline.Check([]byte(spec), facts, j.layers.floor()))
	redacted, err := redact([]byte(spec), j.gate.envKey)
	if err != nil {
		j.add(policy.Refusal("gate", "spec", err.Error()))
		return
	}
	j.act.Spec = redacted
}

// image asks each layer who signed the image, then each layer's Rego with that layer's own claims.
func (j *judgement) image(ctx context.Context, ev Evidence) {
	j.signatures(ctx, ev, func(layer *policy.Layer, v policy.Verdict) {
		ctx, cancel := context.WithTimeout(ctx, judgeLimit)
		defer cancel()
		j.add(layer.JudgeAct(ctx, j.act, v.Claims()))
	})
}

// signatures asks each layer who signed the image, and tells then what it said.
func (j *judgement) signatures(ctx context.Context, ev Evidence, then func(*policy.Layer, policy.Verdict)) {
	ctx, cancel := context.WithTimeout(ctx, judgeLimit)
	defer cancel()
	ctx, sp := span.Start(ctx, span.Verify)
	defer sp.End(nil)
	sp.Set(span.Digest, j.act.Image.Instance.String())
	if err := bound(*j.act.Image, ev); err != nil {
		j.add(policy.Refusal("gate", "digest-mismatch", err.Error()))
	}
	if !ev.Complete {
		j.addWanting(policy.Refusal("gate", "evidence-incomplete", "signatures and attestations could not all be read: "+ev.Missing))
	}
	j.evidence = &ev
	for _, layer := range j.layers.list() {
		v := j.gate.cache.judge(ctx, layer, *j.act.Image, ev, j.act.Now)
		if j.stepped && !v.Until().IsZero() {
			v = policy.Refusal("gate", "clock-step", "the system clock went back by more than five minutes and the answer depends on an expiry; set the clock")
		}
		if lacking(v) {
			j.addWanting(v)
		} else {
			j.add(v)
		}
		then(layer, v)
	}
}

// traced begins the span of a verdict.
func traced(ctx context.Context, verb policy.Verb) (context.Context, *span.Span) {
	ctx, sp := span.Start(ctx, span.Verdict)
	sp.Set(span.Verb, string(verb))
	return ctx, sp
}

// acts asks each layer's Rego where no image is involved.
func (j *judgement) acts(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, judgeLimit)
	defer cancel()
	for _, layer := range j.layers.list() {
		j.add(layer.JudgeAct(ctx, j.act, nil))
	}
}

// conclude decides, records and, if all admit, issues.
func (j *judgement) conclude(ctx context.Context, gr *grant) (*permit, error) {
	receipt, err := j.settle(ctx)
	if err != nil {
		return nil, err
	}
	return j.mint(gr, receipt), nil
}

// settle decides and records.
func (j *judgement) settle(ctx context.Context) (audit.Receipt, error) {
	j.decision = policy.Decide(j.act, j.judged...)
	j.compare(ctx)
	overridden := j.override()
	ev := j.event()
	if !j.decision.Allowed() {
		if !overridden {
			return audit.Receipt{}, j.deny(ctx, ev)
		}
		j.overrode(&ev)
	}
	input, err := json.Marshal(j.act)
	if err != nil {
		return audit.Receipt{}, fmt.Errorf("record %s: %w", j.act.Verb, err)
	}
	receipt, err := j.gate.append(ctx, ev, input)
	if err != nil {
		return audit.Receipt{}, err
	}
	j.gate.counts.add(j.act.Verb, "allow")
	if overridden {
		j.gate.counts.add(j.act.Verb, "override")
	}
	return receipt, nil
}

// mint is the only place where a permit is made: it takes the decision and the proof that it was
// recorded.
func (j *judgement) mint(gr *grant, receipt audit.Receipt) *permit {
	gr.verb, gr.namespace, gr.receipt = j.act.Verb, j.act.Namespace, receipt
	return &permit{gate: j.gate, effective: j.layers.effective, expires: time.Now().Add(Life), grant: Grant{gr}}
}

// deny records a refusal, or counts it where the same one was recorded within five minutes.
func (j *judgement) deny(ctx context.Context, ev audit.Event) error {
	j.gate.counts.add(j.act.Verb, "deny")
	rule := counted(j.decision.Hits())
	j.gate.denied.add(j.act.Verb, rule)
	span.Note(ctx, span.Rule, rule)
	d := &Denied{Verb: j.act.Verb, Subject: j.subject(), Volume: j.act.Volume, Hits: j.decision.Hits(), Refetch: j.refetch()}
	key := tallyKey(string(j.act.Verb), "", hashOf([]any{d.Subject, d.Volume, j.act.Namespace, d.Hits}), j.layers.effective)
	if seen, ok := j.gate.denials.again(key, time.Now()); ok {
		d.Seq = seen.receipt.Seq()
		return d
	}
	receipt, err := j.gate.append(ctx, ev, nil)
	if err != nil {
		d.unrecorded = err
		return d
	}
	d.Seq = receipt.Seq()
	j.gate.denials.first(key, receipt, ev, time.Now())
	return d
}

// subject names the act for people.
func (j *judgement) subject() string {
	switch {
	case j.act.Image != nil:
		img := j.act.Image
		if img.Top.IsZero() || !img.Name.Digest().IsZero() {
			return img.Name.String()
		}
		return img.Name.String() + "@" + img.Top.String()
	case j.act.Verb == policy.VerbPortForward:
		return fmt.Sprintf("port-forward to %v of pod %s/%s", j.act.Ports, j.act.Namespace, j.act.Pod.Name)
	case j.act.Exec != nil && j.act.Verb == policy.VerbExec:
		return fmt.Sprintf("exec %.60q in container %q", strings.Join(j.act.Exec.Argv, " "), j.act.Container.Name)
	case j.act.Container != nil:
		return fmt.Sprintf("%s of container %q", j.act.Verb, j.act.Container.Name)
	case j.act.Pod != nil:
		return fmt.Sprintf("pod %s/%s", j.act.Pod.Namespace, j.act.Pod.Name)
	}
	return string(j.act.Verb)
}

func (j *judgement) event() audit.Event {
	ev := audit.Event{
		Type: "decision", Time: j.act.Now, Verb: string(j.act.Verb), Outcome: "deny", Namespace: j.act.Namespace,
		PodID: j.podID, Policies: j.layers.hashes(), Source: j.gate.source, SpecHash: j.specHash, Detail: j.detail,
	}
	if j.decision.Allowed() {
		ev.Outcome = "allow"
	}
	if p := j.act.Pod; p != nil {
		ev.Pod = p.Name
	}
	if c := j.act.Container; c != nil {
		ev.Container, ev.ID, ev.Weakenings = c.Name, c.ID, c.Weakenings
	}
	if i := j.act.Image; i != nil {
		ev.Image, ev.Top, ev.Instance, ev.ImageID = i.Name.String(), i.Top.String(), i.Instance.String(), i.ID.String()
	}
	if x := j.act.Exec; x != nil {
		ev.Argv = x.Argv
	}
	ev.Hits = auditHits(j.decision.Hits())
	ev.Warnings = auditHits(j.shadow)
	for _, v := range j.judged {
		ev.Warnings = append(ev.Warnings, auditHits(v.Warnings())...)
		ev.Rules = append(ev.Rules, v.Rules()...)
		for _, c := range v.Used() {
			ev.Identities = append(ev.Identities, identity(c))
		}
	}
	return ev
}

func identity(c policy.Claim) string {
	f := c.Fields()
	if f.SAN != "" {
		return fmt.Sprintf("%s (issuer %s) over %s", f.SAN, f.Issuer, f.Subject)
	}
	return fmt.Sprintf("key %s over %s", f.KeyID, f.Subject)
}

func auditHits(hits []policy.Hit) (out []audit.Hit) {
	for _, h := range hits {
		out = append(out, audit.Hit(h))
	}
	return out
}

// bound checks that the evidence's manifests are the very bytes that the image's digests name, and
// that the instance's config is the image ID. No mode governs this.
func bound(img Image, ev Evidence) error {
	if img.Top.IsZero() || img.Instance.IsZero() || img.ID.IsZero() {
		return fmt.Errorf("the digests of the image are missing")
	}
	if got := ref.DigestOf(ev.TopManifest); got != img.Top {
		return fmt.Errorf("stored manifest hashes to %s, want %s; pull the image again", got, img.Top)
	}
	if got := ref.DigestOf(ev.InstanceManifest); got != img.Instance {
		return fmt.Errorf("stored instance manifest hashes to %s, want %s; pull the image again", got, img.Instance)
	}
	if err := boundID(img, ev.InstanceManifest); err != nil {
		return err
	}
	if want := img.Name.Digest(); !want.IsZero() && want != img.Top && want != img.Instance {
		return fmt.Errorf("name asks for %s, found %s", want, img.Top)
	}
	return nil
}

// boundID checks that the image ID is what the manifest makes it: the digest of an image's config, that
// of an artifact's manifest. What is said to be an artifact has no config of an image, and the other way
// round.
func boundID(img Image, manifest []byte) error {
	var m struct {
		Config struct {
			MediaType string     `json:"mediaType"`
			Digest    ref.Digest `json:"digest"`
		} `json:"config"`
	}
	if err := json.Unmarshal(manifest, &m); err != nil {
		return fmt.Errorf("parse instance manifest: %w", err)
	}
	switch m.Config.MediaType {
	case "", "application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json":
		if img.Artifact != "" {
			return fmt.Errorf("the manifest is that of a container image, not of an artifact of type %.100q", img.Artifact)
		}
		if m.Config.Digest != img.ID {
			return fmt.Errorf("instance manifest names config %s, want image ID %s; pull the image again", m.Config.Digest, img.ID)
		}
	default:
		if img.Artifact == "" {
			return fmt.Errorf("the manifest is that of an artifact (config media type %.100q), not of a container image", m.Config.MediaType)
		}
		if img.ID != img.Instance {
			return fmt.Errorf("image ID %s is not the digest of the artifact's manifest, %s", img.ID, img.Instance)
		}
	}
	return nil
}
