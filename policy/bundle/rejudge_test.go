package bundle

import (
	"strings"
	"testing"
	"time"

	"sallyport/policy"
)

// Whoever stops containers says how many and how fast; reporting takes nothing more.
func TestRejudgeRefused(t *testing.T) {
	const whole = "action: stop, grace: 1h, maxContainers: 20, percentPerMinute: 5"
	for _, tt := range []struct {
		text string
		want string // "": it parses
		out  policy.Rejudge
	}{
		{whole, "", policy.Rejudge{Stop: true, Grace: time.Hour, Max: 20, Percent: 5}},
		{"action: report", "", policy.Rejudge{}},
		{"action: report, grace: 1h", "rejudge.action", policy.Rejudge{}},
		{"action: kill", "rejudge.action", policy.Rejudge{}},
		{"grace: 1h", "rejudge.action", policy.Rejudge{}},
		{strings.Replace(whole, "20", "0", 1), "rejudge.maxContainers", policy.Rejudge{}},
		{strings.Replace(whole, "maxContainers: 20, ", "", 1), "rejudge.maxContainers", policy.Rejudge{}},
		{strings.Replace(whole, "percentPerMinute: 5", "percentPerMinute: 101", 1), "rejudge.percentPerMinute", policy.Rejudge{}},
		{strings.Replace(whole, "grace: 1h, ", "", 1), "rejudge.grace", policy.Rejudge{}},
		{strings.Replace(whole, "1h", "-1h", 1), "rejudge.grace", policy.Rejudge{}},
	} {
		for _, kind := range []Kind{Node, Namespace} {
			m, err := parseManifest([]byte("name: a\nrejudge: {"+tt.text+"}\n"), kind)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) || err == nil && m.rejudge != tt.out {
				t.Errorf("%s: rejudge {%s} = %+v, %v, want %q", kind, tt.text, m.rejudge, err, tt.want)
			}
		}
	}
}
