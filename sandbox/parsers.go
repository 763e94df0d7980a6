package sandbox

import (
	"bytes"
	"encoding/json"

	"sallyport/sandbox/internal/monitor"
	"sallyport/sandbox/internal/ociruntime"
)

// Parsers are this room's parsers of bytes that other programs or hostile text write, by name. Each
// gives what it understood, as JSON. Package fuzz drives them.
func Parsers() map[string]func([]byte) ([]byte, error) {
	show := func(v any, err error) ([]byte, error) {
		if err != nil {
			return nil, err
		}
		return json.Marshal(v)
	}
	return map[string]func([]byte) ([]byte, error){
		"record":  func(b []byte) ([]byte, error) { return show(parseRecord(b)) },
		"sync":    func(b []byte) ([]byte, error) { return show(monitor.ParseSync(b)) },
		"exit":    func(b []byte) ([]byte, error) { return show(monitor.ParseExit(b)) },
		"signal":  func(b []byte) ([]byte, error) { return show(parseSignal(string(b))) },
		"message": func(b []byte) ([]byte, error) { return show(ociruntime.Message(b), nil) },
		"packet": func(b []byte) ([]byte, error) {
			var out, errs bytes.Buffer
			if to, data := monitor.Packet(b, monitor.Streams{Stdout: &out, Stderr: &errs}); to != nil {
				to.Write(data)
			}
			return show([][]byte{out.Bytes(), errs.Bytes()}, nil)
		},
		"expect": func(b []byte) ([]byte, error) { return show(expect(b)) },
	}
}
