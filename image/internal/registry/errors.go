package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Kinds of failure. An error that is none of them is about what the registry sent.
var (
	ErrNotFound     = errors.New("not found")
	ErrUnauthorized = errors.New("not authorised")
	ErrUnavailable  = errors.New("registry unavailable")
	ErrTooLarge     = errors.New("too large")
	ErrDigest       = errors.New("digest mismatch")
	ErrBlocked      = errors.New("registry is blocked")
)

// kind is the sentinel for an HTTP status, or nil.
func kind(status int) error {
	switch {
	case status == http.StatusNotFound:
		return ErrNotFound
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return ErrUnauthorized
	case status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status >= 500:
		return ErrUnavailable
	}
	return nil
}

// answered makes an error of an unexpected response. The registry's own words are hostile text: one
// line, 200 bytes.
func answered(host string, res *http.Response) error {
	said := ""
	body, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
	var doc struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(body, &doc) == nil && len(doc.Errors) > 0 {
		said = ": " + oneLine(doc.Errors[0].Code+" "+doc.Errors[0].Message)
	}
	if k := kind(res.StatusCode); k != nil {
		return fmt.Errorf("%w: %s answered %d%s", k, host, res.StatusCode, said)
	}
	return fmt.Errorf("%s answered %d%s", host, res.StatusCode, said)
}

// connecting makes an error of a failed handshake or request.
func connecting(host string, err error) error {
	var refused *refusedError
	if errors.As(err, &refused) {
		return fmt.Errorf("%w: %s: %w", ErrUnavailable, host, refused)
	}
	var te *transport.Error
	if errors.As(err, &te) {
		said := ""
		if len(te.Errors) > 0 {
			said = ": " + oneLine(string(te.Errors[0].Code)+" "+te.Errors[0].Message)
		}
		if k := kind(te.StatusCode); k != nil {
			return fmt.Errorf("%w: %s answered %d%s", k, host, te.StatusCode, said)
		}
		return fmt.Errorf("%s answered %d%s", host, te.StatusCode, said)
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", host, context.Canceled)
	}
	return fmt.Errorf("%w: %s: %s", ErrUnavailable, host, oneLine(err.Error()))
}

func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || !unicode.IsPrint(r) && r != ' ' {
			return ' '
		}
		return r
	}, s)
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "..."
	}
	return strings.TrimSpace(s)
}
