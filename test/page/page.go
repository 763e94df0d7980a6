// Package page reads the documents, for tests that type what they say.
package page

import (
	"regexp"
	"strings"
	"testing"
)

var shell = regexp.MustCompile("(?s)```sh\n(.*?)```")

// Shell are the shell blocks of a text; there must be some.
func Shell(tb testing.TB, text string) (out []string) {
	tb.Helper()
	for _, m := range shell.FindAllStringSubmatch(text, -1) {
		out = append(out, m[1])
	}
	if len(out) == 0 {
		tb.Fatal("the document has no shell block")
	}
	return out
}

// Part is what stands under a heading of the second level that begins with the words.
func Part(tb testing.TB, text, words string) string {
	tb.Helper()
	_, part, found := strings.Cut(text, "\n## "+words)
	if !found {
		tb.Fatalf("the document has no part %q", words)
	}
	part, _, _ = strings.Cut(part, "\n## ")
	return part
}
