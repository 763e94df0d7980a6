package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode"

	"sallyport/internal/admin/wire"
	"sallyport/internal/selftest"
)

// Reads is the effect of a call that changes nothing.
const Reads = "reads"

// call is one thing that an operator can ask. effect is Reads, or names what it does and by which verb
// of the gate it is admitted; security's enumeration test wants one of every call.
type call struct {
	name   string
	effect string
	limit  time.Duration // for the whole call
	serve  func(*Server) http.HandlerFunc
}

var calls = []call{
	{wire.CallPs, Reads, 10 * time.Second, func(s *Server) http.HandlerFunc { return answer(s.ps) }},
	{wire.CallPolicy, Reads, 10 * time.Second, func(s *Server) http.HandlerFunc { return answer(s.policyStatus) }},
	{wire.CallVerify, Reads, 90 * time.Second, func(s *Server) http.HandlerFunc { return answer(s.verify) }},
	{wire.CallStored, Reads, 30 * time.Second, func(s *Server) http.HandlerFunc { return answer(s.stored) }},
	{wire.CallLoad, "stores an image: AdmitPull", wire.LoadLimit, func(s *Server) http.HandlerFunc { return answer(s.load) }},
	{wire.CallTest, "pulls what the self-test asks for at the CRI socket, and removes it: AdmitPull, AdmitPod", selftest.Limit + 10*time.Second, func(s *Server) http.HandlerFunc { return answer(s.selfTest) }},
}

// Effects are the names of all calls, each with its effect.
func Effects() map[string]string {
	out := make(map[string]string, len(calls))
	for _, c := range calls {
		out[c.name] = c.effect
	}
	return out
}

// asked is an error that is the operator's own: status is what HTTP says of it.
type asked struct {
	status int
	error
}

func (a asked) Unwrap() error { return a.error }

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	for _, c := range calls {
		mux.Handle("POST /v1/"+c.name, s.bound(c))
	}
	if s.o.Inspect != nil {
		mux.Handle("/", s.bound(call{name: "inspect", limit: 30 * time.Second, serve: func(s *Server) http.HandlerFunc { return s.o.Inspect.ServeHTTP }}))
	}
	return mux
}

// bound holds a call to its deadline, its request to its size, and all calls together to a number.
func (s *Server) bound(c call) http.Handler {
	serve := c.serve(s)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		default:
			fail(w, asked{http.StatusServiceUnavailable, fmt.Errorf("%d calls are under way; ask again", maxCalls)})
			return
		}
		defer func() {
			if p := recover(); p != nil {
				s.o.Log.Error("admin call panicked", "call", c.name, "panic", p)
				fail(w, fmt.Errorf("call %s panicked: %.200v; report this as a defect", c.name, p))
			}
		}()
		ctx, cancel := context.WithTimeout(r.Context(), c.limit)
		defer cancel()
		r.Body = http.MaxBytesReader(w, r.Body, wire.MaxRequest)
		serve(w, r.WithContext(ctx))
	})
}

// answer makes a handler of a call's function: one strictly decoded JSON object in, one out.
func answer[In, Out any](do func(context.Context, In) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			fail(w, asked{http.StatusRequestEntityTooLarge, fmt.Errorf("read request: %w", err)})
			return
		}
		in, err := Decode[In](body)
		if err != nil {
			fail(w, asked{http.StatusBadRequest, err})
			return
		}
		out, err := do(r.Context(), in)
		if err != nil {
			fail(w, err)
			return
		}
		text, err := json.Marshal(out)
		if err != nil {
			fail(w, fmt.Errorf("write answer: %w", err))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(text) // a client that has gone wants no answer
	}
}

// Decode reads one JSON object without unknown fields and with nothing after it. An empty body is {}.
func Decode[In any](body []byte) (in In, err error) {
	if len(body) == 0 {
		return in, nil
	}
	if !json.Valid(body) || bytes.TrimLeft(body, " \t\r\n")[0] != '{' {
		return in, errors.New("parse request: it is not one JSON object")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		return in, fmt.Errorf("parse request: %w", err)
	}
	return in, nil
}

func fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	var a asked
	if errors.As(err, &a) {
		status = a.status
	}
	text, _ := json.Marshal(wire.Failure{Error: oneLine(err.Error())})
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(text)
}

// oneLine replaces control characters: texts quote what strangers chose.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
