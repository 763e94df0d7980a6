package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"sallyport/audit"
	"sallyport/enforce"
	"sallyport/enforce/enforcetest"
	"sallyport/policy"
	"sallyport/policy/baseline"
	"sallyport/sandbox/spec"
)

// Nothing is made from an admission that was not issued, was used, or is for something else.
func TestCreateNeedsItsAdmission(t *testing.T) {
	n := newNode(t)
	p := n.pod(podConfig("a"))
	other := n.pod(podConfig("b"))
	ctx := t.Context()
	reserve := func(p *Pod, name string) *Reservation {
		r, err := p.Reserve(ctx, script(name, "true"))
		must(t, err)
		t.Cleanup(r.Cancel)
		return r
	}
	admit := func(r *Reservation) enforce.RunAdmission {
		adm, err := n.gate.AdmitRun(ctx, n.request(r))
		must(t, err)
		return adm
	}
	t.Run("zero", func(t *testing.T) {
		if _, err := p.Create(ctx, enforce.RunAdmission{}); !errors.Is(err, enforce.ErrForged) {
			t.Errorf("Create() = %v, want ErrForged", err)
		}
		if _, err := n.Run(ctx, enforce.PodAdmission{}); !errors.Is(err, enforce.ErrForged) {
			t.Errorf("Run() = %v, want ErrForged", err)
		}
	})
	t.Run("of another gate", func(t *testing.T) {
		floor := baseline.ForLevel(baseline.Baseline)
		g := enforcetest.Gate(t, floor)
		adm, err := g.AdmitRun(ctx, n.request(reserve(p, "forged")))
		must(t, err)
		if _, err := p.Create(ctx, adm); !errors.Is(err, enforce.ErrForged) {
			t.Errorf("Create() = %v, want ErrForged", err)
		}
	})
	t.Run("used", func(t *testing.T) {
		adm := admit(reserve(p, "once"))
		if _, err := p.Create(ctx, adm); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Create(ctx, adm); !errors.Is(err, enforce.ErrRedeemed) {
			t.Errorf("Create() = %v, want ErrRedeemed", err)
		}
	})
	t.Run("of another pod", func(t *testing.T) {
		if _, err := other.Create(ctx, admit(reserve(p, "elsewhere"))); !errors.Is(err, ErrMismatch) {
			t.Errorf("Create() = %v, want ErrMismatch", err)
		}
	})
	t.Run("without a reservation", func(t *testing.T) {
		r := reserve(p, "cancelled")
		adm := admit(r)
		r.Cancel()
		if _, err := p.Create(ctx, adm); !errors.Is(err, ErrMismatch) {
			t.Errorf("Create() = %v, want ErrMismatch", err)
		}
	})
	t.Run("configuration of another container", func(t *testing.T) {
		r := reserve(p, "honest")
		req := n.request(r)
		req.Config = n.request(reserve(p, "other")).Config
		adm, err := n.gate.AdmitRun(ctx, req)
		must(t, err)
		if _, err := p.Create(ctx, adm); !errors.Is(err, ErrMismatch) {
			t.Errorf("Create() = %v, want ErrMismatch", err)
		}
	})
	t.Run("policy changed", func(t *testing.T) {
		r := reserve(p, "late")
		adm := admit(r)
		floor := baseline.ForLevel(baseline.Baseline)
		floor.HostPaths = []string{"/"}
		must(t, n.gate.Install(ctx, enforce.Policies{Node: enforcetest.AnyImage(t, floor)}))
		if _, err := p.Create(ctx, adm); !errors.Is(err, enforce.ErrExpired) {
			t.Fatalf("Create() = %v, want ErrExpired", err)
		}
		if _, err := p.Create(ctx, admit(r)); err != nil {
			t.Errorf("Create() with a fresh admission for the same reservation = %v, want nil", err)
		}
	})
}

// The bytes that the runtime reads are those in the audit record.
func TestSpecIsWhatWasJudged(t *testing.T) {
	n := newNode(t)
	p := n.pod(podConfig("a"))
	c, err := n.create(p, script("app", "true"))
	must(t, err)
	data, err := os.ReadFile(filepath.Join(c.bundle(), "config.json"))
	must(t, err)
	sum := sha256.Sum256(data)
	want := hex.EncodeToString(sum[:])
	found := false
	must(t, audit.Read(n.audit, func(r audit.Record) error {
		if r.Event.ID == c.ID() && r.Event.Verb == string(policy.VerbRun) {
			found = true
			if r.Event.SpecHash != want && r.Event.SpecHash != "sha256:"+want {
				t.Errorf("audit record %d has spec hash %q, want %q", r.Seq, r.Event.SpecHash, want)
			}
		}
		return nil
	}))
	if !found {
		t.Errorf("no audit record of container %s", c.ID())
	}
	// The allowed twin: the untouched spec reads back; one changed byte does not.
	if _, err := c.Spec(); err != nil {
		t.Errorf("Spec() = %v, want nil", err)
	}
	data[len(data)-2] ^= 1
	must(t, os.WriteFile(filepath.Join(c.bundle(), "config.json"), data, 0o600))
	if _, err := c.Spec(); !errors.Is(err, ErrMismatch) {
		t.Errorf("Spec() of a changed file = %v, want ErrMismatch", err)
	}
}

// A start needs an admission that is of this daemon's life and of the policy in force.
func TestStartNeedsFreshAdmission(t *testing.T) {
	n := newNode(t)
	p := n.pod(podConfig("a"))
	c, err := n.create(p, script("app", "sleep 100"))
	must(t, err)
	d, err := n.create(p, script("other", "sleep 100"))
	must(t, err)
	n.Close()
	n.start()
	c, err = n.Container(c.ID())
	must(t, err)
	if err := c.Start(t.Context()); !errors.Is(err, ErrNeedsAdmission) {
		t.Fatalf("Start() after a restart = %v, want ErrNeedsAdmission", err)
	}
	if err := c.StartAdmitted(t.Context(), n.again(d)); !errors.Is(err, ErrMismatch) {
		t.Fatalf("StartAdmitted() with another container's admission = %v, want ErrMismatch", err)
	}
	if err := c.StartAdmitted(t.Context(), enforce.RunAdmission{}); !errors.Is(err, enforce.ErrForged) {
		t.Fatalf("StartAdmitted() with no admission = %v, want ErrForged", err)
	}
	if err := c.StartAdmitted(t.Context(), n.again(c)); err != nil {
		t.Fatalf("StartAdmitted() = %v, want nil", err)
	}
	if st := c.Status().State; st != Running {
		t.Errorf("state = %s, want running", st)
	}
	// The policy changes between create and start.
	e, err := n.create(mustPod(t, n, p.ID()), script("third", "sleep 100"))
	must(t, err)
	floor := baseline.ForLevel(baseline.Baseline)
	must(t, n.gate.Install(t.Context(), enforce.Policies{Node: enforcetest.AnyImage(t, floor)}))
	if err := e.Start(t.Context()); !errors.Is(err, ErrNeedsAdmission) {
		t.Errorf("Start() after a change of policy = %v, want ErrNeedsAdmission", err)
	}
	if err := e.StartAdmitted(t.Context(), n.again(e)); err != nil {
		t.Errorf("StartAdmitted() = %v, want nil", err)
	}
}

func mustPod(t *testing.T, n *node, id string) *Pod {
	t.Helper()
	p, err := n.Pod(id)
	must(t, err)
	return p
}

// Exec and update take admissions for this very container.
func TestExecAndUpdateNeedAdmission(t *testing.T) {
	n := newNode(t)
	p := n.pod(podConfig("a"))
	c := n.run(p, script("app", "sleep 100"))
	d := n.run(p, script("other", "sleep 100"))
	ctx := t.Context()
	if _, err := c.ExecSync(ctx, enforce.ExecAdmission{}, 0); !errors.Is(err, enforce.ErrForged) {
		t.Errorf("ExecSync() = %v, want ErrForged", err)
	}
	if err := c.Update(ctx, enforce.UpdateAdmission{}); !errors.Is(err, enforce.ErrForged) {
		t.Errorf("Update() = %v, want ErrForged", err)
	}
	data, err := d.Spec()
	must(t, err)
	process, err := spec.BuildExec(spec.ExecInput{Spec: data, Args: []string{"true"}})
	must(t, err)
	adm, err := n.gate.AdmitExec(ctx, enforce.ExecRequest{Pod: policyPod(p.cfg), PodID: p.id, Container: policy.Container{Name: "other", ID: d.id},
		Exec: policy.Exec{Argv: []string{"true"}}, Process: string(process), Spec: string(data)})
	must(t, err)
	if _, err := c.ExecSync(ctx, adm, 0); !errors.Is(err, ErrMismatch) {
		t.Errorf("ExecSync() with another container's admission = %v, want ErrMismatch", err)
	}
	up, err := n.gate.AdmitUpdate(ctx, enforce.UpdateRequest{Pod: policyPod(p.cfg), Container: policy.Container{Name: "other", ID: d.id}, Resources: []byte(`{"cpu":{"shares":100}}`)})
	must(t, err)
	if err := c.Update(ctx, up); !errors.Is(err, ErrMismatch) {
		t.Errorf("Update() with another container's admission = %v, want ErrMismatch", err)
	}
	if _, err := n.exec(c, 0, "true"); err != nil {
		t.Errorf("ExecSync() = %v, want nil", err)
	}
}

// A pod that has begun to stop takes no container, although the gate admitted it before.
func TestStoppingPodTakesNoContainer(t *testing.T) {
	n := newNode(t)
	p := n.pod(podConfig("a"))
	r, err := p.Reserve(t.Context(), script("app", "true"))
	must(t, err)
	adm, err := n.gate.AdmitRun(t.Context(), n.request(r))
	must(t, err)
	n.mu.Lock()
	p.stopping = true
	n.mu.Unlock()
	if _, err := p.Create(t.Context(), adm); !errors.Is(err, ErrNotReady) {
		t.Errorf("Create() in a stopping pod = %v, want ErrNotReady", err)
	}
	n.mu.Lock()
	p.stopping = false
	n.mu.Unlock()
	if _, err := n.create(p, script("app", "true")); err != nil {
		t.Errorf("create() = %v, want nil", err)
	}
}
