package fuzz

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"sallyport/sandbox"
)

// FuzzMonitorSync: what conmon says on its pipe is a pid above 1, or an error in one line.
func FuzzMonitorSync(f *testing.F) {
	for _, s := range []string{`{"pid": 4711}`, `{"pid": -1, "message": "a\nb"}`, `{"exit_code":1}`, `{"pid":1e9}`, `{"pid":0`, "", "null"} {
		f.Add([]byte(s))
	}
	parse := sandbox.Parsers()["sync"]
	f.Fuzz(func(t *testing.T, data []byte) {
		out, err := parse(data)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") || err.Error() == "" {
				t.Errorf("error is not one line: %q", err)
			}
			return
		}
		var pid int
		if json.Unmarshal(out, &pid) != nil || pid <= 1 {
			t.Errorf("pid %s from %q", out, data)
		}
	})
}

// FuzzExitFile: an exit code is between -1 and 255.
func FuzzExitFile(f *testing.F) {
	for _, s := range []string{"0", "137\n", "-1", "256", "99999999999999999999", "0x1", ""} {
		f.Add([]byte(s))
	}
	parse := sandbox.Parsers()["exit"]
	f.Fuzz(func(t *testing.T, data []byte) {
		out, err := parse(data)
		var code int
		if err == nil && (json.Unmarshal(out, &code) != nil || code < -1 || code > 255) {
			t.Errorf("exit code %s from %q", out, data)
		}
	})
}

// FuzzRecord: a record that loads names no path but its own, and loads again after it was written.
func FuzzRecord(f *testing.F) {
	id := strings.Repeat("0a", 32)
	f.Add([]byte(`{"version":1,"id":"` + id + `","state":"ready","pod":{"ips":["10.0.0.1"]}}`))
	f.Add([]byte(`{"version":1,"id":"` + id + `","container":{"podID":"` + id + `","processes":{"monitor":{"pid":1}}}}`))
	f.Add([]byte(`{"version":1,"id":"../../../etc","pod":{}}`))
	f.Add([]byte(`{"version":2}`))
	parse := sandbox.Parsers()["record"]
	f.Fuzz(func(t *testing.T, data []byte) {
		out, err := parse(data)
		if err != nil {
			return
		}
		var r struct {
			ID  string `json:"id"`
			Ctr *struct {
				PodID string `json:"podID"`
			} `json:"container"`
		}
		if err := json.Unmarshal(out, &r); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(r.ID, "/.") || len(r.ID) != 64 || r.Ctr != nil && (strings.ContainsAny(r.Ctr.PodID, "/.") || len(r.Ctr.PodID) != 64) {
			t.Errorf("IDs %+v of %q would be paths", r, data)
		}
		if _, err := parse(out); err != nil {
			t.Errorf("a record that loaded does not load again: %v\n%s", err, out)
		}
	})
}

// FuzzStopSignal: an image's stop signal is a signal of the kernel or an error.
func FuzzStopSignal(f *testing.F) {
	for _, s := range []string{"SIGTERM", "term", "15", "SIGRTMIN+3", "SIGRTMAX-14", "0", "-9", "65", "SIGRTMIN+99", "SIGTERM\n"} {
		f.Add([]byte(s))
	}
	parse := sandbox.Parsers()["signal"]
	f.Fuzz(func(t *testing.T, data []byte) {
		out, err := parse(data)
		var sig int
		if err == nil && (json.Unmarshal(out, &sig) != nil || sig < 1 || sig > 64) {
			t.Errorf("signal %s from %q", out, data)
		}
	})
}

// FuzzRuntimeMessage: a runtime's log, which quotes hostile text, becomes one short line.
func FuzzRuntimeMessage(f *testing.F) {
	for _, s := range []string{`{"level":"error","msg":"a\nb"}`, "plain\n", "\x1b[31m", strings.Repeat("x", 5000), `{"level":"error","msg":"\u0000"}`} {
		f.Add([]byte(s))
	}
	parse := sandbox.Parsers()["message"]
	f.Fuzz(func(t *testing.T, data []byte) {
		out, err := parse(data)
		if err != nil {
			t.Fatal(err)
		}
		var msg string
		if json.Unmarshal(out, &msg) != nil || len(msg) > 600 || strings.ContainsFunc(msg, func(r rune) bool { return r < ' ' || r == 0x7f }) || !utf8.ValidString(msg) {
			t.Errorf("message %q of %q", msg, data)
		}
	})
}
