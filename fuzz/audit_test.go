package fuzz

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"unicode/utf8"

	"sallyport/audit"
)

var auditOptions = audit.Options{Node: "n", BootID: "b"}

// FuzzAuditSegment: whatever bytes are in a segment, the verifier ends; a log that it finds whole can be
// opened, keeps its records and goes on; one that cannot be opened is left as it was.
func FuzzAuditSegment(f *testing.F) {
	dir := f.TempDir()
	o := auditOptions
	o.Dir = dir
	l, err := audit.Open(o)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := l.PutInput([]byte("input")); err != nil {
		f.Fatal(err)
	}
	for range 2 {
		if _, err := l.Append(f.Context(), audit.Event{Type: "decision", Outcome: "deny"}); err != nil {
			f.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, "0000000001.log"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-5])
	f.Add(append(bytes.Clone(whole), make([]byte, 20)...))
	f.Add(append(bytes.Clone(whole), 0xff, 0xff, 0xff, 0xff))
	f.Add(whole[:3])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, segment []byte) {
		o := auditOptions
		o.Dir = t.TempDir()
		path := filepath.Join(o.Dir, "0000000001.log")
		if err := os.WriteFile(path, segment, 0o600); err != nil {
			t.Fatal(err)
		}
		before, verifyErr := audit.Verify(o.Dir)
		l, err := audit.Open(o)
		if err != nil {
			if now, readErr := os.ReadFile(path); readErr != nil || !bytes.Equal(now, segment) {
				t.Fatalf("Open() refused with %v and changed the segment (%v)", err, readErr)
			}
			if verifyErr == nil {
				t.Fatalf("Verify() = %+v, but Open() = %v", before, err)
			}
			return
		}
		receipt, err := l.Append(t.Context(), audit.Event{Type: "decision"})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if verifyErr != nil {
			return
		}
		after, err := audit.Verify(o.Dir)
		if err != nil || after.Last != receipt.Seq() || after.Records <= before.Records || after.Records > before.Records+2 || after.Torn != 0 {
			t.Fatalf("Verify() before %+v, after %+v, %v", before, after, err)
		}
	})
}

// FuzzAuditEvent: no text in an event makes another record, breaks the log or exceeds the limits.
func FuzzAuditEvent(f *testing.F) {
	f.Add("decision", "registry.example/app", "rule", "message")
	f.Add("x", "\x00\n\r", `","prev":"`, `{"prev":"00"}`)
	f.Add("x", "\xff\xfe", "€\u2028", string(bytes.Repeat([]byte("\x01"), 5000)))
	f.Fuzz(func(t *testing.T, kind, image, rule, msg string) {
		o := auditOptions
		o.Dir = t.TempDir()
		l, err := audit.Open(o)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		e := audit.Event{Type: kind, Image: image, Argv: []string{msg}, Hits: []audit.Hit{{Layer: rule, Rule: rule, Msg: msg}},
			Detail: map[string]string{rule: msg}, Policies: map[string]string{msg: rule}}
		if _, err := l.Append(t.Context(), e); (err == nil) != (kind != "") {
			t.Fatalf("Append(type %q) = %v", kind, err)
		}
		if kind == "" {
			return
		}
		r, err := audit.Verify(o.Dir)
		if err != nil || r.Records != 1 || r.Torn != 0 {
			t.Fatalf("Verify() = %+v, %v, want one record", r, err)
		}
		got, err := audit.Find(o.Dir, 1)
		if err != nil || len(got.Event.Hits) != 1 || len(got.Event.Hits[0].Msg) > 3*1024+100 || len(got.Event.Image) > 3*512+100 {
			t.Fatalf("Find(1) = %+v, %v", got, err)
		}
		if utf8.ValidString(msg) && len(msg) <= 512 && (got.Event.Hits[0].Msg != msg || got.Event.Argv[0] != msg) {
			t.Fatalf("message %q came back as %q", msg, got.Event.Hits[0].Msg)
		}
	})
}
