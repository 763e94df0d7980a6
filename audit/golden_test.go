package audit

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A log of every released version verifies and is gone on with. A new version of the format adds a folder;
// those that are there are never changed.
func TestGoldenLogVerifies(t *testing.T) {
	const golden = "testdata/v1"
	if os.Getenv("SALLYPORT_MAKE_GOLDEN") != "" {
		l, err := Open(Options{Dir: golden, Node: "node-1", BootID: "boot-1"})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range []Event{{Type: "daemon", Outcome: "start"}, {Type: "decision", Verb: "run", Outcome: "allow", Namespace: "pay", Policies: map[string]string{"node": "aa"}}} {
			e.Time = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
			if _, err := l.Append(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "log"), os.DirFS(golden)); err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(dir, "log")
	before, err := Verify(dir)
	if err != nil || before.Records == 0 {
		t.Fatalf("Verify() of the golden log = %+v, %v", before, err)
	}
	l, err := Open(Options{Dir: dir, Node: "node-1", BootID: "boot-2"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(context.Background(), Event{Type: "daemon", Outcome: "start"}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if after, err := Verify(dir); err != nil || after.Records <= before.Records {
		t.Errorf("Verify() of the log gone on with = %+v, %v, want more than %d records", after, err, before.Records)
	}
}
