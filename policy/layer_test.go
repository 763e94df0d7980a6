package policy

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"sallyport/image/ref"
	"sallyport/policy/baseline"
	"sallyport/policy/internal/claim"
)

// fixed is an ImageRule, ActRule and Verifier with one answer.
type fixed struct {
	finding    ImageFinding
	deny, warn []Hit
	err        error
	panics     bool
}

func (f fixed) JudgeImage(context.Context, ImageInput) (ImageFinding, error) {
	if f.panics {
		panic("rule")
	}
	return f.finding, f.err
}

func (f fixed) JudgeAct(context.Context, Act, []Claim) ([]Hit, []Hit, error) {
	if f.panics {
		panic("rule")
	}
	return f.deny, f.warn, f.err
}

func (f fixed) Verify(context.Context, Image, Evidence, time.Time) ([]Claim, []string, error) {
	return nil, nil, f.err
}

var pass = fixed{finding: ImageFinding{Matched: true}}

// good is a layer that admits; each test changes one fact.
func good() *Layer {
	return &Layer{Name: "node", Hash: "h", Mode: Enforce, Images: []ImageRule{pass}, Acts: []ActRule{fixed{}}}
}

func TestLayerDenies(t *testing.T) {
	hit := []Hit{{Rule: "r", Msg: "m"}}
	tests := []struct {
		name      string
		change    func(l *Layer, img *Image, now *time.Time)
		rule      string
		transient bool
		image     bool // about images only
	}{
		{name: "nil", change: nil, rule: "no-policy", transient: true},
		{name: "zero", change: func(l *Layer, _ *Image, _ *time.Time) { *l = Layer{} }, rule: "no-policy", transient: true},
		{name: "no hash", change: func(l *Layer, _ *Image, _ *time.Time) { l.Hash = "" }, rule: "no-policy", transient: true},
		{name: "no time", change: func(_ *Layer, _ *Image, now *time.Time) { *now = time.Time{} }, rule: "time", transient: true},
		{name: "expired", change: func(l *Layer, _ *Image, now *time.Time) { l.NotAfter = *now }, rule: "policy-expired", transient: true},
		{name: "hit", change: func(l *Layer, _ *Image, _ *time.Time) {
			l.Images = append(l.Images, fixed{finding: ImageFinding{Matched: true, Hits: hit}})
			l.Acts = append(l.Acts, fixed{deny: hit})
		}, rule: "r"},
		{name: "unknown mode", change: func(l *Layer, _ *Image, _ *time.Time) {
			l.Mode = "shadow"
			l.Images = []ImageRule{fixed{finding: ImageFinding{Matched: true, Hits: hit}}}
			l.Acts = []ActRule{fixed{deny: hit}}
		}, rule: "r"},
		{name: "panic", change: func(l *Layer, _ *Image, _ *time.Time) {
			l.Images, l.Acts = []ImageRule{fixed{panics: true}}, []ActRule{fixed{panics: true}}
		}, rule: "panic", transient: true},
		{name: "panic in mode warn", change: func(l *Layer, _ *Image, _ *time.Time) {
			l.Mode = Warn
			l.Images, l.Acts = []ImageRule{fixed{panics: true}}, []ActRule{fixed{panics: true}}
		}, rule: "panic", transient: true},
		{name: "no image rule", change: func(l *Layer, _ *Image, _ *time.Time) { l.Images = nil }, rule: "no-rule", image: true},
		{name: "rule about other images", change: func(l *Layer, _ *Image, _ *time.Time) { l.Images = []ImageRule{fixed{}} }, rule: "no-rule", image: true},
		{name: "engine error in mode warn", change: func(l *Layer, _ *Image, _ *time.Time) {
			l.Mode = Warn
			l.Images = []ImageRule{fixed{err: errors.New("x")}}
		}, rule: "verify", transient: true, image: true},
		{name: "verifier error in mode warn", change: func(l *Layer, _ *Image, _ *time.Time) {
			l.Mode, l.Verifier = Warn, fixed{err: errors.New("x")}
		}, rule: "verify", transient: true, image: true},
		{name: "no instance digest", change: func(_ *Layer, img *Image, _ *time.Time) { img.Instance = ref.Digest{} }, rule: "image-facts", transient: true, image: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, img, at := good(), image(t, "registry.example/app"), now
			if tt.change == nil {
				l = nil
			} else {
				tt.change(l, &img, &at)
			}
			check := func(what string, v Verdict) {
				t.Helper()
				if hits := v.Hits(); v.Allowed() || len(hits) != 1 || hits[0].Rule != tt.rule || v.Transient() != tt.transient {
					t.Errorf("%s = allowed %v, %v, transient %v, want a denial by %q, transient %v", what, v.Allowed(), hits, v.Transient(), tt.rule, tt.transient)
				}
			}
			check("JudgeImage()", l.JudgeImage(context.Background(), img, Evidence{}, at))
			if !tt.image {
				check("JudgeAct()", l.JudgeAct(context.Background(), Act{Verb: VerbRun, Now: at}, nil))
			}
		})
	}
	if v := good().JudgeImage(context.Background(), image(t, "registry.example/app"), Evidence{}, now); !v.Allowed() {
		t.Errorf("allowed twin of JudgeImage(): %v", v.Hits())
	}
	if v := good().JudgeAct(context.Background(), Act{Verb: VerbRun, Now: now}, nil); !v.Allowed() {
		t.Errorf("allowed twin of JudgeAct(): %v", v.Hits())
	}
}

func TestLayerErrorsDeny(t *testing.T) {
	l := good()
	l.Mode, l.Acts = Warn, []ActRule{fixed{err: errors.New("x")}}
	if v := l.JudgeAct(context.Background(), Act{Verb: VerbRun, Now: now}, nil); v.Allowed() || v.Hits()[0].Rule != "rego" || !v.Transient() {
		t.Errorf("JudgeAct(error) = %v, want a transient denial by rego", v.Hits())
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if v := good().JudgeImage(ctx, image(t, "registry.example/app"), Evidence{}, now); v.Allowed() || !v.Transient() {
		t.Errorf("JudgeImage(cancelled) = allowed %v, want a transient denial", v.Allowed())
	}
	if v := good().JudgeAct(ctx, Act{Verb: VerbRun, Now: now}, nil); v.Allowed() || !v.Transient() {
		t.Errorf("JudgeAct(cancelled) = allowed %v, want a transient denial", v.Allowed())
	}
}

func TestModeWarn(t *testing.T) {
	hit := []Hit{{Rule: "r", Msg: "m"}}
	l := good()
	l.Mode, l.Acts = Warn, []ActRule{fixed{deny: hit}}
	v := l.JudgeAct(context.Background(), Act{Verb: VerbRun, Now: now}, nil)
	if w := v.Warnings(); !v.Allowed() || len(w) != 1 || w[0] != (Hit{Layer: "node", Rule: "r", Msg: "m"}) {
		t.Errorf("mode warn: allowed %v, warnings %v", v.Allowed(), w)
	}
	l.Mode = Enforce
	if v := l.JudgeAct(context.Background(), Act{Verb: VerbRun, Now: now}, nil); v.Allowed() {
		t.Error("mode enforce: allowed")
	}
}

func TestDecide(t *testing.T) {
	yes := good().JudgeAct(context.Background(), Act{Verb: VerbRun, Now: now}, nil)
	no := Refusal("namespace a", "r", "m")
	tests := []struct {
		name     string
		verdicts []Verdict
		want     bool
		rule     string
	}{
		{"one that admits", []Verdict{yes}, true, ""},
		{"two that admit", []Verdict{yes, yes}, true, ""},
		{"none", nil, false, "zero-verdict"},
		{"the zero verdict", []Verdict{{}}, false, "zero-verdict"},
		{"zero after one that admits", []Verdict{yes, {}}, false, "zero-verdict"},
		{"refusal after one that admits", []Verdict{yes, no}, false, "r"},
		{"refusal before one that admits", []Verdict{no, yes}, false, "r"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := Decide(Act{}, tt.verdicts...)
			hits := d.Hits()
			if d.Allowed() != tt.want || tt.want != (len(hits) == 0) || !tt.want && hits[0].Rule != tt.rule {
				t.Errorf("Decide() = %v %v, want %v by %q", d.Allowed(), hits, tt.want, tt.rule)
			}
		})
	}
	if (Decision{}).Allowed() || (Verdict{}).Allowed() {
		t.Error("a zero value admits")
	}
}

func TestFloorFor(t *testing.T) {
	l := &Layer{Floor: baseline.Floor{Level: baseline.Baseline}, Allowances: []Allowance{
		{Floor: baseline.Floor{Level: baseline.Privileged}},
		{Applies: func(ns string) bool { return strings.HasPrefix(ns, "kube-") }, Floor: baseline.Floor{Level: baseline.Privileged}},
	}}
	for ns, want := range map[string]baseline.Level{"kube-system": baseline.Privileged, "pay": baseline.Baseline, "": baseline.Baseline} {
		if got := l.FloorFor(ns).Level; got != want {
			t.Errorf("FloorFor(%q) = %v, want %v", ns, got, want)
		}
	}
}

// The earliest end of anything that a verdict rests on is its own.
func TestVerdictUntil(t *testing.T) {
	l := good()
	l.NotAfter = now.Add(3 * time.Hour)
	l.Images = []ImageRule{fixed{finding: ImageFinding{Matched: true, Until: now.Add(2 * time.Hour)}}}
	f := keyless()
	f.NotAfter = now.Add(time.Hour)
	for _, tt := range []struct {
		claims []Claim
		want   time.Duration
	}{{nil, 2 * time.Hour}, {[]Claim{claim.New(f)}, time.Hour}} {
		l.Verifier = verifierOf(tt.claims)
		if v := l.JudgeImage(context.Background(), image(t, "registry.example/app"), Evidence{}, now); !v.Until().Equal(now.Add(tt.want)) {
			t.Errorf("Until() = %v, want %v", v.Until(), now.Add(tt.want))
		}
	}
}
