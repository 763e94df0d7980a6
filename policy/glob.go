package policy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// glob matches image repositories with their host, as policy-controller's images.glob does: "*" is
// any run of characters within one path component, "**" any run at all; anchored at both ends.
type glob struct {
	text string
	re   *regexp.Regexp // nil: text is one repository
}

func parseGlob(s string) (glob, error) {
	if s == "" {
		return glob{}, errors.New("empty; write a repository with its host, or ** for every image")
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("._/:*-", c) >= 0) {
			return glob{}, fmt.Errorf("%q: character %q cannot stand in a repository; tags and digests are not matched", s, c)
		}
	}
	host, path, found := strings.Cut(s, "/")
	switch {
	case s == "**":
	case !strings.ContainsAny(host, ".:*") && host != "localhost":
		return glob{}, fmt.Errorf("%q: no registry host; write for example docker.io/library/%s", s, s)
	case host == "index.docker.io":
		return glob{}, fmt.Errorf("%q: names are compared in their normal form; write docker.io", s)
	case !found && !strings.Contains(host, "**"):
		return glob{}, fmt.Errorf("%q: a host alone matches no repository; write %s/**", s, s)
	case strings.Contains(path, ":"):
		return glob{}, fmt.Errorf("%q: tags are not matched; leave out what follows the colon", s)
	}
	if !strings.Contains(s, "*") {
		return glob{text: s}, nil
	}
	var b strings.Builder
	b.WriteString(`\A`)
	for rest := s; rest != ""; {
		switch {
		case strings.HasPrefix(rest, "**"):
			b.WriteString(`.*`)
			rest = rest[2:]
		case rest[0] == '*':
			b.WriteString(`[^/]*`)
			rest = rest[1:]
		default:
			b.WriteString(regexp.QuoteMeta(rest[:1]))
			rest = rest[1:]
		}
	}
	b.WriteString(`\z`)
	re, err := regexp.Compile(b.String())
	if err != nil {
		return glob{}, fmt.Errorf("%q: %w", s, err)
	}
	return glob{text: s, re: re}, nil
}

// match reports whether repository is meant; the zero glob means none.
func (g glob) match(repository string) bool {
	if g.re == nil {
		return g.text != "" && g.text == repository
	}
	return g.re.MatchString(repository)
}
