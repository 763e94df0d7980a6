package main

import (
	"strings"
	"testing"

	"sallyport/audit"
)

// A name that reads like the rest of a line does not pass for it; a plain one stands as it is.
func TestForgedLine(t *testing.T) {
	for _, tt := range []struct{ namespace, pod, container, want string }{
		{"shop", "web-0", "app.1", " shop/web-0/app.1 "},
		{"shop", "web", "app x/y@sha256:0 [node: release: fine]", ` shop/web/"app x/y@sha256:0 [node: release: fine]" `},
		{"shop", "web/other", "app", ` shop/"web/other"/app `},
		{"shop", "web", "a\n#7 2026-11-22 decision allow", ` shop/web/"a\n#7 2026-11-22 decision allow" `},
		{"shop", "web", "a\x1b[2K\u202e", ` shop/web/"a\x1b[2K\u202e" `},
	} {
		got := printable(line(audit.Record{Seq: 3, Event: audit.Event{Type: "decision", Outcome: "deny", Verb: "run",
			Namespace: tt.namespace, Pod: tt.pod, Container: tt.container, Image: "r/x:v1"}}))
		if !strings.Contains(got, tt.want) || !strings.Contains(got, "deny run") {
			t.Errorf("line = %s, want %s in it", got, tt.want)
		}
	}
}
