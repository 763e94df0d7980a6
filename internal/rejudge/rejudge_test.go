package rejudge

import (
	"testing"
	"time"

	"sallyport/enforce"
	"sallyport/policy"
)

// A layer stops as many as it says, as fast as it says, and then halts with one alarm, until it is another.
func TestBrake(t *testing.T) {
	now := time.Now()
	r := policy.Rejudge{Stop: true, Max: 5, Percent: 20}
	b := &brake{}
	stops := func(at time.Time, tries, running int) (free, alarms int) {
		for range tries {
			ok, alarm := b.release(at, r, running)
			if ok {
				free++
			}
			if alarm {
				alarms++
			}
		}
		return free, alarms
	}
	if free, alarms := stops(now, 10, 10); free != 2 || alarms != 0 {
		t.Errorf("20%% of 10: %d stopped, %d alarms, want 2, 0", free, alarms)
	}
	if free, _ := stops(now.Add(59*time.Second), 10, 10); free != 0 {
		t.Errorf("within the minute: %d more, want none", free)
	}
	if free, _ := stops(now.Add(61*time.Second), 10, 3); free != 1 {
		t.Errorf("20%% of 3: %d, want at least one", free)
	}
	if free, alarms := stops(now.Add(122*time.Second), 10, 1000); free != 2 || alarms != 1 || !b.halted {
		t.Errorf("at the most: %d, %d alarms, halted %t, want 2, 1, true", free, alarms, b.halted)
	}
	if free, alarms := stops(now.Add(time.Hour), 10, 1000); free != 0 || alarms != 0 {
		t.Errorf("halted: %d, %d alarms, want none", free, alarms)
	}
}

// A container is stopped only for a layer that denies for more than time, that says stop, and that no
// override covers; its grace begins when that was found first.
func TestFoundSaysWhenToStop(t *testing.T) {
	now := time.Now()
	hits := []enforce.Hit{{Layer: "node", Rule: "release"}}
	stop := policy.Rejudge{Stop: true, Grace: time.Minute, Max: 1, Percent: 1}
	deny := enforce.Part{Layer: "node", Hits: hits, Rejudge: stop}
	aged, report := deny, deny
	aged.Aged, report.Rejudge = true, policy.Rejudge{}
	quick := deny
	quick.Layer, quick.Rejudge.Grace = "namespace pay", time.Second
	for _, tt := range []struct {
		name string
		o    enforce.Opinion
		old  Finding
		due  time.Time
		aged bool
		by   string
	}{
		{"denied", enforce.Opinion{Parts: []enforce.Part{deny}}, Finding{}, now.Add(time.Minute), false, "node"},
		{"still denied", enforce.Opinion{Parts: []enforce.Part{deny}}, Finding{Since: now.Add(-time.Hour)}, now.Add(-59 * time.Minute), false, "node"},
		{"aged before, denied now", enforce.Opinion{Parts: []enforce.Part{deny}}, Finding{Since: now.Add(-time.Hour), Aged: true}, now.Add(time.Minute), false, "node"},
		{"covered before, denied now", enforce.Opinion{Parts: []enforce.Part{deny}}, Finding{Since: now.Add(-time.Hour), Override: "inc"}, now.Add(time.Minute), false, "node"},
		{"aged", enforce.Opinion{Parts: []enforce.Part{aged}}, Finding{}, time.Time{}, true, ""},
		{"reported", enforce.Opinion{Parts: []enforce.Part{report}}, Finding{}, time.Time{}, false, ""},
		{"covered", enforce.Opinion{Override: "inc", Parts: []enforce.Part{deny}}, Finding{}, time.Time{}, false, "node"},
		{"aged there, reported here", enforce.Opinion{Parts: []enforce.Part{aged, report}}, Finding{}, time.Time{}, false, ""},
		{"the shorter grace", enforce.Opinion{Parts: []enforce.Part{deny, quick}}, Finding{}, now.Add(time.Second), false, "namespace pay"},
	} {
		f, by := found(tt.o, tt.old, now)
		if !f.Due.Equal(tt.due) || f.Aged != tt.aged || by.Layer != tt.by {
			t.Errorf("%s: found() = due %v, aged %t, by %q, want %v, %t, %q", tt.name, f.Due, f.Aged, by.Layer, tt.due, tt.aged, tt.by)
		}
	}
}
