package enforce_test

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/audit"
	"sallyport/enforce"
	"sallyport/enforce/enforcetest"
	"sallyport/policy/baseline"
)

func TestRedeemAfterTwoMinutes(t *testing.T) {
	for name, tc := range map[string]struct {
		wait time.Duration
		want error
	}{"just in time": {enforce.Life - time.Second, nil}, "too late": {enforce.Life, enforce.ErrExpired}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := gate(t)
				adm, err := g.AdmitRun(t.Context(), run(t))
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(tc.wait)
				if _, err := g.Redeem(adm); !errors.Is(err, tc.want) {
					t.Errorf("Redeem() after %v = %v, want %v", tc.wait, err, tc.want)
				}
			})
		})
	}
}

// TestClockStepBack: once a later time is on record, an earlier clock brings back nothing that expired,
// and what depends on an expiry is denied until the clock is set.
func TestClockStepBack(t *testing.T) {
	for name, tc := range map[string]struct {
		recorded time.Duration // of the newest record, from now
		expires  bool
		rule     string
	}{
		"clock right":                        {0, true, ""},
		"behind by two minutes":              {2 * time.Minute, true, ""},
		"behind by an hour":                  {time.Hour, true, "clock-step"},
		"behind by an hour, nothing expires": {time.Hour, false, ""},
		"expired by recorded time":           {48 * time.Hour, true, "clock-step"},
	} {
		t.Run(name, func(t *testing.T) {
			log, err := audit.Open(audit.Options{Dir: t.TempDir(), Node: "n", BootID: "b"})
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			if _, err := log.Append(t.Context(), audit.Event{Type: "daemon", Time: time.Now().Add(tc.recorded)}); err != nil {
				t.Fatal(err)
			}
			g, err := enforce.New(enforce.Options{Log: log, EnvKey: bytes.Repeat([]byte{1}, 32)})
			if err != nil {
				t.Fatal(err)
			}
			layer := enforcetest.AnyImage(t, baseline.ForLevel(baseline.Baseline))
			if tc.expires {
				layer.NotAfter = time.Now().Add(24 * time.Hour)
			}
			if err := g.Install(t.Context(), enforce.Policies{Node: layer}); err != nil {
				t.Fatal(err)
			}
			_, err = g.AdmitRun(t.Context(), run(t))
			if tc.rule == "" {
				if err != nil {
					t.Errorf("AdmitRun() = %v, want admitted", err)
				}
				return
			}
			if tc.recorded > 24*time.Hour {
				rule(t, err, "policy-expired")
				return
			}
			rule(t, err, tc.rule)
		})
	}
}
