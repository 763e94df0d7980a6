package enforce_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"sallyport/audit"
	"sallyport/enforce"
	"sallyport/enforce/enforcetest"
	"sallyport/image/ref"
	"sallyport/policy"
	"sallyport/policy/baseline"
)

// An override lets pass what named rules deny, for its image, namespace, verb and time, as often as it can
// be counted; everything below the floor that it cannot cross stays denied by its own rule.
func TestOverrideCrossesRulesAndNoFloor(t *testing.T) {
	floor := baseline.ForLevel(baseline.Baseline)
	img, ev := image(t)
	closed := "policies: [{name: closed, images: [{glob: '**'}], authorities: [{static: {action: fail, message: 'closed'}}]}]"
	revoked, err := policy.ParseRevocations([]byte("issued: " + time.Now().UTC().Format(time.RFC3339) + "\nmaxAge: 24h\ndigests: [{digest: " + img.Instance.String() + "}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	type world struct {
		o     policy.Override
		layer policy.Layer
		r     enforce.RunRequest
		spend error
	}
	for _, tt := range []struct {
		name   string
		change func(*world)
		rule   string // that denies; "": the override lets it pass
	}{
		{"in order", func(*world) {}, ""},
		{"another namespace", func(w *world) { w.o.Namespace = "pay" }, "closed"},
		{"another image", func(w *world) { w.o.Digest = ref.DigestOf([]byte("other")) }, "closed"},
		{"no digest", func(w *world) { w.o.Digest = ref.Digest{} }, "closed"},
		{"another verb", func(w *world) { w.o.Verbs = []policy.Verb{policy.VerbPull} }, "closed"},
		{"another rule", func(w *world) { w.o.Rules = []string{"open"} }, "closed"},
		{"over", func(w *world) { w.o.NotAfter = time.Now().Add(-time.Second) }, "closed"},
		{"to come", func(w *world) { w.o.NotBefore = time.Now().Add(time.Minute) }, "closed"},
		{"uses spent", func(w *world) { w.spend = errors.New("all 3 uses are spent") }, "closed"},
		{"one rule more", func(w *world) { w.layer.Images = append(w.layer.Images, before(time.Unix(1, 0))) }, "age"},
		{"below the floor", func(w *world) { w.layer.Floor = baseline.Floor{} }, "B"},
		{"refused by the floor", func(w *world) { w.r.Refusals = []policy.Hit{{Rule: "seccomp"}} }, "seccomp"},
		{"revoked", func(w *world) { w.layer.Revocations = revoked; w.o.Rules = append(w.o.Rules, "revoked") }, "revoked"},
		{"bytes changed", func(w *world) {
			w.r.Evidence.TopManifest = []byte("{}")
			w.o.Rules = append(w.o.Rules, "digest-mismatch")
		}, "digest-mismatch"},
		{"evidence missing", func(w *world) {
			w.r.Evidence.Complete = false
			w.o.Rules = append(w.o.Rules, "evidence-incomplete")
		}, "evidence-incomplete"},
		{"engine fault", func(w *world) {
			w.layer.Images = append(w.layer.Images, panicking{})
			w.o.Rules = append(w.o.Rules, "panic")
		}, "panic"},
		{"policy over", func(w *world) {
			w.layer.NotAfter = time.Now().Add(-time.Minute)
			w.o.Rules = append(w.o.Rules, "policy-expired")
		}, "policy-expired"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := world{layer: *enforcetest.Layer(t, "node", closed, floor), r: run(t)}
			w.r.Evidence = ev
			w.o = policy.Override{ID: "id", Name: "inc", Ticket: "INC-1", Namespace: "shop", Digest: img.Top, Verbs: []policy.Verb{policy.VerbRun},
				Rules: []string{"closed"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), MaxUses: 3}
			tt.change(&w)
			spent := 0
			w.o.Spend = func() (int, error) { spent++; return spent, w.spend }
			g, dir := enforcetest.With(t, enforce.Policies{Node: &w.layer, Overrides: []policy.Override{w.o}})
			opinion := g.ExamineRun(t.Context(), w.r)
			adm, err := g.AdmitRun(t.Context(), w.r)
			if tt.rule != "" {
				var d *enforce.Denied
				if !errors.As(err, &d) {
					t.Fatalf("AdmitRun() = %v, want a denial by %q", err, tt.rule)
				}
				found := false
				for _, h := range d.Hits {
					found = found || strings.HasPrefix(h.Rule, tt.rule)
				}
				if !found || w.spend == nil && spent != 0 {
					t.Errorf("denied by %v with %d uses, want rule %q and none", d.Hits, spent, tt.rule)
				}
				if w.spend == nil && opinion.Override != "" {
					t.Errorf("ExamineRun() says that override %q covers it", opinion.Override)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			grant, err := g.Redeem(adm)
			if err != nil {
				t.Fatal(err)
			}
			rec, err := audit.Find(dir, grant.Receipt().Seq())
			if err != nil || spent != 1 {
				t.Fatalf("record %v, %d uses, want 1", err, spent)
			}
			e := rec.Event
			if e.Outcome != "allow" || e.Detail["override"] != "inc" || e.Detail["ticket"] != "INC-1" || e.Detail["overrideUse"] != "1 of 3" ||
				len(e.Hits) != 0 || len(e.Warnings) != 1 || e.Warnings[0].Mode != "override" || e.Warnings[0].Rule != "closed" {
				t.Errorf("record = %+v, want it marked", e)
			}
			if opinion.Allowed || !strings.HasPrefix(opinion.Override, "inc (ticket INC-1) until ") {
				t.Errorf("ExamineRun() = %+v, want the override named", opinion)
			}
			st := g.State()
			if st.Decisions["run override"] != 1 || !strings.Contains(st.Overrides, "override inc (ticket INC-1) in namespace shop until ") {
				t.Errorf("State() = %+v, want the override in it", st)
			}
		})
	}
}

// An override that is withdrawn takes with it what it admitted and nobody used yet, at the next redemption;
// one of another namespace does not.
func TestWithdrawnOverrideEndsAdmissions(t *testing.T) {
	img, ev := image(t)
	closed := enforcetest.Layer(t, "node", "policies: [{name: closed, images: [{glob: '**'}], authorities: [{static: {action: fail, message: 'closed'}}]}]", baseline.ForLevel(baseline.Baseline))
	of := func(namespace string) policy.Override {
		return policy.Override{ID: "id of " + namespace, Name: "inc", Ticket: "INC-1", Namespace: namespace, Digest: img.Top, Verbs: []policy.Verb{policy.VerbRun},
			Rules: []string{"closed"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), MaxUses: 9, Spend: func() (int, error) { return 1, nil }}
	}
	for _, tt := range []struct {
		name string
		left []policy.Override
		want error
	}{
		{"withdrawn", []policy.Override{of("pay")}, enforce.ErrExpired},
		{"another's withdrawn", []policy.Override{of("shop")}, nil},
	} {
		g, _ := enforcetest.With(t, enforce.Policies{Node: closed, Overrides: []policy.Override{of("pay"), of("shop")}})
		r := run(t)
		r.Evidence = ev
		adm, err := g.AdmitRun(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Install(t.Context(), enforce.Policies{Node: closed, Overrides: tt.left}); err != nil {
			t.Fatal(err)
		}
		if _, err := g.Redeem(adm); !errors.Is(err, tt.want) {
			t.Errorf("%s: Redeem() = %v, want %v", tt.name, err, tt.want)
		}
	}
}

// Without a record nothing is admitted, override or not.
func TestOverrideNeedsARecord(t *testing.T) {
	img, _ := image(t)
	log, err := audit.Open(audit.Options{Dir: t.TempDir(), Node: "n", BootID: "b"})
	if err != nil {
		t.Fatal(err)
	}
	g, err := enforce.New(enforce.Options{Log: log, EnvKey: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	closed := "policies: [{name: closed, images: [{glob: '**'}], authorities: [{static: {action: fail, message: 'closed'}}]}]"
	o := policy.Override{Namespace: "shop", Digest: img.Top, Verbs: []policy.Verb{policy.VerbRun}, Rules: []string{"closed"},
		NotAfter: time.Now().Add(time.Hour), MaxUses: 3, Spend: func() (int, error) { return 1, nil }}
	if err := g.Install(t.Context(), enforce.Policies{Node: enforcetest.Layer(t, "node", closed, baseline.ForLevel(baseline.Baseline)), Overrides: []policy.Override{o}}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.AdmitRun(t.Context(), run(t)); err != nil {
		t.Fatal(err)
	}
	log.Close()
	if _, err := g.AdmitRun(t.Context(), run(t)); !errors.Is(err, enforce.ErrAudit) {
		t.Errorf("AdmitRun() with a closed log = %v, want ErrAudit", err)
	}
}
