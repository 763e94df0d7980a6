// Package rego runs OPA modules as one kind of rule. OPA fails open in several ways: on a misspelt
// package, rule or field, and on a builtin that answers undefined. So modules are compiled once, against
// a closed schema of the input (schema/input.json) and a list of builtins that need neither network nor
// clock nor chance (capabilities.json), every field of the input is always present, and whatever is not
// exactly as expected is an error, which denies.
package rego

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"sallyport/policy"
)

// Limits of one evaluation and of one set of modules.
const (
	deadline   = 200 * time.Millisecond // of one evaluation; a real rule takes far less than one
	maxResults = 64                     // objections of one set that are reported; more still deny
	maxRule    = 128                    // bytes of a rule's name
	maxMsg     = 500                    // bytes of a message
	maxInput   = 8 << 20                // bytes of spec, resources, predicates and strings
	maxSource  = 4 << 20                // bytes of all modules
	maxData    = 16 << 20               // bytes of data.json
	parallel   = 8                      // evaluations of one layer at a time
)

//go:embed schema/input.json
var schemaJSON []byte

//go:embed capabilities.json
var capabilitiesJSON []byte

// verbs are the packages that mean something, sallyport.<verb>.
var verbs = []policy.Verb{
	policy.VerbPull, policy.VerbPod, policy.VerbRun, policy.VerbUpdate, policy.VerbExec,
	policy.VerbPortForward, policy.VerbCheckpoint,
}

// parts of the compiler that never change; made at first use, since most commands compile no module.
var shared = sync.OnceValues(func() (*setup, error) {
	caps, err := ast.LoadCapabilitiesJSON(bytes.NewReader(capabilitiesJSON))
	if err != nil {
		return nil, fmt.Errorf("read capabilities: %w", err)
	}
	caps.AllowNet = []string{} // none; nil would mean any
	var schema any
	if err := json.Unmarshal(schemaJSON, &schema); err != nil {
		return nil, fmt.Errorf("read input schema: %w", err)
	}
	schemas := ast.NewSchemaSet()
	schemas.Put(ast.SchemaRootRef, schema)
	return &setup{caps: caps, schemas: schemas}, nil
})

type setup struct {
	caps    *ast.Capabilities
	schemas *ast.SchemaSet
}

// Options are what Compile reads.
type Options struct {
	Modules  map[string]string // file name to text
	Data     []byte            // data.json; nil means {}
	Packages []string          // the sallyport packages that the modules must define, and no others
}

// Rules are compiled modules; immutable and safe for concurrent use.
type Rules struct {
	queries map[policy.Verb]*query // constant
	slots   chan struct{}
}

var _ policy.ActRule = (*Rules)(nil)

// query asks one package for the sets that it defines.
type query struct {
	prepared rego.PreparedEvalQuery
	sets     []string // "deny", "warn", in the order of the answer
}

// Compile checks and compiles. An error names file and line.
func Compile(o Options) (policy.ActRule, error) {
	s, err := shared()
	if err != nil {
		return nil, err
	}
	modules, err := parse(o.Modules, s.caps)
	if err != nil {
		return nil, err
	}
	data, err := parseData(o.Data)
	if err != nil {
		return nil, err
	}
	c := ast.NewCompiler().WithCapabilities(s.caps).WithSchemas(s.schemas).WithStrict(true).
		WithUseTypeCheckAnnotations(false) // an annotation could open the schema
	if c.Compile(modules); c.Failed() {
		return nil, oneLine(c.Errors)
	}
	sets, err := lint(c, data, o.Packages)
	if err != nil {
		return nil, err
	}
	r := &Rules{queries: map[policy.Verb]*query{}, slots: make(chan struct{}, parallel)}
	store := inmem.NewFromObject(data)
	for verb, names := range sets {
		var refs []string
		for _, n := range names {
			refs = append(refs, fmt.Sprintf("data.sallyport.%s.%s", verb, n))
		}
		p, err := rego.New(rego.Compiler(c), rego.Store(store), rego.StrictBuiltinErrors(true),
			rego.Query("["+strings.Join(refs, ", ")+"]")).PrepareForEval(context.Background())
		if err != nil {
			return nil, fmt.Errorf("prepare package sallyport.%s: %w", verb, err)
		}
		r.queries[verb] = &query{prepared: p, sets: names}
	}
	return r, nil
}

// parse reads every module. Files whose names end in _test.rego are for "opa test": they must be in
// packages that do, and are not compiled.
func parse(texts map[string]string, caps *ast.Capabilities) (map[string]*ast.Module, error) {
	out, size := map[string]*ast.Module{}, 0
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if size += len(texts[name]); size > maxSource {
			return nil, fmt.Errorf("%s: the modules are larger than %d bytes in all", name, maxSource)
		}
		m, err := ast.ParseModuleWithOpts(name, texts[name], ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: caps})
		if err != nil {
			var errs ast.Errors
			if errors.As(err, &errs) {
				return nil, oneLine(errs)
			}
			return nil, fmt.Errorf("%s: %s", name, strings.ReplaceAll(err.Error(), "\n", " "))
		}
		if m == nil {
			return nil, fmt.Errorf("%s: empty; a module begins with its package", name)
		}
		pkg := packageName(m)
		test := strings.HasSuffix(name, "_test.rego")
		if test != strings.HasSuffix(pkg, "_test") {
			return nil, fmt.Errorf("%s: package %s: tests stand in files that end in _test.rego and packages that end in _test", name, pkg)
		}
		if !test {
			out[name] = m
		}
	}
	return out, nil
}

func parseData(text []byte) (map[string]any, error) {
	data := map[string]any{}
	if text == nil {
		return data, nil
	}
	if len(text) > maxData {
		return nil, fmt.Errorf("rego/data.json: larger than %d bytes", maxData)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&data); err != nil {
		return nil, fmt.Errorf("rego/data.json: %w", err)
	}
	if dec.More() {
		return nil, errors.New("rego/data.json: more follows the first object")
	}
	for _, name := range []string{"sallyport", "lib"} {
		if _, ok := data[name]; ok {
			return nil, fmt.Errorf("rego/data.json: %q is the name of a package; use another", name)
		}
	}
	return data, nil
}

// JudgeAct evaluates the package of the act's verb, for an attach that of exec. Without one it has nothing to say. Environment
// values must have been replaced in act.Spec by the caller.
func (r *Rules) JudgeAct(ctx context.Context, act policy.Act, claims []policy.Claim) (deny, warn []policy.Hit, err error) {
	pkg := PackageFor(act.Verb)
	if pkg == "" {
		return nil, nil, fmt.Errorf("judge: unknown verb %q", act.Verb)
	}
	q := r.queries[pkg]
	if q == nil {
		return nil, nil, nil
	}
	input, err := inputOf(act, claims)
	if err != nil {
		return nil, nil, err
	}
	return r.evaluate(ctx, q, question{pkg, input, act.Now})
}

// Verbs are those that the modules have a package for.
func (r *Rules) Verbs() []policy.Verb { return slices.Sorted(maps.Keys(r.queries)) }

// PackageFor is the verb whose package judges acts of verb; "" is none.
func PackageFor(verb policy.Verb) policy.Verb {
	if verb == policy.VerbAttach {
		verb = policy.VerbExec
	}
	if !slices.Contains(verbs, verb) {
		return ""
	}
	return verb
}

// Input is the input document of an act as JSON, for Ask in another process.
func Input(act policy.Act, claims []policy.Claim) ([]byte, error) {
	in, err := documentOf(act, claims)
	if err != nil {
		return nil, err
	}
	return json.Marshal(in)
}

// Ask evaluates the package of verb over an input document that Input made, at the judged time now.
func (r *Rules) Ask(ctx context.Context, verb policy.Verb, doc []byte, now time.Time) (deny, warn []policy.Hit, err error) {
	q := r.queries[verb]
	if q == nil {
		return nil, nil, fmt.Errorf("no package for verb %q", verb)
	}
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	var in any
	if err := dec.Decode(&in); err != nil {
		return nil, nil, fmt.Errorf("read input: %w", err)
	}
	input, err := ast.InterfaceToValue(in)
	if err != nil {
		return nil, nil, fmt.Errorf("read input: %w", err)
	}
	return r.evaluate(ctx, q, question{verb, input, now})
}

// question is one evaluation.
type question struct {
	pkg   policy.Verb
	input ast.Value
	now   time.Time
}

func (r *Rules) evaluate(ctx context.Context, q *query, ask question) (deny, warn []policy.Hit, err error) {
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	rs, err := q.prepared.Eval(ctx, rego.EvalParsedInput(ask.input), rego.EvalTime(ask.now))
	if ctx.Err() != nil {
		return nil, nil, fmt.Errorf("package sallyport.%s did not answer in %s", ask.pkg, deadline)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("package sallyport.%s: %s", ask.pkg, bounded(err.Error(), maxMsg))
	}
	return q.read(rs)
}

// read takes the sets out of the answer. Undefined, or anything but sets of {rule, msg}, is an error.
func (q *query) read(rs rego.ResultSet) (deny, warn []policy.Hit, err error) {
	if len(rs) != 1 || len(rs[0].Expressions) != 1 {
		return nil, nil, errors.New("the rules are undefined")
	}
	sets, ok := rs[0].Expressions[0].Value.([]any)
	if !ok || len(sets) != len(q.sets) {
		return nil, nil, errors.New("the rules are undefined")
	}
	for i, name := range q.sets {
		hits, err := readSet(sets[i])
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		if name == "deny" {
			deny = hits
		} else {
			warn = hits
		}
	}
	return deny, warn, nil
}

func readSet(v any) (hits []policy.Hit, err error) {
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("is a %T, want a set", v)
	}
	for _, e := range list {
		o, _ := e.(map[string]any)
		rule, _ := o["rule"].(string)
		msg, isText := o["msg"].(string)
		if len(o) != 2 || rule == "" || !isText {
			return nil, fmt.Errorf(`holds %.100q, want {"rule": name, "msg": text} and nothing else`, fmt.Sprint(e))
		}
		if len(hits) < maxResults {
			hits = append(hits, policy.Hit{Rule: bounded(rule, maxRule), Msg: bounded(msg, maxMsg)})
		}
	}
	return hits, nil
}

// bounded makes text of a module fit for one line of a message.
func bounded(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}

// oneLine names file and line of the first errors.
func oneLine(errs ast.Errors) error {
	var out []string
	for _, e := range errs[:min(len(errs), 3)] {
		text := e.Message
		if e.Location != nil {
			text = fmt.Sprintf("%s:%d: %s", e.Location.File, e.Location.Row, e.Message)
		}
		if e.Details != nil {
			text += " (" + strings.TrimSpace(strings.Join(e.Details.Lines(), " ")) + ")"
		}
		out = append(out, bounded(text, maxMsg))
	}
	if n := len(errs) - len(out); n > 0 {
		out = append(out, fmt.Sprintf("%d more", n))
	}
	return errors.New(strings.Join(out, "; "))
}
