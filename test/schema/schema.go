// Package schema makes JSON Schemas of the YAML forms of policy from their Go types, for the tests that
// hold packaging/schema to them.
package schema

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the published schema anew")

// Compare fails unless packaging/schema/<name> is the schema of v, a struct with yaml tags. Further tags:
// enum lists the words that a text may be, count admits a number instead, ref names another schema file, need makes a field required.
func Compare(t *testing.T, name, title string, v any) {
	t.Helper()
	m := maker{defs: map[string]any{}}
	top := m.object(reflect.TypeOf(v))
	top["$schema"], top["$id"], top["title"] = "https://json-schema.org/draft/2020-12/schema", name, title
	if len(m.defs) > 0 {
		top["$defs"] = m.defs
	}
	var want bytes.Buffer
	enc := json.NewEncoder(&want)
	enc.SetIndent("", "  ")
	if err := enc.Encode(top); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(repository(t), "packaging", "schema", name)
	if *update {
		if err := os.WriteFile(file, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("packaging/schema/%s is not what the code reads; run the test with -update and read the difference", name)
	}
}

func repository(t *testing.T) string {
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	t.Fatalf("find go.mod: %v", err)
	return ""
}

type maker struct{ defs map[string]any }

// object is the closed schema of a struct; what it names is a definition, so that types may recur.
func (m maker) object(t reflect.Type) map[string]any {
	properties, required := map[string]any{}, []string{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name == "" {
			continue
		}
		properties[name] = m.field(f)
		if f.Tag.Get("need") != "" {
			required = append(required, name)
		}
	}
	out := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		out["required"] = required
	}
	return out
}

func (m maker) field(f reflect.StructField) map[string]any {
	if ref := f.Tag.Get("ref"); ref != "" {
		return map[string]any{"$ref": ref}
	}
	s := m.of(f.Type)
	if words := f.Tag.Get("enum"); words != "" {
		s["enum"] = strings.Split(words, ",")
	}
	if f.Tag.Get("count") != "" {
		s = map[string]any{"anyOf": []any{s, map[string]any{"type": "integer", "minimum": 1}}}
	}
	return s
}

func (m maker) of(t reflect.Type) map[string]any {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	case t.Kind() == reflect.Pointer:
		return m.of(t.Elem())
	case t.Kind() == reflect.Struct && t.Name() == "":
		return m.object(t)
	case t.Kind() == reflect.Struct:
		name := strings.TrimSuffix(t.Name(), "YAML")
		if _, known := m.defs[name]; !known {
			m.defs[name] = nil // while it is made
			m.defs[name] = m.object(t)
		}
		return map[string]any{"$ref": "#/$defs/" + name}
	case t.Kind() == reflect.Slice:
		return map[string]any{"type": "array", "items": m.of(t.Elem())}
	case t.Kind() == reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": m.of(t.Elem())}
	case t.Kind() == reflect.Bool:
		return map[string]any{"type": "boolean"}
	case t.Kind() == reflect.Uint64:
		return map[string]any{"type": "integer", "minimum": 0}
	case t.Kind() == reflect.Int:
		return map[string]any{"type": "integer"}
	case t.Kind() == reflect.String:
		return map[string]any{"type": "string"}
	}
	panic("schema: no form for " + t.String())
}
