// Package strict decodes the YAML files of a policy: one document, no unknown and no repeated field,
// every error on one line with its line number.
package strict

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxFile is the largest YAML file that is read, in bytes. Real ones have a few kilobytes.
const MaxFile = 1 << 20

var unknown = regexp.MustCompile(`^line (\d+): field (\S+) not found in type \S+$`)

// Decode reads data into the struct that into points to. An empty document is an error: a file that
// says nothing was meant to say something.
func Decode(data []byte, into any) error {
	if len(data) > MaxFile {
		return fmt.Errorf("%d bytes are more than the limit of %d", len(data), MaxFile)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(into); errors.Is(err, io.EOF) {
		return errors.New("the file is empty")
	} else if err != nil {
		return oneLine(err)
	}
	var more yaml.Node
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return errors.New("more than one YAML document; write one")
	}
	return nil
}

func oneLine(err error) error {
	var t *yaml.TypeError
	if !errors.As(err, &t) {
		return errors.New(strings.ReplaceAll(strings.TrimPrefix(err.Error(), "yaml: "), "\n", " "))
	}
	var out []string
	for _, e := range t.Errors {
		if m := unknown.FindStringSubmatch(e); m != nil {
			e = fmt.Sprintf("line %s: unknown field %q", m[1], m[2])
		}
		out = append(out, strings.ReplaceAll(e, "\n", " "))
	}
	return errors.New(strings.Join(out, "; "))
}
