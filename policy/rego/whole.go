package rego

import (
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
)

// field is one JSON field of a struct type; others, and those of foreign platforms, do not exist here.
type field struct {
	name  string
	index int
}

// fieldsOf lists the fields of a struct that Linux reads.
func fieldsOf(t reflect.Type) (out []field) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if platform := f.Tag.Get("platform"); !f.IsExported() || name == "-" || platform != "" && !strings.Contains(platform, "linux") {
			continue
		}
		if name == "" {
			name = f.Name
		}
		out = append(out, field{name, i})
	}
	return out
}

// whole turns v into JSON values with every field present, whatever omitempty says: nil lists are [],
// nil maps {}, nil pointers to structs a struct of empty fields, and nil pointers to anything else null.
func whole(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			if v.Type().Elem().Kind() != reflect.Struct {
				return nil
			}
			v = reflect.New(v.Type().Elem())
		}
		return whole(v.Elem())
	case reflect.Struct:
		out := make(map[string]any, v.NumField())
		for _, f := range fieldsOf(v.Type()) {
			out[f.name] = whole(v.Field(f.index))
		}
		return out
	case reflect.Slice, reflect.Array:
		out := make([]any, v.Len())
		for i := range out {
			out[i] = whole(v.Index(i))
		}
		return out
	case reflect.Map:
		out := make(map[string]any, v.Len())
		for it := v.MapRange(); it.Next(); {
			out[it.Key().String()] = whole(it.Value())
		}
		return out
	case reflect.Interface:
		if v.IsNil() {
			return nil
		}
		return v.Interface() // JSON already
	case reflect.String:
		return v.String()
	case reflect.Bool:
		return v.Bool()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return v.Int()
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return json.Number(strconv.FormatUint(v.Uint(), 10))
	case reflect.Float32, reflect.Float64:
		return v.Float()
	}
	panic("rego: no JSON form for " + v.Type().String())
}

// schemaOf is the closed JSON schema of what whole makes of a value of type t.
func schemaOf(t reflect.Type) map[string]any {
	switch t.Kind() {
	case reflect.Pointer:
		s := schemaOf(t.Elem())
		if t.Elem().Kind() == reflect.Struct {
			return s
		}
		return map[string]any{"anyOf": []any{s, map[string]any{"type": "null"}}}
	case reflect.Struct:
		properties, required := map[string]any{}, []any{}
		for _, f := range fieldsOf(t) {
			properties[f.name] = schemaOf(t.Field(f.index).Type)
			required = append(required, f.name)
		}
		return map[string]any{"type": "object", "properties": properties, "required": required, "additionalProperties": false}
	case reflect.Slice, reflect.Array:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": schemaOf(t.Elem())}
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Float32, reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Interface:
		return map[string]any{}
	}
	return map[string]any{"type": "integer"}
}
