package enforce_test

import (
	"context"
	"testing"
	"time"

	"sallyport/audit"
	"sallyport/enforce"
	"sallyport/enforce/enforcetest"
	"sallyport/image/ref"
	"sallyport/policy"
	"sallyport/policy/baseline"
)

// An opinion is what AdmitPull says, with the rule's name, recorded as a question and not as a decision.
func TestExaminePullIsTheDaemonsOwnAnswer(t *testing.T) {
	floor := baseline.ForLevel(baseline.Baseline)
	strict := enforcetest.Layer(t, "namespace strict", "policies: [{name: nobody, images: [{glob: '**'}], authorities: [{static: {action: fail, message: 'closed'}}]}]", floor)
	g, dir := enforcetest.With(t, enforce.Policies{Node: enforcetest.AnyImage(t, floor), For: func(ns string) (*policy.Layer, *policy.Hit) {
		if ns == "strict" {
			return strict, nil
		}
		return nil, nil
	}})
	img, ev := image(t)
	for ns, want := range map[string]string{"open": "", "strict": "nobody"} {
		o, err := g.ExaminePull(t.Context(), enforce.PullRequest{Namespace: ns, Image: img, Evidence: ev})
		if err != nil {
			t.Fatal(err)
		}
		_, denied := g.AdmitPull(t.Context(), enforce.PullRequest{Namespace: ns, Image: img, Evidence: ev})
		if o.Allowed != (denied == nil) || o.Allowed != (want == "") {
			t.Errorf("%s: ExaminePull() = %t, AdmitPull() = %v, want rule %q", ns, o.Allowed, denied, want)
		}
		if want != "" && (len(o.Hits()) != 1 || o.Hits()[0].Rule != want) {
			t.Errorf("%s: hits %v, want rule %q", ns, o.Hits(), want)
		}
		r, err := audit.Find(dir, o.Seq)
		if err != nil || r.Event.Type != "verify" || r.Event.Outcome != map[bool]string{true: "would-allow", false: "would-deny"}[o.Allowed] {
			t.Errorf("%s: record %d = %+v, %v", ns, o.Seq, r.Event, err)
		}
	}
	changed := ev
	changed.InstanceManifest = []byte("{}")
	if o, err := g.ExaminePull(t.Context(), enforce.PullRequest{Namespace: "open", Image: img, Evidence: changed}); err != nil || o.Allowed || o.Hits()[0].Rule != "digest-mismatch" {
		t.Errorf("other bytes: %+v, %v, want digest-mismatch", o, err)
	}
	if got := g.State().Decisions["pull allow"] + g.State().Decisions["pull deny"]; got != 2 {
		t.Errorf("%d decisions counted, want the two of AdmitPull alone", got)
	}
}

// before admits until its moment, as a rule about ages does.
type before time.Time

func (b before) JudgeImage(_ context.Context, in policy.ImageInput) (policy.ImageFinding, error) {
	f := policy.ImageFinding{Matched: true}
	if !in.Now.Before(time.Time(b)) {
		f.Hits = []policy.Hit{{Rule: "age", Msg: "too old"}}
	}
	return f, nil
}

// Time alone and faults take nothing back; changed rules, revocations, a changed floor and changed bytes do.
func TestExamineRunTellsAgeFromDenial(t *testing.T) {
	floor := baseline.ForLevel(baseline.Baseline)
	layer := func(change func(*policy.Layer)) *policy.Layer {
		l := *enforcetest.AnyImage(t, floor)
		l.Hash = t.Name() + time.Now().String()
		change(&l)
		return &l
	}
	now := time.Now()
	img, _ := image(t)
	revoked, err := policy.ParseRevocations([]byte("issued: " + now.UTC().Format(time.RFC3339) + "\nmaxAge: 24h\ndigests: [{digest: " + img.Instance.String() + ", reason: leaked}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	harmless, err := policy.ParseRevocations([]byte("issued: " + now.UTC().Format(time.RFC3339) + "\nmaxAge: 24h\ndigests: [{digest: " + ref.DigestOf([]byte("other")).String() + ", reason: leaked}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*policy.Layer)
		act    func(*enforce.RunRequest)
		rule   string // "": admitted
		aged   bool
	}{
		{name: "twin", change: func(*policy.Layer) {}},
		{name: "too old by now", change: func(l *policy.Layer) { l.Images = []policy.ImageRule{before(now.Add(-time.Hour))} }, rule: "age", aged: true},
		{name: "too old beside a younger list of revocations", change: func(l *policy.Layer) {
			l.Images, l.Revocations = []policy.ImageRule{before(now.Add(-time.Hour))}, harmless
		}, rule: "age", aged: true},
		{name: "never admitted by these rules", change: func(l *policy.Layer) { l.Images = []policy.ImageRule{before(now.Add(-24 * time.Hour))} }, rule: "age"},
		{name: "revoked", change: func(l *policy.Layer) { l.Revocations = revoked }, rule: "revoked"},
		{name: "a fault", change: func(l *policy.Layer) { l.Images = []policy.ImageRule{panicking{}} }, rule: "panic", aged: true},
		{name: "the policy ended", change: func(l *policy.Layer) { l.NotAfter = now.Add(-time.Minute) }, rule: "policy-expired", aged: true},
		{name: "evidence lost", change: func(*policy.Layer) {}, act: func(r *enforce.RunRequest) { r.Evidence.Complete = false }, rule: "evidence-incomplete", aged: true},
		{name: "bytes changed", change: func(*policy.Layer) {}, act: func(r *enforce.RunRequest) { r.Evidence.TopManifest = []byte("{}") }, rule: "digest-mismatch"},
	} {
		r := run(t)
		r.Evidence.Fetched = now.Add(-2 * time.Hour)
		if tt.act != nil {
			tt.act(&r)
		}
		g, _ := enforcetest.With(t, enforce.Policies{Node: layer(tt.change)})
		o := g.ExamineRun(t.Context(), r)
		if o.Allowed != (tt.rule == "") || o.Seq != 0 {
			t.Errorf("%s: ExamineRun() = %+v", tt.name, o)
		}
		for _, p := range o.Parts {
			if !p.Allowed && (p.Hits[0].Rule != tt.rule || p.Aged != tt.aged) {
				t.Errorf("%s: rule %q, aged %t, want %q, %t", tt.name, p.Hits[0].Rule, p.Aged, tt.rule, tt.aged)
			}
		}
	}
	tight := layer(func(l *policy.Layer) { l.Floor = baseline.Floor{} })
	g, _ := enforcetest.With(t, enforce.Policies{Node: tight})
	if o := g.ExamineRun(t.Context(), run(t)); o.Allowed || o.Parts[0].Layer != "floor" || o.Parts[0].Aged {
		t.Errorf("a tighter floor: %+v, want a denial by the floor that counts", o)
	}
}

// An override is about one image: one of the container's own excuses no volume beside it, nor the other
// way round, and what it covers stops nothing.
func TestExamineRunOverrideIsOfOneImage(t *testing.T) {
	layer := *enforcetest.Layer(t, "node", "policies: [{name: closed, images: [{glob: '**'}], authorities: [{static: {action: fail, message: 'closed'}}]}]", baseline.ForLevel(baseline.Baseline))
	layer.Rejudge = policy.Rejudge{Stop: true, Max: 1, Percent: 1}
	r := volumeRun(t)
	cover := func(img enforce.Image) policy.Override {
		return policy.Override{Name: "inc", Ticket: "INC-1", Namespace: "shop", Digest: img.Top, Verbs: []policy.Verb{policy.VerbRun}, Rules: []string{"closed"},
			NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), MaxUses: 3}
	}
	own, volume := cover(r.Image), cover(r.Volumes[0].Image)
	for _, tt := range []struct {
		name      string
		overrides []policy.Override
		covered   bool
		stops     int // parts by which it may be stopped
	}{
		{"of both", []policy.Override{own, volume}, true, 2},
		{"of its own image", []policy.Override{own}, false, 1},
		{"of the volume", []policy.Override{volume}, false, 1},
		{"none", nil, false, 2},
	} {
		g, _ := enforcetest.With(t, enforce.Policies{Node: &layer, Overrides: tt.overrides})
		o, stops := g.ExamineRun(t.Context(), r), 0
		for _, p := range o.Parts {
			if !p.Allowed && p.Hits[0].Rule != "closed" {
				t.Errorf("%s: denied by %v, want closed", tt.name, p.Hits)
			}
			if !p.Allowed && p.Rejudge.Stop {
				stops++
			}
		}
		if o.Allowed || (o.Override != "") != tt.covered || stops != tt.stops {
			t.Errorf("%s: override %q, %d parts that stop, want it covered: %t, %d", tt.name, o.Override, stops, tt.covered, tt.stops)
		}
	}
}
