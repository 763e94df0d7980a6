package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// TOML is the default configuration with every key commented out and explained.
func TOML() string {
	var b strings.Builder
	b.WriteString("# Configuration of sallyportd. Every value below is the default; uncomment what you change, or put\n" +
		"# it in a file of its own under " + DropIns + ". Unknown keys are refused.\n# Made by \"sallyportd config\".\n")
	walk(reflect.ValueOf(Default()), "", func(table, doc string, fields []field) {
		if table != "" {
			fmt.Fprintf(&b, "\n# %s\n[%s]\n", doc, table)
		}
		for _, f := range fields {
			fmt.Fprintf(&b, "\n# %s\n# %s = %s\n", f.doc, f.key, f.value)
		}
	})
	return b.String()
}

// Text is the configuration in force as TOML. It holds no secret: keys stand in files of their own.
func (c Config) Text() string {
	var b strings.Builder
	walk(reflect.ValueOf(c), "", func(table, _ string, fields []field) {
		if table != "" {
			fmt.Fprintf(&b, "\n[%s]\n", table)
		}
		for _, f := range fields {
			fmt.Fprintf(&b, "%s = %s\n", f.key, f.value)
		}
	})
	return b.String()
}

// Markdown is docs/config.md.
func Markdown() string {
	var b strings.Builder
	b.WriteString("# Configuration\n\n`sallyportd` reads `" + Path + "` and then `" + DropIns + "/*.toml` in the order of their names. It starts\n" +
		"without any file. Unknown keys are refused with file, line and key. `sallyportd config` prints the default,\n" +
		"`sallyportd config check [FILE]` checks a file and this machine. Policy is read again when it changes, and on SIGHUP; the files that" +
		" `[image]` names when they change; everything else\n" +
		"needs a restart, which leaves containers running.\n")
	walk(reflect.ValueOf(Default()), "", func(table, doc string, fields []field) {
		if table != "" {
			fmt.Fprintf(&b, "\n## [%s]\n\n%s\n", table, doc)
		}
		b.WriteString("\n| Key | Default | Meaning |\n|---|---|---|\n")
		for _, f := range fields {
			fmt.Fprintf(&b, "| `%s` | `%s` | %s |\n", f.key, f.value, f.doc)
		}
	})
	return b.String()
}

type field struct{ key, doc, value string }

// walk calls visit for the table v and then for each table inside it.
func walk(v reflect.Value, table string, visit func(table, doc string, fields []field)) {
	walkTable(v, table, "", visit)
}

func walkTable(v reflect.Value, table, doc string, visit func(table, doc string, fields []field)) {
	var fields []field
	var tables []func()
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		key, text, fv := tag.Get("toml"), tag.Get("doc"), v.Field(i)
		name := strings.TrimPrefix(table+"."+key, ".")
		switch fv.Kind() {
		case reflect.Struct:
			tables = append(tables, func() { walkTable(fv, name, text, visit) })
		case reflect.Map:
			if fv.Type().Elem().Kind() == reflect.String { // an inline table
				fields = append(fields, field{key, text, literal(fv)})
				continue
			}
			for _, k := range sortedKeys(fv) {
				tables = append(tables, func() { walkTable(fv.MapIndex(k), name+"."+k.String(), text, visit) })
			}
		default:
			fields = append(fields, field{key, text, literal(fv)})
		}
	}
	visit(table, doc, fields)
	for _, t := range tables {
		t()
	}
}

func sortedKeys(m reflect.Value) []reflect.Value {
	keys := m.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	return keys
}

// literal is v as TOML.
func literal(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		return fmt.Sprintf("%q", x)
	case string:
		return fmt.Sprintf("%q", x)
	case []string:
		quoted := make([]string, len(x))
		for i, s := range x {
			quoted[i] = fmt.Sprintf("%q", s)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	case map[string]string:
		pairs := make([]string, 0, len(x))
		for _, k := range sortedKeys(v) {
			pairs = append(pairs, fmt.Sprintf("%q = %q", k, x[k.String()]))
		}
		return "{" + strings.Join(pairs, ", ") + "}"
	default:
		return fmt.Sprint(x)
	}
}
